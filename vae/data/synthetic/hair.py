"""What grows: styles of hair, combed and lit, and beards."""

from dataclasses import dataclass

import numpy as np

from vae.data.synthetic.canvas import Canvas, Colour, blend, curve, mirrored, ribbon
from vae.data.synthetic.face import Face


@dataclass(frozen=True)
class Hair:
    """A hair style. Half outlines are (x from the head's middle, y), from the top outwards."""

    strands: np.ndarray  # (218, 178, 3) the colour everywhere, shown where there is hair
    outer: np.ndarray  # (N, 2)
    inner_left: np.ndarray  # where the hair gives way to the face, from the parting down
    inner_right: np.ndarray
    length_y: float  # where the hair behind the head ends
    spread: float  # half the width there
    softness: float  # blur of the edges


_STYLES = ("crop", "short", "shaggy", "round", "up", "bob", "long", "wavy")
_MALE_STYLES, _FEMALE_STYLES = (
    (0.2, 0.55, 0.15, 0.1, 0, 0, 0, 0),
    (0, 0, 0, 0.1, 0.2, 0.2, 0.25, 0.25),
)
_LIFT = dict(zip(_STYLES, (3.0, 9.0, 11.0, 17.0, 8.0, 10.0, 9.0, 11.0), strict=True))
_SIDES_Y = dict(zip(_STYLES, (106, 112, 130, 135, 108, 166, 240, 240), strict=True))


def sample_hair(face: Face, canvas: Canvas) -> Hair:
    """Choose a style for the face and comb it."""
    rng = face.streams["hair"]
    pick, stretch, part = rng.uniform(), rng.uniform(0.75, 1.3), rng.uniform(-20, 20)
    line_y, spread, sweep = rng.uniform(56, 65), rng.uniform(52, 76), rng.uniform(0, 1)
    wiggle = rng.normal(0, 1, 24)
    odds = _MALE_STYLES if face.has("Male") else _FEMALE_STYLES
    style = _STYLES[min(int(np.searchsorted(np.cumsum(odds), pick)), len(_STYLES) - 1)]
    recede = 0.0 if face.has("Young") else (7.0 if face.has("Male") else 2.0)
    spread = min(spread, 60.0) if style == "bob" else spread
    lift, end = _LIFT[style] * stretch, float(_SIDES_Y[style])
    if face.has("Wearing_Hat"):  # enough at the sides for its colour to show
        lift, end = max(lift, 8.0), max(end, 112.0)
    strands = _comb(face, canvas, part, waves=style in ("wavy", "round", "shaggy"))
    outer = _outer_half(face, lift, end, spread)
    ragged = {"round": 1.6, "shaggy": 1.2, "wavy": 1.6}.get(style, 0.4)
    outer[1:] += ragged * np.resize(wiggle, outer[1:].shape)
    inner = [
        _inner_half(face, side, part, line_y - recede * 0.5, recede, end, sweep) for side in (-1, 1)
    ]
    softness = {"crop": 1.3, "round": 1.4}.get(style, 0.8)
    return Hair(strands, outer, *inner, end, spread, softness)


def _outer_half(face: Face, lift: float, end: float, spread: float) -> np.ndarray:
    """Return the outline of the hair from the top of the head down to its end."""
    w, top = face.width, face.top_y
    side = min(lift, 5 + 0.5 * lift)
    half = [(0, top - lift), (0.5 * w, top + 3 - lift), (0.88 * w + 0.7 * side, 58 - 0.3 * lift)]
    if end < 115:
        half += [(w + side, 80), (w + 0.6 * side, 96), (w + 0.5, end)]
    else:
        half += [(w + side, 82), (w + side, 105)]
        widening = ((118, 0.25), (0.6 * 118 + 0.4 * end, 0.7), (0.2 * 118 + 0.8 * end, 1.0))
        half += [(w + side + share * (spread - w - side), y) for y, share in widening]
        half += [(w + 2 if end < 200 else spread, end)]
    return np.array(half)


def _inner_half(
    face: Face, side: int, part: float, line_y: float, recede: float, end: float, sweep: float
) -> np.ndarray:
    """Return where hair meets skin on one side, from the parting down to the hair's end."""
    w = face.width
    if face.has("Bangs"):
        points = [
            (side * 0.01, 93),
            (side * 14, 93.5),
            (side * 27, 95 + 2 * sweep),
            (side * 0.9 * w, 103),
        ]
    else:
        bend = line_y + (3 + 9 * sweep if end > 120 else 2 - recede * 0.6)
        middle = 0.45 * part + side * 0.42 * w
        points = [(part, line_y - 2), (middle, bend), (side * 0.84 * w, 78 - 1.2 * recede)]
        points += [(side * 0.96 * w, 95)]
    if end > 120:
        points += [(side * (0.99 * w), min(end, 125)), (side * 0.93 * w, min(end, 160))]
    points += [(side * (w if end > 200 else 0.98 * w), end)]
    return np.array(points)


def _comb(face: Face, canvas: Canvas, part: float, waves: bool) -> np.ndarray:
    """Colour hair everywhere (218, 178, 3): strands that fall from the parting, with a sheen."""
    rng = face.streams["hair"]
    fine, broad = rng.normal(0, 0.13, 240), rng.normal(0, 0.13, 49)
    patches = 1 + canvas.enlarged(rng.normal(0, 0.6, (20, 10, 1)))[..., 0]
    phase, amount, shine = rng.uniform(0, 6), rng.uniform(0.04, 0.11), rng.uniform(0.1, 0.5)
    dx, dy = canvas.x - (face.head_x + 0.5 * part), canvas.y - (face.top_y - 4)
    across = np.arctan2(dx, np.abs(dy) + 30)
    if waves:
        across += amount * np.sin(dy * 0.14 + phase + 2 * np.sign(dx))
    table = np.interp(np.arange(960) / 4, np.arange(240), fine)
    table += np.interp(np.arange(960) / 20, np.arange(49), broad)
    tone = table.astype(np.float32)[(across * 300 + 480).astype(np.int16)] * patches
    tone += shine * np.exp(-(((dy - 14 - 0.006 * dx**2) / 11) ** 2))
    tone -= 0.25 * np.clip((canvas.y - 100) / 90, -0.4, 1) - 0.007 * face.light[0] * dx
    lit = np.exp(tone)[..., None] * face.hair.astype(np.float32)
    lit += 0.06 * np.maximum(tone, 0)[..., None]
    return lit


def paint_hair_behind(face: Face, canvas: Canvas, hair: Hair) -> None:
    if face.has("Bald") or hair.length_y < 112:
        return
    outline = np.concatenate([hair.outer, hair.outer[::-1] * (-1, 1)]) + (face.head_x, 0)
    canvas.fill(curve(outline, closed=True), hair.strands * 0.55, blur=hair.softness)


def paint_hair_in_front(face: Face, canvas: Canvas, hair: Hair, head: np.ndarray) -> None:
    """Draw the hair over the skull, after its shadow on the forehead."""
    if face.has("Bald"):
        return
    left, right = hair.inner_left, hair.inner_right
    outer = np.concatenate([(hair.outer * (-1, 1))[::-1], hair.outer[1:]])
    inner = np.concatenate([right[::-1], left[1:] if abs(left[0, 0] - right[0, 0]) < 1 else left])
    outline = np.concatenate([curve(outer), curve(inner)]) + (face.head_x, 0)
    drop = (-3 * face.light[0], 3.5)
    canvas.shade(outline, (0.5, 0.4, 0.36), 0.65, blur=2.5, offset=drop, within=head)
    canvas.fill(outline, hair.strands, 0.96, blur=hair.softness)


def paint_beard(face: Face, canvas: Canvas, head: np.ndarray) -> None:
    """Draw a mustache and a goatee as soft masses with hairs in them."""
    rng, m = face.streams["beard"], face.mouth_y
    reach, drop, thick = rng.uniform(15, 20), rng.uniform(0, 7), rng.uniform(5.0, 7.0)
    goatee_width, hairs = rng.uniform(11, 17), rng.uniform(-1, 1, (110, 4))
    lift = 4.0 * face.has("Smiling")
    colour = blend(face.hair, face.skin * 0.25, 0.3) * 0.75
    if face.has("Mustache"):
        y = m - 5.2 - lift / 4
        spine = [(-reach, m + drop - lift), (-9, y), (0, m - 7), (9, y), (reach, m + drop - lift)]
        spine = curve(face.at(spine, 4))
        along = np.linspace(0, 1, len(spine))
        shape = thick * np.interp(along, [0, 0.3, 0.5, 0.7, 1], [0.25, 1, 0.75, 1, 0.25])
        _paint_whiskers(canvas, ribbon(spine, shape), colour, hairs[:40], 0.92)
    if face.has("Goatee"):
        g, top, bottom = goatee_width, m + 9 + lift, face.chin_y + 2
        half = [(3, top + 1), (g, top + 2), (g + 2, top + 8), (g - 2, bottom - 3), (0, bottom)]
        outline = face.at(mirrored(0, half), 3)
        _paint_whiskers(canvas, outline, colour, hairs[40:], 0.88)
    if face.has("Male"):
        jaw = [(-30, 140), (-27, 162), (-12, 176), (12, 176), (27, 162), (30, 140), (0, m + 6)]
        jaw, shadow = curve(face.at(jaw), closed=True), 0.25 * rng.uniform()
        canvas.shade(jaw, (0.62, 0.6, 0.62), shadow, blur=5, within=head)


def _paint_whiskers(
    canvas: Canvas, outline: np.ndarray, colour: Colour, hairs: np.ndarray, opacity: float
) -> None:
    canvas.fill(outline, colour, opacity, blur=1.2)
    low, high = outline.min(axis=0), outline.max(axis=0)
    roots = (low + high) / 2 + hairs[:, :2] * (high - low) * 0.46
    tips = roots + np.stack([hairs[:, 2] * 1.5, 2.5 + hairs[:, 3]], axis=1)
    inside = canvas.mask(outline, blur=1)
    canvas.strokes(
        list(np.stack([roots, tips], axis=1)), 0.8, np.minimum(1, colour * 1.7 + 0.05), 0.4, inside
    )
