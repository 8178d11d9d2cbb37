import dataclasses

import numpy as np
import pytest
import torch
from trainers import make_faces, make_model

from vae.latent.codes import latent_statistics, seeded_noise
from vae.latent.directions import attribute_directions
from vae.latent.prior import Mixture, make_prior
from vae.models.vae import VAE
from vae.training.statistics import round_trips, training_statistics

NAMES = ("Bald", "Eyeglasses", "Male", "Smiling")


def make_attributes(n):
    """Return attributes (n, 4): none is bald, and glasses are more frequent among men."""
    rng = np.random.default_rng(1)
    male = rng.random(n) < 0.4
    glasses = rng.random(n) < 0.2 + 0.5 * male
    return np.stack([np.zeros(n, bool), glasses, male, rng.random(n) < 0.5], axis=1)


def make_faces_with_attributes(train=90, val=10):
    faces, attributes = make_faces(train, val), make_attributes(train + val)
    # the rows of val come first: they have no part in the statistics
    splits = faces.splits[::-1].copy()
    return dataclasses.replace(faces, splits=splits, attributes=attributes, attribute_names=NAMES)


def encode(model, pixels):
    """Return mu and logvar of uint8 pixels (N, S, S, 3), (N, D)."""
    x = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / np.float32(255))
    with torch.no_grad():
        return model.eval().encode(x)


def test_the_statistics_are_those_of_the_codes_of_the_training_faces():
    torch.manual_seed(0)
    model, faces = make_model(), make_faces_with_attributes()
    statistics = training_statistics(model, faces)
    mu, logvar = encode(model, faces.pixels[10:])
    expected = latent_statistics(mu, logvar, faces.attributes[10:], NAMES)
    assert statistics.keys() == expected.keys() | {"priors", "round_trips", "table", "framed"}
    assert statistics["n"] == 90
    assert statistics["attribute_names"] == list(NAMES)
    for name in expected.keys() - {"n", "attribute_names"}:
        torch.testing.assert_close(statistics[name], expected[name], rtol=1e-4, atol=1e-4)


def test_the_mixture_is_fitted_to_posterior_samples_of_the_training_faces():
    torch.manual_seed(0)
    model, faces = make_model(), make_faces_with_attributes()
    found = make_prior("mixture", training_statistics(model, faces), 5)
    mu, logvar = encode(model, faces.pixels[10:])
    z = mu + torch.exp(0.5 * logvar) * seeded_noise(0, range(90), 5)
    expected = Mixture.fit(z, seed=0)
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-3, atol=1e-3)


def test_resident_pixels_give_the_same_statistics():
    torch.manual_seed(0)
    model, faces = make_model(), make_faces_with_attributes()
    resident = torch.from_numpy(faces.pixels[10:])
    expected = training_statistics(model, faces)
    found = training_statistics(model, faces, resident)
    for name in ("mean", "covariance", "class_sums", "round_trips"):
        assert torch.equal(found[name], expected[name]), name


def test_without_a_table_of_attributes_there_are_no_round_trips():
    torch.manual_seed(0)
    statistics = training_statistics(make_model(), make_faces())
    names = {"n", "mean", "covariance", "mean_variance", "priors", "table", "framed"}
    assert statistics.keys() == names


# Round trips


class LinearTrip(VAE):
    """Its images are codes, scaled to [0, 1]; encoding one gives the code times a matrix."""

    def __init__(self, trip):
        super().__init__(32, (4,), len(trip))
        self.trip = trip

    def decode(self, z):
        return z.double() / 1000 + 0.5

    def encode(self, x):
        z = 1000 * (x - 0.5)
        return (z @ self.trip.double()).float(), torch.zeros_like(z)


@pytest.fixture(scope="module")
def codes():
    """Return codes (3000, 6) that depend on the attributes, and the attributes."""
    rng, attributes = np.random.default_rng(0), make_attributes(3000)
    mu = rng.standard_normal((3000, 6)) @ rng.standard_normal((6, 6)) + 3
    mu[:, 2:5] += 2 * attributes[:, 1:]
    return torch.from_numpy(mu), attributes


def test_round_trips_are_what_the_least_squares_probe_measures_of_returned_codes(codes):
    mu, attributes = codes
    trip = torch.randn(6, 6, generator=torch.manual_seed(0))
    statistics = latent_statistics(mu.float(), torch.zeros_like(mu), attributes, NAMES)
    found = round_trips(LinearTrip(trip), statistics)
    has = attributes[:, 1:]
    centred = mu.numpy() - mu.numpy().mean(0)
    lines, *_ = np.linalg.lstsq(centred, has - has.mean(0), rcond=None)
    units = attribute_directions(statistics, "balanced")[1:].numpy()
    expected = units @ trip.numpy() @ lines / has.std(0)
    np.testing.assert_allclose(found[1:, 1:], expected, rtol=1e-2, atol=1e-4)
    # the attribute that no face has
    assert not found[0].any()
    assert not found[:, 0].any()


def test_codes_that_return_unchanged_change_their_own_attribute_most(codes):
    mu, attributes = codes
    statistics = latent_statistics(mu.float(), torch.zeros_like(mu), attributes, NAMES)
    found = round_trips(LinearTrip(torch.eye(6)), statistics)[1:, 1:]
    assert found.argmax(1).tolist() == [0, 1, 2]


def test_a_model_that_decodes_all_codes_to_one_face_has_round_trips_of_zero(codes):
    mu, attributes = codes
    statistics = latent_statistics(mu.float(), torch.zeros_like(mu), attributes, NAMES)
    assert not round_trips(LinearTrip(torch.zeros(6, 6)), statistics).any()
