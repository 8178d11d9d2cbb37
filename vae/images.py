"""Tensors <-> picture files: square crops in, grids and GIFs out. Images are (N, 3, S, S)."""

import io
import warnings
from collections.abc import Sequence
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

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

Crop = str | int
"""How a square is cut: "celeba", "largest", or its side in pixels."""


def crop_box(width: int, height: int, crop: Crop) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the centred square, in pixels, margins floored.

    "celeba" is 128 pixels of a frame 178 wide, in proportion for another width.

    Raises UserError if the square does not fit into the picture.
    """
    sides = {"celeba": round(128 * width / 178), "largest": min(width, height)}
    side = sides[crop] if isinstance(crop, str) else crop
    if side > min(width, height):
        raise UserError(f"--crop-size {side} does not fit into a picture of {width} x {height}")
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def decode_picture(content: bytes, image_size: int, crop: Crop) -> np.ndarray:
    """Return a picture file's square as uint8 (S, S, 3), resized where its side is not S.

    Raises one of UNREADABLE if content is no whole picture, UserError if the crop does not fit.
    """
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        upright = ImageOps.exif_transpose(picture) if _may_be_turned(picture) else picture
        colours = upright if upright.mode == "RGB" else upright.convert("RGB")
        square = colours.crop(crop_box(*colours.size, crop))
    if square.size != (image_size, image_size):
        square = square.resize((image_size, image_size), Image.Resampling.BICUBIC)
    # np.asarray(square) copies more slowly: it would cost packing a fifth of its speed
    return np.frombuffer(square.tobytes(), np.uint8).reshape(image_size, image_size, 3)


def _may_be_turned(picture: Image.Image) -> bool:
    # asking every picture for its EXIF takes as long as a fifth of its decoding
    notes = {"exif", "xmp", "XML:com.adobe.xmp"}
    return picture.format == "TIFF" or not notes.isdisjoint(picture.info)


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

    What torchvision.utils.make_grid does; importing that takes longer than importing torch.
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
