"""Frechet Inception distance (Heusel et al., 2017), by torchmetrics and torch-fidelity."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae.errors import UserError
from vae.pictures.images import to_uint8

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""of torch-fidelity's release 0.2.0: the network of the FID paper"""


def load_fid(weights: Path, device: torch.device) -> Any:
    """Return torchmetrics' FrechetInceptionDistance with the network of these weights.

    Raises UserError if a package is missing, or weights is not that file.
    """
    try:
        import torch_fidelity  # noqa: F401  torchmetrics needs it
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise UserError(
            "--fid-weights needs two more packages: pip install torchmetrics torch-fidelity"
        ) from error
    try:
        # torchmetrics loads pickles: check first that the file has only tensors
        torch.load(weights, map_location="cpu", weights_only=True)
        metric = FrechetInceptionDistance(feature_extractor_weights_path=str(weights))
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not these weights"
        raise UserError(f"--fid-weights {weights}: {reason}; expected {WEIGHTS_FILE}") from error
    return metric.to(device)


def inception_distance(metric: Any, real: Iterable[Tensor], samples: Iterable[Tensor]) -> float:
    """Return the FID between two sets of images in [0, 1], which are rounded to 8 bits first.

    FID decreases with the number of images: compare only equal numbers.
    """
    for images, is_real in ((real, True), (samples, False)):
        for x in images:
            pixels = torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2)
            metric.update(pixels.contiguous().to(metric.device), real=is_real)
    return metric.compute().item()
