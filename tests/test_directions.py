import numpy as np
import pytest
import torch
from test_training import hyperparameters

import vae.directions
from vae import VAE
from vae.celeba import ATTRIBUTE_NAMES, find_attribute
from vae.directions import (
    METHODS,
    PARTS,
    TRIP_RIDGE,
    attribute_direction,
    class_counts,
    logistic_normals,
    round_trips,
    sweep,
)
from vae.errors import StopSignal, UserError
from vae.images import crop_box
from vae.latent import decode_codes, encode_batches, latent_statistics
from vae.loader import batches, load_faces
from vae.synthetic import (
    EYES_BOX,
    FACE_SIZE,
    MOUTH_BOX,
    draw_attributes,
    draw_face,
    write_synthetic,
)
from vae.training import Trainer

SMILING, MALE, GLASSES = (find_attribute(name) for name in ("Smiling", "Male", "Eyeglasses"))


def make_codes(n=3000, latent_dim=6):
    """Return codes in which Smiling moves dimension 2, Male 3 and Eyeglasses 4; glasses are men's.

    Also returns the attributes (n, 40).
    """
    rng = np.random.default_rng(0)
    attributes = np.zeros((n, 40), bool)
    attributes[:, MALE] = rng.random(n) < 0.4
    attributes[:, SMILING] = rng.random(n) < 0.5 - 0.2 * attributes[:, MALE]
    attributes[:, GLASSES] = rng.random(n) < 0.1 + 0.6 * attributes[:, MALE]
    spread = rng.standard_normal((latent_dim, latent_dim))
    mu = rng.standard_normal((n, latent_dim)) @ spread + 3
    for dimension, column in ((2, SMILING), (3, MALE), (4, GLASSES)):
        mu[:, dimension] += 2 * attributes[:, column]
    return torch.from_numpy(mu), attributes


def make_statistics(mu, attributes):
    return latent_statistics(mu.float(), torch.zeros_like(mu), attributes)


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0).item()


def classes(mu, attributes, column):
    has = attributes[:, column]
    return mu.numpy()[has], mu.numpy()[~has]


def pooled(mu, attributes, column):
    """Return the covariance within the classes of an attribute, shrunk, by numpy from the codes."""
    parts = [part - part.mean(0) for part in classes(mu, attributes, column)]
    within = sum(part.T @ part for part in parts) / len(mu)
    d = mu.shape[1]
    share = d / (len(mu) + d)
    return (1 - share) * within + share * np.trace(within) / d * np.eye(d)


def test_mean_is_the_difference_of_the_class_means():
    mu, attributes = make_codes()
    direction = attribute_direction(make_statistics(mu, attributes), "smiling", "mean")
    smiling, others = classes(mu, attributes, SMILING)
    np.testing.assert_allclose(direction, smiling.mean(0) - others.mean(0), atol=1e-4)


def test_balanced_is_the_coefficient_of_a_regression_on_all_attributes():
    mu, attributes = make_codes()
    seen = attributes[:, attributes.any(0)]
    design = np.column_stack([np.ones(len(mu)), seen])
    coefficients, *_ = np.linalg.lstsq(design, mu.numpy(), rcond=None)
    row = 1 + np.flatnonzero(attributes.any(0)).tolist().index(GLASSES)
    statistics = make_statistics(mu, attributes)
    found = METHODS["balanced"](statistics, GLASSES)
    np.testing.assert_allclose(found, coefficients[row], atol=1e-3)


def test_balanced_does_not_carry_what_goes_with_the_attribute_and_mean_does():
    mu, attributes = make_codes(n=20_000)
    planted = torch.zeros(6)
    planted[4] = 1.0
    statistics = make_statistics(mu, attributes)
    balanced = attribute_direction(statistics, "Eyeglasses", "balanced")
    mean = attribute_direction(statistics, "Eyeglasses", "mean")
    assert cosine(balanced, planted) > 0.99
    assert cosine(mean, planted) < 0.92


def test_lda_is_the_shrunk_discriminant_of_the_codes_themselves():
    mu, attributes = make_codes()
    smiling, others = classes(mu, attributes, SMILING)
    oracle = np.linalg.solve(pooled(mu, attributes, SMILING), smiling.mean(0) - others.mean(0))
    found = attribute_direction(make_statistics(mu, attributes), "Smiling", "lda")
    assert cosine(found, torch.from_numpy(oracle)) > 1 - 1e-6


class LinearTrip(VAE):
    """Its faces are codes, and encoding a face gives its code times a matrix."""

    def __init__(self, trip):
        super().__init__(32, (4,), len(trip))
        self.trip = trip

    def decode(self, z):
        return z

    def encode(self, x):
        return x @ self.trip, torch.zeros_like(x)


def test_round_trips_say_what_a_line_reads_off_codes_that_come_back():
    mu, attributes = make_codes()
    trip = torch.randn(6, 6, generator=torch.manual_seed(0))
    statistics = make_statistics(mu, attributes)
    found = round_trips(LinearTrip(trip), statistics)
    seen = [SMILING, MALE, GLASSES]
    codes, has = mu.numpy() - mu.numpy().mean(0), attributes[:, seen]
    lines, *_ = np.linalg.lstsq(codes, has - has.mean(0), rcond=None)
    for column in seen:
        unit = attribute_direction(statistics, ATTRIBUTE_NAMES[column], "balanced").numpy()
        expected = unit @ trip.numpy() @ lines / has.std(0)
        np.testing.assert_allclose(found[column, seen], expected, rtol=1e-2, atol=1e-4)
    rare = np.setdiff1d(np.arange(40), seen)
    assert not found[rare].any()
    assert not found[:, rare].any()


def test_a_round_trip_direction_solves_its_ridge_and_leaves_the_parts():
    rng = np.random.default_rng(0)
    attributes = rng.random((3000, 40)) < 0.5
    mu = torch.from_numpy(rng.standard_normal((3000, 50)))
    statistics = make_statistics(mu, attributes)
    trips = rng.standard_normal((40, 40))
    statistics["round_trips"] = torch.from_numpy(trips)
    units = [attribute_direction(statistics, name, "balanced").numpy() for name in ATTRIBUTE_NAMES]
    parts = [find_attribute(name) for name in PARTS["Smiling"]]
    others = np.setdiff1d(np.arange(40), [SMILING, *parts])
    among = trips[np.ix_(others, others)]
    ridge = np.sqrt(TRIP_RIDGE) * abs(among.diagonal().mean()) * np.eye(len(others))
    target = np.concatenate([trips[SMILING, others], np.zeros(len(others))])
    taken, *_ = np.linalg.lstsq(np.vstack([among.T, ridge]), target, rcond=None)
    expected = units[SMILING] - taken @ np.stack(units)[others]
    found = METHODS["round-trip"](statistics, SMILING)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_without_a_ridge_nothing_else_comes_back_from_a_round_trip_and_with_it_less(monkeypatch):
    mu, attributes = make_codes(n=20_000)
    trip = torch.eye(6)
    trip[4, 3] = 0.8  # glasses come back as glasses, and as male
    model, statistics = LinearTrip(trip), make_statistics(mu, attributes)
    statistics["round_trips"] = round_trips(model, statistics)
    has = attributes[:, [MALE, SMILING]].astype(float)
    lines, *_ = np.linalg.lstsq(mu.numpy() - mu.numpy().mean(0), has - has.mean(0), rcond=None)

    def coming_back(method):
        direction = attribute_direction(statistics, "Eyeglasses", method)
        return np.abs((direction @ trip).numpy() @ lines)

    balanced, ridged = coming_back("balanced"), coming_back("round-trip")
    monkeypatch.setattr(vae.directions, "TRIP_RIDGE", 1e-9)
    assert balanced[0] > 0.1
    assert ridged[0] < balanced[0]
    assert coming_back("round-trip").max() < 1e-3


def test_without_anything_to_learn_from_round_trips_the_direction_is_the_balanced_one():
    mu, attributes = make_codes()
    statistics = make_statistics(mu, attributes)
    statistics["round_trips"] = round_trips(LinearTrip(torch.zeros(6, 6)), statistics)
    torch.testing.assert_close(
        attribute_direction(statistics, "Smiling", "round-trip"),
        attribute_direction(statistics, "Smiling", "balanced"),
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_unit_of_strength_is_the_distance_of_the_class_means_along_it(method):
    mu, attributes = make_codes()
    statistics = make_statistics(mu, attributes)
    statistics["logistic_normals"] = torch.randn(40, 6, generator=torch.manual_seed(0))
    statistics["round_trips"] = torch.randn(40, 40, generator=torch.manual_seed(1))
    direction = attribute_direction(statistics, "Eyeglasses", method).double()
    having, lacking = classes(mu, attributes, GLASSES)
    difference = torch.from_numpy(having.mean(0) - lacking.mean(0))
    distance = abs(difference @ direction / direction.norm())
    assert direction.norm().item() == pytest.approx(distance.item(), rel=1e-4)


def test_a_logistic_normal_is_that_of_the_codes_that_the_classes_were_cut_by():
    rng = np.random.default_rng(1)
    normal = np.array([1.0, -2.0, 0.0, 0.5])
    mu = rng.standard_normal((4000, 4)) * [1, 3, 1, 0.2] + 5
    scores = (mu - 5) @ normal
    has = np.column_stack([rng.random(4000) < 1 / (1 + np.exp(-scores)), np.arange(4000) < 10])
    normals = logistic_normals(torch.from_numpy(mu), torch.from_numpy(has))
    assert cosine(normals[0], torch.from_numpy(normal)) > 0.98
    assert not normals[1].any()


def test_an_attribute_of_too_few_faces_gives_no_direction():
    mu, attributes = make_codes()
    attributes[:, find_attribute("Young")] = True
    attributes[:19, find_attribute("Bald")] = True
    statistics = make_statistics(mu, attributes)
    with pytest.raises(UserError, match="Young: 3,000 of the 3,000 training faces have it"):
        attribute_direction(statistics, "Young", "mean")
    with pytest.raises(UserError, match=r"Bald: 19 of the 3,000 .* needs 20 faces with it and 20"):
        attribute_direction(statistics, "bald", "balanced")
    assert class_counts(statistics, SMILING) == (
        attributes[:, SMILING].sum(),
        3000 - attributes[:, SMILING].sum(),
    )


def test_a_logistic_direction_that_was_not_fitted_is_refused():
    mu, attributes = make_codes()
    statistics = make_statistics(mu, attributes)
    statistics["logistic_normals"] = torch.zeros(40, 6)
    with pytest.raises(UserError, match="Smiling: fewer than 20 of the faces"):
        attribute_direction(statistics, "Smiling", "logistic")


def test_without_attributes_an_edit_says_what_is_missing():
    mu, _ = make_codes()
    with pytest.raises(UserError, match=r"without attributes.*list_attr_celeba.txt"):
        attribute_direction(make_statistics(mu, None), "Smiling", "mean")


def test_a_sweep_moves_in_proportion_and_leaves_strength_zero_exactly():
    z, direction = torch.randn(3, 4), torch.randn(4)
    codes = sweep(z, direction, (-1.5, 0.0, 2.0))
    assert torch.equal(codes[:, 1], z)
    torch.testing.assert_close(codes[:, 2] - z, (2 * direction).expand(3, 4))
    torch.testing.assert_close(codes[:, 0] - z, (-1.5 * direction).expand(3, 4))


# The smile and the glasses of drawn faces, learned by a small model and measured on pictures

SIDE, COUNT = 32, 1000


@pytest.fixture(scope="module")
def drawn_model(tmp_path_factory):
    """Return a model of drawn faces, and a function from a set's name to its codes and labels."""
    root = tmp_path_factory.mktemp("drawn")
    write_synthetic(root / "free", COUNT)
    write_synthetic(root / "tied", COUNT, seed=1, tied=True)
    sets = {name: load_faces(str(root / name), SIDE, str(root)) for name in ("free", "tied")}
    torch.manual_seed(0)
    trainer = Trainer(
        VAE(SIDE, (16, 32, 64), 32),
        sets["free"],
        torch.device("cpu"),
        hyperparameters(beta=0.03, batch_size=32, learning_rate=3e-3, seed=0),
    )
    for _ in range(30):
        trainer.run_epoch(StopSignal())

    def encode(name):
        faces, rows = sets[name], sets[name].rows("train")
        mu, logvar = encode_batches(trainer.model, batches(faces, rows, 128))
        statistics = latent_statistics(mu, logvar, faces.attributes[rows])
        statistics["round_trips"] = round_trips(trainer.model, statistics)
        return mu, faces.attributes[rows], statistics

    return trainer.model, encode


@pytest.fixture(scope="module")
def edits(drawn_model):
    """Return a function from an attribute to what its direction does to decoded faces' pixels."""
    model, encode = drawn_model
    mu, attributes, statistics = encode("free")

    def change(name):
        z = mu[~torch.from_numpy(attributes[:, find_attribute(name)])]
        direction = attribute_direction(statistics, name, "round-trip")
        return (decode_codes(model, z + direction) - decode_codes(model, z)).mean(0).numpy()

    return change


def test_balanced_is_untouched_by_whose_glasses_they_are_and_mean_is_not(drawn_model):
    _, encode = drawn_model
    free, tied = encode("free")[2], encode("tied")[2]
    true = attribute_direction(free, "Eyeglasses", "balanced")
    balanced = cosine(attribute_direction(tied, "Eyeglasses", "balanced"), true)
    mean = cosine(attribute_direction(tied, "Eyeglasses", "mean"), true)
    assert balanced >= 0.9
    assert mean < balanced - 0.02


def drawn_change(name):
    """Return what the drawing itself changes when an attribute is toggled, as a mean (3, S, S)."""
    crop = crop_box(*FACE_SIZE, "celeba")
    changes = []
    for index, row in enumerate(draw_attributes(40, seed=9)):
        pair = []
        for value in (False, True):
            row[find_attribute(name)] = value
            face = draw_face(row, np.random.default_rng(index)).crop(crop).resize((SIDE, SIDE))
            pair.append(np.asarray(face, np.float32) / 255)
        changes.append(pair[1] - pair[0])
    return np.mean(changes, axis=0).transpose(2, 0, 1)


def mask_of(box):
    """Return which pixels of the cropped picture lie in a box of the frame, (S, S) bool."""
    left, top, right, _ = crop_box(*FACE_SIZE, "celeba")
    corners = (np.array(box) - np.array([left, top, left, top])) * SIDE / (right - left)
    x0, y0, x1, y1 = corners.round().astype(int)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


# a smile moves fewer pixels than glasses do, beside what else differs between the class means
@pytest.mark.parametrize(
    ("name", "box", "ratio"), [("Smiling", MOUTH_BOX, 2.0), ("Eyeglasses", EYES_BOX, 5.0)]
)
def test_a_direction_changes_what_the_drawing_changes_and_where(edits, name, box, ratio):
    mask, decoded, drawn = mask_of(box), edits(name), drawn_change(name)
    strength = np.abs(decoded).mean(0)
    assert strength[mask].mean() > ratio * strength[~mask].mean()
    likeness = np.corrcoef(decoded[:, mask].ravel(), drawn[:, mask].ravel())[0, 1]
    assert likeness > 0.8


def test_glasses_darken_the_eyes(edits):
    assert edits("Eyeglasses")[:, mask_of(EYES_BOX)].mean() < -0.02
