"""Measure how well faces in photographs are found, cut and edited: a model's held-out faces.

    python -m benchmarks.photos pretrained --data data/celeba8k

Each picture, of CelebA's frame, is pasted at a random place onto the enlarged corner of another,
1 to 4 times as large and turned by up to 30 degrees. --folder only writes such photographs, as
data for train.py --align: those of the val split to train on, and those of the test split.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vae.data.celeba import find_faces
from vae.data.decoding import decode_photo
from vae.editing.alignment import Similarity, by_crop_rule, eyes_of, from_eyes
from vae.editing.photos import cut_face, give_back, pixels_of
from vae.errors import script
from vae.evaluation.metrics import psnr
from vae.models.judge import identify, look
from vae.run import Run, face_finder, open_judge, open_run

SIZE = (640, 560)
"""width and height of the photographs"""
STRENGTHS, TARGETS = np.arange(0, 4.1, 0.5), (0.3, 0.4, 0.5, 0.6, 0.7)
"""strengths of the edits, and the judge's mean probabilities at which they are compared"""


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Write the photographs, or print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("run", help="checkpoint file, run folder, or pretrained")
    parser.add_argument("--data", default="data/celeba", help="pictures in CelebA's frame")
    parser.add_argument("--count", type=int, default=200, help="faces of the test split")
    parser.add_argument("--attribute", nargs="*", default=["Smiling", "Eyeglasses"])
    parser.add_argument("--folder", type=Path, help="write the photographs here instead")
    args = parser.parse_args(argv)
    run, faces = open_run(args.run), find_faces(Path(args.data))
    size = run.arch["image_size"]
    rows = {name: np.flatnonzero(faces.splits == code) for name, code in (("val", 1), ("test", 2))}
    rows["test"] = rows["test"][: args.count]

    def photos(split: str) -> list[tuple[Image.Image, Similarity]]:
        pictures = [decode_photo(faces.read(faces.names[row])).seen for row in rows[split]]
        return [
            paste(picture, pictures[index - 1], np.random.default_rng(int(row)), size)
            for index, (row, picture) in enumerate(zip(rows[split], pictures, strict=True))
        ]

    if args.folder:
        for split, folder in (("val", "train"), ("test", "test")):
            (args.folder / folder).mkdir(parents=True, exist_ok=True)
            for row, (photo, _) in zip(rows[split], photos(split), strict=True):
                photo.save(args.folder / folder / f"{Path(faces.names[row]).stem}.png")
        print(args.folder)
        return
    originals = [decode_photo(faces.read(faces.names[row])).seen for row in rows["test"]]
    originals = [cut_face(one, by_crop_rule(one, size), size) for one in originals]
    places = photos("test")
    measure_cuts(run, places, torch.stack([pixels_of(one) for one in originals]))
    for name in args.attribute:
        without = ~faces.attributes[rows["test"], faces.attribute_names.index(name)]
        measure_edits(run, [places[index] for index in np.flatnonzero(without)], name)


def paste(
    face: Image.Image, other: Image.Image, rng: np.random.Generator, size: int
) -> tuple[Image.Image, Similarity]:
    """Return a photograph with a face in it, and its place: of a model's image of this size."""
    corner = other.crop((0, 0, other.width // 4, other.width // 4))
    photo = corner.resize(SIZE, Image.Resampling.BICUBIC)
    turn = rng.uniform(1, 4) * np.exp(1j * math.radians(rng.uniform(-30, 30)))
    half = np.array([face.width + face.height * 1j, face.width - face.height * 1j]) * turn / 2
    room = np.array(SIZE) / 2 - [np.abs(half.real).max(), np.abs(half.imag).max()]
    centre = complex(*(np.array(SIZE) / 2 + rng.uniform(-1, 1, 2) * np.maximum(room, 0)))
    place = Similarity(complex(turn), centre - turn * complex(*face.size) / 2)
    back = place.inverse()
    matrix = (back.turn.real, -back.turn.imag, back.shift.real)
    matrix += (back.turn.imag, back.turn.real, back.shift.imag)
    options = (SIZE, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    photo.paste(face.transform(*options), mask=Image.new("L", face.size, 255).transform(*options))
    return photo, place.after(by_crop_rule(face, size))


def measure_cuts(run: Run, places: Sequence[tuple[Image.Image, Similarity]], x: Tensor) -> None:
    """Print how faces come back against their original crops x, cut by their eyes and found."""
    size, find = x.shape[-1], face_finder()
    decibels, errors, found, others = [], [], [], 0
    for (photo, place), original in zip(tqdm(places, "finding", disable=None), x, strict=True):
        eyes = place(eyes_of(size))
        by_eyes = pixels_of(cut_face(photo, from_eyes(eyes, size), size))
        decibels.append(psnr((by_eyes - original).square().sum().item(), size))
        apart = abs(eyes[1] - eyes[0])
        faces = [face.eyes for face in find(photo)]
        near = [one for one in faces if abs(one.mean() - eyes.mean()) < apart]
        others += len(faces) - len(near)
        if near:
            errors.append(np.abs(near[0] - eyes).mean() / apart)
            cut = pixels_of(cut_face(photo, from_eyes(near[0], size), size))
            found.append(torch.stack([cut, by_eyes]))
    print(f"cut by the eyes: PSNR at least {min(decibels):.1f} dB, mean {np.mean(decibels):.1f} dB")
    print(f"found: {len(errors)} of {len(places)}, and {others} that are none; eye error:", end=" ")
    print(f"mean {np.mean(errors):.2%}, median {np.median(errors):.2%} of the eyes' distance")
    for what, images in zip(("found", "true frame"), torch.stack(found, dim=1), strict=True):
        sse = (run.decode(run.encode(images)[0]) - images).square().sum(dim=(1, 2, 3)).mean()
        print(f"reconstructions of these, cut by the {what}: {psnr(sse.item(), size):.2f} dB")


def measure_edits(run: Run, places: Sequence[tuple[Image.Image, Similarity]], name: str) -> None:
    """Print the drift of identity of edited photos and of plain decodes at equal probability."""
    judge, size = open_judge("judge", run).model, run.arch["image_size"]
    column = judge.arch["attribute_names"].index(name)

    def crops(photos: Sequence[Image.Image]) -> Tensor:
        pairs = zip(photos, places, strict=True)
        return torch.stack([pixels_of(cut_face(one, place, size)) for one, (_, place) in pairs])

    x = crops([photo for photo, _ in places])
    z, person = run.encode(x)[0], identify(look(judge, x.split(128))[1])
    numbers, curves = range(len(z)), {"plain": [], "photo": []}
    before = run.refine(run.decode(z), numbers)
    for strength in STRENGTHS:
        plain = run.decode(z + float(strength) * run.direction(name))
        after = run.refine(plain, numbers)
        edited = [
            give_back(*place, *pair) for place, *pair in zip(places, before, after, strict=True)
        ]
        if strength == 0:
            same = sum(a.tobytes() == b.tobytes() for a, (b, _) in zip(edited, places, strict=True))
            print(f"{name}, strength 0: {same} of {len(places)} photos unchanged to the last bit")
        for kind, images in (("plain", plain), ("photo", crops(edited))):
            logits, features = look(judge, images.split(128))
            drift = 1 - (identify(features) * person).sum(1).mean().item()
            curves[kind].append((logits[:, column].sigmoid().mean().item(), drift))
    for target in TARGETS:
        plain, photo = (np.interp(target, *np.transpose(curves[kind])) for kind in curves)
        print(
            f"{name} at {target}: drift {plain:.3f} decoded, {photo:.3f} photo, {photo / plain:.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
