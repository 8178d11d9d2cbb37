"""Download CelebA's files from its authors' site, with torchvision's downloader."""

import errno
import os
import tempfile
import textwrap
from pathlib import Path

from vae.errors import UserError
from vae.files import whole_file

CELEBA_FILES = ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt")


def download(root: Path) -> None:
    """Download those of CelebA's pictures and tables that root lacks; the zip is not unpacked.

    Raises UserError if gdown is not installed or Google refuses the download, and RunStopped if the
    files cannot be written.
    """
    # imported here: it takes as long as importing torch, and few runs download
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import download_file_from_google_drive

    folder = root / "celeba" if (root / "celeba").is_dir() else root
    ids = {name: (file_id, md5) for file_id, md5, name in CelebA.file_list}
    for name in _missing_files(folder):
        refusals = _gdown_refusals()
        # gdown leaves partial files and error pages behind: the fresh folder is deleted with them
        with (
            whole_file(folder / name) as partial,
            tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as fresh,
        ):
            try:
                file_id, md5 = ids[name]
                download_file_from_google_drive(file_id, fresh, name, md5)
            except refusals as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                reason = textwrap.shorten(str(error), 200)
                raise UserError(
                    f"could not download {name} ({reason}): Google limits downloads of CelebA; "
                    f"fetch {', '.join(_missing_files(folder))} by hand from "
                    f"https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and put them into {folder}"
                ) from error
            os.replace(Path(fresh, name), partial)


def _missing_files(folder: Path) -> list[str]:
    """Return which of the files are not in the folder, neither as such nor unpacked or as .csv."""
    return [
        name
        for name in CELEBA_FILES
        if not any((folder / name).with_suffix(s).exists() for s in (Path(name).suffix, "", ".csv"))
    ]


def _gdown_refusals() -> tuple[type[Exception], ...]:
    """Return the errors of a download: Google's quota, a wrong checksum, no network."""
    try:
        from gdown import exceptions
    except ModuleNotFoundError as error:
        raise UserError("--download needs gdown, version 5 or later: pip install gdown") from error
    refused = getattr(exceptions, "DownloadError", exceptions.FileURLRetrievalError)
    return (refused, RuntimeError, OSError)
