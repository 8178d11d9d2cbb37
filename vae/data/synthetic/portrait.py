"""Draw one synthetic face in CelebA's frame from smooth outlines and lines in flat colours.

Points are (x, y) in pixels of an upright face: x from its middle, y from the top of the frame.
"""

import colorsys
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from vae.data.synthetic.attributes import ATTRIBUTE_NAMES

FACE_SIZE = (178, 218)
_EYES = complex(89, 111)  # the point between the eyes, where CelebA's alignment puts it
_ENLARGED = 3  # for antialiasing, the picture is drawn this many times larger, then reduced

# Colours are red, green and blue in 0..255. _mix interpolates between the colours of a list.
_SKIN = [(244, 198, 168), (232, 180, 144), (210, 154, 116), (174, 118, 82), (126, 82, 56)]
_SKIN += [(84, 54, 40)]
_PALE_SKIN = [(255, 230, 214), (253, 220, 200)]
_HAIR = {
    "Black_Hair": [(18, 16, 18), (40, 33, 33)],
    "Brown_Hair": [(64, 38, 24), (112, 70, 42)],
    "Blond_Hair": [(200, 154, 82), (240, 210, 134)],
    "Gray_Hair": [(132, 132, 136), (204, 204, 206)],
    "": [(140, 56, 28), (188, 86, 40)],  # red, which is not an attribute of CelebA
}
_IRIS = [(88, 132, 170), (98, 116, 66), (108, 70, 36), (62, 40, 24)]
_ROUGE = [(196, 26, 44), (210, 60, 100), (160, 14, 60)]
_FRAMES = [(20, 20, 24), (76, 40, 22), (130, 22, 34), (28, 40, 92)]
_INK, _WHITE = np.array([38, 22, 20]), np.array([250, 248, 244])

# height above the skull, y of the lower end, radius of the curls (0: straight hair)
_MALE_STYLES = [(3, 96, 0), (8, 102, 0), (11, 104, 0), (9, 106, 5), (15, 118, 6), (9, 150, 0)]
_FEMALE_STYLES = [(8, 104, 0), (10, 158, 0), (9, 240, 0), (12, 240, 0), (12, 200, 7), (18, 132, 7)]


def draw_face(attributes: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Draw the face that one row of attributes (40,) bool describes. Returns 178 x 218 RGB.

    With the same generator state, two rows that differ in one attribute give faces that differ only
    in this attribute: the parts take the same random numbers, whatever the attributes are.
    """
    face = _Face(attributes, rng)
    hair = _hair_outlines(face)
    _draw_behind(face, hair)
    _draw_head(face)
    _draw_eyes(face)
    _draw_nose(face)
    _draw_beard(face)
    _draw_mouth(face)
    _draw_hair(face, *hair)
    _draw_hat(face)
    _draw_earrings(face)
    _draw_glasses(face)
    return face.lit_picture()


class _Face:
    """The sizes and colours that the parts of a face share, and the picture they are drawn on."""

    def __init__(self, attributes: np.ndarray, rng: np.random.Generator) -> None:
        self.has = dict(zip(ATTRIBUTE_NAMES, attributes, strict=True))
        self._rng = rng
        roll, scale, dx, dy, self._yaw = self.random(0.05, (0.97, 1.05), 1.5, 1.5, 1)
        self._turn, self._shift = scale * np.exp(1j * roll), _EYES + complex(dx, dy)
        self._exposure, self._warmth, self.light = self.random((0.84, 1), 0.035, 1)
        self.width, self.top = self.random((37.5, 43), (40, 46))  # half the width, at the eyes
        self.chin, self.mouth = self.random((174, 182), (151, 154))
        depth, tone, brow_colour = self.random((0, 1), (0, 1), (0, len(_HAIR)))
        self.skin = _mix(_PALE_SKIN if self.has["Pale_Skin"] else _SKIN, depth)
        self.shade, self.line = self.skin * (0.87, 0.79, 0.76), self.skin * (0.7, 0.57, 0.53)
        # the brows of a bald face need a colour, too
        default = list(_HAIR)[int(brow_colour)] if self.has["Bald"] else ""
        self.hair = _mix(_HAIR[next(filter(self.has.get, _HAIR), default)], tone)
        is_visible = np.abs(self.hair * 0.8 - self.skin).max() > 45  # on this skin
        self.beard = self.hair * 0.8 if is_visible else self.skin * 0.5  # also of the brows
        self._picture = Image.new("RGB", (FACE_SIZE[0] * _ENLARGED, FACE_SIZE[1] * _ENLARGED))
        self._pen, self._brush = (ImageDraw.Draw(self._picture, mode) for mode in ("RGB", "RGBA"))

    def random(self, *ranges: tuple[float, float] | float) -> list[float]:
        """Return a uniform number for each range. A single number r means the range (-r, r)."""
        lows, highs = zip(*(r if isinstance(r, tuple) else (-r, r) for r in ranges), strict=True)
        return self._rng.uniform(lows, highs).tolist()

    def random_colour(self) -> np.ndarray:
        """Return a random colour for clothes or a wall."""
        return 255 * np.array(colorsys.hsv_to_rgb(*self.random((0, 1), (0, 0.5), (0.2, 0.95))))

    def fill(self, outline, colour, depth=0.0, opacity=1.0, mirror=False) -> None:
        """Fill a smooth outline through points (N, 2). mirror fills the outline at -x, too.

        Points of larger depth move more when the head turns. A point given twice is a corner.
        """
        rgba = (*np.asarray(colour).astype(int).tolist(), round(255 * opacity))
        for placed in self._place([outline[-1], *outline, *outline[:2]], depth, mirror):
            (self._pen if opacity == 1 else self._brush).polygon(placed, rgba)

    def stroke(self, line, colour, width, depth=0.0, mirror=False) -> None:
        """Draw a smooth line through points (N, 2). mirror draws the line at -x, too."""
        rgb, pixels = tuple(np.asarray(colour).astype(int).tolist()), round(width * _ENLARGED)
        for placed in self._place([line[0], *line, line[-1]], depth, mirror):
            self._pen.line(placed, rgb, pixels, joint="curve")

    def _place(self, points: list, depth: float, mirror: bool) -> Iterator[list[float]]:
        """Smooth, turn, roll, scale and shift a line. Yields its x, y, x, y ... when enlarged."""
        smooth = _smooth(points)
        for side in (1, -1) if mirror else (1,):
            x = smooth[:, 0] * side + self._yaw * (depth - 0.08 * np.abs(smooth[:, 0]))
            placed = (x + 1j * (smooth[:, 1] - _EYES.imag)) * self._turn + self._shift
            yield (placed * _ENLARGED).view(float).tolist()

    def lit_picture(self) -> Image.Image:
        """Return the picture at FACE_SIZE, lit so that one side is brighter than the other."""
        pixels = np.asarray(self._picture.reduce(_ENLARGED), dtype=np.float32)
        side = 1 + 0.1 * self.light * np.linspace(-1, 1, FACE_SIZE[0], dtype=np.float32)[:, None]
        light = side * np.float32([1 + self._warmth, 1, 1 - self._warmth]) * self._exposure
        return Image.fromarray((pixels * light).clip(0, 255).astype(np.uint8))


def _hair_outlines(face: _Face) -> tuple[list, list, float]:
    """Return half the outline of the hair, top down, the hairline, and the radius of curls."""
    number, stretch, part, line, spread = face.random((0, 6), (0.8, 1.25), 16, (58, 66), (54, 72))
    male, w, top = face.has["Male"], face.width, face.top
    lift, end, curl = (_MALE_STYLES if male else _FEMALE_STYLES)[int(number)]
    lift = min(lift, 5) if face.has["Wearing_Hat"] else lift * stretch
    side, long = min(lift, 8), end > 125
    half = [(0, top - lift), (0.5 * w, top + 3 - lift), (0.9 * w + 0.7 * side, 62 - 0.4 * lift)]
    half += [(w + side, 86)]
    if long:
        spread = spread if end > 170 else w + 8
        half += [(w + side, 108), ((w + side + spread) / 2, (108 + end) / 2), (spread, end)]
    else:
        half += [(w + 0.6 * side, (86 + end) / 2), (w, end)]
    line -= 0 if face.has["Young"] else 7 if male else 3
    hairline = []
    for sign in (-1, 1):
        inner = [(part, line), (0.5 * part + sign * 0.42 * w, line + 3), (sign * 0.84 * w, 79)]
        if face.has["Bangs"]:
            inner = [(0, 96), (sign * 7, 93), (sign * 15, 97), (sign * 22, 94), (sign * 30, 99)]
        inner += [(sign * 0.95 * w, 99)]
        inner += [(sign * 0.97 * w, 124), (sign * 0.88 * w, end)] if long else []
        hairline = [*inner[::-1], *hairline] if sign > 0 else inner
    return half, hairline, curl


def _draw_behind(face: _Face, hair: tuple[list, list, float]) -> None:
    """Draw the wall, the hair behind the head, the clothes and the neck."""
    collar, edge = face.random((4, 24), 100)
    wall, cloth = face.random_colour(), face.random_colour()
    face.fill([(-150, -50), (150, -50), (150, 270), (-150, 270)], wall)
    face.fill([(edge - 30, -90), (edge + 60, -90), (edge + 20, 310), (edge - 90, 310)], wall * 0.87)
    if hair[0][-1][1] > 125 and not face.has["Bald"]:
        face.fill(_both(hair[0]), face.hair * 0.7, -6)
    neck = (0.68 if face.has["Male"] else 0.54) * face.width
    shoulder = [(0, 192), (neck, 194), (neck + 26, 201), (neck + 54, 218), (110, 300), (0, 300)]
    face.fill(_both(shoulder), cloth, -6)
    throat = [(neck, 140), (neck, 190), (neck + 4, 197), (0.6 * neck, 198 + 0.7 * collar)]
    face.fill(_both([*throat, (0, 198 + collar)]), face.shade, -6)
    face.fill(_both([(neck, 140), (neck, 176), (0, 191)]), face.shade * 0.86, -6)


def _draw_head(face: _Face) -> None:
    """Draw the ears, the head with a shaded and a lit side, rosy cheeks, and wrinkles."""
    w, chin, male = face.width, face.chin + 3 * face.has["Male"], face.has["Male"]
    face.fill(_ellipse(w, 118, 5.5, 12), face.shade, -6, mirror=True)
    face.fill(_ellipse(w + 1, 118, 2.2, 7), face.line, -6, 0.5, mirror=True)
    jaw = w * face.random((0.72, 0.84))[0] + 4 * male
    half = [(0, face.top), (0.5 * w, face.top + 4), (0.85 * w, face.top + 20), (0.98 * w, 86)]
    half += [(w, 108), (0.97 * w, 128), (jaw, 152), (0.68 * jaw, chin - 12)]
    head = _both([*half, (14 if male else 9, chin - 2), (0, chin)])
    face.fill(head, face.shade, -4)
    face.fill(head * (0.9, 0.985) + (0.1 * w * face.light, 1), face.skin, -4)
    if face.has["Rosy_Cheeks"]:
        for size in (12, 9, 6):
            face.fill(_ellipse(25, 135, size, 0.7 * size), (222, 60, 66), 0, 0.2, mirror=True)
    if not face.has["Young"]:
        for y in (79, 86):
            face.stroke([(-20, y + 1), (-7, y), (7, y), (20, y + 1)], face.line, 1.2)
        face.stroke([(11, 119), (18, 122), (27, 119.5)], face.line, 1.2, mirror=True)
        face.stroke([(10.5, 137), (16, 142), (20, face.mouth - 3)], face.line, 1.2, 2, mirror=True)
        for end in (105.5, 112.5):
            face.stroke([(31.5, 110), (37, end)], face.line, 1.2, mirror=True)


def _draw_eyes(face: _Face) -> None:
    """Draw the eyes, which look in the same direction, and the brows."""
    male, bushy = face.has["Male"], face.has["Bushy_Eyebrows"]
    width, height, slant, gaze = face.random((9.3, 11), (3.8, 5.2), (-0.6, 1.4), 1.2)
    hue, y, arch, thick = face.random((0, 1), (99, 102), (0.5, 3.5), (2.4, 3.4))
    iris = _mix(_IRIS, 1 - (1 - hue) * face.skin.mean() / 225)  # light eyes go with light skin
    height, x = height - 0.7 * male, 19.4
    upper = [(x - width, 112.6), (x - 4, 111.4 - height), (x + 4, 111 - height)]
    upper += [(x + width, 111.6 - slant)]
    low = 111 + 0.65 * height
    face.fill([upper[0], *upper, upper[-1], (x + 4, low), (x - 5, low)], _WHITE, mirror=True)
    for side in (-1, 1):
        for radius, colour in ((4.4, iris), (2.1, _INK)):
            disc = _ellipse(0, 111, radius, radius).clip((-9, 111.4 - height), (9, low - 0.2))
            face.fill(disc + (side * x + gaze, 0), colour)
        face.fill(_ellipse(side * x + gaze + 1.4 * face.light, 109.4, 1.1, 1.1), _WHITE)
    face.stroke(upper, _INK, 1.5 if male else 2.3, mirror=True)
    face.stroke([(a, b - 3.4) for a, b in upper], face.line, 0.9, mirror=True)
    y, arch = y + 1.5 * male - bushy, arch * (0.5 if male else 1.1)
    thick = thick * (1.2 if male else 0.8) + 3.4 * bushy
    brow = [(9, y - 0.4 * thick), (20, y - arch - 0.5 * thick), (27, y - arch), (31.5, y + 2)]
    brow += [(20, y - arch + 0.5 * thick), (9, y + 0.6 * thick)]
    face.fill(brow, face.beard, mirror=True)


def _draw_nose(face: _Face) -> None:
    """Draw the shaded side of the nose, its wings and nostrils."""
    y, big = face.random((133, 137), (0.85, 1.05))
    big += 0.1 * face.has["Male"] + 0.6 * face.has["Big_Nose"]
    half = [(0, 106), (2.6, 108), (3.6 * big, 122), (8.6 * big, y - 2), (8 * big, y + 3)]
    face.fill(np.array([*half, (0, y + 5)]) * (-1 if face.light > 0 else 1, 1), face.shade, 4)
    wing = [(7.5 * big, y - 5), (9.6 * big, y), (6.5 * big, y + 4), (2 * big, y + 4.6)]
    face.stroke(wing, face.line, 1.3 * big, 4, mirror=True)
    face.fill(_ellipse(4.2 * big, y + 3.2, 2.2 * big, 1.2), face.line * 0.6, 4, mirror=True)


def _draw_beard(face: _Face) -> None:
    reach, wide = face.random((15, 20), (11, 16))
    m, bottom = face.mouth, face.chin + 5
    if face.has["Goatee"]:
        half = [(0, m + 8), (0.7 * wide, m + 9), (wide, m + 13), (0.9 * wide, bottom - 7)]
        face.fill(_both([*half, (0, bottom)]), face.beard, 1)
    if face.has["Mustache"]:
        half = [(0, m - 9), (8, m - 10), (reach, m - 4), (reach + 3, m + 3), (reach - 3, m - 1)]
        face.fill(_both([*half, (8, m - 4), (0, m - 5)]), face.beard, 2)


def _draw_mouth(face: _Face) -> None:
    """Draw the lips. Show teeth in a smile, and teeth above a dark gap in an open mouth."""
    reach, full, rouge = face.random((15.5, 17.5), (0.8, 1.2), (0, 1))
    smile, is_open = face.has["Smiling"], face.has["Mouth_Slightly_Open"]
    lips = _mix([face.skin * (0.84, 0.64, 0.62), (176, 98, 94)], 0.45)
    lips = _mix(_ROUGE, rouge) if face.has["Wearing_Lipstick"] else lips
    reach, y = reach + 8 * smile - 2 * (is_open and not smile), face.mouth - 5 * smile
    full *= (0.85 if face.has["Male"] else 1.1) * (0.8 if smile else 1)
    sag = 8.5 * smile  # the middle of the lips is this far below their corners
    gap = (5.5 + 4 * is_open) if smile else 7 * is_open
    x = np.array([-1, -0.58, -0.22, 0, 0.22, 0.58, 1]) * reach
    # y of the four edges of the lips, from top to bottom, at four points from corner to middle
    edges = np.outer((sag, sag, sag + gap, sag + gap), (0, 0.67, 0.95, 1))
    edges += full * np.array([(0, -2.4, -4.2, -3.2), (0,) * 4, (0,) * 4, (0, 3.4, 5.4, 5.6)])
    above, top, bottom, below = (np.stack([x, y + np.append(e, e[2::-1])], 1) for e in edges)
    face.fill([*above, *below[::-1]], lips, 2)
    if gap:
        face.fill([*top, *bottom[::-1]], _INK * (2, 1, 1), 2)
        teeth = top + (bottom - top) * ((0.55 if smile else 0.35) if is_open else 1)
        face.fill([*top, *teeth[::-1]], _WHITE, 2)
    face.stroke(top, _INK * 1.6, 1.2, 2)
    if smile:
        dimple = [(reach - 0.5, y - 5), (reach + 3.5, y), (reach + 2.5, y + 6)]
        face.stroke(dimple, face.line, 1.5, 2, mirror=True)


def _draw_hair(face: _Face, half: list, hairline: list, curl: float) -> None:
    """Draw the hair over the head, with curls along its outline."""
    if face.has["Bald"]:
        return
    outline = np.array([*(np.array(half) * (-1, 1))[:0:-1], *half])
    face.fill([*outline, outline[-1], *hairline, outline[0]], face.hair, -5)
    if curl:
        for x, y in _smooth(outline)[::3]:
            face.fill(_ellipse(x, y, curl, curl), face.hair, -5)


def _draw_hat(face: _Face) -> None:
    """Draw a knitted cap, a cap with a peak, or a hat with a brim."""
    colour, band, kind = face.random_colour(), face.random_colour(), face.random((0, 3))[0]
    w = face.width + 7
    if not face.has["Wearing_Hat"]:
        return
    crown = [(0, 18), (0.6 * w, 21), (0.93 * w, 42), (w, 70), (w, 80), (0, 74)]
    face.fill(_both(crown), colour, -5)
    if kind < 1:
        face.fill(_both([(0, 62), (w, 65), (w + 2, 75), (w, 84), (0, 80)]), colour * 0.75, -5)
    elif kind < 2:
        face.fill(_both([(0, 66), (36, 74), (32, 84), (0, 88)]), colour * 0.6, -2)
    else:
        face.fill(_both([(0, 60), (w, 63), (w, 78), (0, 76)]), band, -5)
        face.fill(_ellipse(0, 79, w + 26, 7), colour * 0.8, -5)


def _draw_earrings(face: _Face) -> None:
    metal = _mix([(240, 200, 90), (236, 236, 244)], face.random((0, 1))[0])
    if face.has["Wearing_Earrings"]:
        face.fill(_ellipse(face.width + 1, 136, 4, 5.5), metal * 0.7, -6, mirror=True)
        face.fill(_ellipse(face.width + 1, 135.5, 3, 4.5), metal, -6, mirror=True)


def _draw_glasses(face: _Face) -> None:
    """Draw the lenses, bridge and arms of glasses."""
    kind, power, height = face.random((0, len(_FRAMES)), (0.4, 1), (11, 13))
    if face.has["Eyeglasses"]:
        frame, circle = _FRAMES[int(kind)], _ellipse(0, 0, 1, 1)
        lens = np.sign(circle) * np.abs(circle) ** power * (15.5, height) + (19.8, 112.5)
        face.fill(lens, (225, 240, 250), 1, 0.18, mirror=True)
        face.stroke([*lens, *lens[:2]], frame, 2.8, 1, mirror=True)
        face.stroke([(34.5, 109), (face.width, 107)], frame, 2.6, -1, mirror=True)
        face.stroke([(-5, 110.5), (0, 108.8), (5, 110.5)], frame, 2.6, 1)


def _both(half: list[tuple[float, float]]) -> np.ndarray:
    """Return the closed outline of a half, whose points go from the middle, x = 0, outwards."""
    right = np.array(half, dtype=float)
    return np.concatenate([right, right[right[:, 0] > 0][::-1] * (-1, 1)])


def _ellipse(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    """Return 12 points of an ellipse, (12, 2)."""
    angles = np.arange(12) * np.pi / 6
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def _smooth(points) -> np.ndarray:
    """Return a Catmull-Rom spline (M, 2) through all points (N, 2) but the first and the last."""
    p, t = np.asarray(points, dtype=float)[:, None], np.arange(5)[:, None] / 5
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    line = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.concatenate([line.reshape(-1, 2), p[-2]])


def _mix(colours, place: float) -> np.ndarray:
    """Return the colour at place in 0..1 along a list of colours."""
    stops = np.linspace(0, 1, len(colours))
    return np.array([np.interp(place, stops, channel) for channel in zip(*colours, strict=True)])
