"""What is put on: hats, earrings and glasses."""

import numpy as np

from vae.data.synthetic.canvas import Canvas, blend, curve, ellipse, mirrored
from vae.data.synthetic.face import Face, any_colour

_METALS = np.array([(0.95, 0.80, 0.42), (0.90, 0.91, 0.95), (0.85, 0.30, 0.35), (0.30, 0.55, 0.75)])
_FRAMES = np.array([(0.04, 0.04, 0.05), (0.20, 0.10, 0.05), (0.30, 0.05, 0.08), (0.08, 0.10, 0.24)])


def paint_hat(face: Face, canvas: Canvas, head: np.ndarray) -> None:
    """Draw a knitted cap, a cap with a peak, or a hat with a brim."""
    rng = face.streams["hat"]
    colour, band, kind = any_colour(rng), any_colour(rng), rng.integers(3)
    y, lean = rng.uniform(74, 82), rng.uniform(-3, 3)
    if not face.has("Wearing_Hat"):
        return
    w, x = face.width + 6, face.head_x
    top = 22 if kind == 1 else 18
    crown = [(0, top), (0.6 * w, 22), (0.94 * w, 42), (w, y - 8), (w, y), (0, y - 6)]
    canvas.shade(mirrored(x, crown), (0.4, 0.32, 0.3), 0.8, blur=3.5, offset=(0, 8), within=head)
    canvas.fill(mirrored(x, crown), colour, blur=0.5)
    canvas.glow((x + 24 * face.light[0], 38), (26, 22), np.minimum(1, colour * 1.35 + 0.08), 0.55)
    if kind == 0:
        cuff = [(0, y - 16), (w + 1, y - 12), (w + 2, y + 3), (0, y - 1)]
        canvas.fill(mirrored(x, cuff), blend(colour, band, 0.5), blur=0.5)
    elif kind == 1:
        peak = [(0, y - 12), (34, y - 5), (30, y + 5), (0, y + 9 + lean)]
        peak = mirrored(x, peak)
        canvas.shade(peak, (0.4, 0.35, 0.33), 0.7, blur=3, offset=(0, 6), within=head)
        canvas.fill(peak, colour * 0.7, blur=0.5)
    else:
        canvas.fill(mirrored(x, [(0, y - 18), (w, y - 14), (w, y), (0, y - 6)]), band, blur=0.5)
        canvas.fill(ellipse((x, y - 2), (w + 26, 7), tilt=lean / 60), colour * 0.75, blur=0.6)


def paint_earrings(face: Face, canvas: Canvas) -> None:
    rng = face.streams["earrings"]
    metal, size = _METALS[rng.choice(4, p=[0.4, 0.4, 0.1, 0.1])], rng.uniform(2.6, 4.0)
    hoop = rng.uniform() < 0.4
    if not face.has("Wearing_Earrings"):
        return
    for side in (-1, 1):
        x = face.head_x + side * (face.width + 1.5)
        if hoop:
            ring = ellipse((x, 139 + size), (size * 1.2, size * 1.7))
            canvas.strokes(np.concatenate([ring, ring[:2]]), 1.7, metal, 1.0)
        else:
            canvas.fill(ellipse((x, 136 + size), (size, size * 1.5)), metal * 0.85)
        canvas.glow((x - 0.8, 136), (1.8, 1.8), (1, 1, 1), 0.8)


def paint_glasses(face: Face, canvas: Canvas) -> None:
    """Draw frames with rims, bridge and arms; about one pair in ten is dark sunglasses."""
    rng = face.streams["glasses"]
    colour, rim = _FRAMES[rng.choice(4, p=[0.6, 0.2, 0.1, 0.1])], rng.uniform(1.9, 3.2)
    power, rx, ry = rng.uniform(2.0, 4.5), rng.uniform(14.0, 16.2), rng.uniform(9.5, 12.5)
    dark, tint, glare = rng.uniform() < 0.1, rng.uniform(0.04, 0.16), rng.uniform(0.0, 0.35)
    if not face.has("Eyeglasses"):
        return
    right = _superellipse(19.8, 113, rx, ry, power)
    lenses = [face.at(right * (side, 1), 3) for side in (1, -1)]
    canvas.shade(lenses, (0.6, 0.52, 0.5), 0.3, blur=2, offset=(0, 3))
    canvas.fill(lenses, (0.05, 0.05, 0.07), 0.93 if dark else tint)
    streak = np.array([(-9, 103), (-3, 103), (-9, 120)])
    streaks = [face.at(streak + (x, 0), 3) for x in (-19.8, 19.8)]
    canvas.fill(streaks, (1, 1, 1), glare * 0.6, blur=1.6, within=canvas.mask(lenses))
    frame = [np.concatenate([lens, lens[:2]]) for lens in lenses]
    for side in (-1, 1):
        hinge = face.at([(side * (19.8 + rx - 1), 109)], 3)[0]
        frame.append(np.array([hinge, (face.head_x + side * face.width, 110)]))
    frame.append(curve(face.at([(rx - 20.3, 110.5), (0, 108.3), (20.3 - rx, 110.5)], 5)))
    canvas.strokes(frame, rim, colour, 0.97)


def _superellipse(x: float, y: float, rx: float, ry: float, power: float) -> np.ndarray:
    """Return an outline between an ellipse (power 2) and a box, (40, 2)."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    c, s = (np.sign(t) * np.abs(t) ** (2 / power) for t in (c, s))
    return np.stack([x + rx * c, y + ry * s], axis=1)
