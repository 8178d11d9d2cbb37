import numpy as np
import pytest
import torch
from trainers import make_trainer

from vae.data.batches import batches
from vae.data.decoding import crop_box
from vae.data.faces import PackedFaces
from vae.data.synthetic.attributes import ATTRIBUTE_NAMES as CELEBA_NAMES
from vae.data.synthetic.dataset import draw_attributes
from vae.data.synthetic.portrait import FACE_SIZE, draw_face
from vae.errors import StopSignal, UserError
from vae.latent import directions
from vae.latent.codes import latent_statistics
from vae.latent.directions import (
    PARTS,
    ROUND_TRIP_RIDGE,
    attribute_directions,
    class_counts,
    common_attributes,
    find_attribute,
    linear_probe,
    logistic_normal,
    one_unit,
    sweep,
)
from vae.models.coding import decode_codes, encode_batches
from vae.models.vae import VAE
from vae.training.statistics import training_statistics

NAMES = (
    "Bald",
    "Eyeglasses",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Pale_Skin",
    "Smiling",
    "Young",
)
BALD, GLASSES, _, MALE, _, _, SMILING, YOUNG = range(8)
COMMON = [GLASSES, MALE, SMILING]
"""The attributes that some faces of make_codes have; the others have none."""


def make_codes(n=3000, latent_dim=6):
    """Return codes in which Smiling moves dimension 2, Male 3 and Eyeglasses 4; men have glasses.

    Also returns the attributes (n, 8).
    """
    rng = np.random.default_rng(0)
    attributes = np.zeros((n, len(NAMES)), bool)
    attributes[:, MALE] = rng.random(n) < 0.4
    attributes[:, SMILING] = rng.random(n) < 0.5 - 0.2 * attributes[:, MALE]
    attributes[:, GLASSES] = rng.random(n) < 0.1 + 0.6 * attributes[:, MALE]
    factor = rng.standard_normal((latent_dim, latent_dim))
    mu = rng.standard_normal((n, latent_dim)) @ factor + 3
    for dimension, column in ((2, SMILING), (3, MALE), (4, GLASSES)):
        mu[:, dimension] += 2 * attributes[:, column]
    return torch.from_numpy(mu), attributes


def make_statistics(mu, attributes):
    return latent_statistics(mu.float(), torch.zeros_like(mu), attributes, NAMES)


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0).item()


def mean_difference(mu, has):
    """Return the mean code with an attribute minus the mean code without it, (D,)."""
    return mu.numpy()[has].mean(0) - mu.numpy()[~has].mean(0)


def regression(inputs, outputs):
    """Return the coefficients (inputs, outputs) of least squares with an intercept, by numpy."""
    inputs, outputs = np.asarray(inputs, float), np.asarray(outputs, float)
    return np.linalg.lstsq(inputs - inputs.mean(0), outputs - outputs.mean(0), rcond=None)[0]


def scaled(direction, difference):
    """Return a direction as long as the distance of the class means along it."""
    return direction * (abs(difference @ direction) / (direction @ direction))


# Attributes and their counts


@pytest.mark.parametrize("name", ["Smiling", "smiling", "SMILING"])
def test_an_attribute_is_found_in_any_case(name):
    assert find_attribute(name, NAMES) == SMILING


def test_an_unknown_attribute_is_refused_with_the_nearest_and_all_names():
    with pytest.raises(UserError, match=r'"Smilling": did you mean "Smiling".* Known: Bald, Eye'):
        find_attribute("Smilling", NAMES)
    with pytest.raises(UserError, match=r'no attribute "xyz"\. Known: Hat, Scarf$'):
        find_attribute("xyz", ("Hat", "Scarf"))


def test_an_attribute_with_too_few_faces_is_refused_with_its_count():
    mu, attributes = make_codes()
    attributes[:, YOUNG] = True
    attributes[:19, BALD] = True
    statistics = make_statistics(mu, attributes)
    with pytest.raises(UserError, match="Young: 3,000 of the 3,000 training faces have it"):
        class_counts(statistics, YOUNG)
    with pytest.raises(UserError, match=r"Bald: 19 of the 3,000 .* needs 20 faces with it and 20"):
        class_counts(statistics, BALD)
    smiling = attributes[:, SMILING].sum()
    assert class_counts(statistics, SMILING) == (smiling, 3000 - smiling)


@pytest.mark.parametrize(("count", "common"), [(19, False), (20, True), (2980, True)])
def test_an_attribute_is_common_from_twenty_faces_with_it_and_twenty_without(count, common):
    mu, attributes = make_codes()
    attributes[:count, BALD] = True
    attributes[:, YOUNG] = ~attributes[:, BALD]
    found = common_attributes(make_statistics(mu, attributes))
    assert found[[BALD, YOUNG]].tolist() == [common, common]
    assert found[COMMON].all()


# All directions at once


def test_mean_directions_are_the_differences_of_the_class_means():
    mu, attributes = make_codes()
    found = attribute_directions(make_statistics(mu, attributes), "mean")
    assert found.shape == (8, 6)
    for column in COMMON:
        expected = mean_difference(mu, attributes[:, column])
        np.testing.assert_allclose(found[column], expected, atol=1e-4)


def test_balanced_directions_are_the_coefficients_of_a_regression_on_all_attributes():
    mu, attributes = make_codes()
    found = attribute_directions(make_statistics(mu, attributes), "balanced")
    coefficients = regression(attributes[:, COMMON], mu)
    for column, row in zip(COMMON, coefficients, strict=True):
        expected = scaled(row, mean_difference(mu, attributes[:, column]))
        np.testing.assert_allclose(found[column], expected, atol=2e-3)


def test_attributes_that_always_agree_share_their_effect():
    mu, attributes = make_codes()
    attributes[:, YOUNG] = attributes[:, MALE]
    found = attribute_directions(make_statistics(mu, attributes), "balanced")
    columns = [*COMMON, YOUNG]
    # numpy, too, returns the solution of least norm
    for column, row in zip(columns, regression(attributes[:, columns], mu), strict=True):
        expected = scaled(row, mean_difference(mu, attributes[:, column]))
        np.testing.assert_allclose(found[column], expected, atol=2e-3)
    torch.testing.assert_close(found[YOUNG], found[MALE])


def test_balanced_does_not_carry_what_is_frequent_beside_the_attribute_and_mean_does():
    mu, attributes = make_codes(n=20_000)
    true = torch.zeros(6)
    true[4] = 1.0
    statistics = make_statistics(mu, attributes)
    balanced = attribute_directions(statistics, "balanced")[GLASSES]
    mean = attribute_directions(statistics, "mean")[GLASSES]
    assert cosine(balanced, true) > 0.99
    assert cosine(mean, true) < 0.92


@pytest.mark.parametrize("method", ["mean", "balanced", "round-trip"])
def test_attributes_with_too_few_faces_have_a_direction_of_zero(method):
    mu, attributes = make_codes()
    attributes[:, YOUNG] = True
    attributes[:19, BALD] = True
    statistics = make_statistics(mu, attributes)
    statistics["round_trips"] = torch.randn(8, 8, generator=torch.manual_seed(1))
    found = attribute_directions(statistics, method)
    assert found.any(1).nonzero()[:, 0].tolist() == COMMON
    assert found.isfinite().all()


@pytest.mark.parametrize("method", ["mean", "balanced", "round-trip", "logistic"])
def test_one_unit_of_strength_is_the_distance_of_the_class_means_along_the_direction(method):
    mu, attributes = make_codes()
    statistics = make_statistics(mu, attributes)
    statistics["round_trips"] = torch.randn(8, 8, generator=torch.manual_seed(1))
    for column in COMMON:
        if method == "logistic":
            normal = logistic_normal(mu, torch.from_numpy(attributes[:, column]))
            direction = one_unit(statistics, column, normal).double()
            assert cosine(direction, normal) == pytest.approx(1)
        else:
            direction = attribute_directions(statistics, method)[column].double()
        difference = torch.from_numpy(mean_difference(mu, attributes[:, column]))
        distance = abs(difference @ direction / direction.norm())
        assert direction.norm().item() == pytest.approx(distance.item(), rel=1e-4)


# Round trips


def linear_round_trips(mu, attributes, trip):
    """Return the round trips of a model that gives back each code times trip (D, D), by numpy."""
    units = attribute_directions(make_statistics(mu, attributes), "balanced")[COMMON].numpy()
    has = attributes[:, COMMON]
    trips = torch.zeros(8, 8)
    changes = units @ trip.numpy() @ regression(mu, has) / has.std(0)
    trips[np.ix_(COMMON, COMMON)] = torch.from_numpy(changes).float()
    return trips


def test_a_round_trip_direction_solves_its_ridge_regression_and_leaves_the_parts():
    rng = np.random.default_rng(0)
    attributes = rng.random((3000, 8)) < 0.5
    mu = torch.from_numpy(rng.standard_normal((3000, 11)))
    statistics = make_statistics(mu, attributes)
    trips = rng.standard_normal((8, 8))
    statistics["round_trips"] = torch.from_numpy(trips)
    units = attribute_directions(statistics, "balanced").double().numpy()
    found = attribute_directions(statistics, "round-trip")
    for column, name in enumerate(NAMES):
        free = {name, "High_Cheekbones", "Mouth_Slightly_Open"} if name == "Smiling" else {name}
        others = [other for other in range(8) if NAMES[other] not in free]
        among = trips[np.ix_(others, others)]
        ridge = np.sqrt(ROUND_TRIP_RIDGE) * abs(among.diagonal().mean()) * np.eye(len(others))
        target = np.concatenate([trips[column, others], np.zeros(len(others))])
        weights, *_ = np.linalg.lstsq(np.vstack([among.T, ridge]), target, rcond=None)
        corrected = units[column] - weights @ units[others]
        expected = scaled(corrected, mean_difference(mu, attributes[:, column]))
        np.testing.assert_allclose(found[column], expected, rtol=1e-3, atol=1e-6)
    assert PARTS == {"Smiling": ("High_Cheekbones", "Mouth_Slightly_Open")}


def test_a_round_trip_direction_brings_back_less_of_other_attributes(monkeypatch):
    mu, attributes = make_codes(n=20_000)
    trip = torch.eye(6, dtype=torch.float64)
    trip[4, 3] = 0.8  # glasses come back as glasses, and as male
    statistics = make_statistics(mu, attributes)
    statistics["round_trips"] = linear_round_trips(mu, attributes, trip)
    lines = regression(mu, attributes[:, [MALE, SMILING]])

    def coming_back(method):
        direction = attribute_directions(statistics, method)[GLASSES].double()
        return np.abs((direction @ trip).numpy() @ lines)

    balanced, ridged = coming_back("balanced"), coming_back("round-trip")
    monkeypatch.setattr(directions, "ROUND_TRIP_RIDGE", 1e-9)
    assert balanced[0] > 0.1
    assert ridged[0] < balanced[0]
    # without a ridge nothing of them comes back
    assert coming_back("round-trip").max() < 1e-3


def test_where_round_trips_change_nothing_the_directions_are_the_balanced_ones():
    mu, attributes = make_codes()
    statistics = make_statistics(mu, attributes)
    statistics["round_trips"] = torch.zeros(8, 8)
    torch.testing.assert_close(
        attribute_directions(statistics, "round-trip"),
        attribute_directions(statistics, "balanced"),
    )


# Classifiers


def test_the_linear_probe_equals_the_least_squares_of_each_attribute():
    mu, attributes = make_codes()
    attributes[:19, BALD] = True
    found = linear_probe(make_statistics(mu, attributes))
    for column in COMMON:
        has = attributes[:, column]
        expected = regression(mu, has) / has.std()
        np.testing.assert_allclose(found[column], expected, rtol=2e-3, atol=2e-5)
    assert found.any(1).nonzero()[:, 0].tolist() == COMMON


def test_the_logistic_normal_is_where_the_gradient_of_its_loss_is_zero():
    rng = np.random.default_rng(3)
    mu = rng.standard_normal((200, 5)) * [1, 7, 0.1, 2, 1] + 4
    has = (mu[:, 0] - mu[:, 3] + rng.standard_normal(200)) > 1
    normal = logistic_normal(torch.from_numpy(mu), torch.from_numpy(has), penalty=2.0)
    std = mu.std(0, ddof=1)
    x, weights = (mu - mu.mean(0)) / std, normal.double().numpy() * std
    # the intercept at which the probabilities have the right sum, by bisection
    low, high = -30.0, 30.0
    for _ in range(100):
        middle = (low + high) / 2
        probability = 1 / (1 + np.exp(-(x @ weights + middle)))
        low, high = (middle, high) if probability.sum() < has.sum() else (low, middle)
    gradient = x.T @ (probability - has) + 2.0 * weights
    np.testing.assert_allclose(gradient, 0, atol=200 * 1e-6)


def test_the_logistic_normal_is_that_of_the_plane_that_separates_the_classes():
    rng = np.random.default_rng(1)
    normal = np.array([1.0, -2.0, 0.0, 0.5])
    mu = rng.standard_normal((4000, 4)) * [1, 3, 1, 0.2] + 5
    has = rng.random(4000) < 1 / (1 + np.exp(-(mu - 5) @ normal))
    found = logistic_normal(torch.from_numpy(mu), torch.from_numpy(has))
    assert cosine(found, torch.from_numpy(normal)) > 0.98


def test_a_dimension_that_never_varies_has_no_part_in_the_logistic_normal():
    mu, attributes = make_codes(n=500)
    mu[:, 5] = 2.5
    found = logistic_normal(mu, torch.from_numpy(attributes[:, MALE]))
    assert found[5] == 0
    assert found[:5].abs().min() > 0


def test_a_sweep_moves_in_proportion_and_leaves_strength_zero_exactly():
    z, direction = torch.randn(3, 4), torch.randn(4)
    codes = sweep(z, direction, (-1.5, 0.0, 2.0))
    assert torch.equal(codes[:, 1], z)
    torch.testing.assert_close(codes[:, 2] - z, (2 * direction).expand(3, 4))
    torch.testing.assert_close(codes[:, 0] - z, (-1.5 * direction).expand(3, 4))


# The smile and the glasses of synthetic faces, learned by a small model and measured on images

SIDE, PEOPLE, EPOCHS = 32, 12, 100


@pytest.fixture(scope="module")
def synthetic():
    """Return people who rest, wear glasses, smile and do both, and a small model of them."""
    columns = [find_attribute(name, CELEBA_NAMES) for name in ("Smiling", "Eyeglasses")]
    attributes = draw_attributes(PEOPLE, seed=0).repeat(4, axis=0)
    attributes[:, columns] = PEOPLE * [(False, False), (False, True), (True, False), (True, True)]
    crop, pixels = crop_box(*FACE_SIZE, "frame"), []
    for index, row in enumerate(attributes):
        face = draw_face(row, np.random.default_rng(index // 4))
        pixels.append(np.asarray(face.crop(crop).resize((SIDE, SIDE))))
    names = tuple(f"{index}.jpg" for index in range(len(pixels)))
    splits = (np.arange(len(pixels)) < 4).astype(np.uint8)  # the first one is for validation
    faces = PackedFaces(np.stack(pixels), names, splits, attributes, "frame", None, CELEBA_NAMES)
    settings = {"beta": 0.01, "batch_size": 16, "learning_rate": 6e-3, "schedule": "one-cycle"}
    settings |= {"epochs": EPOCHS, "flip": False}
    trainer = make_trainer(faces, lambda: VAE(SIDE, (16, 32), 32), **settings)
    while trainer.epoch < EPOCHS:
        trainer.run_epoch(StopSignal())
    return faces, trainer.model


@pytest.mark.parametrize("name", ["Smiling", "Eyeglasses"])
def test_a_direction_changes_the_pixels_that_the_drawing_changes(synthetic, name):
    faces, model = synthetic
    column = find_attribute(name, faces.attribute_names)
    direction = attribute_directions(training_statistics(model, faces), "round-trip")[column]
    mu, _ = encode_batches(model, batches(faces, faces.rows("train")))
    decoded = (decode_codes(model, mu + direction) - decode_codes(model, mu)).mean(0).numpy()
    has, squares = faces.attributes[:, column], faces.pixels.transpose(0, 3, 1, 2) / 255
    drawn = squares[has].mean(0) - squares[~has].mean(0)
    part = np.abs(drawn).mean(0) > 0.1 * np.abs(drawn).mean(0).max()
    assert 0.02 < part.mean() < 0.2
    assert np.abs(decoded[:, part]).mean() > 2 * np.abs(decoded[:, ~part]).mean()
    assert np.corrcoef(decoded[:, part].ravel(), drawn[:, part].ravel())[0, 1] > 0.8
