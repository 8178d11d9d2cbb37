"""One drawn face: a soft-lit portrait in CelebA's framing, from its attributes and a generator."""

import math

import numpy as np
from PIL import Image

from vae.data.synthetic.canvas import Canvas, blend, mirrored
from vae.data.synthetic.face import Face, any_colour, sample_face
from vae.data.synthetic.features import (
    paint_age,
    paint_blush,
    paint_brows,
    paint_ears,
    paint_eyes,
    paint_head,
    paint_mouth,
    paint_nostrils,
)
from vae.data.synthetic.hair import paint_beard, paint_hair_behind, paint_hair_in_front, sample_hair
from vae.data.synthetic.worn import paint_earrings, paint_glasses, paint_hat


def draw_face(attributes: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Draw the face that one row of attributes (40,) bool describes. Returns 178 x 218 RGB.

    With the same generator state, two rows that differ in one attribute give one face but for it.
    """
    face, canvas = sample_face(attributes, rng)
    _paint_backdrop(face, canvas)
    hair = sample_hair(face, canvas)
    paint_hair_behind(face, canvas, hair)
    _paint_shoulders(face, canvas)
    paint_ears(face, canvas)
    head = paint_head(face, canvas)
    paint_blush(face, canvas, head)
    paint_age(face, canvas, head)
    paint_eyes(face, canvas)
    paint_brows(face, canvas)
    paint_nostrils(face, canvas)
    paint_mouth(face, canvas)
    paint_beard(face, canvas, head)
    paint_hair_in_front(face, canvas, hair, head)
    paint_hat(face, canvas, head)
    paint_earrings(face, canvas)
    paint_glasses(face, canvas)
    _apply_light(face, canvas)
    return canvas.image()


def _paint_backdrop(face: Face, canvas: Canvas) -> None:
    """Fill the frame: plain, a gradient, two tones, or a place out of focus."""
    rng = face.streams["backdrop"]
    base, other = any_colour(rng), any_colour(rng)
    blobs = np.clip(base + rng.normal(0, 0.2, (7, 6, 1)) + rng.normal(0, 0.03, (7, 6, 3)), 0, 1)
    kind, angle, edge = rng.choice(4, p=[0.2, 0.3, 0.2, 0.3]), rng.uniform(0, 6.3), rng.uniform()
    if kind == 3:
        canvas.pixels[:] = canvas.enlarged(blobs)
        return
    across = ((canvas.x - 89) * math.cos(angle) + (canvas.y - 109) * math.sin(angle)) / 220
    sharpness = (0.25, 1.0, 12.0)[kind]
    mix = np.clip(0.5 + sharpness * (across + 0.3 * (edge - 0.5)), 0, 1)
    canvas.pixels[:] = blend(base, other, mix[..., None])


def _paint_shoulders(face: Face, canvas: Canvas) -> None:
    """Draw the clothes, the neck and the chin's shadow on it."""
    rng, x = face.streams["clothes"], face.head_x
    cloth, slope, depth = any_colour(rng), rng.uniform(8, 22), rng.uniform(2, 26)
    neck = (0.66 if face.has("Male") else 0.54) * face.width
    half = [(neck, 196), (neck + 22, 202), (neck + 50, 202 + slope), (140, 270)]
    canvas.fill(mirrored(x, half), cloth * 0.9)
    canvas.shade(mirrored(x, half), (0.6, 0.6, 0.6), 0.5, blur=9, offset=(0, 14))
    half = [(neck, 150), (neck * 0.97, 185), (neck + 9, 201), (neck * 0.75, 201 + depth * 0.6)]
    half += [(0, 202 + depth)]
    canvas.fill(mirrored(x, half), face.skin * (0.80, 0.76, 0.74), blur=0.5)
    canvas.glow((x + 14 * face.light[0], 204), (15, 14), face.skin, 0.5)
    shadow = [(0, 150), (neck + 2, 150), (neck, face.chin_y), (0, face.chin_y + 11)]
    canvas.shade(mirrored(x, shadow), (0.45, 0.36, 0.34), 0.8, blur=4)


def _apply_light(face: Face, canvas: Canvas) -> None:
    """Give the picture its exposure, contrast, warmth, falloff and a trace of grain."""
    rng = face.streams["light"]
    exposure, contrast = rng.uniform(0.86, 1.15), rng.uniform(0.9, 1.25)
    warmth, green = rng.normal(0, 0.05), rng.normal(0, 0.015)
    falloff = rng.uniform(0, 0.25)
    grain = 0.012 * rng.standard_normal(canvas.x.shape, dtype=np.float32)
    sweep = 1 + falloff * ((canvas.x - 89) * face.light[0] + (canvas.y - 109) * face.light[1]) / 100
    balance = np.array([1 + warmth, 1 + green, 1 - warmth], dtype=np.float32) * exposure
    canvas.pixels *= (contrast * sweep)[..., None] * balance
    canvas.pixels += (0.45 - 0.45 * contrast + grain)[..., None]
