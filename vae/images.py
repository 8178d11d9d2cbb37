"""Tensors <-> picture files: square crops in, grids and GIFs out. Images are (N, 3, S, S)."""

import io
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from vae.errors import UserError
from vae.files import whole_file

# of a damaged picture PIL warns before it raises
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")

UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)

Crop = str | int
"""How a square is cut: "celeba", "largest", or its side in pixels."""

JpegDecoder = Callable[[Tensor], Tensor]
"""From a JPEG file's bytes, uint8 (bytes,), to its pixels, uint8 (3, H, W)."""


def crop_box(width: int, height: int, crop: Crop) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the centred square, in pixels, margins floored.

    "celeba" is 128 pixels of a frame 178 wide, in proportion for another width.

    Raises UserError if the square does not fit into the picture.
    """
    sides = {"celeba": round(128 * width / 178), "largest": min(width, height)}
    side = sides[crop] if isinstance(crop, str) else crop
    if side > min(width, height):
        raise UserError(
            f"a square of {side} does not fit into a picture of {width} x {height}: --crop-size "
            "says how large it is"
        )
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def decode_picture(
    content: bytes, image_size: int, crop: Crop, decode_jpeg: JpegDecoder | None = None
) -> np.ndarray:
    """Return a picture file's square as uint8 (S, S, 3), resized where its side is not S.

    decode_jpeg, torchvision.io's, gives the pixels that Pillow gives in less than half the time;
    what it is not for, or refuses, is Pillow's.

    Raises one of UNREADABLE if content is no whole picture, UserError if the crop does not fit.
    """
    pixels = _decode_plain(content, decode_jpeg) if decode_jpeg else None
    if pixels is None:
        pixels = _decode(content)
    left, top, right, bottom = crop_box(pixels.shape[1], pixels.shape[0], crop)
    square = pixels[top:bottom, left:right]
    if len(square) == image_size:
        return square
    resized = Image.fromarray(square).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def _decode(content: bytes) -> np.ndarray:
    """Return a picture file's pixels, upright, uint8 (H, W, 3)."""
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _decode_plain(content: bytes, decode_jpeg: JpegDecoder) -> np.ndarray | None:
    """Return a plain JPEG's pixels, uint8 (H, W, 3), or None where Pillow must look into it."""
    try:
        if not _is_plain_jpeg(content):
            return None
        pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    except (struct.error, RuntimeError):
        return None
    return pixels.permute(1, 2, 0).numpy()


_SEGMENT = struct.Struct(">2BH")  # of a JPEG: 0xff, what it is, its length without these two bytes
_FRAME = struct.Struct(">B2HB")  # bits, height, width, colours
_JFIF = b"\xff\xd8\xff\xe0"
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
_TABLES = frozenset((0xC4, 0xDB, 0xDD, 0xE0, 0xFE))
_SCAN = 0xDA


def _is_plain_jpeg(content: bytes) -> bool:
    """Tell whether a file is a JPEG of three colours that is decoded, and then shown, as it lies.

    Not plain is what its notes (EXIF, XMP, Adobe's) may turn or recolour, and what is so large that
    Pillow asks whether it is an attack. Opening a file with Pillow tells as much in the time of a
    third of its decoding. The format: ITU-T T.81 (1992), annex B.

    Raises struct.error if content ends before its pixels begin.
    """
    at, plain = 2, content.startswith(_JFIF)
    while plain:
        start, kind, length = _SEGMENT.unpack_from(content, at)
        if start == 0xFF and kind == _SCAN:
            return True
        if start == 0xFF and kind in _FRAMES:
            bits, height, width, colours = _FRAME.unpack_from(content, at + _SEGMENT.size)
            plain = (bits, colours) == (8, 3) and height * width <= Image.MAX_IMAGE_PIXELS
        else:
            plain = start == 0xFF and kind in _TABLES
        at += 2 + length
    return False


def why_unreadable(error: Exception) -> str:
    """Return in a few words why a picture could not be decoded."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture"
    return "truncated" if "truncated" in str(error).lower() else str(error)


def read_pictures(paths: Sequence[str], image_size: int, crop: Crop = "largest") -> Tensor:
    """Return picture files as float images (N, 3, S, S) in [0, 1].

    Raises UserError if one cannot be read.
    """
    squares = []
    for path in paths:
        try:
            squares.append(decode_picture(Path(path).read_bytes(), image_size, crop))
        except FileNotFoundError as error:
            raise UserError(f"--image {path}: no such file") from error
        except UNREADABLE as error:
            raise UserError(f"{path} is not a readable image: {why_unreadable(error)}") from error
    return to_float(torch.from_numpy(np.stack(squares)))


def to_float(pixels: Tensor) -> Tensor:
    """Return uint8 pixels (N, S, S, 3) as float images (N, 3, S, S) in [0, 1], channels last."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)


def to_uint8(x: Tensor) -> np.ndarray:
    """Return images in [0, 1] as rounded uint8 pixels (N, S, S, 3)."""
    return x.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def above(upper: Tensor, lower: Tensor, columns: int) -> Tensor:
    """Return two equal stacks as one whose grid shows, row by row, upper over lower."""
    rows = zip(upper.split(columns), lower.split(columns), strict=True)
    return torch.cat([torch.cat([_filled(a, columns), _filled(b, columns)]) for a, b in rows])


def _filled(row: Tensor, columns: int) -> Tensor:
    missing = columns - len(row)
    return torch.cat([row, row.new_ones(missing, *row.shape[1:])]) if missing else row


def make_grid(x: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Return images in [0, 1] as one (3, H, W), columns to a row, gap pixels of white around each.

    What torchvision.utils.make_grid does; importing that takes as long as importing torch.
    """
    columns = min(columns, len(x))
    missing = -len(x) % columns
    x = torch.cat([x, x.new_ones(missing, *x.shape[1:])])
    framed = functional.pad(x, (gap, 0, gap, 0), value=1.0)  # (N, 3, gap + S, gap + S)
    rows = framed.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4)
    return functional.pad(rows.flatten(3).flatten(1, 2), (0, gap, 0, gap), value=1.0)


def save_grid(x: Tensor, path: Path, columns: int) -> None:
    """Write images in [0, 1] as one picture, columns to a row, on white."""
    with whole_file(path) as partial:
        Image.fromarray(to_uint8(make_grid(x, columns)[None])[0]).save(partial)


def save_pictures(x: Tensor, folder: Path, names: Sequence[str]) -> None:
    """Write each image in [0, 1] as a PNG of its own: folder/name.png."""
    for pixels, name in zip(to_uint8(x), names, strict=True):
        with whole_file(folder / f"{name}.png") as partial:
            Image.fromarray(pixels).save(partial)


def save_gif(frames: Sequence[Tensor], path: Path, columns: int, milliseconds: int = 60) -> None:
    """Write stacks of images as a GIF that runs there and back for ever, a grid a frame."""
    grids = [make_grid(x, columns) for x in frames]
    there = [Image.fromarray(pixels) for pixels in to_uint8(torch.stack(grids))]
    both = there + there[-2:0:-1]
    with whole_file(path) as partial:
        both[0].save(partial, save_all=True, append_images=both[1:], duration=milliseconds, loop=0)


def picture_path(output: str | None, folder: Path, subject: str, several: bool) -> Path:
    """Return where a picture goes: output, or folder/subject.png where no output is given.

    Several pictures of one call put their subject before output's suffix.
    """
    if output is None:
        return folder / f"{subject}.png"
    path = Path(output)
    return path.with_name(f"{path.stem}-{subject}{path.suffix}") if several else path
