"""Make the small data set "celeba8k": the first 8,000 pictures of CelebA at half their size.

    python -m benchmarks.make_celeba8k data/celeba data/celeba8k

CelebA has all of these pictures in its training split, so the set gets splits of its own: 7,000
train, 500 val, 500 test. At half size CelebA's crop has 64 x 64 pixels: use --image-size 64.
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

from vae.data.celeba import Faces, find_faces
from vae.errors import UserError, script
from vae.files import write_text


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Write the small set, whole or not at all, and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("source", type=Path, help="CelebA, in any layout that train.py reads")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--count", type=int, default=8000, help="pictures (default: 8000)")
    args = parser.parse_args(argv)
    faces, count = find_faces(args.source), args.count
    if args.target.exists():
        raise UserError(f"{args.target} exists already: remove it, or name another folder")
    if faces.attributes is None:
        raise UserError(f"{faces.source} has no list_attr_celeba.txt beside it: download it too")
    if not 1 <= count <= len(faces.names):
        raise UserError(f"--count must be from 1 to {len(faces.names):,}; got {count}")
    args.target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".celeba8k-", dir=args.target.parent) as folder:
        unfinished = Path(folder, args.target.name)
        pictures = unfinished / "img_align_celeba"
        pictures.mkdir(parents=True)
        for name in tqdm(faces.names[:count], unit="picture", disable=None):
            with Image.open(io.BytesIO(faces.read(name))) as picture:
                size = (picture.width // 2, picture.height // 2)  # 89 x 109 from 178 x 218
                picture.resize(size, Image.Resampling.LANCZOS).save(pictures / name)
        write_tables(faces, count, unfinished)
        os.replace(unfinished, args.target)
    print(args.target)


def write_tables(faces: Faces, count: int, folder: Path) -> None:
    """Write CelebA's tables for the first pictures: attributes, splits and, if known, people."""
    names, held_out = faces.names[:count], count // 16

    def write_table(stem: str, values: Sequence[object], header: str = "") -> None:
        rows = (f"{name} {value}\n" for name, value in zip(names, values, strict=True))
        write_text(folder / f"{stem}.txt", header + "".join(rows))

    splits = [0] * (count - 2 * held_out) + [1] * held_out + [2] * held_out
    write_table("list_eval_partition", splits)
    signs = (faces.attributes[:count] * 2 - 1).tolist()
    rows = [" ".join(f"{sign:2d}" for sign in row).lstrip() for row in signs]
    write_table("list_attr_celeba", rows, f"{count}\n{' '.join(faces.attribute_names)} \n")
    if faces.people is not None:
        write_table("identity_CelebA", faces.people[:count].tolist())


if __name__ == "__main__":
    sys.exit(main())
