import pytest
import torch

from vae.errors import UserError
from vae.evaluation.edits import (
    matched_strengths,
    mean_and_margin,
    measure_edit,
    measure_methods,
    seen_on_faces,
)
from vae.models.judge import Judge

NAMES = ("Smiling", "Male", "High_Cheekbones", "Bald")
STRENGTHS = [0.0, 0.5, 1.0, 1.5, 2.0]


class PlantedJudge(Judge):
    """Sees Smiling in red, Male in green, High_Cheekbones in blue; its feature is the colour."""

    def __init__(self, names=NAMES):
        super().__init__((3,), names)
        self.attribute_std.copy_(torch.tensor([1.0, 2.0, 4.0, 0.0])[: len(names)])

    def features(self, x):
        return x.mean((2, 3))

    def classify(self, features):
        return torch.cat([features, torch.zeros(len(features), 1)], dim=1)


def decode(z):
    """Return images whose colour is the first three dimensions of the codes."""
    return z[:, :3, None, None].expand(-1, -1, 8, 8)


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


def test_the_shifts_of_a_planted_judge_are_the_planted_ones():
    torch.manual_seed(0)
    x = torch.rand(6, 3, 8, 8)
    change = torch.tensor([3.0, -1.0, 2.0]) + torch.randn(6, 3)
    measured = measure_edit(PlantedJudge(), x, x + change[:, :, None, None], "Smiling")
    mean, margin = measured["shifts"]["Male"]
    assert mean == pytest.approx(change[:, 1].mean().item() / 2, rel=1e-4)
    assert margin == pytest.approx(1.96 * change[:, 1].std().item() / 2 / 6**0.5, rel=1e-4)
    assert list(measured["shifts"]) == ["Male"]
    assert measured["parts"]["High_Cheekbones"][0] == pytest.approx(change[:, 2].mean().item() / 4)
    assert measured["mean_absolute_shift"] == abs(mean)
    face_shift = change[:, 1].abs().mean().item() / 2
    assert measured["mean_absolute_face_shift"] == pytest.approx(face_shift, rel=1e-4)
    assert measured["worst"] == ["Male"]
    colours = x.mean((2, 3))
    expected = (colours + change)[:, 0].sigmoid().mean().item()
    assert measured["success"][0] == pytest.approx(expected, rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(colours, colours + change)
    assert measured["identity_drift"][0] == pytest.approx(1 - cosine.mean().item(), rel=1e-4)
    pixels = change.square().mean(1).sqrt().mean().item()
    assert measured["pixel_drift"][0] == pytest.approx(pixels, rel=1e-5)


def test_changes_that_cancel_over_faces_count_for_each_face():
    x = torch.rand(4, 3, 8, 8)
    change = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None] * torch.tensor([0.0, 3.0, 0.0])
    measured = measure_edit(PlantedJudge(), x, x + change[:, :, None, None], "Smiling")
    assert measured["mean_absolute_shift"] == pytest.approx(0, abs=1e-6)
    assert measured["mean_absolute_face_shift"] == pytest.approx(3 / 2, rel=1e-4)


def test_an_edit_that_changes_nothing_has_no_shift_and_no_drift():
    x = torch.rand(5, 3, 8, 8)
    measured = measure_edit(PlantedJudge(), x, x, "Smiling")
    assert measured["mean_absolute_shift"] == measured["mean_absolute_face_shift"] == 0
    assert measured["pixel_drift"] == (0, 0)
    assert measured["identity_drift"][0] == pytest.approx(0, abs=1e-6)


def test_a_judge_of_one_attribute_has_nothing_to_compare():
    x = torch.rand(5, 3, 8, 8)
    judge = PlantedJudge()
    judge.attribute_std[1:] = 0
    with pytest.raises(UserError, match="measured on no attribute but Smiling"):
        measure_edit(judge, x, x, "Smiling")


def test_methods_are_compared_at_the_same_probability():
    mu = torch.randn(9, 4) * 0.1
    directions = {"plain": torch.tensor([1.0, 0, 0, 0]), "mixed": torch.tensor([0.5, 1.0, 0, 0])}
    guide = PlantedJudge()
    found = measure_methods(decode, guide, PlantedJudge(), mu, directions, "Smiling", 0.7)
    assert (found["attribute"], found["n"], found["matched"]) == ("Smiling", 9, 0.7)
    plain, mixed = found["methods"]["plain"], found["methods"]["mixed"]
    assert plain["success"][0] == pytest.approx(0.7, abs=0.005)
    assert mixed["success"][0] == pytest.approx(0.7, abs=0.005)
    assert mixed["strength"] == pytest.approx(2 * plain["strength"], rel=0.02)
    assert plain["mean_absolute_shift"] == pytest.approx(0, abs=1e-6)
    assert mixed["mean_absolute_shift"] == pytest.approx(mixed["strength"] / 2, rel=1e-4)


def test_faces_with_the_attribute_are_looked_at_before_and_after_reconstruction():
    x, mu = torch.rand(5, 3, 8, 8), torch.randn(5, 4)
    seen = seen_on_faces(PlantedJudge(), {"real": x, "reconstructed": decode(mu)}, "Male")
    assert seen["n"] == 5
    real = x.mean((2, 3))[:, 1].sigmoid().mean().item()
    assert seen["real"][0] == pytest.approx(real, rel=1e-5)
    assert seen["reconstructed"][0] == pytest.approx(mu[:, 1].sigmoid().mean().item(), rel=1e-5)
