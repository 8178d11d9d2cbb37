"""Frechet and kernel distances of Inception features, through torchmetrics and torch-fidelity.

N images, F = 2048 features.
"""

import pickle
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from vae.errors import UserError
from vae.images import to_uint8

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""of torch-fidelity's release 0.2.0: the network of the paper that FID is from"""


def load_inception(path: Path, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    """Return the function from uint8 images (N, 3, S, S) to features (N, F).

    torch-fidelity's port of the original network, which also enlarges the images as that did.

    Raises UserError if a package is not installed or path does not hold the weights.
    """
    try:
        import torchmetrics.image.kid  # noqa: F401  feature_distances will need it
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UserError(
            "--fid-weights needs two packages more: pip install torchmetrics torch-fidelity"
        ) from error
    try:
        # the package would unpickle anything: what this lets pass is tensors alone
        torch.load(path, map_location="cpu", weights_only=True)
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not these weights"
        raise UserError(f"--fid-weights {path}: {reason}; {WEIGHTS_FILE} is meant") from error
    network = network.to(device)
    return lambda pixels: network(pixels.to(device))[0]


@torch.no_grad()
def inception_features(network: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Tensor:
    """Return the features of images in [0, 1], rounded to 8 bits first, (N, F) on the CPU."""
    pixels = (torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2) for x in batches)
    return torch.cat([network(part.contiguous()).cpu() for part in pixels])


def feature_distances(real: Tensor, drawn: Tensor, seed: int) -> dict[str, float]:
    """Return FID and KID between features of real and of drawn images, both (N, F).

    FID: Heusel et al. (2017); it falls with the number of images. KID: Binkowski et al. (2018),
    unbiased; the mean and the deviation over 100 subsets of at most 1,000, drawn from seed.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    given = nn.Identity()
    given.num_features = real.shape[1]
    subset = min(1000, len(real), len(drawn))
    fid = FrechetInceptionDistance(feature=given).set_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that features take memory
        kid = KernelInceptionDistance(feature=given, subset_size=subset).set_dtype(torch.float64)
    for metric in (fid, kid):
        metric.update(real.double(), real=True)
        metric.update(drawn.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kid_mean, kid_deviation = kid.compute()
    return {
        "fid": fid.compute().item(),
        "kid": kid_mean.item(),
        "kid_deviation": kid_deviation.item(),
    }
