import numpy as np
import pytest
import torch

from vae.evaluation.copies import (
    Seen,
    brightened_mirror,
    find_copies,
    measure_copies,
    moved,
    see,
    whitening,
)
from vae.models.judge import Judge, look
from vae.models.vae import VAE


def test_a_planted_copy_is_caught_and_fresh_vectors_are_not():
    generator = torch.Generator().manual_seed(0)
    training = torch.randn(600, 8, generator=generator)
    held_out, fresh = torch.randn(2, 400, 8, generator=generator).unbind()
    copies = training[::3] + 0.01 * torch.randn(200, 8, generator=generator)
    half = torch.cat([copies, fresh[:200]])
    found = find_copies(
        "code", training, held_out, {"copies": copies, "fresh": fresh, "half": half}
    )
    assert found["copies"]["code_copies"] == 1
    assert found["copies"]["code_ratio"] < 0.05
    assert found["fresh"]["code_copies"] < 0.03
    assert found["fresh"]["code_ratio"] == pytest.approx(1, abs=0.05)
    assert found["half"]["code_copies"] == pytest.approx(0.5, abs=0.02)


def test_the_ratio_and_the_fraction_are_those_of_the_nearest_distances():
    training = torch.tensor([[0.0], [10.0]])
    held_out = torch.tensor([[1.0], [8.0], [13.0]])  # 1, 2 and 3 from the nearest
    found = find_copies("feature", training, held_out, {"x": torch.tensor([[0.5], [-4.0], [6.0]])})
    assert found == {"x": {"feature_ratio": 2.0, "feature_copies": pytest.approx(1 / 3)}}


def test_whitened_training_codes_have_the_identity_as_covariance():
    torch.manual_seed(0)
    mu = torch.randn(50, 5) @ torch.randn(5, 5) * torch.tensor([1, 30, 0.1, 1, 1])
    torch.testing.assert_close(torch.cov((mu.double() @ whitening(mu)).T), torch.eye(5).double())
    # the Mahalanobis distance between two codes
    difference = (mu[0] - mu[1]).double()
    expected = (difference @ torch.linalg.inv(torch.cov(mu.double().T)) @ difference).sqrt()
    torch.testing.assert_close((difference @ whitening(mu)).norm(), expected, rtol=1e-4, atol=0)


def test_axes_without_variance_are_left_out():
    training = torch.randn(4, 7)
    assert whitening(training).shape == (7, 3)


def test_the_planted_copies_differ_from_the_images_a_little():
    x = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(brightened_mirror(x).flip(3), (x * 1.05).clamp(max=1))
    torch.testing.assert_close(moved(x)[..., 1:], x[..., :-1])


def test_images_are_seen_as_by_the_judge_and_the_encoder_whatever_the_batches():
    torch.manual_seed(0)
    judge, model, x = Judge((4, 6), ("Hat",)), VAE(32, (4, 6), 5).eval(), torch.rand(7, 3, 32, 32)
    seen = see(judge, model, iter(x.split(3)))
    torch.testing.assert_close(seen.features, look(judge, [x])[1])
    with torch.no_grad():
        torch.testing.assert_close(seen.mu, model.encode(x)[0])


def see_pixels(images):
    """Return the pixels as features and as codes."""
    pixels = torch.cat([x.flatten(1) for x in images])
    return Seen(pixels, pixels)


def test_copies_of_training_faces_and_of_their_mirror_images_are_found():
    generator = torch.Generator().manual_seed(0)
    # smooth images: a pixel's move changes them little
    pixels = torch.rand(140, 3, 3, 3, generator=generator)
    pixels = torch.nn.functional.interpolate(pixels, 12, mode="bicubic").clamp(0, 1)
    training, held_out, fresh = pixels[:60], pixels[60:100], pixels[100:]
    faces = lambda rows: training[torch.from_numpy(rows)].split(16)  # noqa: E731
    decode = lambda mu: 0.9 * mu.unflatten(1, (3, 12, 12)) + 0.05  # noqa: E731
    sets = {"fresh": see_pixels([fresh]), "stolen": see_pixels([training[::2].flip(3)])}
    seen = see_pixels([held_out])
    found = measure_copies(see_pixels, decode, faces, np.arange(60), seen, sets)
    assert list(found)[:2] == ["fresh", "stolen"]
    assert found["fresh"]["feature_copies"] < 0.1
    assert found["stolen"]["n"] == 30
    for name in list(found)[1:]:
        assert found[name]["feature_copies"] == 1, name
    assert found["stolen"]["code_copies"] == 1
    assert [row["n"] for row in found.values()] == [40, 30, 40, 40, 40]
