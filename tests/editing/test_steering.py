import numpy as np
import pytest
import torch

from vae.editing.steering import keep_still, move_until, probabilities, reach
from vae.errors import UserError
from vae.latent.codes import latent_statistics
from vae.latent.directions import attribute_directions, mean_directions
from vae.models.judge import Judge, predict

STRENGTHS = [0.0, 0.5, 1.0, 1.5, 2.0]
NAMES = ("Hat", "Smiling", "Male")
HAT, SMILING, MALE = range(3)


class PlantedGuide(Judge):
    """The logits of Male, Hat and Smiling are an image's red, green and blue."""

    def __init__(self):
        super().__init__((3,), ("Male", "Hat", "Smiling"))

    def features(self, x):
        return x.mean((2, 3))

    def classify(self, features):
        return features


def decode(z):
    """Return images whose red, green and blue are the last three of a code's four dimensions."""
    return z[:, 1:, None, None].expand(-1, -1, 8, 8)


def test_the_strength_at_which_a_known_line_reaches_the_target_is_found():
    offsets = torch.tensor([0.0, 0.2])
    values = torch.tensor(STRENGTHS)[None] / 4 + offsets[:, None]
    torch.testing.assert_close(reach(STRENGTHS, values, 0.3), torch.tensor([1.2, 0.4]))


def test_the_first_crossing_of_a_known_hump_is_taken():
    values = torch.tensor([[0.0, 0.4, 0.8, 0.4, 0.0]])
    torch.testing.assert_close(reach(STRENGTHS, values, 0.6), torch.tensor([0.75]))
    torch.testing.assert_close(reach(STRENGTHS, values, 0.8), torch.tensor([1.0]))
    assert reach(STRENGTHS, values, 0.81).isnan().all()


def test_a_face_that_already_has_the_attribute_is_not_moved():
    assert reach(STRENGTHS, torch.tensor([[0.9, 0.95, 1, 1, 1]]), 0.9).tolist() == [0]


def test_probabilities_are_those_of_the_decoded_faces():
    codes = torch.randn(3, 2, 4)
    found = probabilities(decode, PlantedGuide(), codes, column=1)
    torch.testing.assert_close(found, codes[:, :, 2].sigmoid())


def test_each_face_is_moved_until_the_guide_sees_the_attribute():
    guide, direction = PlantedGuide(), torch.tensor([0, 1.0, 0, 0])
    z = torch.tensor([[5.0, -1, 0, 0], [0, 2, 0, 0], [0, -9, 0, 0]])
    moved, strengths, highest = move_until(decode, guide, z, direction, column=0, target=0.5)
    torch.testing.assert_close(strengths[:2], torch.tensor([1.0, 0.0]))
    assert strengths[2] == 6
    assert highest[2].item() == pytest.approx(torch.tensor(-3.0).sigmoid().item())
    torch.testing.assert_close(moved[:, 1], torch.tensor([0.0, 2.0, -3.0]))
    torch.testing.assert_close(moved[:, [0, 2, 3]], z[:, [0, 2, 3]])


def make_statistics():
    """Return statistics of codes in which adding Smiling also changes what Male is seen by."""
    rng = np.random.default_rng(0)
    has = np.zeros((2000, 3), bool)
    has[:, SMILING], has[:, MALE] = rng.random((2, 2000)) < 0.5
    mu = torch.from_numpy(rng.standard_normal((2000, 4))).float()
    mu[:, [3, 1]] += torch.from_numpy(has[:, [SMILING, MALE]]) * 2.0
    mu[:, 1] -= torch.from_numpy(has[:, SMILING]) * 1.5
    return latent_statistics(mu, torch.zeros_like(mu), has, NAMES)


def test_the_guide_sees_a_kept_attribute_unchanged_on_decoded_faces():
    statistics, guide = make_statistics(), PlantedGuide()
    plain = attribute_directions(statistics, "balanced")[SMILING]
    assert plain[1] < -1
    still = keep_still(decode, guide, statistics, SMILING, plain, ("male",))
    z = torch.randn(5, 4)
    change = predict(guide, decode(z + 2 * still)) - predict(guide, decode(z))
    assert change[:, 0].abs().max() < 1e-3
    assert change[:, 2].min() > 1
    difference = mean_directions(statistics)[SMILING].float()
    assert still.norm().item() == pytest.approx((difference @ still / still.norm()).item())


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ("smiling", "Smiling cannot be edited and kept"),
        ("Hat", "Hat: 0 of the 2,000 training faces"),
        ("Mal", 'did you mean "Male"'),
    ],
)
def test_what_cannot_be_kept_is_named(kept, message):
    with pytest.raises(UserError, match=message):
        keep_still(decode, PlantedGuide(), make_statistics(), SMILING, torch.rand(4), (kept,))
