"""Pack a data set from its folder and from a zip, in turns with bare decoding in one thread.

From the repository's root:

    python -m benchmarks.packing --data data/celeba8k --image-size 64

The yardstick is (cores x bare rate): Pillow, or torchvision, decodes in one thread what lies in
memory already, and does nothing with it. Packing reads, crops, resizes and writes as well. Copies
of a small set's files show what remains when starting is a small part, as it is of all of CelebA.
Apart stand what comes before packing: to list the pictures and read CelebA's tables. torchvision,
which packing imports, is imported already, as in training, where it takes a tenth of a second.
"""

import argparse
import contextlib
import io
import itertools
import json
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from benchmarks.measuring import (
    in_turns,
    machine,
    positive,
    print_machine,
    print_spread,
    ratios,
    spread,
)
from vae.celeba import Faces, find_faces
from vae.errors import UserError, script
from vae.packing import pack


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Time packing and bare decoding in turns; print a table and a line of JSON."""
    args = parse_arguments(argv)
    few = find_faces(args.data).take(args.max_images)
    if few.source.is_file():
        raise UserError(f"{few.source} is a zip: pass a folder, a zip of it is made here")
    with few.reader() as read:
        contents = [read(name) for name in few.take(args.decode_count).names]
    encoded = [torch.from_numpy(np.frombuffer(content, np.uint8).copy()) for content in contents]
    with repeated(few, args.copies) as faces, zipped(faces) as archive:
        measures = {
            "pillow, one thread": lambda: decode_all(load_picture, contents),
            "torchvision, one thread": lambda: decode_all(decode_tensor, encoded),
            "pack, folder": lambda: pack_all(faces, args.image_size),
            "pack, zip": lambda: pack_all(archive, args.image_size),
        }
        rates = in_turns(measures, args.rounds)
        seconds = {name: time_finding(each) for name, each in (("folder", faces), ("zip", archive))}
    figures = summary(args, len(faces.names), rates, seconds)
    print_table(figures)
    print(json.dumps(figures))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what is packed, and how often."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--data", type=Path, default="data/celeba8k", help="CelebA or another folder of pictures")
    add("--image-size", type=positive, default=64, help="side in pixels")
    add("--max-images", type=positive, default=8000, help="pictures, evenly over the folder")
    add("--copies", type=positive, default=1, help="pack each picture that often, to see more")
    add("--decode-count", type=positive, default=2000, help="of these, decoded bare")
    add("--rounds", type=positive, default=3, help="turns of each")
    return parser.parse_args(argv)


@contextlib.contextmanager
def repeated(faces: Faces, copies: int) -> Iterator[Faces]:
    """Yield the same faces several times over, each time as files of their own."""
    if copies == 1:
        yield faces
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "img_align_celeba")
        folder.mkdir()
        for copy, name in itertools.product(range(copies), faces.names):
            shutil.copyfile(faces.source / name, folder / f"{copy}-{Path(name).name}")
        yield find_faces(folder)


@contextlib.contextmanager
def zipped(faces: Faces) -> Iterator[Faces]:
    """Yield the same faces in a zip, as CelebA comes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "img_align_celeba.zip")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in faces.names:
                archive.write(faces.source / name, f"img_align_celeba/{name}")
        yield find_faces(path)


def decode_all(decode: Callable[[Any], object], contents: Sequence[Any]) -> float:
    """Return the images/s of decoding contents one after the other."""
    start = time.perf_counter()
    for content in contents:
        decode(content)
    return len(contents) / (time.perf_counter() - start)


def load_picture(content: bytes) -> None:
    """Decode a picture file with Pillow."""
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()


def decode_tensor(content: torch.Tensor) -> None:
    """Decode a picture file's bytes with torchvision."""
    decode_image(content, ImageReadMode.RGB)


def pack_all(faces: Faces, image_size: int) -> float:
    """Return the images/s of packing faces into an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        _, bad = pack(faces, image_size, "celeba" if faces.aligned else "largest", Path(folder))
        seconds = time.perf_counter() - start
    if bad:
        raise UserError(f"{len(bad):,} pictures of {faces.source} cannot be read")
    return len(faces.names) / seconds


def time_finding(faces: Faces) -> float:
    """Return the seconds of finding the same faces again."""
    start = time.perf_counter()
    find_faces(faces.source)
    return time.perf_counter() - start


def summary(
    args: argparse.Namespace,
    count: int,
    rates: dict[str, list[float]],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Return all figures with what they were measured on.

    rates are images/s by round, seconds those of finding the faces.
    """
    figures = {"benchmark": "packing", "machine": machine(torch.device("cpu"))}
    figures |= {"settings": {**vars(args), "data": str(args.data)}, "count": count, "rates": rates}
    figures |= {"seconds_of_finding": seconds}
    for key, bare in {"shares": "pillow", "shares_of_torchvision": "torchvision"}.items():
        yardstick = [figures["machine"]["cores"] * rate for rate in rates[f"{bare}, one thread"]]
        figures[key] = {
            name: spread(ratios(rates[name], yardstick)) for name in ("pack, folder", "pack, zip")
        }
    return figures


def print_table(figures: dict[str, Any]) -> None:
    """Print the figures for people to read."""
    print_machine(figures["machine"])
    for name, rates in figures["rates"].items():
        print_spread(name, spread(rates), "images/s", digits=0)
    for name, seconds in figures["seconds_of_finding"].items():
        print(f"finding the faces, {name:20} {seconds:.2f} s")
    for key, bare in {"shares": "pillow", "shares_of_torchvision": "torchvision"}.items():
        for name, share in figures[key].items():
            print_spread(f"{name} / (cores x {bare})", share)


if __name__ == "__main__":
    sys.exit(main())
