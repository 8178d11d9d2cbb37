"""A network from its description, `arch`: which architecture, and its arguments."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from vae.models.aligner import Aligner
from vae.models.judge import Judge
from vae.models.refiner import Refiner
from vae.models.skip import SkipVAE
from vae.models.vae import VAE

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "listed": VAE,
    "skip": SkipVAE,
    "refiner": Refiner,
    "judge": Judge,
    "aligner": Aligner,
}


def build(arch: Mapping[str, Any]) -> nn.Module:
    """Return the network that arch describes, with new weights.

    Raises ValueError, TypeError or KeyError if arch describes none.
    """
    arguments = dict(arch)
    return ARCHITECTURES[arguments.pop("architecture")](**arguments)
