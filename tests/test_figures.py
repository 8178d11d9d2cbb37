import numpy as np
import torch
from PIL import Image

from vae.figures import save_curves, save_histograms, save_labelled_grid, save_latent_health
from vae.metrics import correlations, latent_health, squared_distance


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_a_labelled_grid_shows_each_face_in_its_place(tmp_path):
    x = torch.zeros(2, 3, 3, 96, 96)
    x[1, 2] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    save_labelled_grid(x, tmp_path / "grid.png", ["a", "b", "c"], ["first", "second"], "Smiling")
    pixels = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)
    red = np.argwhere((pixels[:, :, 0] > 200) & (pixels[:, :, 1] < 50))
    black = np.argwhere(pixels.sum(axis=2) == 0)
    assert 90 <= np.ptp(red, axis=0).min() <= 100
    assert red.min(axis=0)[1] > pixels.shape[1] * 0.6
    assert red.max(axis=0)[0] >= black.max(axis=0)[0] - 2


def test_histograms_have_a_panel_a_dimension_and_codes_change_it(tmp_path):
    torch.manual_seed(0)
    z = torch.randn(400, 20)
    save_histograms(z, tmp_path / "a.png", range(10), "Posterior samples")
    save_histograms(0.1 * z, tmp_path / "b.png", range(10), "Posterior samples")
    save_histograms(z, tmp_path / "c.png", range(20), "Posterior samples")
    width, height = size_of(tmp_path / "a.png")
    assert size_of(tmp_path / "c.png")[1] > 1.3 * height
    a, b = (np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("a.png", "b.png"))
    # narrow codes leave most of each panel white
    assert (a == 255).sum() != (b == 255).sum()
    assert width > 800


def test_curves_are_drawn_for_train_and_val(tmp_path):
    terms = ("total", "recon", "kl")
    rows = [
        {"epoch": epoch, "val_psnr": 10.0 + epoch}
        | {f"{split}_{term}": 100.0 / epoch for split in ("train", "val") for term in terms}
        for epoch in (1, 2, 3)
    ]
    save_curves(rows, tmp_path / "curves.png")
    assert size_of(tmp_path / "curves.png") == (1200, 300)


def test_a_health_report_shows_codes_that_leave_the_standard_normal(tmp_path):
    torch.manual_seed(0)
    mu, logvar = torch.randn(300, 6), torch.full((300, 6), -4.0)
    for name, covariance in {
        "round": torch.eye(6),
        "stretched": torch.diag(torch.tensor([9.0, 4, 1, 1, 0.25, 0.1])),
    }.items():
        health = latent_health(mu, logvar, torch.zeros(6), covariance)
        distances = {"faces": squared_distance(mu, torch.zeros(6), covariance)}
        path = tmp_path / f"{name}.png"
        save_latent_health(health, correlations(covariance), distances, path, name)
    assert size_of(tmp_path / "round.png") == size_of(tmp_path / "stretched.png")
    pixels = [np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("round", "stretched")]
    right_half = pixels[0].shape[1] // 2
    assert (pixels[0][:, right_half:] != pixels[1][:, right_half:]).any()
