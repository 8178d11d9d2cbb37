"""Images (N, 3, S, S) in [0, 1] -> picture files: grids, single faces, GIFs."""

import io
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from vae.errors import UserError
from vae.files import require_writable, write_whole


def to_uint8(x: Tensor) -> np.ndarray:
    """Return images in [0, 1] as rounded uint8 pixels (N, S, S, 3)."""
    return x.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def above(upper: Tensor, lower: Tensor, columns: int) -> Tensor:
    """Return one stack: in its grid, rows of upper and lower alternate.

    White images fill a row that has fewer than `columns` images.
    """
    rows = zip(upper.split(columns), lower.split(columns), strict=True)
    return torch.cat([torch.cat([_filled(a, columns), _filled(b, columns)]) for a, b in rows])


def _filled(row: Tensor, columns: int) -> Tensor:
    return torch.cat([row, row.new_ones(columns - len(row), *row.shape[1:])])


def grid_pixels(x: Tensor, columns: int) -> np.ndarray:
    """Return images as one picture, uint8 (H, W, 3), with 2 white pixels around each image."""
    return to_uint8(make_grid(x, columns, padding=2, pad_value=1)[None])[0]


def save_grid(x: Tensor, path: Path, columns: int) -> str:
    """Write images as one picture with `columns` images in a row; return the line to print."""
    return _save(Image.fromarray(grid_pixels(x, columns)), path)


def save_pictures(x: Tensor, folder: Path, names: Sequence[str]) -> str:
    """Write each image as folder/name.png; return the line to print, with the counts."""
    lines = [
        _save(Image.fromarray(pixels), folder / f"{file_name(name)}.png")
        for pixels, name in zip(to_uint8(x), names, strict=True)
    ]
    return describe_folder(folder, lines)


def describe_folder(folder: Path, lines: Sequence[str]) -> str:
    """Return the line to print for files in a folder, from the lines of write_whole."""
    replaced = sum(line.endswith(" (replaced)") for line in lines)
    pictures = f"{len(lines)} picture" + "s" * (len(lines) != 1)
    return f"{folder} ({pictures}" + f", {replaced} replaced" * (replaced > 0) + ")"


def save_gif(frames: Sequence[Tensor], path: Path, columns: int, milliseconds: int = 60) -> str:
    """Write a GIF that plays frames forwards and backwards for ever; return the line to print.

    Each frame is a stack of images and is shown as a grid, for the given time.
    """
    forwards = [Image.fromarray(grid_pixels(x, columns)) for x in frames]
    others = forwards[1:] + forwards[-2:0:-1]
    timing = {"duration": milliseconds, "loop": 0}
    return _save(forwards[0], path, save_all=True, append_images=others, **timing)


def _save(picture: Image.Image, path: Path, **options: Any) -> str:
    kind = Image.registered_extensions()[path.suffix.lower()]
    return encode_picture(partial(picture.save, format=kind, **options), path)


def encode_picture(save: Callable[[BinaryIO], None], path: Path) -> str:
    """Write what save gives to path, whole or not at all; return the line to print.

    Raises UserError if the picture is too large for its format.
    """
    # encoded in memory: on a full disk Pillow leaves a truncated JPEG and raises nothing
    content = io.BytesIO()
    try:
        save(content)
    except (OSError, ValueError, struct.error) as error:
        # WebP has at most 16,383 pixels a side, JPEG and GIF 65,535
        advice = "pass fewer pictures, or a name that ends in .png"
        raise UserError(f"{path}: the picture is too large for its format: {advice}") from error
    return write_whole(path, content.getvalue())


def picture_paths(
    output: str | None,
    folder: Path,
    subjects: Sequence[str],
    files: str | None = None,
    suffix: str = "",
) -> dict[str, Path]:
    """Return where the picture of each subject goes: output, or without it folder/subject.png.

    suffix stands after the subject. With several subjects, each stands before the ending of output.

    Raises UserError if one of them, or a picture in the folder files, cannot be written.
    """
    paths = {subject: folder / f"{file_name(subject)}{suffix}.png" for subject in subjects}
    if output is not None:
        whole, several = Path(output), len(subjects) > 1
        for one in subjects:
            paths[one] = whole.with_stem(f"{whole.stem}-{file_name(one)}") if several else whole
    for path in [*paths.values(), *([Path(files, "face.png")] if files else [])]:
        require_writable(path)
    return paths


def file_name(text: str) -> str:
    return text.replace("/", "-")
