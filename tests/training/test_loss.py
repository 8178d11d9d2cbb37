import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from vae.training.loss import gaussian_nll, kl_divergence, vae_loss


def make_batch(count, latent_dim, side=6):
    torch.manual_seed(1)
    x, x_hat = torch.rand(2, count, 3, side, side, dtype=torch.float64)
    mu, logvar = torch.randn(2, count, latent_dim, dtype=torch.float64)
    return x_hat, x, mu, logvar


def test_the_kl_term_equals_that_of_torch_distributions():
    *_, mu, logvar = make_batch(count=4, latent_dim=5)
    expected = torch_kl(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mu, logvar), expected)


def test_recon_differs_from_the_gaussian_log_likelihood_by_its_constant():
    x_hat, x, mu, logvar = make_batch(count=4, latent_dim=5)
    variance_half = Normal(x_hat, 0.5**0.5)
    nats = -variance_half.log_prob(x).sum(dim=(1, 2, 3)).mean()
    constant = 0.5 * torch.log(torch.tensor(torch.pi, dtype=torch.float64)) * x[0].numel()
    torch.testing.assert_close(vae_loss(x_hat, x, mu, logvar).recon, nats - constant)


def test_the_negative_log_likelihood_of_any_variance_equals_that_of_torch_distributions():
    x_hat, x, *_ = make_batch(count=4, latent_dim=5)
    sse = (x_hat - x).square().sum(dim=(1, 2, 3))
    nats = -Normal(x_hat, 0.03**0.5).log_prob(x).sum(dim=(1, 2, 3))
    constant = 0.5 * torch.log(torch.tensor(torch.pi, dtype=torch.float64)) * x[0].numel()
    torch.testing.assert_close(gaussian_nll(sse, 0.03, x[0].numel()), nats - constant)


def test_terms_of_a_batch_equal_those_computed_by_hand():
    x = torch.zeros(2, 3, 2, 2)
    x_hat = torch.full_like(x, 0.5)
    mu, logvar = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.zeros(2, 2)
    loss = vae_loss(x_hat, x, mu, logvar, beta=3.0)
    assert loss == (12 * 0.25 + 3 * 1.0, 12 * 0.25, 1.0, 0.5)


def test_duplicating_the_batch_leaves_the_loss_unchanged():
    batch = make_batch(count=3, latent_dim=5)
    once = vae_loss(*batch, beta=2.0)
    twice = vae_loss(*(torch.cat([t, t]) for t in batch), beta=2.0)
    torch.testing.assert_close(once, twice)


def test_the_errors_of_a_bfloat16_reconstruction_are_summed_in_float32():
    _, x, mu, logvar = (t.float() for t in make_batch(count=2, latent_dim=3, side=64))
    x_hat = (x + 0.1).bfloat16()
    exact = (x_hat.double() - x.double()).square().sum(dim=(1, 2, 3)).mean()
    recon = vae_loss(x_hat, x, mu, logvar).recon
    assert recon.dtype == torch.float32
    torch.testing.assert_close(recon.double(), exact, rtol=1e-6, atol=0)


def test_the_optimal_variance_equals_the_numerical_optimum():
    x_hat, x, mu, logvar = make_batch(count=4, latent_dim=5)
    log_variance = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_variance], max_iter=100, tolerance_change=1e-14)

    def nll():
        optimizer.zero_grad()
        loss = -Normal(x_hat, (0.5 * log_variance).exp()).log_prob(x).sum(dim=(1, 2, 3)).mean()
        loss.backward()
        return loss

    optimizer.step(nll)
    calibrated = vae_loss(x_hat, x, mu, logvar, likelihood="calibrated")
    torch.testing.assert_close(calibrated.variance, log_variance.exp().detach())
    dropped = 0.5 * torch.log(torch.tensor(torch.pi, dtype=torch.float64)) * x[0].numel()
    torch.testing.assert_close(calibrated.recon, nll().detach() - dropped)


def test_the_gradient_at_the_optimum_is_that_of_half_the_logarithm_of_the_error():
    x_hat, x, mu, logvar = make_batch(count=4, latent_dim=5)
    x_hat.requires_grad_()
    (ours,) = torch.autograd.grad(
        vae_loss(x_hat, x, mu, logvar, likelihood="calibrated").recon, x_hat
    )
    half_log = 0.5 * x[0].numel() * (x_hat - x).square().mean().log()
    torch.testing.assert_close(ours, torch.autograd.grad(half_log, x_hat)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_perfect_reconstruction_has_a_finite_loss(dtype):
    _, x, mu, logvar = (t.to(dtype) for t in make_batch(count=2, latent_dim=3))
    assert vae_loss(x, x, mu, logvar, likelihood="calibrated").recon.isfinite()
