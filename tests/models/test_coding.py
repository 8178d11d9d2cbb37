import torch

from vae.models.coding import decode_codes, encode_batches, refine_images
from vae.models.refiner import Refiner, refine
from vae.models.vae import VAE


def make_model():
    torch.manual_seed(0)
    return VAE(32, (4, 6), 5)


def test_codes_and_images_do_not_depend_on_the_batch_size():
    model, x = make_model(), torch.rand(7, 3, 32, 32)
    mu, logvar = encode_batches(model, [x])
    mu_parts, logvar_parts = encode_batches(model, x.split(3))
    torch.testing.assert_close(mu, mu_parts)
    torch.testing.assert_close(logvar, logvar_parts)
    images = decode_codes(model, mu)
    assert images.shape == x.shape
    torch.testing.assert_close(images, decode_codes(model, mu, batch_size=2))


def test_codes_and_images_are_those_of_the_model_in_eval_mode_without_gradients():
    model, x = make_model(), torch.rand(7, 3, 32, 32)
    model(x)  # batch norm's averages differ from the batch's statistics from here on
    mu, logvar = encode_batches(model, iter(x.split(4)))
    x_hat = decode_codes(model.train(), mu)
    model.eval()
    expected_mu, expected_logvar = model.encode(x)
    torch.testing.assert_close(mu, expected_mu.detach())
    torch.testing.assert_close(logvar, expected_logvar.detach())
    torch.testing.assert_close(x_hat, model.decode(expected_mu).detach())
    assert not any(values.requires_grad for values in (mu, logvar, x_hat))


def test_refined_images_are_those_of_refine_in_any_number():
    torch.manual_seed(0)
    refiner = Refiner(8, (8, 16), 0.25, 0.1)
    x_hat, noise = torch.rand(70, 3, 8, 8), torch.randn(70, 3, 8, 8)
    found = refine_images(refiner, x_hat, noise, steps=2, strength=0.7)
    expected = refine(refiner, x_hat, noise, steps=2, strength=0.7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - x_hat).abs().max() > 0.05
