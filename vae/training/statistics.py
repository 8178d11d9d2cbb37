"""Statistics of the training codes, computed after training.

D latent dimensions, K attributes.
"""

import torch
from torch import Tensor, nn

from vae.data.batches import batches
from vae.data.faces import PackedFaces
from vae.device import device_of
from vae.latent.codes import Statistics, latent_statistics, sample_posterior
from vae.latent.directions import attribute_directions, common_attributes, linear_probe
from vae.latent.prior import fit_priors, make_prior
from vae.models.coding import decode_codes, encode_batches

TRIP_STRENGTH, TRIP_FACES = 3.0, 64
"""how far a round trip moves along a direction, and the number of samples it is averaged over"""


def training_statistics(
    model: nn.Module, faces: PackedFaces, resident: Tensor | None = None
) -> Statistics:
    """Return the statistics of the training split's codes, and what is fitted to them.

    resident is what place_pixels returned, None to read the pixels from the file.
    """
    rows = faces.rows("train")
    images = batches(faces, rows, device=device_of(model), label="encoding", resident=resident)
    mu, logvar = encode_batches(model, images)
    has_table = faces.attributes is not None and len(faces.with_attributes(rows)) > 0
    attributes = faces.attributes[rows] if has_table else None
    known = None if faces.known is None else faces.known[rows]
    statistics = latent_statistics(mu, logvar, attributes, faces.attribute_names, known)
    statistics["table"] = faces.table_digest()
    statistics["framed"] = faces.framed / len(faces.names)  # fraction in CelebA's frame
    statistics["priors"] = fit_priors(sample_posterior(mu, logvar, seed=0), seed=0)
    if attributes is not None:
        statistics["round_trips"] = round_trips(model, statistics)
    return statistics


def round_trips(model: nn.Module, statistics: Statistics) -> Tensor:
    """Return how attributes change when an edited code is decoded and encoded again, (K, K).

    Entry (j, k): the change of attribute k's linear probe, in standard deviations per unit, after
    samples move along attribute j's balanced direction and are decoded and encoded again. Zero for
    attributes that are not common.
    """
    directions, probe = attribute_directions(statistics, "balanced"), linear_probe(statistics)
    prior = make_prior("gaussian", statistics, directions.shape[1])
    z = prior.sample(seed=0, indices=range(TRIP_FACES))

    def scores(codes: Tensor) -> Tensor:
        mu, _ = encode_batches(model, decode_codes(model, codes).split(TRIP_FACES))
        return (mu.double() @ probe.T).mean(0)

    before, trips = scores(z), torch.zeros(len(probe), len(probe))
    for column in common_attributes(statistics).nonzero()[:, 0].tolist():
        after = scores(z + TRIP_STRENGTH * directions[column])
        trips[column] = ((after - before) / TRIP_STRENGTH).float()
    return trips
