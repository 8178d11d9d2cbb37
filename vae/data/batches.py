"""Serve the packed uint8 array as float batches on the device: gathered, scaled, mirrored."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vae.data.celeba import SPLITS
from vae.data.decoding import to_float
from vae.data.faces import PackedFaces


def batches(
    faces: PackedFaces,
    rows: np.ndarray,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    mirrored: np.ndarray | None = None,
    label: str | None = None,
    resident: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the given rows as float images (B, 3, S, S) in [0, 1] on device, in order.

    mirrored has one bool for each row: whether it is flipped left to right. The last batch may be
    smaller. A label shows a progress bar. resident is the result of place_pixels: if all rows are
    training rows, they are gathered from it. Otherwise a thread reads the rows from the file before
    they are needed. On cuda the host never waits for the device.
    """
    device = torch.device(device)
    parts = [slice(start, start + batch_size) for start in range(0, len(rows), batch_size)]
    if resident is not None and np.all(faces.splits[rows] == SPLITS.index("train")):
        resident_rows = np.searchsorted(faces.rows("train"), rows)
        indices = _upload(_host_tensor(resident_rows, device), device)
        gathered = (resident[indices[part]] for part in parts)
    else:
        gathered = _gather_ahead(faces.pixels, [rows[part] for part in parts], device)
    flips = None if mirrored is None else _upload(_host_tensor(mirrored, device), device)
    bar = tqdm(
        gathered, label, len(parts), unit="batch", leave=False, disable=None if label else True
    )
    for pixels, part in zip(bar, parts, strict=True):
        x = to_float(_upload(pixels, device))
        if flips is not None:
            x = torch.where(flips[part, None, None, None], x.flip(3), x)
        yield x


def _host_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """Return array as a tensor on the host, in pinned memory if device is a cuda device."""
    values = torch.from_numpy(np.ascontiguousarray(array))
    return values.pin_memory() if device.type == "cuda" else values


def _upload(values: Tensor, device: torch.device) -> Tensor:
    # cuda copies from pinned memory (see _host_tensor) without a wait of the host
    return values.to(device, non_blocking=device.type == "cuda")


def _gather_ahead(
    pixels: np.ndarray, parts: Sequence[np.ndarray], device: torch.device, ahead: int = 3
) -> Iterator[Tensor]:
    """Yield the rows of each part; a thread reads the next parts while one is in use."""

    def gather(part: np.ndarray) -> Tensor:
        return _host_tensor(pixels[part], device)

    with ThreadPoolExecutor(1, "batches") as pool:
        reading: deque[Future[Tensor]] = deque()
        for part in parts:
            reading.append(pool.submit(gather, part))
            if len(reading) > ahead:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()


def place_pixels(faces: PackedFaces, device: torch.device) -> Tensor | None:
    """Return the result of copy_pixels on a cuda device with enough free memory, else None.

    Half of the free memory is left to the model. On cpu and mps a copy would not be faster: the
    operating system already keeps the file in memory.
    """
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # what an earlier phase freed counts as used until then
    free, _ = torch.cuda.mem_get_info(device)
    size = len(faces.rows("train")) * faces.pixels[0].nbytes
    return copy_pixels(faces, device) if size < free / 2 else None


def copy_pixels(faces: PackedFaces, device: torch.device) -> Tensor:
    """Return the pixels of the training rows on device, uint8 (n, S, S, 3)."""
    rows = faces.rows("train")
    resident = torch.empty(len(rows), *faces.pixels.shape[1:], dtype=torch.uint8, device=device)
    for start in range(0, len(rows), 1024):
        piece = slice(start, start + 1024)
        resident[piece] = torch.from_numpy(faces.pixels[rows[piece]]).to(device)
    return resident
