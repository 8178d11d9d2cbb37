"""Frechet Inception distance (Heusel et al., 2017), by torchmetrics with torch-fidelity's network.

N images of side S, F = 2048 features.
"""

import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from vae.device import device_of
from vae.errors import UserError
from vae.pictures.images import to_uint8

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""of torch-fidelity's release 0.2.0: the network of the FID paper"""


class Inception(nn.Module):
    """torch-fidelity's network: uint8 images (N, 3, S, S) -> features (N, F), float64 on the CPU.

    It resizes the images as the original network does. Raises UserError if a package is missing or
    path does not hold its weights.
    """

    num_features = 2048

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import torchmetrics.image.fid  # noqa: F401  frechet_distance needs it
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise UserError(
                "--fid-weights needs two more packages: pip install torchmetrics torch-fidelity"
            ) from error
        try:
            # the package would unpickle anything; this call refuses all but tensors
            torch.load(path, map_location="cpu", weights_only=True)
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
            )
        except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else "not these weights"
            raise UserError(f"--fid-weights {path}: {reason}; expected {WEIGHTS_FILE}") from error

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels.to(device_of(self.network)))[0].cpu().double()


def frechet_distance(network: nn.Module, real: Iterable[Tensor], drawn: Iterable[Tensor]) -> float:
    """Return the FID between two sets of images in [0, 1], which are rounded to 8 bits first.

    FID decreases with the number of images: compare only equal numbers.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=network)
    for images, is_real in ((real, True), (drawn, False)):
        for x in images:
            pixels = torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2)
            metric.update(pixels.contiguous(), real=is_real)
    return metric.compute().item()
