import torch

from vae.models.coding import decode_codes, encode_batches
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
