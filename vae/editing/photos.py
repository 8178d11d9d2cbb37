"""Find and cut the faces of the user's photos, and put their edits back into the photos.

N faces, S image side in pixels. Images are (N, 3, S, S) in [0, 1].
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from vae.data.decoding import Photo, in_celebas_frame, read_photo, to_float
from vae.editing.alignment import (
    Box,
    Similarity,
    by_crop_rule,
    cut,
    eyes_of,
    frame_box,
    from_eyes,
)
from vae.editing.finding import FoundFace
from vae.errors import UserError

Find = Callable[[Image.Image], list[FoundFace]]
"""From a picture to its faces, the largest first."""

FEATHER = 1 / 6
"""width of the border in which an edit fades out, as a fraction of the side"""
BLUR = 1.5 / 64
"""standard deviation by which the size of a change is blurred, as a fraction of the side"""
CHANGED, TOP = (0.2, 0.5), 0.98
"""fractions of the TOP quantile of a change: a change below the first is not given back, one above
the second is given back fully"""
REPLACED = (0.1, 0.3)
"""sizes of a change in [0, 1]: one below the first is added to the photo, one above the second
replaces it"""
STRIP = 512
"""rows of a photo that are computed at a time"""
PANEL, MARK = 160, "#00e000"
"""side of a panel, in pixels; colour of the found frame"""


@dataclass(frozen=True, eq=False)
class PhotoFace:
    """A face in a photo."""

    path: str
    photo: str
    """the number of the photo, from 0, and its name"""
    label: str
    """photo, and the number of the face if there are several"""
    similarity: Similarity
    """from the model's image to the photo"""
    image: Tensor
    """what the model sees, (3, S, S)"""


def faces_of_photos(config: Any, image_size: int, find: Find | None) -> list[PhotoFace]:
    """Return the faces of the photos of --image; print where they are.

    config has image, eyes, aligned and which. Without find, for a model that is not trained in
    CelebA's frame, photos are cut as training pictures are.

    Raises UserError if a photo cannot be read, or no face, or not that one, is found in it.
    """
    faces = []
    for number, path in enumerate(config.image):
        picture = read_photo(path).seen
        places = find_places(config, path, picture, image_size, find)
        if config.which and max(config.which) >= len(places):
            raise UserError(f"--which goes to {len(places) - 1} in {path}; got {max(config.which)}")
        photo = f"{number}-{Path(path).stem}"
        for one in dict.fromkeys(config.which or range(len(places))):
            label = photo if len(places) == 1 else f"{photo}-{one}"
            image = pixels_of(cut_face(picture, places[one], image_size))
            faces.append(PhotoFace(path, photo, label, places[one], image))
    return faces


def find_places(
    config: Any, path: str, picture: Image.Image, image_size: int, find: Find | None
) -> list[Similarity]:
    """Return where the faces of a picture are, the largest first; print it."""
    if config.eyes:
        points = np.array([complex(*config.eyes[:2]), complex(*config.eyes[2:])]) + 0.5 + 0.5j
        inside = (points.real < picture.width) & (points.imag < picture.height)
        if not inside.all() or points[0] == points[1]:
            size = f"{picture.width} x {picture.height}"
            raise UserError(f"--eyes must be two pixels of {path}, which has {size}")
        return [from_eyes(points, image_size)]
    if config.aligned or find is None or is_cut_already(picture, image_size):
        return [by_crop_rule(picture, image_size)]
    found = find(picture)
    if not found:
        raise UserError(
            f"no face found in {path}: pass its eyes in pixels as --eyes X Y X Y, or --aligned if "
            "it is framed as the training images are"
        )
    kinds = "faces found, the largest first" if len(found) > 1 else "face found"
    print(f"{path}: {len(found)} {kinds}")
    for number, face in enumerate(found):
        print(f"  {number}: --eyes", *face.eye_pixels())
    return [from_eyes(face.eyes, image_size) for face in found]


def is_cut_already(picture: Image.Image, image_size: int) -> bool:
    """Return whether a picture is in CelebA's frame, or as small as the model's images."""
    return in_celebas_frame(*picture.size) or min(picture.size) <= image_size


def cut_face(picture: Image.Image, similarity: Similarity, image_size: int) -> Image.Image:
    """Return the square that the model sees."""
    return cut(picture, similarity, (0, 0, image_size, image_size), (image_size, image_size))


def pixels_of(picture: Image.Image) -> Tensor:
    """Return an RGB picture as an image (3, H, W)."""
    return to_float(torch.from_numpy(np.array(picture))[None])[0]


def give_back(
    own: Image.Image, similarity: Similarity, before: Tensor, after: Tensor
) -> Image.Image:
    """Return a photo (Photo.own) with the change from one decoded face, (3, S, S), to another.

    The difference of both is added to the photo where it is not small. Where it is large, the
    decoded face replaces the photo: a sum would leave old contours, such as eyes behind dark
    glasses. Without a change no pixel changes.
    """
    layers, is_grey = layers_of(before, after).numpy(), own.mode in ("L", "LA")
    if is_grey:
        red, green, blue = layers[1:].reshape(2, 3, *layers.shape[1:]).swapaxes(0, 1)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue  # as Pillow converts to grey
        layers = np.concatenate([layers[:1], luma])
    pixels = np.array(own.convert("L" if is_grey else "RGB")).reshape(own.height, own.width, -1)
    left, top, right, bottom = _box_of(similarity, before.shape[-1], own.size)
    for start in range(top, bottom, STRIP):
        rows, columns = slice(start, min(start + STRIP, bottom)), slice(left, right)
        weight, *others = _laid_over(layers, similarity, (left, start, right, rows.stop))
        added, base = (255 * np.stack(part, axis=-1) for part in np.split(np.stack(others), 2))
        part = pixels[rows, columns].astype(np.float32)
        part += added + weight[..., None] * (base - part)
        pixels[rows, columns] = part.round().clip(0, 255)
    edited = Image.fromarray(pixels[..., 0] if is_grey else pixels)
    if own.mode in ("LA", "RGBA"):
        edited.putalpha(own.getchannel("A"))
    return edited


def layers_of(before: Tensor, after: Tensor) -> Tensor:
    """Return what is laid over a photo, (7, S, S): the weight of before, added colours, before.

    The photo becomes photo + added + weight (before - photo).
    """
    change, image_size = after - before, before.shape[-1]
    size = _blurred(change.abs().mean(0), BLUR * image_size)
    least = size.flatten().quantile(TOP).clamp(min=1e-6)
    shown = feather(image_size) * _rise(size / least, *CHANGED)
    weight = shown * _rise(size, *REPLACED)
    return torch.cat([weight[None], shown * change, before])


def feather(image_size: int) -> Tensor:
    """Return weights (S, S): 1 inside, falling smoothly to 0 at the border."""
    place = torch.arange(image_size) / (image_size - 1)
    one = _rise(torch.minimum(place, 1 - place), 0, FEATHER)
    return one[:, None] * one


def _rise(x: Tensor, low: float, high: float) -> Tensor:
    """Return 0 up to low and 1 from high on, and between them a smooth step."""
    step = ((x - low) / (high - low)).clamp(0, 1)
    return step.square() * (3 - 2 * step)


def _blurred(x: Tensor, deviation: float) -> Tensor:
    """Return x (S, S) blurred by a Gaussian whose standard deviation is in pixels."""
    reach = math.ceil(3 * deviation)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation).square())
    weights = (weights / weights.sum())[None, None]
    x = functional.pad(x[None, None], (reach,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(x, weights[..., None]), weights[:, :, None])[0, 0]


def _box_of(similarity: Similarity, image_size: int, size: tuple[int, int]) -> tuple[int, ...]:
    """Return left, top, right, bottom of the model's image in a photo of this size, in pixels."""
    corners = similarity(image_size * np.array([0, 1, 1j, 1 + 1j]))
    low = math.floor(corners.real.min()), math.floor(corners.imag.min())
    high = math.ceil(corners.real.max()), math.ceil(corners.imag.max())
    return *np.clip(low, 0, size).tolist(), *np.clip(high, 0, size).tolist()


def _laid_over(
    layers: np.ndarray, similarity: Similarity, box: tuple[int, ...]
) -> list[np.ndarray]:
    """Return layers (n, S, S) on a box of the photo's pixels, n times (height, width)."""
    left, top, right, bottom = box
    matrix = similarity.inverse().after(Similarity(1, complex(left, top))).affine()
    options = (Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    size = (right - left, bottom - top)
    return [
        np.asarray(Image.fromarray(np.ascontiguousarray(one)).transform(size, *options))
        for one in layers
    ]


def edit_photos(
    faces: Sequence[PhotoFace],
    shown: Tensor,
    keep: Callable[[str, Photo, int, Image.Image], None],
) -> Tensor:
    """Give E edits of faces back to their photos; return panels of them, (2 N, 2 + E, 3, P, P).

    shown (N, 1 + E, 3, S, S) are the model's faces before and after the edits. An edit changes all
    faces of a photo. keep gets each edited photo: its name, the photo, the number of the edit, and
    the new values of Photo.own. A face has two rows of panels: the photo with the place of the
    face, and its faces in shown; what the model sees, and the photo before and after the edits.
    """
    size, panels = shown.shape[-1], []
    for name, group in itertools.groupby(enumerate(faces), lambda pair: pair[1].photo):
        rows, members = zip(*group, strict=True)
        photo = read_photo(members[0].path)
        places = [face.similarity for face in members]
        columns = [[panel_around(photo.own, place, size) for place in places]]
        for edit, after in enumerate(shown[list(rows), 1:].unbind(1)):
            own = photo.own
            for place, *pair in zip(places, shown[list(rows), 0], after, strict=True):
                own = give_back(own, place, *pair)
            columns.append([panel_around(own, place, size) for place in places])
            keep(name, photo, edit, own)
        for row, face, around in zip(rows, members, zip(*columns, strict=True), strict=True):
            place = panel_of_place(photo.own, face.similarity, size)
            panels.append(torch.stack([place, *map(panel, shown[row])]))
            panels.append(torch.stack([panel(face.image), *around]))
    return torch.stack(panels)


# Panels of a labelled grid, each (3, PANEL, PANEL)


def panel(x: Tensor) -> Tensor:
    """Return an image (3, H, W) as a panel."""
    size = (PANEL, PANEL)
    grown = functional.interpolate(x[None], size, mode="bicubic", align_corners=False)
    return grown[0].clamp(0, 1)


def panel_around(photo: Image.Image, similarity: Similarity, image_size: int) -> Tensor:
    """Return the part of a photo around a face, upright: CelebA's whole width."""
    left, top, right, bottom = frame_box(image_size)
    middle = (bottom - top - (right - left)) / 2
    box: Box = (left, top + middle, right, bottom - middle)
    return pixels_of(cut(photo.convert("RGB"), similarity, box, (PANEL, PANEL)))


def panel_of_place(photo: Image.Image, similarity: Similarity, image_size: int) -> Tensor:
    """Return a whole photo on white, with the model's square and its eyes drawn into it."""
    scale = PANEL / max(photo.size)
    size = tuple(max(1, round(side * scale)) for side in photo.size)
    small = photo.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    draw = ImageDraw.Draw(small)
    corners = scale * similarity(image_size * np.array([0, 1, 1 + 1j, 1j, 0]))
    draw.line([(point.real, point.imag) for point in corners], fill=MARK, width=2)
    for eye in scale * similarity(eyes_of(image_size)):
        draw.ellipse((eye.real - 1, eye.imag - 1, eye.real + 1, eye.imag + 1), fill=MARK)
    whole = Image.new("RGB", (PANEL, PANEL), "white")
    whole.paste(small, ((PANEL - size[0]) // 2, (PANEL - size[1]) // 2))
    return pixels_of(whole)
