"""Cut the faces of a folder of photographs: a new folder of pictures in CelebA's frame.

That folder is a data set. Its list_eval_partition.csv has the split of each face, its photograph,
the pixels of its eyes there, and the aligner's probability in percent ("sure"). Its list_attr.csv
has the attributes of the photographs with one face, if there is a table of them.
"""

import contextlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vae.data.celeba import BY_HASH, SPLITS, Faces, fill_splits, find_faces
from vae.data.decoding import BadPicture, decode_photo, quiet_stderr
from vae.data.faces import describe_left_out, write_left_out
from vae.editing.alignment import by_crop_rule, cut, eyes_of, frame_box, from_eyes
from vae.editing.finding import FoundFace
from vae.editing.photos import Find, is_cut_already, pixels_of
from vae.errors import UserError
from vae.files import locked_folder, write_csv, write_text, write_whole
from vae.pictures.images import save_grid

SHEET = 100
"""largest number of faces on a contact sheet"""


def align_folder(
    data: str, image_size: int, cache_dir: str, find: Find
) -> tuple[Path, Sequence[str]]:
    """Return the folder of the faces in the photographs of data, and lines that describe it.

    It is written on first use, and again when the photographs change. Beside it lie two contact
    sheets and the list of the pictures that are left out.

    Raises UserError if there are no pictures, or no face in any of them.
    """
    photos = find_faces(Path(data))
    source = photos.pictures.source.absolute()
    tag = sha256(json.dumps([str(source), image_size]).encode()).hexdigest()[:8]
    name = re.sub(r"\W", "_", source.stem, flags=re.ASCII)
    folder = Path(cache_dir) / f"{name}-aligned-{image_size}px-{tag}"
    if Path(cache_dir).resolve().is_relative_to(source.resolve()):
        raise UserError(f"with --align, --cache-dir must be outside of {source}: it gets pictures")
    made_of, record = _made_of(photos), folder.with_suffix(".json")
    # a record that cannot be read is that of no folder
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        stored = json.loads(record.read_text(encoding="utf-8"))
        if folder.is_dir() and stored["made_of"] == made_of:
            return folder, stored["lines"]
    record.unlink(missing_ok=True)
    for left in Path(cache_dir).glob(f".{folder.name}.*.partial"):
        with locked_folder(left) as is_ours:
            if is_ours:  # its process is gone
                shutil.rmtree(left)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with locked_folder(partial):
        try:
            lines = _write_faces(photos, partial, folder, image_size, find)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    write_text(record, json.dumps({"made_of": made_of, "lines": lines}, indent=1))
    return folder, lines


def _made_of(photos: Faces) -> str:
    """Return what changes with the photographs, and with what tables say of them."""
    said = [photos.splits, photos.attributes, photos.known]
    tables = sha256(repr(photos.attribute_names).encode())
    for values in said:
        tables.update(b"" if values is None else values.tobytes())
    return photos.pictures.full_stamp() + tables.hexdigest()


class _CutFace(NamedTuple):
    row: dict[str, str]
    """of list_eval_partition.csv"""
    attributes: dict[str, int]
    """of list_attr.csv, as 1 or -1; empty without any"""
    probability: float
    """that it is a face"""
    image: Tensor
    """what a model sees, (3, S, S)"""


def _write_faces(
    photos: Faces, partial: Path, folder: Path, image_size: int, find: Find
) -> list[str]:
    """Write the faces and tables into partial, and the rest beside folder; return the lines."""
    faces, left_out = _cut_faces(photos, partial, image_size, find)
    count = f"{len(photos.names):,} pictures of {photos.source}"
    if not faces:
        raise UserError(f"no face found in any of {count}")
    write_csv(partial / "list_eval_partition.csv", [face.row for face in faces])
    if has := [{"image": one.row["image"]} | one.attributes for one in faces if one.attributes]:
        write_csv(partial / "list_attr.csv", has)
    with_faces = len({face.row["picture"] for face in faces})
    lines = [f"aligned: {len(faces):,} faces in {with_faces:,} of {count}, in {folder}"]
    if left_out:
        listing = write_left_out(folder.with_suffix(".left-out.txt"), left_out)
        kinds = Counter(why.partition(":")[0] for why in left_out.values())
        lines.append(f"         {describe_left_out(kinds, listing)}")
    return lines + _write_sheets(faces, folder)


def _cut_faces(
    photos: Faces, partial: Path, image_size: int, find: Find
) -> tuple[list[_CutFace], dict[str, str]]:
    """Write the faces into partial; return them, and why pictures are left out, by name."""
    splits, _ = fill_splits(photos.names, photos.splits, photos.origins["splits"] == BY_HASH)
    faces, left_out = [], {}
    with quiet_stderr() as stderr:
        for index, name in enumerate(tqdm(photos.names, "aligning", disable=None, file=stderr)):
            try:
                picture = decode_photo(photos.read(name)).seen
            except (BadPicture, OSError) as error:
                left_out[name] = f"not readable: {getattr(error, 'strerror', None) or error}"
                continue
            found = _faces_in(picture, image_size, find)
            if not found:
                left_out[name] = "no face found"
            # of several faces it is unknown which one has the attributes
            attributes = _attributes_of(photos, index) if len(found) == 1 else {}
            for number, face in enumerate(found):
                file = f"{name}-{number}.png"
                framed, image = _cut(picture, face, image_size)
                write_whole(partial / file, framed)
                row = {"image": file, "split": SPLITS[splits[index]], "picture": name}
                row |= dict(zip(("x1", "y1", "x2", "y2"), face.eye_pixels(), strict=True))
                row["sure"] = f"{100 * face.probability:.1f}"  # percent
                faces.append(_CutFace(row, attributes, face.probability, image))
    return faces, left_out


def _write_sheets(faces: Sequence[_CutFace], folder: Path) -> list[str]:
    """Write contact sheets of some faces beside folder; return the lines that name them."""
    lines, by_probability = [], sorted(faces, key=lambda face: face.probability)
    for what, kind in (("first", faces), ("least sure", by_probability)):
        images = torch.stack([face.image for face in kind[:SHEET]])
        sheet = folder.with_suffix(f".{what.replace(' ', '-')}.png")
        save_grid(images, sheet, columns=10)
        lines.append(f"         {len(images)} {what} faces: {sheet}")
    return lines


def _faces_in(picture: Image.Image, image_size: int, find: Find) -> list[FoundFace]:
    """Return the faces in a picture. A picture that is cut already is one face."""
    if is_cut_already(picture, image_size):
        return [FoundFace(by_crop_rule(picture, image_size)(eyes_of(image_size)), 1.0)]
    return find(picture)


def _cut(picture: Image.Image, face: FoundFace, image_size: int) -> tuple[bytes, Tensor]:
    """Return a face in CelebA's frame as a PNG file, and what a model sees of it, (3, S, S).

    The frame has the size from which a model's image is cut without resizing.
    """
    left, top, right, bottom = box = frame_box(image_size)
    framed = cut(picture, from_eyes(face.eyes, image_size), box, (right - left, bottom - top))
    content = io.BytesIO()
    framed.save(content, "PNG")
    square = framed.crop((-left, -top, image_size - left, image_size - top))
    return content.getvalue(), pixels_of(square)


def _attributes_of(photos: Faces, index: int) -> dict[str, int]:
    """Return the attributes of a picture as 1 or -1, by name; none without a row of them."""
    if photos.attributes is None or not photos.known[index]:
        return {}
    signs = np.where(photos.attributes[index], 1, -1).tolist()
    return dict(zip(photos.attribute_names, signs, strict=True))
