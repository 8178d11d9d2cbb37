import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from vae.device import autocast
from vae.models.vae import VAE

LISTING = """\
VAE(
  (encoder): Sequential(
    (0): Conv2d(3, 32, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
    (1): BatchNorm2d(32, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (2): LeakyReLU(negative_slope=0.01)
    (3): Conv2d(32, 64, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
    (4): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (5): LeakyReLU(negative_slope=0.01)
    (6): Conv2d(64, 128, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
    (7): BatchNorm2d(128, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (8): LeakyReLU(negative_slope=0.01)
    (9): Conv2d(128, 256, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
    (10): LeakyReLU(negative_slope=0.01)
  )
  (fc_mu): Linear(in_features=16384, out_features=200, bias=True)
  (fc_logvar): Linear(in_features=16384, out_features=200, bias=True)
  (fc_decode): Linear(in_features=200, out_features=16384, bias=True)
  (decoder): Sequential(
    (0): ConvTranspose2d(256, 128, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
    (1): LeakyReLU(negative_slope=0.01)
    (2): ConvTranspose2d(128, 64, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
    (3): LeakyReLU(negative_slope=0.01)
    (4): ConvTranspose2d(64, 32, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
    (5): LeakyReLU(negative_slope=0.01)
    (6): ConvTranspose2d(32, 3, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
    (7): Sigmoid()
  )
)"""


def test_the_default_model_prints_as_the_contract_lists_it():
    # torch 2.15 prints a batch norm's bias as well; the layer is the same
    printed = re.sub(r"(affine=True, )bias=True, ", r"\1", str(VAE()))
    assert printed == LISTING


@pytest.mark.parametrize(
    ("image_size", "latent_dim", "count"), [(128, 200, 11_227_667), (64, 128, 2_957_699)]
)
def test_parameter_counts_equal_the_contract(image_size, latent_dim, count):
    model = VAE(image_size=image_size, latent_dim=latent_dim)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(
    ("image_size", "channels", "latent_dim"), [(32, (4, 6), 5), (48, (3, 5, 7, 9), 2), (8, (6,), 1)]
)
def test_every_size_follows_from_the_arguments(image_size, channels, latent_dim):
    model = VAE(image_size, channels, latent_dim)
    x = torch.rand(3, 3, image_size, image_size)
    x_hat, mu, logvar = model(x)
    assert x_hat.shape == x.shape
    assert mu.shape == logvar.shape == (3, latent_dim)
    assert x_hat.min() >= 0
    assert x_hat.max() <= 1


def test_an_image_size_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="multiple of 16, got 63"):
        VAE(image_size=63)


def test_weights_are_xavier_uniform_and_biases_zero():
    torch.manual_seed(0)
    model = VAE(32, (16, 24), 7)
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    assert len(layers) == 7
    for layer in layers:
        fan_sum = (layer.weight.shape[0] + layer.weight.shape[1]) * layer.weight[0, 0].numel()
        bound = (6 / fan_sum) ** 0.5
        assert layer.weight.abs().max() <= bound
        assert layer.weight.abs().max() > 0.9 * bound
        torch.testing.assert_close(layer.weight.std().item(), bound / 3**0.5, rtol=0.15, atol=0)
        assert not layer.bias.any()


def test_codes_have_the_mean_and_the_standard_deviation_of_the_posterior():
    torch.manual_seed(0)
    mu, logvar = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, -3.0]])
    z = VAE(32, (4,), 2).reparameterize(mu.expand(50_000, 2), logvar.expand(50_000, 2))
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.std(0), (0.5 * logvar[0]).exp(), rtol=0.02, atol=0)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    model = VAE(32, (4, 6, 7), 5)
    x_hat, mu, logvar = model(torch.rand(4, 3, 32, 32))
    (x_hat.sum() + mu.square().sum() + logvar.square().sum()).backward()
    # batch norm subtracts the mean, and with it the bias of the convolution before it
    no_effect = {"encoder.0.bias", "encoder.3.bias"}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        largest = parameter.grad.abs().max()
        assert largest < 1e-4 if name in no_effect else largest > 1e-3, name


# Under bfloat16

CPU = torch.device("cpu")


def test_the_heads_are_float32_layers_on_bfloat16_features():
    torch.manual_seed(0)
    model, x = VAE(32, (4, 6), 5).eval(), torch.rand(3, 3, 32, 32)
    with autocast(CPU, "bf16"):
        h, (mu, logvar) = model.encoder(x), model.encode(x)
    assert h.dtype == torch.bfloat16
    for head, values in ((model.fc_mu, mu), (model.fc_logvar, logvar)):
        assert values.dtype == torch.float32
        assert torch.equal(values, functional.linear(h.flatten(1).float(), head.weight, head.bias))


def test_the_sample_that_is_decoded_is_drawn_in_float32_and_the_convolutions_are_not():
    torch.manual_seed(0)
    model, x, seen = VAE(32, (4, 6), 5), torch.rand(3, 3, 32, 32), {}
    model.fc_decode.register_forward_pre_hook(lambda _, inputs: seen.update(z=inputs[0]))
    with autocast(CPU, "bf16"):
        torch.manual_seed(1)
        x_hat, mu, logvar = model(x)
    torch.manual_seed(1)
    eps = torch.randn(3, 5)
    assert seen["z"].dtype == torch.float32
    assert torch.equal(seen["z"], mu + torch.exp(0.5 * logvar) * eps)
    assert x_hat.dtype == torch.bfloat16
