import pytest
import torch

from vae.device import autocast
from vae.models.pca import fit_pca
from vae.models.skip import SkipVAE
from vae.models.vae import VAE

SIDE, CHANNELS, DIMENSIONS = 16, (4, 6), 5


def make_started(dtype=torch.float64):
    """Return a network that starts at the PCA of some images, the PCA, and the images."""
    torch.manual_seed(0)
    x = torch.rand(30, 3, SIDE, SIDE, dtype=dtype)
    pca = fit_pca(lambda: x.split(8), DIMENSIONS)
    model = SkipVAE(SIDE, CHANNELS, DIMENSIONS).to(dtype)
    model.start_at(pca)
    return model.eval(), pca, x


@torch.no_grad()
def test_a_network_starts_as_the_probabilistic_pca():
    model, pca, x = make_started()
    mu, logvar = model.encode(x)
    tight = {"rtol": 0, "atol": 1e-8}
    torch.testing.assert_close(mu, (x.flatten(1) - pca.mean) @ pca.encoder.T, **tight)
    torch.testing.assert_close(logvar.exp(), pca.posterior_variance.expand(30, -1), **tight)
    z = torch.randn(7, DIMENSIONS, dtype=torch.float64)
    torch.testing.assert_close(model.decode(z), pca.decode(z), **tight)
    assert mu.abs().max() > 0.5


def test_the_layers_learn_from_the_start():
    model, _, x = make_started(torch.float32)
    x_hat, mu, logvar = model.train()(x)
    ((x_hat - x).square().sum() + mu.square().sum() + logvar.square().sum()).backward()
    for layer in (model.fc_mu, model.fc_logvar, model.decoder[-2]):
        assert layer.weight.grad.abs().max() > 1e-3
    assert not model.fc_mu.weight.any()


def test_the_layers_add_to_the_skip():
    torch.manual_seed(0)
    skip, plain = SkipVAE(SIDE, CHANNELS, DIMENSIONS).eval(), VAE(SIDE, CHANNELS, DIMENSIONS).eval()
    kept = {name: value for name, value in skip.state_dict().items() if name[:4] != "skip"}
    plain.load_state_dict(kept)
    x, z = torch.rand(3, 3, SIDE, SIDE), torch.randn(2, DIMENSIONS)
    linear = x.flatten(1) @ skip.skip_encode.weight.T + skip.skip_encode.bias
    torch.testing.assert_close(skip.encode(x)[0], plain.encode(x)[0] + linear)
    assert torch.equal(skip.encode(x)[1], plain.encode(x)[1])
    linear = (z @ skip.skip_decode.weight.T + skip.skip_decode.bias).view(2, 3, SIDE, SIDE)
    # the last layer of the plain network is a sigmoid
    torch.testing.assert_close(skip.decode(z), plain.decode(z).logit() + linear)


@torch.no_grad()
def test_decoded_values_are_not_clamped():
    model, _, _ = make_started()
    values = model.decode(50 * torch.randn(4, DIMENSIONS, dtype=torch.float64))
    assert values.min() < -0.5
    assert values.max() > 1.5


@torch.no_grad()
def test_the_skip_is_float32_under_bfloat16():
    model, _, x = make_started(torch.float32)
    mu, logvar = model.encode(x)
    x_hat = model.decode(mu)
    with autocast(torch.device("cpu"), "bf16"):
        found = (*model.encode(x), model.decode(mu))
    for ours, expected in zip(found, (mu, logvar, x_hat), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    ("image_size", "channels", "latent_dim"), [(32, (4, 6), 5), (24, (3, 5, 7), 2)]
)
def test_every_size_follows_from_the_arguments(image_size, channels, latent_dim):
    x = torch.rand(4, 3, image_size, image_size)
    x_hat, mu, logvar = SkipVAE(image_size, channels, latent_dim)(x)
    assert x_hat.shape == x.shape
    assert mu.shape == logvar.shape == (4, latent_dim)
