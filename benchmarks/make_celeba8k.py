"""Cut the small set "celeba8k" from CelebA: its first 8,000 pictures at half the published scale.

From the repository's root:

    python -m benchmarks.make_celeba8k data/celeba data/celeba8k

All of these pictures belong to CelebA's training split, so the set gets a partition of its own:
7,000 train, 500 val, 500 test. Its other tables keep CelebA's rows. At this scale CelebA's crop
(128 pixels of 178) is 64 x 64: train with --image-size 64.
"""

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from vae.celeba import ATTRIBUTE_NAMES, Faces, find_faces, find_table
from vae.errors import UserError, script
from vae.files import write_text


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Write the small set, whole or not at all, and print where it is."""
    args = parse_arguments(argv)
    faces = find_faces(args.source)
    check(faces, args.count, args.target)
    args.target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".celeba8k-", dir=args.target.parent) as workshop:
        unfinished = Path(workshop, args.target.name)
        write_pictures(faces, args.count, unfinished / "img_align_celeba")
        write_tables(faces, args.count, unfinished)
        os.replace(unfinished, args.target)
    print(args.target)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return source, target and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("source", type=Path, help="CelebA, in any layout that train.py reads")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--count", type=int, default=8000, help="pictures (default: 8000)")
    return parser.parse_args(argv)


def check(faces: Faces, count: int, target: Path) -> None:
    """Raise UserError if these faces do not give such a set, or if it is there already."""
    if target.exists():
        raise UserError(f"{target} is there already: remove it, or name another folder")
    if faces.attributes is None:
        raise UserError(f"{faces.source} has no list_attr_celeba.txt beside it: fetch it as well")
    if not 1 <= count <= len(faces.names):
        raise UserError(f"--count must be from 1 to {len(faces.names):,}; got {count}")


def write_pictures(faces: Faces, count: int, folder: Path) -> None:
    """Write the first pictures at half their width and height, 89 x 109 from 178 x 218."""
    folder.mkdir(parents=True)
    with faces.reader() as read:
        for name in tqdm(faces.names[:count], unit="picture", disable=None):
            with Image.open(io.BytesIO(read(name))) as picture:
                size = (picture.width // 2, picture.height // 2)
                picture.resize(size, Image.Resampling.LANCZOS).save(folder / name)


def write_tables(faces: Faces, count: int, folder: Path) -> None:
    """Write the tables in CelebA's form: attributes, partition and, if known, identities."""
    names, held_out = faces.names[:count], count // 16
    splits = [0] * (count - 2 * held_out) + [1] * held_out + [2] * held_out
    partition = (f"{name} {split}\n" for name, split in zip(names, splits, strict=True))
    write_text(folder / "list_eval_partition.txt", "".join(partition))

    signs = (faces.attributes[:count] * 2 - 1).tolist()
    rows = (" ".join(f"{sign:2d}" for sign in row).lstrip() for row in signs)
    lines = (f"{name} {row}\n" for name, row in zip(names, rows, strict=True))
    header = f"{count}\n{' '.join(ATTRIBUTE_NAMES)} \n"
    write_text(folder / "list_attr_celeba.txt", header + "".join(lines))

    identities = find_table(faces.source, "identity_CelebA")
    if identities is not None:
        kept = set(names)
        rows = identities.read_text(encoding="utf-8").splitlines(keepends=True)
        chosen = (row for row in rows if row.split()[:1] and row.split()[0] in kept)
        write_text(folder / "identity_CelebA.txt", "".join(chosen))


if __name__ == "__main__":
    sys.exit(main())
