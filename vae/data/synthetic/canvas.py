"""Soft, antialiased painting with numpy and Pillow: outlines in, blended pixels out."""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = np.ndarray | Sequence[float]  # red, green, blue in 0..1
Outline = np.ndarray | list[np.ndarray]  # (N, 2) points (x, y), or several such
_FINE = 3  # outlines are drawn this many times finer, then averaged

_STEPS = np.arange(6)[:, None] / 6
# Catmull and Rom's weights of four neighbouring points, for every step between the middle two.
_SPLINE = np.hstack([_STEPS**0, _STEPS, _STEPS**2, _STEPS**3]) @ (
    np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
)
_CIRCLE = np.exp(2j * np.pi * np.arange(28) / 28).view(float).reshape(28, 2)


def curve(points: np.ndarray, closed: bool = False) -> np.ndarray:
    """Return a smooth line (M, 2) through points (N, 2): a Catmull-Rom spline."""
    points = np.asarray(points, dtype=float)
    if closed:
        line = np.concatenate([points[-1:], points, points[:2]])
    else:
        line = np.concatenate([points[:1], points, points[-1:]])
    windows = np.stack([line[:-3], line[1:-2], line[2:-1], line[3:]], axis=1)
    smooth = (_SPLINE @ windows).reshape(-1, 2)
    return smooth if closed else np.concatenate([smooth, points[-1:]])


def ellipse(centre: Sequence[float], radii: Sequence[float], tilt: float = 0.0) -> np.ndarray:
    """Return the outline (28, 2) of an ellipse, tilted by radians."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    axes = np.array([(radii[0] * cos, radii[0] * sin), (-radii[1] * sin, radii[1] * cos)])
    return _CIRCLE @ axes + centre


def ribbon(spine: np.ndarray, widths: np.ndarray | float) -> np.ndarray:
    """Return the outline of a line (N, 2) of given widths; one width tapers to both ends."""
    if np.ndim(widths) == 0:
        widths = widths * _taper(len(spine))
    along = np.empty_like(spine)
    along[1:-1] = spine[2:] - spine[:-2]
    along[0], along[-1] = spine[1] - spine[0], spine[-1] - spine[-2]
    aside = along[:, ::-1] * (-1, 1)
    aside *= (np.asarray(widths) / (2 * np.hypot(along[:, 0], along[:, 1]) + 1e-9))[:, None]
    return np.concatenate([spine + aside, (spine - aside)[::-1]])


@functools.cache
def _taper(count: int) -> np.ndarray:
    return np.sqrt(np.sin(np.linspace(0.08, np.pi - 0.08, count)))


def ribbons(lines: list[np.ndarray], widths: np.ndarray | float) -> list[np.ndarray]:
    """Return the outlines of several lines of the same widths."""
    return [ribbon(line, widths) for line in lines]


def mirrored(x: float, half: list[tuple[float, float]]) -> np.ndarray:
    """Close a half outline, given from the middle x outwards, over both sides."""
    right = np.array(half, dtype=float)
    left = right[right[:, 0] > 0][::-1] * (-1, 1)
    return curve(np.concatenate([right, left]) + (x, 0), closed=True)


def blend(a: np.ndarray, b: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Return a where share is 0, b where it is 1, and their mix between."""
    return a + (b - a) * share


class Canvas:
    """Pixels (H, W, 3) float in 0..1, painted in coordinates that are tilted, scaled and shifted.

    x and y (H, W) give the coordinates of every pixel.
    """

    def __init__(
        self,
        size: tuple[int, int],
        pivot: tuple[float, float],
        roll: float,
        scale: float,
        shift: np.ndarray,
    ) -> None:
        width, height = size
        cos, sin = scale * np.cos(roll), scale * np.sin(roll)
        self._scale = scale
        self._turn = np.array([[cos, -sin], [sin, cos]])
        self._origin = np.asarray(pivot) + shift - self._turn @ np.asarray(pivot)
        back = np.linalg.inv(self._turn).astype(np.float32)
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
        dx, dy = columns - np.float32(self._origin[0]), rows - np.float32(self._origin[1])
        self.x = back[0, 0] * dx + back[0, 1] * dy
        self.y = back[1, 0] * dx + back[1, 1] * dy
        self.pixels = np.zeros((height, width, 3), dtype=np.float32)

    def image(self) -> Image.Image:
        """Return the pixels as an RGB picture."""
        return Image.fromarray((self.pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))

    def fill(
        self,
        outline: Outline,
        colour: Colour,
        opacity: float = 1.0,
        blur: float = 0.0,
        within: np.ndarray | None = None,
    ) -> None:
        """Paint what outline encloses; colour may also be an image (H, W, 3)."""
        self._paint(*self._cover(outline, blur), colour, opacity, within)

    def strokes(
        self,
        lines: Outline,
        width: float,
        colour: Colour,
        opacity: float,
        within: np.ndarray | None = None,
    ) -> None:
        """Paint lines of one width in pixels."""
        self._paint(*self._cover(lines, 0.0, width), colour, opacity, within)

    def shade(
        self,
        outline: Outline,
        factor: Colour,
        opacity: float,
        blur: float,
        offset: Sequence[float] = (0, 0),
        within: np.ndarray | None = None,
    ) -> None:
        """Darken what outline, moved by offset, encloses.

        factor is the share of red, green and blue light that stays.
        """
        box, cover = self._cover(outline, blur, offset=offset)
        darker = self.pixels[box] * np.asarray(factor, dtype=np.float32)
        self._mix(box, cover, darker, opacity, within)

    def glow(
        self,
        centre: Sequence[float],
        radii: Sequence[float],
        colour: Colour,
        opacity: float,
        within: np.ndarray | None = None,
    ) -> None:
        """Paint a Gaussian spot."""
        box, spot = self._spot(centre, radii)
        self._paint(box, spot, colour, opacity, within)

    def add_bump(
        self, height: np.ndarray, centre: Sequence[float], radii: Sequence[float], rise: float
    ) -> None:
        """Add a Gaussian of height rise to the field height (H, W)."""
        box, spot = self._spot(centre, radii)
        height[box] += rise * spot

    def mask(self, outline: Outline, blur: float = 0.0) -> np.ndarray:
        """Return how much of every pixel outline covers, (H, W) in 0..1."""
        box, cover = self._cover(outline, blur)
        whole = np.zeros_like(self.x)
        whole[box] = cover
        return whole

    def enlarged(self, coarse: np.ndarray) -> np.ndarray:
        """Return coarse (h, w, C) smoothly enlarged to the canvas, (H, W, C)."""
        height, width = self.x.shape
        channels = [
            Image.fromarray(coarse[..., c].astype(np.float32)).resize(
                (width, height), Image.BICUBIC
            )
            for c in range(coarse.shape[2])
        ]
        return np.stack([np.asarray(channel) for channel in channels], axis=-1)

    def _box(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice]:
        """Return rows and columns from low to high (x, y) that lie in the frame, at least one."""
        height, width = self.x.shape
        left, top = min(max(int(low[0]), 0), width - 1), min(max(int(low[1]), 0), height - 1)
        right, bottom = min(int(high[0]) + 1, width), min(int(high[1]) + 1, height)
        return slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1))

    def _cover(
        self,
        outline: Outline,
        blur: float,
        width: float = 0.0,
        offset: Sequence[float] = (0, 0),
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """Return a box and how much of its pixels outline (or lines of a width) covers."""
        outlines = outline if isinstance(outline, list) else [outline]
        points = np.concatenate(outlines) @ self._turn.T + (self._origin + offset)
        margin = 3 * blur + width + 1
        low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
        rows, columns = box = self._box(low.tolist(), high.tolist())
        size = ((columns.stop - columns.start) * _FINE, (rows.stop - rows.start) * _FINE)
        image = Image.new("L", size)
        draw = ImageDraw.Draw(image)
        fine = ((points - (columns.start, rows.start)) * _FINE).ravel().tolist()
        ends = itertools.accumulate(2 * len(line) for line in outlines)
        for start, end in itertools.pairwise([0, *ends]):
            if width:
                draw.line(fine[start:end], 255, max(1, round(width * _FINE)), joint="curve")
            else:
                draw.polygon(fine[start:end], fill=255)
        image = image.reduce(_FINE)
        if blur:
            image = image.filter(ImageFilter.GaussianBlur(blur))
        return box, np.asarray(image, dtype=np.float32) / 255

    def _spot(
        self, centre: Sequence[float], radii: Sequence[float]
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """Return a box and a Gaussian in it, 1 at the centre and 1/e at the radii."""
        middle = self._turn @ np.asarray(centre) + self._origin
        reach = 2.3 * self._scale * max(radii)
        box = self._box((middle - reach).tolist(), (middle + reach).tolist())
        u = (self.x[box] - np.float32(centre[0])) / np.float32(radii[0])
        v = (self.y[box] - np.float32(centre[1])) / np.float32(radii[1])
        return box, np.exp(-(u * u) - v * v)

    def _paint(self, box, cover, colour, opacity, within) -> None:
        colour = np.asarray(colour, dtype=np.float32)
        self._mix(box, cover, colour[box] if colour.ndim == 3 else colour, opacity, within)

    def _mix(self, box, cover, colour, opacity, within) -> None:
        if within is not None:
            cover = cover * within[box]
        self.pixels[box] += (np.float32(opacity) * cover)[..., None] * (colour - self.pixels[box])
