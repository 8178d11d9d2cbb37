"""Who is drawn: what the parts of one face share, sampled once.

Lengths are pixels of the 178 x 218 frame, before the head is tilted, scaled and shifted. What is
random about a part comes from that part's own stream: an attribute changes its own part alone.
"""

import math
from dataclasses import dataclass

import numpy as np

from vae.data.synthetic.attributes import ATTRIBUTE_NAMES
from vae.data.synthetic.canvas import Canvas, Colour, blend, curve

FACE_SIZE = (178, 218)
EYES_Y = 111.0  # the line of the eyes, and the middle between them, as CelebA aligns its faces
MIDDLE_X = 89.0

_INDEX = {name: i for i, name in enumerate(ATTRIBUTE_NAMES)}
_PARTS = ("backdrop", "clothes", "skin", "age", "eyes", "brows", "mouth", "beard", "hair", "hat")
_PARTS += ("glasses", "earrings", "light")

# Skin from light to dark; the tones between two neighbours are mixed.
_SKIN = np.array(
    [
        (0.97, 0.88, 0.83),
        (0.95, 0.79, 0.69),
        (0.90, 0.70, 0.57),
        (0.80, 0.58, 0.44),
        (0.64, 0.43, 0.31),
        (0.46, 0.30, 0.21),
        (0.32, 0.21, 0.16),
    ]
)
_HAIR = {
    "Black_Hair": ((0.05, 0.045, 0.05), (0.12, 0.10, 0.10)),
    "Blond_Hair": ((0.60, 0.45, 0.26), (0.84, 0.71, 0.49)),
    "Brown_Hair": ((0.17, 0.11, 0.075), (0.35, 0.235, 0.16)),
    "Gray_Hair": ((0.42, 0.42, 0.43), (0.74, 0.74, 0.74)),
    "": ((0.36, 0.13, 0.08), (0.58, 0.26, 0.14)),
}


@dataclass(frozen=True)
class Face:
    """What several parts of one face share: lengths in pixels, yaw in radians, colours in 0..1."""

    attributes: np.ndarray  # (40,) bool
    streams: dict[str, np.random.Generator]
    yaw: float  # positive: the nose points to the right
    width: float  # half the width of the head at the eyes
    jaw: float  # half the width at the mouth
    chin_y: float
    top_y: float  # of the skull
    nose_y: float
    mouth_y: float
    skin: Colour
    hair: Colour
    light: tuple[float, float, float]  # unit vector to the light: right, down, to the viewer

    def has(self, name: str) -> bool:
        return bool(self.attributes[_INDEX[name]])

    @property
    def nose_scale(self) -> float:
        return 0.9 + 0.1 * self.has("Male") + 0.42 * self.has("Big_Nose")

    @property
    def head_x(self) -> float:
        """The head's middle: the eyes stay in place when the head turns, so the skull moves."""
        return MIDDLE_X - 0.85 * self.width * math.sin(self.yaw)

    def both(self, line: list[tuple[float, float]], lift: float = 0.0) -> list[np.ndarray]:
        """Return the smooth line through points of the right half, and its mirror image, placed."""
        right = curve(np.array(line, dtype=float))
        return [self.at(right, lift), self.at(right * (-1, 1), lift)]

    def at(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Place points (N, 2), x measured from the face's middle, on the turned face."""
        placed = np.array(points, dtype=float)
        radius, sin, cos = 1.2 * self.width, math.sin(self.yaw), math.cos(self.yaw)
        across = placed[:, 0] / radius
        depth = np.sqrt(np.maximum(0.0, 1 - across**2))
        placed[:, 0] = MIDDLE_X + radius * (across * cos + (depth - 1) * sin) + lift * sin
        return placed


def sample_face(attributes: np.ndarray, rng: np.random.Generator) -> tuple[Face, Canvas]:
    """Sample what one row of attributes (40,) bool leaves open, and the canvas with its pose."""
    seeds = rng.integers(2**63, size=len(_PARTS))
    streams = {part: np.random.default_rng(seed) for part, seed in zip(_PARTS, seeds, strict=True)}
    male = bool(attributes[_INDEX["Male"]])
    canvas = Canvas(
        FACE_SIZE,
        pivot=(MIDDLE_X, EYES_Y),
        roll=np.radians(np.clip(rng.normal(0, 2), -5, 5)),
        scale=rng.uniform(0.98, 1.09),
        shift=rng.normal((0, 1), 1.0, 2).clip((-2.5, -1.5), (2.5, 3.5)),
    )
    width = rng.uniform(37.5, 42.5)
    light = np.array([rng.uniform(-0.75, 0.75), rng.uniform(-0.75, -0.15), 1.0])
    face = Face(
        attributes=np.asarray(attributes, dtype=bool),
        streams=streams,
        yaw=math.radians(min(max(rng.normal(0, 6), -14), 14)),
        width=width + 1.0 * male,
        jaw=width * rng.uniform(0.74, 0.84) + 4.5 * male,
        chin_y=rng.uniform(174.0, 182.0) + 3.5 * male,
        top_y=rng.uniform(38.0, 46.0),
        nose_y=rng.uniform(130.5, 135.0),
        mouth_y=rng.uniform(151.5, 155.0),
        skin=_skin_colour(bool(attributes[_INDEX["Pale_Skin"]]), rng),
        hair=_hair_colour(attributes, rng),
        light=tuple((light / np.linalg.norm(light)).tolist()),
    )
    return face, canvas


def _skin_colour(pale: bool, rng: np.random.Generator) -> Colour:
    depth, tint = rng.beta(0.9, 1.9), rng.normal(0, 0.012, 3)
    if pale:
        return np.array([0.95, 0.87, 0.83]) + tint / 2 - 0.05 * depth
    place = 1.0 + depth * (len(_SKIN) - 2)
    return np.array([np.interp(place, range(len(_SKIN)), _SKIN[:, c]) for c in range(3)]) + tint


def _hair_colour(attributes: np.ndarray, rng: np.random.Generator) -> Colour:
    pick, place = rng.integers(len(_HAIR) - 1), rng.uniform()
    names = list(_HAIR)
    if attributes[_INDEX["Bald"]]:  # then brows and beard alone have it
        name = names[pick]
    else:
        name = next((name for name in names[:-1] if attributes[_INDEX[name]]), "")
    dark, bright = np.array(_HAIR[name])
    return blend(dark, bright, place)


def any_colour(rng: np.random.Generator) -> Colour:
    """Return a colour as clothes and walls have it: any brightness, mostly subdued."""
    brightness, saturation = rng.beta(0.8, 1.1), rng.beta(0.8, 4.0)
    hue = rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2])
    colour = brightness * (1 + 0.9 * saturation * np.cos(hue))
    return colour.clip(0.02, 0.98).astype(np.float32)
