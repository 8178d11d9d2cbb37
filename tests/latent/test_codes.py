import numpy as np
import torch
from torch.distributions import Normal, kl_divergence

from vae.latent.codes import (
    image_noise,
    kl_per_dimension,
    latent_statistics,
    sample_posterior,
    seeded_noise,
)

NAMES = ("Hat", "Male", "Smiling")
MALE, SMILING = 1, 2


def make_codes(n=200, latent_dim=6):
    rng = np.random.default_rng(0)
    attributes = rng.random((n, 3)) < [0.1, 0.6, 0.4]
    mu = torch.from_numpy(rng.standard_normal((n, latent_dim))).float() + 3
    mu[:, 2] += 2 * torch.from_numpy(attributes[:, SMILING])
    logvar = torch.from_numpy(rng.standard_normal((n, latent_dim))).float()
    return mu, logvar, attributes


def test_the_statistics_equal_those_of_numpy():
    mu, logvar, attributes = make_codes()
    statistics = latent_statistics(mu, logvar, attributes, NAMES)
    codes = mu.double().numpy()
    assert statistics["n"] == 200
    assert statistics["attribute_names"] == list(NAMES)
    np.testing.assert_allclose(statistics["mean"], codes.mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics["covariance"], np.cov(codes.T), rtol=1e-5, atol=1e-6)
    variance = np.exp(logvar.double().numpy()).mean(0)
    np.testing.assert_allclose(statistics["mean_variance"], variance, rtol=1e-6)
    sums = [codes[has].sum(0) for has in attributes.T]
    np.testing.assert_allclose(statistics["class_sums"], sums, rtol=1e-6)
    counts = [[(one & other).sum() for other in attributes.T] for one in attributes.T]
    assert statistics["cooccurrence"].tolist() == counts
    assert counts[MALE][SMILING] not in (counts[MALE][MALE], counts[SMILING][SMILING])


def test_faces_without_a_row_count_for_the_codes_and_not_for_the_attributes():
    mu, logvar, attributes = make_codes()
    known = np.arange(200) % 3 > 0
    statistics = latent_statistics(mu, logvar, attributes, NAMES, known)
    everyone = latent_statistics(mu, logvar, attributes, NAMES)
    part = latent_statistics(mu[known], logvar[known], attributes[known], NAMES)
    for name in ("n", "mean", "covariance", "mean_variance"):
        torch.testing.assert_close(statistics[name], everyone[name])
    for name in ("attribute_n", "attribute_mean", "class_sums", "cooccurrence"):
        torch.testing.assert_close(statistics[name], part[name])
    assert (statistics["n"], statistics["attribute_n"]) == (200, 133)
    torch.testing.assert_close(everyone["attribute_mean"], everyone["mean"])


def test_without_a_table_the_statistics_have_no_attributes():
    mu, logvar, _ = make_codes()
    statistics = latent_statistics(mu, logvar)
    assert statistics.keys() == {"n", "mean", "covariance", "mean_variance"}


def test_the_kl_term_of_each_dimension_equals_that_of_torch_distributions():
    mu, logvar, _ = make_codes(n=4, latent_dim=5)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_per_dimension(mu, logvar), expected)


def test_the_noise_of_a_face_depends_on_the_seed_and_its_number_alone():
    assert torch.equal(seeded_noise(1, [5, 2], 7), seeded_noise(1, range(6), 7)[[5, 2]])
    drawn = torch.cat([seeded_noise(seed, range(4), 7) for seed in range(4)])
    assert torch.cdist(drawn, drawn).fill_diagonal_(9).min() > 0.1
    many = seeded_noise(0, range(2000), 3)
    torch.testing.assert_close(many.mean(0), torch.zeros(3), atol=0.07, rtol=0)
    torch.testing.assert_close(many.std(), torch.tensor(1.0), atol=0.03, rtol=0)


def test_the_noise_of_an_image_depends_on_the_seed_and_its_number_alone():
    assert torch.equal(image_noise(1, [5, 2], 4), image_noise(1, range(6), 4)[[5, 2]])
    drawn = torch.cat([image_noise(seed, range(4), 5).flatten(1) for seed in range(4)])
    assert torch.cdist(drawn, drawn).fill_diagonal_(99).min() > 5
    many = image_noise(0, range(100), 9)
    assert many.shape == (100, 3, 9, 9)
    torch.testing.assert_close(many.mean((0, 2, 3)), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(many.std(), torch.tensor(1.0), atol=0.03, rtol=0)


def test_the_noise_of_an_image_is_other_noise_than_that_of_its_code():
    image, code = image_noise(3, [7], 6).flatten(), seeded_noise(3, [7], 108)[0]
    assert abs(torch.corrcoef(torch.stack([image, code]))[0, 1]) < 0.4


def test_posterior_samples_have_the_standard_deviation_of_the_posterior():
    mu, logvar = torch.full((4000, 2), 3.0), torch.tensor([[-2.0, 1.0]]).expand(4000, 2)
    z = sample_posterior(mu, logvar, seed=0)
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.1, rtol=0)
    torch.testing.assert_close(z.std(0), (0.5 * logvar[0]).exp(), rtol=0.05, atol=0)


def test_a_posterior_sample_does_not_depend_on_the_batch_that_it_is_in():
    mu, logvar, _ = make_codes(n=9)
    whole = sample_posterior(mu, logvar, seed=4)
    assert torch.equal(sample_posterior(mu[6:], logvar[6:], seed=4, first=6), whole[6:])
    assert not torch.equal(sample_posterior(mu, logvar, seed=5), whole)
