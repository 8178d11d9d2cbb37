import pytest
import torch

from vae.models.build import build
from vae.models.judge import Judge
from vae.models.skip import SkipVAE
from vae.models.vae import VAE

NETWORKS = [VAE(48, (4, 6), 5), SkipVAE(48, (4, 6), 5), Judge((7, 3), ("Hat", "Smiling"))]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_a_network_is_rebuilt_from_its_description(network):
    rebuilt = build(network.arch)
    assert type(rebuilt) is type(network)
    assert rebuilt.arch == network.arch
    rebuilt.load_state_dict(network.state_dict())
    x = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        expected, found = (model.eval()(x) for model in (network, rebuilt))
    if isinstance(network, VAE):
        # the reconstruction has noise: compare mu
        expected, found = expected[1], found[1]
    assert torch.equal(expected, found)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_a_description_is_left_unchanged_and_made_of_json_values(network):
    arch = dict(network.arch)
    build(arch)
    assert arch == network.arch
    for value in arch.values():
        assert isinstance(value, int | str | list)


@pytest.mark.parametrize(
    ("arch", "error"),
    [
        ({}, KeyError),
        ({"architecture": "unknown"}, KeyError),
        ({"architecture": "listed", "width": 3}, TypeError),
        ({"architecture": "judge"}, TypeError),
        ({"architecture": "listed", "image_size": 63}, ValueError),
    ],
)
def test_a_description_of_no_network_is_refused(arch, error):
    with pytest.raises(error):
        build(arch)
