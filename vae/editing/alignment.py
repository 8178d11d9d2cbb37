"""Where a face lies in a picture: a similarity between the model's image and the picture.

Points are complex numbers x + iy, in pixels; a pixel is a unit square, so the centre of the first
one is 0.5 + 0.5i. A model's image has S x S pixels: the centred square of CelebA's frame of 178 x
218, in proportion.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from vae.data.decoding import crop_box

FRAME = (178, 218)
"""width and height of CelebA's frame, in pixels"""
EYES = (69.5 + 111.5j, 108.5 + 111.5j)
"""the middle of both eyes in CelebA's frame, left of the picture first"""

Box = tuple[float, float, float, float]
"""left, top, right, bottom"""


class Similarity(NamedTuple):
    """The map z -> turn z + shift from points of a model's image to points of a picture."""

    turn: complex
    """scale times the rotation e^(i angle); y points down, so that the angle is clockwise"""
    shift: complex

    def __call__(self, points: np.ndarray | complex) -> np.ndarray | complex:
        """Return the points in the picture."""
        return self.turn * points + self.shift

    def inverse(self) -> "Similarity":
        """Return the map from the picture to the model's image."""
        return Similarity(1 / self.turn, -self.shift / self.turn)

    def after(self, first: "Similarity") -> "Similarity":
        """Return the map that applies first, then this one."""
        return Similarity(self.turn * first.turn, self(first.shift))


def frame_box(image_size: int) -> tuple[int, int, int, int]:
    """Return CelebA's whole frame in the coordinates of a model's image, in pixels."""
    width, height = (round(side * image_size / 128) for side in FRAME)
    left, top, _, _ = crop_box(width, height, "frame")
    return -left, -top, width - left, height - top


def eyes_of(image_size: int) -> np.ndarray:
    """Return the two eyes of an aligned face in a model's image, (2,) complex."""
    left, top, _, _ = frame_box(image_size)
    return np.array(EYES) * image_size / 128 + complex(left, top)


def from_eyes(eyes: np.ndarray, image_size: int) -> Similarity:
    """Return the similarity that takes a model's eyes to two points of a picture, (2,) complex.

    The left one in the picture comes first, whatever their order.
    """
    (left, right), model = np.sort(eyes), eyes_of(image_size)
    turn = (right - left) / (model[1] - model[0])
    return Similarity(complex(turn), complex(left - turn * model[0]))


def by_crop_rule(picture: Image.Image, image_size: int) -> Similarity:
    """Return the similarity of the square that is cut from training pictures: see crop_box."""
    left, top, right, _ = crop_box(*picture.size, "frame")
    return Similarity(complex((right - left) / image_size), complex(left, top))


def cut(
    picture: Image.Image, similarity: Similarity, box: Box, size: tuple[int, int]
) -> Image.Image:
    """Return a box of the model's coordinates with size (width, height) pixels.

    It is turned at the picture's own resolution and then reduced, as other pictures are, so that
    nothing aliases. Outside of the picture its border is repeated.
    """
    left, top, right, bottom = box
    zoom = max(1.0, abs(similarity.turn) * (right - left) / size[0])
    work = (round(size[0] * zoom), round(size[1] * zoom))
    steps = ((right - left) / work[0], (bottom - top) / work[1])
    corners = similarity(np.array([complex(x, y) for x in (left, right) for y in (top, bottom)]))
    x0, y0 = math.floor(corners.real.min()) - 2, math.floor(corners.imag.min()) - 2
    x1, y1 = math.ceil(corners.real.max()) + 2, math.ceil(corners.imag.max()) + 2
    part = _extended(picture, x0, y0, x1, y1)
    turn, start = similarity.turn, similarity(complex(left, top)) - complex(x0, y0)
    matrix = (turn.real * steps[0], -turn.imag * steps[1], start.real)
    matrix += (turn.imag * steps[0], turn.real * steps[1], start.imag)
    turned = part.transform(work, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return turned if work == size else turned.resize(size, Image.Resampling.BICUBIC)


def _extended(picture: Image.Image, x0: int, y0: int, x1: int, y1: int) -> Image.Image:
    """Return a part of a picture, whose border is repeated outside."""
    columns = np.clip(np.arange(x0, x1), 0, picture.width - 1)
    rows = np.clip(np.arange(y0, y1), 0, picture.height - 1)
    inside = picture.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    pixels = np.asarray(inside)[np.ix_(rows - rows[0], columns - columns[0])]
    return Image.fromarray(pixels)
