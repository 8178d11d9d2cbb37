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
    """Download CelebA's zip of pictures and its tables into root, except files already there.

    The zip is not unpacked. If root has a folder celeba, the files are put there.

    Raises UserError if gdown is not installed or Google refuses the download, and RunStopped if the
    files cannot be written.
    """
    folder = root / "celeba" if (root / "celeba").is_dir() else root
    missing = [name for name in CELEBA_FILES if not _is_there(folder / name)]
    if not missing:
        return
    try:
        from gdown import exceptions
    except ModuleNotFoundError as error:
        raise UserError("--download needs gdown, version 5 or later: pip install gdown") from error
    # imported here: torchvision takes as long to import as torch, and few runs download
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import download_file_from_google_drive

    refused = getattr(exceptions, "DownloadError", exceptions.FileURLRetrievalError)
    ids = {name: (file_id, md5) for file_id, md5, name in CelebA.file_list}
    for number, name in enumerate(missing):
        # gdown may leave partial files and error pages: a temporary folder removes them
        with (
            whole_file(folder / name) as partial,
            tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as fresh,
        ):
            try:
                file_id, md5 = ids[name]
                download_file_from_google_drive(file_id, fresh, name, md5)
            except (refused, RuntimeError, OSError) as error:  # the quota, a checksum, no network
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                reason = textwrap.shorten(str(error), 200)
                raise UserError(
                    f"could not download {name} ({reason}): Google limits downloads of CelebA; "
                    f"fetch {', '.join(missing[number:])} by hand from "
                    f"https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and put them into {folder}"
                ) from error
            os.replace(Path(fresh, name), partial)


def _is_there(path: Path) -> bool:
    """Return whether a file is there, under its name, unpacked, or as .csv."""
    return any(path.with_suffix(suffix).exists() for suffix in (path.suffix, "", ".csv"))
