import numpy as np
import pytest
import torch

from vae.errors import UserError
from vae.evaluation.fid import inception_distance, load_fid

CPU = torch.device("cpu")


class Colours(torch.nn.Module):
    """Stand in for the Inception network: the mean colour of each image."""

    num_features = 3

    def forward(self, pixels):
        assert pixels.dtype == torch.uint8
        return pixels.double().mean(dim=(2, 3))


def test_the_distance_is_that_of_its_definition_on_pixels_rounded_to_8_bits():
    fid = pytest.importorskip("torchmetrics.image.fid")
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(40, 3, 4, 4, generator=generator)
    drawn = 0.2 + 0.5 * torch.rand(30, 3, 4, 4, generator=generator)
    metric = fid.FrechetInceptionDistance(feature=Colours())
    found = inception_distance(metric, real.split(16), drawn.split(7))
    a, b = ((x * 255).round().double().mean(dim=(2, 3)).numpy() for x in (real, drawn))
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    cross = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real).sum()
    squared = ((a.mean(0) - b.mean(0)) ** 2).sum()
    assert found == pytest.approx(squared + np.trace(cov_a + cov_b) - 2 * cross, rel=1e-6)


def test_the_network_is_torch_fidelitys_with_the_weights_of_the_file(tmp_path):
    pytest.importorskip("torchmetrics")
    package = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:
        # without a file the package would download the weights: here they stay random
        patch.setattr(package, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        torch.manual_seed(0)
        network = package.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    inception = load_fid(tmp_path / "weights.pth", CPU).inception
    torch.testing.assert_close(inception(pixels), network(pixels)[0])


def test_a_file_that_does_not_hold_the_weights_is_named(tmp_path):
    pytest.importorskip("torchmetrics")
    pytest.importorskip("torch_fidelity")
    (tmp_path / "text.pth").write_text("202599\n")
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    reasons = {"no.pth": "no such file", "text.pth": "not these", "other.pth": "not these"}
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=f"{name}: {reason}"):
            load_fid(tmp_path / name, CPU)
