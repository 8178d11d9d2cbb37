import numpy as np
import pytest
import torch

from vae.celeba import ATTRIBUTE_NAMES, find_attribute
from vae.directions import attribute_direction, mean_direction
from vae.edits import (
    keep_still,
    matched_strengths,
    mean_and_margin,
    measure_edit,
    move_until,
    reach,
    see,
)
from vae.errors import UserError
from vae.judge import Judge, predict
from vae.latent import decode_codes, latent_statistics
from vae.model import VAE

SMILING, MALE, CHEEKS = map(find_attribute, ("Smiling", "Male", "High_Cheekbones"))
STRENGTHS = [0.0, 0.5, 1.0, 1.5, 2.0]


def test_the_strength_of_a_known_rising_function_is_found():
    offsets = torch.tensor([0.0, 0.2])
    values = torch.tensor(STRENGTHS)[None] / 4 + offsets[:, None]
    torch.testing.assert_close(reach(STRENGTHS, values, 0.3), torch.tensor([1.2, 0.4]))


def test_of_a_known_hump_the_first_crossing_is_taken():
    values = torch.tensor([[0.0, 0.4, 0.8, 0.4, 0.0]])
    torch.testing.assert_close(reach(STRENGTHS, values, 0.6), torch.tensor([0.75]))
    torch.testing.assert_close(reach(STRENGTHS, values, 0.8), torch.tensor([1.0]))
    assert reach(STRENGTHS, values, 0.81).isnan().all()


def test_a_face_that_has_the_attribute_already_is_not_moved():
    assert reach(STRENGTHS, torch.tensor([[0.9, 0.95, 1, 1, 1]]), 0.9).tolist() == [0]


def test_methods_are_matched_at_the_target_or_at_what_all_of_them_reach():
    rising = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    humped = torch.tensor([0.0, 0.3, 0.6, 0.3, 0.0])
    matched, found = matched_strengths(STRENGTHS, {"a": rising, "b": humped}, 0.5)
    assert matched == 0.5
    assert found == pytest.approx({"a": 1.0, "b": 5 / 6})
    matched, found = matched_strengths(STRENGTHS, {"a": rising, "b": humped}, 0.9)
    assert matched == pytest.approx(0.6)
    assert found == pytest.approx({"a": 1.2, "b": 1.0})


def test_the_margin_is_that_of_a_normal_mean():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    mean, margin = mean_and_margin(values)
    assert mean == 3.0
    assert margin == pytest.approx(1.96 * (14 / 3) ** 0.5 / 2)


class PlantedJudge(Judge):
    """Sees Smiling in red, Male in green and High_Cheekbones in blue; its feature is the colour."""

    def __init__(self):
        super().__init__((3,))
        self.attribute_std.zero_()
        for column, deviation in ((SMILING, 1.0), (MALE, 2.0), (CHEEKS, 4.0)):
            self.attribute_std[column] = deviation

    def features(self, x):
        return x.mean((2, 3))

    def classify(self, features):
        logits = torch.zeros(len(features), len(ATTRIBUTE_NAMES))
        logits[:, [SMILING, MALE, CHEEKS]] = features
        return logits


def measure(judge, x, edited):
    return measure_edit(judge, see(judge, x), see(judge, edited), "Smiling")


def test_shifts_on_a_planted_judge_are_the_planted_ones():
    torch.manual_seed(0)
    x = torch.rand(6, 3, 8, 8)
    change = torch.tensor([3.0, -1.0, 2.0]) + torch.randn(6, 3)
    measured = measure(PlantedJudge(), x, x + change[:, :, None, None])
    mean, margin = measured["shifts"]["Male"]
    assert mean == pytest.approx(change[:, 1].mean().item() / 2, rel=1e-4)
    assert margin == pytest.approx(1.96 * change[:, 1].std().item() / 2 / 6**0.5, rel=1e-4)
    assert list(measured["shifts"]) == ["Male"]
    assert measured["parts"]["High_Cheekbones"][0] == pytest.approx(change[:, 2].mean().item() / 4)
    assert measured["mean_absolute_shift"] == abs(mean)
    assert measured["worst"] == ["Male"]
    expected = (x.mean((2, 3)) + change)[:, 0].sigmoid().mean().item()
    assert measured["success"][0] == pytest.approx(expected, rel=1e-5)
    pixels = change.square().mean(1).sqrt().mean().item()
    assert measured["pixel_drift"][0] == pytest.approx(pixels, rel=1e-5)


def test_an_edit_that_changes_nothing_has_no_shift_and_no_drift():
    x = torch.rand(5, 3, 8, 8)
    measured = measure(PlantedJudge(), x, x)
    assert measured["mean_absolute_shift"] == 0
    assert measured["pixel_drift"] == (0, 0)
    assert measured["identity_drift"][0] == pytest.approx(0, abs=1e-6)


class PlantedModel(VAE):
    """Decodes the first three dimensions of a code to the colour of an image."""

    def __init__(self):
        super().__init__(32, (4,), 4)

    def decode(self, z):
        return z[:, :3, None, None].expand(-1, -1, 8, 8)


def make_statistics():
    """Return statistics of codes in which Smiling also moves what Male is seen by."""
    rng = np.random.default_rng(0)
    attributes = np.zeros((2000, 40), bool)
    attributes[:, SMILING], attributes[:, MALE] = rng.random((2, 2000)) < 0.5
    mu = torch.from_numpy(rng.standard_normal((2000, 4))).float()
    mu[:, :2] += torch.from_numpy(attributes[:, [SMILING, MALE]]) * 2.0
    mu[:, 1] -= torch.from_numpy(attributes[:, SMILING]) * 1.5
    return latent_statistics(mu, torch.zeros_like(mu), attributes)


def test_what_is_kept_looks_the_same_to_the_guide_on_decoded_faces():
    statistics, guide, model = make_statistics(), PlantedJudge(), PlantedModel()
    plain = attribute_direction(statistics, "Smiling", "balanced")
    assert plain[1] < -1
    still = keep_still(model, guide, statistics, "Smiling", plain, ("male",))
    z = torch.randn(5, 4)
    change = predict(guide, decode_codes(model, z + 2 * still)) - predict(
        guide, decode_codes(model, z)
    )
    assert change[:, MALE].abs().max() < 1e-3
    assert change[:, SMILING].min() > 1
    difference = mean_direction(statistics, SMILING).float()
    assert still.norm().item() == pytest.approx((difference @ still / still.norm()).item())
    with pytest.raises(UserError, match="Smiling cannot be edited and kept"):
        keep_still(model, guide, statistics, "smiling", plain, ("Smiling",))


def test_each_face_is_moved_until_the_guide_sees_the_attribute():
    model, guide, direction = PlantedModel(), PlantedJudge(), torch.tensor([1.0, 0, 0, 0])
    z = torch.tensor([[-1.0, 5, 0, 0], [2.0, 0, 0, 0], [-9.0, 0, 0, 0]])
    moved, strengths, highest = move_until(model, guide, z, direction, "Smiling", 0.5)
    torch.testing.assert_close(strengths[:2], torch.tensor([1.0, 0.0]))
    assert strengths[2] == 6
    assert highest[2].item() == pytest.approx(torch.tensor(-3.0).sigmoid().item())
    torch.testing.assert_close(moved[:, 0], torch.tensor([0.0, 2.0, -3.0]))
    torch.testing.assert_close(moved[:, 1:], z[:, 1:])
