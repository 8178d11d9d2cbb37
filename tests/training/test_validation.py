import numpy as np
import pytest
import torch
from torch.distributions import Normal

from vae.errors import Interrupted, RunStopped, StopSignal
from vae.latent.codes import seeded_noise
from vae.models.refiner import Refiner
from vae.models.vae import VAE
from vae.training.validation import validate, validate_refiner


def make_model():
    torch.manual_seed(0)
    return VAE(32, (4, 6), 5).eval()


@pytest.mark.parametrize("batch_size", [7, 3])
def test_validation_is_the_bound_with_seeded_noise_whatever_the_batch_size(batch_size):
    model, x = make_model(), torch.rand(7, 3, 32, 32)
    with torch.no_grad():
        mu, logvar = model.encode(x)
        z = mu + (0.5 * logvar).exp() * seeded_noise(9, range(7), 5)
        recon = (model.decode(z) - x).square().sum((1, 2, 3)).mean().item()
        sse = (model.decode(mu) - x).square().sum((1, 2, 3)).mean().item()
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean().item()
    numbers = validate(model, x.split(batch_size), beta=2.0, seed=9)
    assert numbers["recon"] == pytest.approx(recon, rel=1e-5)
    assert numbers["kl"] == pytest.approx(kl, rel=1e-5)
    assert numbers["total"] == pytest.approx(recon + 2 * kl, rel=1e-5)
    assert numbers["sse"] == pytest.approx(sse, rel=1e-5)
    mse = sse / (3 * 32 * 32)
    assert numbers["psnr"] == pytest.approx(-10 * np.log10(mse), rel=1e-5)


def test_the_bound_is_that_of_the_variance_of_the_decoder():
    model, x, variance = make_model(), torch.rand(4, 3, 32, 32), 0.03
    with torch.no_grad():
        mu, logvar = model.encode(x)
        z = mu + (0.5 * logvar).exp() * seeded_noise(2, range(4), 5)
        nats = -Normal(model.decode(z), variance**0.5).log_prob(x).sum((1, 2, 3)).mean().item()
    numbers = validate(model, [x], beta=1.0, seed=2, likelihood="calibrated", variance=variance)
    constant = 0.5 * 3 * 32**2 * np.log(np.pi)
    assert numbers["recon"] == pytest.approx(nats - constant, rel=1e-5)


def test_the_reconstruction_is_clamped_and_the_mean_of_the_likelihood_is_not():
    class Overshooting(VAE):
        def decode(self, z):
            return 30 * super().decode(z) - 15

    torch.manual_seed(0)
    model, x = Overshooting(32, (4, 6), 5).eval(), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        mu, logvar = model.encode(x)
        z = mu + (0.5 * logvar).exp() * seeded_noise(4, range(3), 5)
        x_hat, mean = model.decode(mu), model.decode(z)
        assert x_hat.min() < -0.1
        sse = (x_hat.clamp(0, 1) - x).square().sum((1, 2, 3)).mean().item()
        recon = (mean - x).square().sum((1, 2, 3)).mean().item()
    numbers = validate(model, [x], beta=1.0, seed=4)
    assert numbers["sse"] == pytest.approx(sse, rel=1e-5)
    assert numbers["recon"] == pytest.approx(recon, rel=1e-5)


def test_the_active_units_are_the_dimensions_whose_mean_differs_between_faces():
    model, x = make_model(), torch.rand(6, 3, 32, 32)
    with torch.no_grad():
        model.fc_mu.weight *= 10
        model.fc_mu.weight[[0, 3]] = 0.0
        variances = model.encode(x)[0].numpy().var(0, ddof=1)
    assert (variances > 0.01).tolist() == [False, True, True, False, True]
    assert validate(model, x.split(4), beta=1.0, seed=0)["active_units"] == 3


def test_the_model_is_validated_in_eval_mode_and_left_unchanged():
    model, x = make_model(), torch.rand(5, 3, 32, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = validate(model, [x], beta=1.0, seed=0)
    assert validate(model.train(), [x], beta=1.0, seed=0) == expected
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_validation_that_is_not_finite_stops_the_run():
    model = make_model()
    with torch.no_grad():
        model.fc_logvar.bias.fill_(200.0)
    with pytest.raises(RunStopped, match=r"validation gave recon .* kl inf"):
        validate(model, [torch.rand(2, 3, 32, 32)], beta=1.0, seed=0)


def test_a_signal_ends_the_validation_after_its_batch():
    stop, given = StopSignal(), []

    def images():
        for number in range(5):
            given.append(number)
            if number == 2:
                stop.received = 15
            yield torch.rand(2, 3, 32, 32)

    with pytest.raises(Interrupted):
        validate(make_model(), images(), beta=1.0, seed=0, stop=stop)
    assert given == [0, 1, 2]


# The refiner


def make_refiner():
    torch.manual_seed(1)
    refiner = Refiner(32, (8, 16), 0.3, 0.2)
    torch.nn.init.normal_(refiner.last[-1].weight, std=0.1)
    return refiner.eval()


@torch.no_grad()
def plain_refiner_loss(vae, refiner, x, seed, number):
    """Return the loss of one image x (1, 3, S, S), written out."""
    mu, logvar = vae.encode(x)
    x_hat = vae.decode(mu + (0.5 * logvar).exp() * seeded_noise(seed, [number], 5))
    noise = np.random.default_rng((seed, number, 2)).standard_normal((3, 32, 32), np.float32)
    start, time = x_hat + 0.3 * torch.from_numpy(noise), number * 0.618034 % 1
    velocity = refiner((1 - time) * start + time * x, x_hat, torch.tensor([time]))
    # the standard deviation that is left of the velocity when the best linear estimate is known
    scale = 0.3 * 0.2 / ((0.3 * (1 - time)) ** 2 + (0.2 * time) ** 2) ** 0.5
    return (((velocity - (x - start)) / scale) ** 2).mean().item()


@pytest.mark.parametrize("batch_size", [7, 3])
def test_a_refiners_loss_has_noise_and_times_of_each_image_whatever_the_batch_size(batch_size):
    vae, refiner, x = make_model(), make_refiner(), torch.rand(7, 3, 32, 32)
    losses = [plain_refiner_loss(vae, refiner, x[i : i + 1], 9, i) for i in range(7)]
    found = validate_refiner(vae, refiner.train(), x.split(batch_size), seed=9)
    assert found == {"total": pytest.approx(np.mean(losses), rel=1e-4)}
    assert validate_refiner(vae, refiner, x.split(batch_size), seed=8) != found


def test_a_refiners_loss_that_is_not_finite_stops_the_run():
    refiner = make_refiner()
    torch.nn.init.constant_(refiner.last[-1].bias, torch.inf)
    with pytest.raises(RunStopped, match="validation gave total inf"):
        validate_refiner(make_model(), refiner, [torch.rand(2, 3, 32, 32)], seed=0)


def test_a_signal_ends_the_validation_of_a_refiner():
    stop = StopSignal()
    stop.received = 15
    with pytest.raises(Interrupted):
        validate_refiner(make_model(), make_refiner(), [torch.rand(2, 3, 32, 32)], 0, stop)
