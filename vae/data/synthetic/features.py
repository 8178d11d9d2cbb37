"""The head and what is in it: skin lit as a relief, eyes, brows, nose and mouth."""

import math

import numpy as np

from vae.data.synthetic.canvas import (
    Canvas,
    Colour,
    blend,
    curve,
    ellipse,
    mirrored,
    ribbon,
    ribbons,
)
from vae.data.synthetic.face import Face

_CREASE = (0.50, 0.36, 0.32)  # the light that stays in a fold of skin
_IRIS = np.array([(0.20, 0.12, 0.07), (0.34, 0.21, 0.11), (0.33, 0.38, 0.24), (0.32, 0.46, 0.60)])
_ROUGE = np.array([(0.72, 0.08, 0.14), (0.80, 0.24, 0.34), (0.52, 0.06, 0.14)])


def paint_ears(face: Face, canvas: Canvas) -> None:
    places = [(side, face.head_x + side * (face.width - 0.5)) for side in (-1, 1)]
    ears = [ellipse((x, 119), (5, 11.5), tilt=0.2 * side) for side, x in places]
    hollows = [ellipse((x + 1.2 * side, 118), (2.2, 7)) for side, x in places]
    canvas.fill(ears, face.skin * (0.84, 0.75, 0.73))
    canvas.shade(hollows, (0.6, 0.45, 0.42), 0.7, blur=1.2)


def paint_head(face: Face, canvas: Canvas) -> np.ndarray:
    """Draw the lit skin. Returns the head's coverage (218, 178) in 0..1."""
    head = canvas.mask(_head_outline(face))
    box = np.s_[25:205, 28:150]  # holds every head
    shade, gloss = _lit_relief(face, canvas, box)
    # Shadows on skin turn warm: blue goes first, red last.
    tones = shade[..., None] ** np.array([0.85, 1.05, 1.15], dtype=np.float32)
    mottle = canvas.enlarged(face.streams["skin"].normal(1, 0.028, (22, 18, 1)))[box]
    sheen = (0.20 + 0.12 * face.skin.mean()) * np.array([1, 0.95, 0.88])
    lit = tones * mottle * face.skin.astype(np.float32)
    lit += gloss[..., None] * sheen.astype(np.float32)
    canvas.pixels[box] += head[box][..., None] * (lit - canvas.pixels[box])
    return head


def _head_outline(face: Face) -> np.ndarray:
    chin = 15.0 if face.has("Male") else 10.0
    w, j, x = face.width, face.jaw, face.head_x
    half = [(0, face.top_y), (0.45 * w, face.top_y + 4), (0.81 * w, face.top_y + 19)]
    half += [(0.97 * w, 86), (w, 108), (0.98 * w, 128), (j, 152), (0.70 * j, face.chin_y - 12)]
    half += [(chin, face.chin_y - 2.5), (0, face.chin_y)]
    outline = mirrored(x, half)
    # A turned head shows its chin on the side to which it turns.
    lean = 0.4 * w * math.sin(face.yaw)
    outline[:, 0] += lean * np.clip((outline[:, 1] - 125) / 55, 0, 1)
    return outline


def _lit_relief(
    face: Face, canvas: Canvas, box: tuple[slice, slice]
) -> tuple[np.ndarray, np.ndarray]:
    """Light the relief in box. Returns diffuse light, about 1 in front, and gloss in 0..1."""
    rng = face.streams["skin"]
    ambient, shine = rng.uniform(0.25, 0.68), rng.uniform(0.1, 1.0)
    height = np.zeros_like(canvas.x)
    for x, y, rx, ry, rise, lift in _bumps(face):
        centre = face.at([(x, y)], lift)[0]
        canvas.add_bump(height, centre, (rx, ry), rise)
    slope_y, slope_x = np.gradient(height[box])
    u = (canvas.x[box] - face.head_x) / face.width
    v = (canvas.y[box] - 112) / 68
    slope_x -= 1.15 * u * np.abs(u)
    slope_y -= 0.75 * v * np.abs(v)
    facing = face.light[2] - slope_x * face.light[0] - slope_y * face.light[1]
    facing /= np.sqrt(1 + slope_x**2 + slope_y**2)
    shade = ambient + (1 - ambient) * np.clip(facing, 0, 1) / face.light[2]
    return np.clip(shade, 0.05, 1.25), shine * (np.clip(facing, 0, 1) ** 4) ** 4


def _bumps(face: Face) -> list[tuple[float, float, float, float, float, float]]:
    """List the relief: x, y, radii, rise in pixels, and how far it stands out when turned."""
    smile, big = face.has("Smiling"), face.nose_scale
    ridge, bridge = (2.2, 1.0) if face.has("Male") else (0.6, 0.72)
    n, m = face.nose_y, face.mouth_y
    bumps = [
        (0, 112, 4.6 * big, 13, 3.4 * bridge, 2),
        (0, n - 8, 5.0 * big, 9, 2.6 * bridge, 5),
        (0, n - 1, 6.5 * big, 5.5, 4.6, 8),
        (0, m, 22, 11, 2.6, 4),
        (0, m + 10.5, 11, 3, -1.6, 3),
        (0, face.chin_y - 9, 12, 8, 3.6 * bridge, 3),
        (0, 76, 30, 18, 2.0, 0),
    ]
    for side in (-1, 1):
        bumps += [
            (side * 6.6 * big, n + 0.5, 3.4 * big, 3.4, 2.4, 6),
            (side * 19, 101, 13, 4.5, ridge, 1),
            (side * 17, 110.5, 11, 7, -3.0, 0),
            (side * 25, 131 - 2 * smile, 12, 9, 2.6 + 3.2 * smile, 0),
            (side * 27, 150, 7, 12, -1.2, 0),
        ]
    return bumps


def paint_blush(face: Face, canvas: Canvas, head: np.ndarray) -> None:
    rosy = face.has("Rosy_Cheeks")
    red = blend(face.skin, np.array([0.86, 0.26, 0.28]), 0.6 if rosy else 0.35)
    for side in (-1, 1):
        centre = face.at([(side * 25, 134)])[0]
        canvas.glow(centre, (13, 10), red, 0.7 if rosy else 0.16, within=head)
    canvas.glow(face.at([(0, face.nose_y)], 8)[0], (8, 6), red, 0.14)


def paint_age(face: Face, canvas: Canvas, head: np.ndarray) -> None:
    """Draw folds, bags and furrows; a young face keeps a hint of the fold beside a smile."""
    rng = face.streams["age"]
    depth, jitter = rng.uniform(0.3, 0.6), rng.normal(0, 1.2, 3)
    old, smile = not face.has("Young"), face.has("Smiling")
    n, m = face.nose_y, face.mouth_y
    out = 1.5 + 4.5 * smile
    fold = face.both([(9, n - 1), (15, n + 5), (18 + out, m - 4), (18.5 + out, m + 5)])
    folds = 0.10 + 0.75 * depth * old + 0.35 * smile
    canvas.shade(ribbons(fold, 2.6), _CREASE, folds, blur=1.4, within=head)
    if not old:
        return
    bag, frown = face.both([(11, 117), (19, 121.5), (28, 118)]), face.both([(3, 97), (3.8, 104)])
    jowl = face.both([(20, m + 6), (23, m + 14), (20, m + 20)])
    canvas.shade(ribbons(bag + frown, 2.4), _CREASE, depth, blur=1.1)
    canvas.shade(ribbons(jowl, 3.0), _CREASE, 0.8 * depth, blur=1.8, within=head)
    rows = zip((73, 80, 87), jitter, strict=True)
    lines = [[(-25, y + 1), (-10, y - 1 + j), (8, y), (24, y + j)] for y, j in rows]
    fine = [curve(face.at(line)) for line in lines]
    for drop in (-4, 0, 4):
        fine += face.both([(31, 111.5 + 0.4 * drop), (37.5, 112 + drop)])
    canvas.shade(ribbons(fine, 1.9), _CREASE, 0.6 * depth, blur=1.0, within=head)


def paint_eyes(face: Face, canvas: Canvas) -> None:
    """Draw both eyes with one gaze: white, iris, pupil, catch light, lids and lashes."""
    rng = face.streams["eyes"]
    length, opening = rng.uniform(9.6, 11.2), rng.uniform(3.6, 4.8)
    slant, gaze = rng.uniform(-0.3, 1.4), rng.normal(0, 0.9)
    hue, depth, lined = rng.uniform(), rng.uniform(0, 0.4), rng.uniform(0.4, 1.0)
    hollow = rng.uniform(0.2, 0.6)
    male = face.has("Male")
    opening += 0.5 * (not male) - 0.7 * face.has("Smiling") - 0.5 * (not face.has("Young"))
    # Light eyes go with light skin.
    iris = _IRIS[int(len(_IRIS) * hue * min(1, 1.5 * max(0, face.skin.mean() - 0.2)))]
    iris = blend(iris, _IRIS[0], depth)
    for side in (-1, 1):
        canvas.glow(
            face.at([(side * 19.5, 106)])[0], (12, 6), face.skin * (0.42, 0.33, 0.3), hollow
        )
    upper = [(10.3, 113), (15, 111.2 - opening * 0.8), (20.5, 111 - opening)]
    upper += [(26, 110.5 - opening * 0.55 - slant / 2), (19.5 + length, 112 - slant)]
    lower = [(25, 112.5 + opening * 0.5 - slant / 2), (19, 112.5 + opening * 0.6), (14, 113.6)]
    lids, under = face.both(upper), face.both([upper[-1], *lower, upper[0]])
    opened = [np.concatenate(pair) for pair in zip(lids, under, strict=True)]
    _paint_eyeballs(face, canvas, opened, iris, gaze)
    canvas.shade(ribbons(lids, 2.6), (0.35, 0.28, 0.26), 0.55, blur=1.0, offset=(0, 1.2))
    lash = 1.0 if male else 1.0 + 1.2 * lined
    canvas.fill(ribbons(lids, lash), (0.09, 0.06, 0.05), 0.65 if male else 0.95, blur=0.35)
    canvas.shade(ribbons(lids, 1.3), (0.45, 0.34, 0.3), 0.6, blur=0.7, offset=(0, -3.6))
    canvas.shade(ribbons(under, 1.2), (0.4, 0.28, 0.26), 0.35 if male else 0.65, blur=0.5)


def _paint_eyeballs(
    face: Face, canvas: Canvas, opened: list[np.ndarray], iris: Colour, gaze: float
) -> None:
    centres = face.at([(19.7 + gaze, 110.9), (-19.7 + gaze, 110.9)])
    inside = canvas.mask(opened)

    def discs(dx: float, dy: float, radius: float) -> list[np.ndarray]:
        return [ellipse(centre + (dx, dy), (radius, radius)) for centre in centres]

    canvas.fill(opened, blend(face.skin, np.array([0.93, 0.92, 0.91]), 0.75) * 0.92)
    canvas.fill(discs(0, 0, 4.5), iris * 0.55, within=inside, blur=0.3)
    canvas.fill(discs(0, 0.6, 3.5), iris * 1.25, within=inside, blur=0.6)
    canvas.fill(discs(0, 0, 1.9), (0.02, 0.02, 0.02), within=inside)
    canvas.fill(discs(3 * face.light[0], -1.6, 1.0), (1, 1, 1), 0.9, within=inside)


def paint_brows(face: Face, canvas: Canvas) -> None:
    rng = face.streams["brows"]
    male, bushy = face.has("Male"), face.has("Bushy_Eyebrows")
    arch, thick, y = rng.uniform(0.5, 3.2), rng.uniform(2.2, 3.2), rng.uniform(100.5, 103)
    strength, hairs = rng.uniform(0.5, 0.75), rng.uniform(-1, 1, (26, 3))
    arch, y = arch * (0.5 if male else 1.1), y + 1.5 * male
    thick = thick * (1.15 if male else 0.8) + 2.8 * bushy
    colour = blend(face.hair * 0.55, face.skin * (0.35, 0.27, 0.22), 0.5)
    spines = face.both([(9, y + 1), (15, y - arch * 0.6), (23, y - arch), (30.5, y + 1.5)])
    along = np.linspace(0, 1, len(spines[0]))
    shape = thick * np.interp(along, [0, 0.2, 0.6, 1], [0.7, 1, 0.9, 0.2])
    canvas.fill(ribbons(spines, shape), colour, min(1, strength + 0.25 * bushy), blur=0.8)
    strokes = []
    for side, spine in zip((1, -1), spines, strict=True):
        roots = spine[np.linspace(0, len(spine) - 3, len(hairs)).astype(int)]
        roots = roots + np.stack([0 * hairs[:, 0], hairs[:, 1] * thick * 0.35], axis=1)
        tips = roots + np.stack([side * (2.2 + hairs[:, 0]), -1.6 + hairs[:, 2]], axis=1)
        strokes += list(np.stack([roots, tips], axis=1))
    canvas.strokes(strokes, 0.7, colour * 0.6, 0.45)


def paint_nostrils(face: Face, canvas: Canvas) -> None:
    """Draw what the relief of the nose leaves out: nostrils, wings, and the shadow below."""
    big, n = face.nose_scale, face.nose_y
    below = ellipse(face.at([(-2.5 * face.light[0], n + 6)], 4)[0], (8.5 * big, 3))
    canvas.shade(below, (0.55, 0.42, 0.38), 0.55, blur=1.8)
    holes = [
        ellipse(at, (2.3 * big, 1.2))
        for at in face.at([(-4.1 * big, n + 3.2), (4.1 * big, n + 3.2)], 6)
    ]
    canvas.shade(holes, (0.22, 0.12, 0.1), 0.85, blur=0.7)
    wings = face.both([(8.6 * big, n - 3), (10 * big, n + 0.5), (8.2 * big, n + 3.2)], 4)
    canvas.shade(ribbons(wings, 1.6), (0.5, 0.38, 0.34), 0.5, blur=0.9)


def paint_mouth(face: Face, canvas: Canvas) -> None:
    """Draw lips that rest or smile, closed or open: a smile shows teeth, open ones are apart."""
    rng = face.streams["mouth"]
    reach, full, gap = rng.uniform(15.5, 17.5), rng.uniform(0.8, 1.2), rng.uniform(0.85, 1.15)
    droop, rouge = rng.uniform(-0.3, 1.2), _ROUGE[rng.integers(3)]
    full *= (1.0 if face.has("Young") else 0.8) * (0.95 if face.has("Male") else 1.15)
    edges = [curve(face.at(edge, 4)) for edge in _lip_edges(face, reach, full, gap, droop)]
    _paint_lips(face, canvas, edges, rouge)
    _paint_between_lips(face, canvas, edges)


def _lip_edges(face: Face, reach: float, full: float, gap: float, droop: float) -> list[np.ndarray]:
    """Return the lips' edges from above to below, (7, 2) each, from left corner to right corner."""
    smile, is_open = face.has("Smiling"), face.has("Mouth_Slightly_Open")
    reach += 9.0 * smile - 1.5 * (is_open and not smile)
    corner = face.mouth_y + (-5.5 if smile else droop)
    sag = 6.6 * smile - 0.4  # of the line between the lips, from corner to middle
    gap *= 4.8 * smile + (3.0 if smile else 5.4) * is_open
    full *= 0.85 if smile else 1.0
    rows = [  # heights below the corner: half-way, beside the middle, middle
        (0.45 * sag - 1.9 * full, 0.7 * sag - 4.4 * full, 0.75 * sag - 3.5 * full),
        (0.72 * sag, 0.99 * sag, sag),
        (0.72 * sag + 0.8 * gap, 0.99 * sag + gap, sag + gap),
        (0.76 * sag + 0.8 * gap + 3.4 * full, sag + gap + 6.1 * full, sag + gap + 6.2 * full),
    ]
    x = np.array([-1, -0.53, -0.2, 0, 0.2, 0.53, 1]) * reach
    return [np.stack([x, corner + np.array([0, a, b, c, b, a, 0])], axis=1) for a, b, c in rows]


def _paint_lips(face: Face, canvas: Canvas, edges: list[np.ndarray], rouge: Colour) -> None:
    lip = blend(face.skin * (0.84, 0.62, 0.60), np.array([0.70, 0.34, 0.34]), 0.35)
    if face.has("Wearing_Lipstick"):
        lip = blend(lip, rouge, 0.88)
    upper_edge, upper_line, lower_line, lower_edge = edges
    canvas.fill(np.concatenate([upper_edge, upper_line[::-1]]), lip * 0.80, blur=0.55)
    canvas.fill(np.concatenate([lower_line, lower_edge[::-1]]), lip, blur=0.65)
    middle = (lower_line[len(lower_line) // 2] + lower_edge[len(lower_edge) // 2]) / 2
    canvas.glow(middle + (3 * face.light[0], -0.4), (7, 1.5), blend(lip, np.ones(3), 0.45), 0.55)
    below = lower_edge[len(lower_edge) // 2] + (0, 2.2)
    canvas.shade(ellipse(below, (9, 1.8)), (0.55, 0.42, 0.38), 0.5, blur=1.5)


def _paint_between_lips(face: Face, canvas: Canvas, edges: list[np.ndarray]) -> None:
    _, upper_line, lower_line, _ = edges
    dark = np.array([0.20, 0.06, 0.06])
    smile, is_open = face.has("Smiling"), face.has("Mouth_Slightly_Open")
    if smile or is_open:
        opened = np.concatenate([upper_line, lower_line[::-1]])
        canvas.fill(opened, dark, blur=0.3)
        share = (0.72 if is_open else 1.0) if smile else 0.35
        teeth = np.concatenate([upper_line, blend(upper_line, lower_line, share)[::-1]])
        inside = canvas.mask(opened)
        white = np.array([0.95, 0.93, 0.89]) * (1.0 if smile else 0.8)
        canvas.fill(teeth, white, within=inside, blur=0.4)
        canvas.shade(ribbon(upper_line, 1.8), (0.5, 0.4, 0.4), 0.5, blur=0.7, within=inside)
    canvas.fill(ribbon(upper_line, 1.2), dark, 0.75, blur=0.5)
    corners = [ellipse(corner, (2, 1.8)) for corner in (upper_line[0], upper_line[-1])]
    canvas.shade(corners, (0.4, 0.28, 0.26), 0.7, blur=1.0)
