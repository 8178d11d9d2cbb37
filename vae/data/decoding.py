"""Decode a picture file to a square of pixels, with the orientation and colours of a viewer."""

import contextlib
import functools
import io
import os
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps
from torch import Tensor

from vae.errors import UserError

Crop = str | int
"""The side of the square in pixels, or "frame": crop_box derives it from the picture's size."""

_NOT_PICTURES = {"BUFR", "EPS", "FLI", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
"""Pillow's formats for documents, films and measurements."""
_ALWAYS_READ = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")
"""The first bytes of formats that Pillow reads in every variant: JPEG, PNG, GIF and WebP."""
_LARGE = 2**24
"""Number of pixels. Larger pictures are decoded one at a time, to bound the memory."""
_one_large = threading.Lock()
_DAMAGED = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError)
_DAMAGED += (SyntaxError, TypeError, ValueError, struct.error, zlib.error)
"""What Pillow raises when the bytes are not a complete picture."""


class BadPicture(Exception):
    """A picture that cannot be used. Its text says why, in a few words."""


@functools.cache
def picture_endings() -> dict[str, str]:
    """Return the format of each file ending that is read, such as {".jpg": "JPEG"}.

    These are the endings of the installed Pillow, and of pillow-heif if it is installed.
    """
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    known = Image.registered_extensions().items()
    return {end: kind for end, kind in known if kind in Image.OPEN and kind not in _NOT_PICTURES}


def can_open(name: str, read: Callable[[str], bytes]) -> bool:
    """Return whether Pillow can open a picture file. A file with HEIC's ending may be a film."""
    try:
        Image.open(io.BytesIO(read(name))).close()
    except (*_DAMAGED, BadPicture):
        return False
    return True


def in_celebas_frame(width: int, height: int) -> bool:
    """Return whether a picture has the proportions of 178 x 218, up to rounding."""
    return height == round(218 * width / 178) or width == round(178 * height / 218)


def crop_box(width: int, height: int, crop: Crop) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the centred square, in pixels.

    With "frame", the side is 128/178 of the width if the picture is in CelebA's frame. Otherwise
    it is the largest possible. left and top are rounded down.

    Raises BadPicture if the square does not fit into the picture.
    """
    if crop != "frame":
        side = int(crop)
    elif in_celebas_frame(width, height):
        side = round(128 * width / 178)
    else:
        side = min(width, height)
    if side > min(width, height):
        raise BadPicture(f"a square of {side} does not fit into {width} x {height} (--crop-size)")
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def read_square(content: bytes, image_size: int, crop: Crop) -> tuple[np.ndarray, bool]:
    """Return the square of a picture file, uint8 (S, S, 3), and whether it is in CelebA's frame.

    The square is cut from the first frame, upright, in sRGB with 8 bits, with white behind
    transparent pixels.

    Raises BadPicture if the picture cannot be read or is too small for the crop.
    """
    with _opened(content) as picture:
        return _cut(picture, image_size, crop)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Yield the picture of a file. Raises BadPicture if it, or what is done with it, fails."""
    try:
        formats = list(dict.fromkeys(picture_endings().values()))
        with Image.open(io.BytesIO(content), formats=formats) as picture:
            large = picture.width * picture.height > _LARGE
            with _one_large if large else contextlib.nullcontext():
                yield picture
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise BadPicture(f"it has more than {limit} million pixels") from error
    except Image.UnidentifiedImageError as error:
        raise BadPicture(_why_unidentified(content)) from error
    except MemoryError as error:
        raise BadPicture("it is too large for this machine's memory") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        is_truncated = "truncated" in reason.lower() or isinstance(error, EOFError)
        raise BadPicture("truncated" if is_truncated else f"damaged ({reason})") from error


def _why_unidentified(content: bytes) -> str:
    if content.startswith(_ALWAYS_READ):
        return "damaged"
    if not content:
        return "the file is empty"
    is_heic = content[4:8] == b"ftyp" and "HEIF" not in picture_endings().values()
    return "Pillow cannot read this kind of file" + " (pip install pillow-heif)" * is_heic


def _cut(picture: Image.Image, image_size: int, crop: Crop) -> tuple[np.ndarray, bool]:
    """Return the square of an opened picture, and whether it is in CelebA's frame."""
    picture.load()  # turns a TIFF upright
    orientation = _orientation(picture)
    upright_size = picture.size[::-1] if orientation in (5, 6, 7, 8) else picture.size
    left, _, right, _ = crop_box(*upright_size, crop)
    # Cut first, so that only a small part is converted and turned. Equal margins on opposite sides
    # stay equal when the picture is turned. If they need an odd pixel, it is cut off afterwards.
    side = right - left
    x, y = (picture.width - side) // 2, (picture.height - side) // 2
    square = _in_rgb(picture.crop((x, y, picture.width - x, picture.height - y)), picture)
    square = _upright(square, orientation).crop((0, 0, side, side))
    if side != image_size:
        square = square.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(square), in_celebas_frame(*upright_size)


def _orientation(picture: Image.Image) -> int:
    """Return how a picture is stored, as EXIF counts: 1, upright, to 8."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGED:
        value = 1
    return value if value in range(1, 9) else 1


def _upright(stored: Image.Image, orientation: int) -> Image.Image:
    """Return a picture as a person sees it. Its info is cleared."""
    stored.info.clear()  # exif_transpose would fail on damaged EXIF
    stored.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(stored)


def _in_rgb(square: Image.Image, picture: Image.Image) -> Image.Image:
    """Return a part of a picture in sRGB, with white behind transparent pixels."""
    profile = square.info.get("icc_profile")
    if square.mode == "F":
        raise BadPicture("Pillow cannot read this kind of file as a picture (float pixels)")
    if square.mode == "I" or square.mode.startswith("I;16"):
        square = _in_8_bits(square, picture)
    if not square.has_transparency_data:
        return _in_srgb(square, profile) if profile else square.convert("RGB")
    square = square.convert("LA" if square.mode in ("L", "LA") else "RGBA")
    alpha, colours = square.getchannel("A"), _in_srgb(square.convert(square.mode[:-1]), profile)
    if _has_unused_alpha(picture):
        return colours
    return Image.composite(colours, Image.new("RGB", colours.size, "white"), alpha)


def _has_unused_alpha(picture: Image.Image) -> bool:
    """Return whether the fourth byte of its pixels is unused, as in many a BMP."""
    return picture.format == "BMP" and picture.getchannel("A").getextrema() == (0, 0)


def _in_8_bits(square: Image.Image, picture: Image.Image) -> Image.Image:
    """Return part of a 16-bit grey picture in 8 bits. Raises BadPicture if it has more bits."""
    if square.mode == "I" and not 0 <= picture.getextrema()[0] <= picture.getextrema()[1] < 2**16:
        raise BadPicture("its pixels are deeper than 16 bits")
    values = np.asarray(square)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in square.info:
        is_opaque = values != square.info["transparency"]
        grey.putalpha(Image.fromarray(is_opaque.astype(np.uint8) * 255))
    return grey


def _in_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a picture without alpha in sRGB. A profile other than sRGB is converted."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}[opened.profile.xcolor_space]
        fits = (mode == "CMYK") == (colours.mode == "CMYK") and (mode != "L" or colours.mode == "L")
        if fits and not ImageCms.getProfileDescription(opened).startswith("sRGB"):
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(colours.convert(mode), opened, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, LookupError, OSError, TypeError, ValueError):
        pass  # ignore a damaged profile, as viewers do
    return colours.convert("RGB")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[TextIO]:
    """Yield a copy of stderr. In the meantime, discard what libraries write to stderr itself.

    libtiff writes its warnings to file descriptor 2. Pillow uses Python's warnings.
    """
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w", errors="backslashreplace") as copy:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield copy
        finally:
            sys.stderr.flush()
            os.dup2(copy.fileno(), 2)


@dataclass(frozen=True)
class Photo:
    """A whole picture, upright."""

    seen: Image.Image
    """what a model sees: RGB in sRGB, with white behind transparent pixels"""
    own: Image.Image
    """the file's own values: L, LA, RGB or RGBA"""
    profile: bytes | None
    """the colour profile of own; None: sRGB"""
    orientation: int
    """how the file stores it, as EXIF counts: 1, upright, to 8"""

    def encode(self, own: Image.Image) -> bytes:
        """Return new values of own as a PNG file, with the profile and orientation of the photo.

        Other EXIF tags are not kept: they may say where the picture was taken.
        """
        stored, options = own, {"icc_profile": self.profile}
        if self.orientation > 1:
            stored = own.transpose(_STORED[self.orientation])
            options["exif"] = Image.Exif()
            options["exif"][ExifTags.Base.Orientation] = self.orientation
        content = io.BytesIO()
        stored.save(content, "PNG", **options)
        return content.getvalue()


_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What turns an upright picture into the stored one of each orientation: the inverse of EXIF's."""


def decode_photo(content: bytes) -> Photo:
    """Return the whole picture of a file; palettes and 16 bits become 8-bit grey or RGB.

    What is neither grey nor RGB, such as CMYK, becomes RGB in sRGB.

    Raises BadPicture if it cannot be read.
    """
    with _opened(content) as picture:
        picture.load()
        orientation, profile = _orientation(picture), picture.info.get("icc_profile")
        own = _own_values(picture)
        seen = _upright(_in_rgb(picture, picture), orientation)
        if own is None or (own is picture and not profile):
            return Photo(seen, seen, None, orientation)  # once in memory
        return Photo(seen, _upright(own, orientation), profile, orientation)


def _own_values(picture: Image.Image) -> Image.Image | None:
    """Return a picture as L, LA, RGB or RGBA without a change of its values; None of others."""
    own = picture
    if own.mode == "I" or own.mode.startswith("I;16"):
        own = _in_8_bits(own, picture)
    is_grey = own.mode in ("1", "L", "LA")
    if not is_grey and own.mode not in ("P", "PA", "RGB", "RGBA"):
        return None
    if own.has_transparency_data and not _has_unused_alpha(picture):
        return own.convert("LA" if is_grey else "RGBA")
    return own if own.mode == "RGB" else own.convert("L" if is_grey else "RGB")


def read_photo(path: str) -> Photo:
    """Return the whole picture of a file. Raises UserError if it cannot be read."""
    try:
        if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
            raise BadPicture("it is not a file")  # reading a pipe would wait
        with quiet_stderr():
            return decode_photo(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"--image {path}: no such file") from error
    except (BadPicture, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} is not a readable image: {reason}") from error


def to_float(pixels: Tensor) -> Tensor:
    """Return uint8 pixels (N, S, S, 3) as float images (N, 3, S, S) in [0, 1], channels last."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)
