"""The folders of runs: where they are, what they are called, and who writes to them."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from vae.errors import UserError
from vae.files import locked_folder

RUNS = Path("runs")
_PLACES = [folder / "pretrained" for folder in Path(__file__).parents[:2]]
PRETRAINED = next(filter(Path.is_dir, _PLACES), _PLACES[-1])
"""the folder of the model that comes with the repository; in the package where it is installed"""
LAST, BEST = "last.pt", "best.pt"
FACES = "faces.txt"
"""the names of a run's faces, a line each"""


def run_name(data: str, image_size: int) -> str:
    """Return the name of a run's folder in RUNS; that of the judges ends in -judges."""
    return f"{Path(os.path.abspath(data)).stem}-{image_size}"  # noqa: PTH100  of a link, its name


def find_checkpoint(path: Path | str | None, prefer: str = BEST) -> Path:
    """Return the checkpoint that path means: itself, or the preferred one of a run's folder.

    Without path, the newest run's, else the pretrained one, which "pretrained" means too. Raises
    UserError if there is none.
    """
    if path == "pretrained" or (path is None and not runs() and (PRETRAINED / BEST).is_file()):
        path = PRETRAINED
    path = newest_run() if path is None else Path(path)
    if not path.is_dir():
        return path
    names = dict.fromkeys((prefer, BEST, LAST))
    for name in names:
        if (path / name).exists():
            return path / name
    raise UserError(f"no checkpoint in {path}: looked for {', '.join(names)}")


def runs() -> list[Path]:
    """Return the folders in runs/ that have a checkpoint."""
    return [path for path in RUNS.glob("*") if (path / LAST).exists() or (path / BEST).exists()]


def newest_run() -> Path:
    """Return the folder in runs/ whose last.pt, else best.pt, is newest.

    Raises UserError if there is none.
    """
    if not runs():
        raise UserError(f"no run under {RUNS}/: train one (python train.py), or pass its path")
    return max(runs(), key=lambda path: find_checkpoint(path, LAST).stat().st_mtime)


@contextlib.contextmanager
def own_run_dir(path: str | None, name: str, resumed: bool = False) -> Iterator[Path]:
    """Yield the folder of a run, which no other training can take until the body ends.

    It is path, else the first free one of runs/name, runs/name-2 ... An empty folder is free.

    Raises UserError if path is in use, or holds a run already and is not resumed.
    """
    holds_run = path is not None and any((Path(path) / file).exists() for file in (LAST, BEST))
    if holds_run and not resumed:
        raise UserError(
            f"--run-dir {path} holds a run: continue it with --resume {path}, or name another"
        )
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    for folder in [Path(path)] if path is not None else (RUNS / free for free in names):
        if path is None and folder.exists() and not (folder.is_dir() and _is_empty(folder)):
            continue
        with locked_folder(folder) as is_ours:
            # another training may have had it, and have ended, in between
            if is_ours and (path is not None or _is_empty(folder)):
                yield folder
                return
    raise UserError(f"another training writes to {path}: wait for it, or name another folder")


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())
