"""Cut the faces of a folder of photographs: a new folder of pictures in CelebA's frame.

That folder is a data set as any other. list_eval_partition.csv in it has the split of each face,
its picture, its eyes in it and how sure the aligner is; list_attr.csv has the attributes, if the
photographs have any, of the faces that are alone in theirs.
"""

import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vae.data.celeba import BY_HASH, SPLITS, Faces, fill_splits, find_faces
from vae.data.decoding import BadPicture, decode_photo, quiet_stderr
from vae.editing.alignment import by_crop_rule, cut, eyes_of, frame_box, from_eyes
from vae.editing.finding import FoundFace
from vae.editing.photos import Find, is_cut_already, pixels_of
from vae.errors import UserError
from vae.files import write_csv, write_text, write_whole
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
    made_of, record = photos.pictures.full_stamp(), folder.with_suffix(".json")
    if folder.is_dir() and record.exists():
        stored = json.loads(record.read_text(encoding="utf-8"))
        if stored["made_of"] == made_of:
            return folder, stored["lines"]
    record.unlink(missing_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        lines = _write_faces(photos, partial, folder, image_size, find)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    write_text(record, json.dumps({"made_of": made_of, "lines": lines}, indent=1))
    return folder, lines


def _write_faces(
    photos: Faces, partial: Path, folder: Path, image_size: int, find: Find
) -> list[str]:
    """Write the faces and tables into partial, and the rest beside folder; return the lines."""
    splits, _ = fill_splits(photos.names, photos.splits, photos.origins["splits"] == BY_HASH)
    rows, has, seen, left_out = [], [], [], {}
    with quiet_stderr() as stderr:
        for index, name in enumerate(tqdm(photos.names, "aligning", disable=None, file=stderr)):
            try:
                picture = decode_photo(photos.read(name)).seen
            except (BadPicture, OSError) as error:
                left_out[name] = f"not readable: {getattr(error, 'strerror', None) or error}"
                continue
            found = _faces_in(picture, image_size, find)
            for number, face in enumerate(found):
                file = f"{name}-{number}.png"
                framed, small = _cut(picture, face, image_size)
                write_whole(partial / file, framed)
                row = {"image": file, "split": SPLITS[splits[index]], "picture": name}
                rows.append(row | _describe_face(face))
                seen.append((face.probability, small))
            if not found:
                left_out[name] = "no face found"
            elif len(found) == 1 and (photos.known is None or photos.known[index]):
                has.append({"image": file} | _attributes_of(photos, index))
    if not rows:
        raise UserError(
            f"no face found in any of {len(photos.names):,} pictures of {photos.source}"
        )
    write_csv(partial / "list_eval_partition.csv", rows)
    if photos.attributes is not None and has:
        write_csv(partial / "list_attr.csv", has)
    counts = f"{len(rows):,} faces in {len({row['picture'] for row in rows}):,}"
    lines = [f"aligned: {counts} of {len(photos.names):,} pictures of {photos.source}, in {folder}"]
    if left_out:
        listed = folder.with_suffix(".left-out.txt")
        write_text(listed, "".join(f"{name}\t{why}\n" for name, why in left_out.items()))
        kinds = Counter(why.partition(":")[0] for why in left_out.values())
        reasons = ", ".join(f"{count:,} {why}" for why, count in kinds.items())
        lines.append(f"         left out: {len(left_out):,} ({reasons}; {listed})")
    sheets = {"first": seen[:SHEET], "least-sure": sorted(seen, key=lambda one: one[0])[:SHEET]}
    for what, faces in sheets.items():
        sheet = folder.with_suffix(f".{what}.png")
        save_grid(torch.stack([small for _, small in faces]), sheet, columns=10)
        lines.append(f"         {len(faces)} {what.replace('-', ' ')} faces: {sheet}")
    return lines


def _faces_in(picture: Image.Image, image_size: int, find: Find) -> list[FoundFace]:
    """Return the faces in a picture; one that is cut already is one face."""
    if is_cut_already(picture, image_size):
        return [FoundFace(by_crop_rule(picture, image_size)(eyes_of(image_size)), 1.0)]
    return find(picture)


def _cut(picture: Image.Image, face: FoundFace, image_size: int) -> tuple[bytes, Tensor]:
    """Return a face in CelebA's frame as a PNG file, and what a model sees of it, (3, S, S).

    The frame has the size from which a model's image is cut without a change of scale.
    """
    left, top, right, bottom = box = frame_box(image_size)
    framed = cut(picture, from_eyes(face.eyes, image_size), box, (right - left, bottom - top))
    content = io.BytesIO()
    framed.save(content, "PNG")
    square = framed.crop((-left, -top, image_size - left, image_size - top))
    return content.getvalue(), pixels_of(square)


def _describe_face(face: FoundFace) -> dict[str, str]:
    """Return the pixels of the eyes in the picture, and how sure the aligner is, in percent."""
    x1, y1, x2, y2 = (value - 0.5 for eye in face.eyes for value in (eye.real, eye.imag))
    place = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "sure": 100 * face.probability}
    return {name: f"{value:.1f}" for name, value in place.items()}


def _attributes_of(photos: Faces, index: int) -> dict[str, int]:
    """Return the attributes of a picture as 1 or -1, by name; none without a table."""
    if photos.attributes is None:
        return {}
    signs = np.where(photos.attributes[index], 1, -1).tolist()
    return dict(zip(photos.attribute_names, signs, strict=True))
