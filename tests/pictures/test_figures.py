import os

import numpy as np
import pytest
import torch
from PIL import Image

from vae.evaluation.health import latent_health
from vae.pictures.figures import (
    save_curves,
    save_histograms,
    save_labelled_grid,
    save_latent_health,
)

BLUE, RED = (76, 114, 176), (196, 78, 82)
"""Colours of the bars and of the curve of N(0, 1)."""
TRAIN, VAL, THIRD = (31, 119, 180), (255, 127, 14), (44, 160, 44)
"""matplotlib's first three colours."""


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def places(pixels, colour):
    """Return the rows and columns of the pixels of a colour."""
    return np.nonzero((np.abs(pixels - colour) <= 2).all(axis=2))


def find(pixels, part):
    """Return the row and column at which part stands in pixels, exactly."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (1, 8, 3))[:, :, 0, 0]
    for row, column in np.argwhere((windows == part[0, :8]).all(axis=(2, 3))):
        height, width, _ = part.shape
        if np.array_equal(pixels[row : row + height, column : column + width], part):
            return row, column
    return pytest.fail("the image is not in the picture")


@pytest.mark.parametrize(("rows", "columns", "title"), [(2, 3, "Smiling"), (3, 2, ""), (1, 1, "a")])
def test_a_labelled_grid_shows_each_image_unchanged_in_its_place(tmp_path, rows, columns, title):
    x = torch.rand(rows, columns, 3, 101, 101)
    labels = ["first", "+0.5", "3"]
    save_labelled_grid(x, tmp_path / "grid.png", labels[:columns], labels[:rows], title)
    pixels = pixels_of(tmp_path / "grid.png")
    found = {}
    for row in range(rows):
        for column in range(columns):
            image = x[row, column].permute(1, 2, 0).mul(255).round().int().numpy()
            found[row, column] = find(pixels, image)
    top, left = found[0, 0]
    assert found == {key: (top + 103 * key[0], left + 103 * key[1]) for key in found}
    grid = pixels[top : top + 103 * rows, left : left + 103 * columns]
    # black text stands above the grid and to its left, not on it
    assert (pixels[:top].sum(axis=2) == 0).any()
    assert (pixels[:, :left].sum(axis=2) == 0).any()
    assert not (grid[101::103].sum(axis=2) == 0).any()


def test_small_images_are_enlarged_to_96_pixels(tmp_path):
    x = torch.zeros(2, 3, 3, 32, 32)
    x[1, 2] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    save_labelled_grid(x, tmp_path / "grid.png", ["a", "b", "c"], ["first", "second"])
    pixels = pixels_of(tmp_path / "grid.png")
    red = np.argwhere((pixels[:, :, 0] > 200) & (pixels[:, :, 1] < 50))
    black = np.argwhere(pixels.sum(axis=2) == 0)
    assert (np.ptp(red, axis=0) >= 92).all()
    assert (np.ptp(red, axis=0) <= 98).all()
    assert red[:, 1].min() > pixels.shape[1] * 0.6
    assert red[:, 0].max() >= black[:, 0].max() - 2


def test_each_label_stands_at_the_middle_of_its_row_or_column(tmp_path):
    def draw(columns, rows):
        path = tmp_path / "grid.png"
        save_labelled_grid(torch.full((2, 3, 3, 96, 96), 0.5), path, columns, rows)
        return pixels_of(path)

    # the outer digits stay, and with them the frame that is cut around the labels
    before = draw(["8008", "8008", "8008"], ["8008", "8008"])
    top, left = find(before, np.full((96, 96, 3), 128))
    for index in range(3):
        columns = ["8008"] * 3
        columns[index] = "8888"
        changed = np.argwhere((draw(columns, ["8008", "8008"]) != before).any(axis=2))
        assert changed[:, 0].max() < top
        assert changed[:, 1].mean() == pytest.approx(left + 98 * index + 48, abs=5)
    for index in range(2):
        rows = ["8008"] * 2
        rows[index] = "8888"
        changed = np.argwhere((draw(["8008"] * 3, rows) != before).any(axis=2))
        changed = changed[changed[:, 1] < left]  # old versions also shift the columns' labels
        assert changed[:, 0].mean() == pytest.approx(top + 98 * index + 48, abs=5)


@pytest.mark.parametrize("label", ["a_very_long_file_name_of_a_picture", "cost $5 or $6^"])
def test_long_titles_and_labels_are_not_cut_off(tmp_path, label):
    x = torch.full((1, 1, 3, 32, 32), 0.5)
    widths = []
    for title in ("short", "Smiling to a probability of 0.9 (round-trip, keeping Male Young)"):
        save_labelled_grid(x, tmp_path / "grid.png", ["0"], [label], title)
        pixels = pixels_of(tmp_path / "grid.png")
        frame = np.ones(pixels.shape[:2], bool)
        frame[4:-4, 4:-4] = False
        assert (pixels[frame] == 255).all()
        widths.append(pixels.shape[1])
    save_histograms(torch.randn(9, 1), tmp_path / "histogram.png", [0], "A long title " * 4)
    pixels = pixels_of(tmp_path / "histogram.png")
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, -4:] == 255).all()
    assert pixels.shape[1] > 400
    assert widths[1] > widths[0]


def test_a_histogram_shows_the_density_of_its_dimension(tmp_path):
    codes = torch.zeros(1000, 3)
    codes[:, 1] = torch.linspace(1.001, 1.999, 1000)
    codes[:500, 1] = 9  # half of them are out of sight
    save_histograms(codes, tmp_path / "one.png", [1], "Codes")
    pixels = pixels_of(tmp_path / "one.png")
    blue_rows, blue_columns = places(pixels, BLUE)
    # the curve of N(0, 1) goes from -4 to 4 and is 0.4 high: it gives the scale
    red_rows, red_columns = np.nonzero(pixels[:, :, 0] - pixels[:, :, 1] > 40)
    scale = (red_columns.max() - red_columns.min()) / 8
    start = (blue_columns.min() - red_columns.min()) / scale - 4
    end = (blue_columns.max() - red_columns.min()) / scale - 4
    assert (start, end) == pytest.approx((1.5, 2), abs=0.1)
    height = (red_rows.max() - blue_rows.min()) / (red_rows.max() - red_rows.min()) * 0.399
    assert height == pytest.approx(1.0, abs=0.08)
    # the bars are filled
    assert len(blue_rows) > 0.7 * np.ptp(blue_rows) * np.ptp(blue_columns)


def test_histograms_have_a_panel_for_each_chosen_dimension(tmp_path):
    codes = torch.randn(400, 20, generator=torch.Generator().manual_seed(0))
    codes[:, 4], codes[:, 9] = -2, 2
    save_histograms(codes, tmp_path / "two.png", [4, 9], "Codes")
    pixels = pixels_of(tmp_path / "two.png")
    half = pixels.shape[1] // 2
    for panel, side in ((pixels[:, :half], -1), (pixels[:, half:], 1)):
        bars, curve = places(panel, BLUE)[1], places(panel, RED)[1]
        assert np.sign(bars.mean() - curve.mean()) == side
    save_histograms(codes, tmp_path / "ten.png", range(10), "Codes")
    save_histograms(codes, tmp_path / "twenty.png", range(20), "Codes")
    ten, twenty = pixels_of(tmp_path / "ten.png"), pixels_of(tmp_path / "twenty.png")
    assert twenty.shape[0] > 1.3 * ten.shape[0]
    assert len(places(twenty, RED)[0]) > 1.8 * len(places(ten, RED)[0])
    save_histograms(0 * codes + 9, tmp_path / "empty.png", range(10), "Codes")
    assert len(places(ten, BLUE)[0]) > 1000
    assert not len(places(pixels_of(tmp_path / "empty.png"), BLUE)[0])


def test_curves_are_drawn_for_train_and_val(tmp_path):
    terms = ("total", "recon", "kl")
    rows = [
        {"epoch": epoch, "val_psnr": 10.0 + epoch}
        | {f"train_{term}": 100.0 / epoch for term in terms}
        | {f"val_{term}": 100.0 * epoch for term in terms}
        for epoch in (1, 2, 3)
    ]
    save_curves(rows, tmp_path / "curves.png")
    pixels = pixels_of(tmp_path / "curves.png")
    assert pixels.shape[1] > 1000
    for panel, part in enumerate(np.array_split(pixels, 4, axis=1)):
        rows, columns = places(part, VAL)
        ends = [rows[columns == columns.min()].mean(), rows[columns == columns.max()].mean()]
        assert ends[0] > ends[1] + 50, "the validation's values rise"
        assert bool(len(places(part, TRAIN)[0])) == (panel < 3)


def draw_health(path, covariance, logvar=-4.0):
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(300, len(covariance), generator=generator)
    logvars = torch.zeros(300, len(covariance)) + torch.as_tensor(logvar)
    health = latent_health(mu, logvars, torch.zeros(len(covariance)), covariance)
    assert save_latent_health(health, path, "Codes of 300 faces") == str(path)
    pixels = pixels_of(path)
    middle = pixels.shape[1] // 2
    return {"kl": pixels[:, :middle], "variances": pixels[:, middle:]}


def test_the_health_figure_has_a_bar_for_the_kl_of_each_dimension(tmp_path):
    mu_part = 0.5  # half the mean of mu squared, about
    logvar = torch.tensor([-2.0, -8.0, -4.0])
    pixels = draw_health(tmp_path / "a.png", torch.eye(3), logvar)["kl"]
    _, columns = places(pixels, BLUE)
    bars = np.array_split(np.arange(columns.min(), columns.max() + 1), 3)
    heights = np.array([np.sum(columns == bar[len(bar) // 2]) for bar in bars])
    expected = mu_part + 0.5 * (logvar.exp() - 1 - logvar).sort(descending=True).values.numpy()
    np.testing.assert_allclose(heights / heights.sum(), expected / expected.sum(), atol=0.03)


def test_the_health_figure_shows_variances_that_differ_from_the_standard_normal(tmp_path):
    stretched = torch.diag(torch.tensor([9.0, 4, 1, 1, 0.25, 0.1]))
    panels = {
        "standard": draw_health(tmp_path / "standard.png", torch.eye(6)),
        "stretched": draw_health(tmp_path / "stretched.png", stretched),
    }
    # all dots are at one height where all variances are 1, apart from that in the legend
    heights = {name: np.unique(places(one["variances"], BLUE)[0]) for name, one in panels.items()}
    assert len(heights["stretched"]) > 2 * len(heights["standard"])


def test_a_name_that_is_not_utf_8_can_be_a_label(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    x = torch.zeros(1, 1, 3, 8, 8)
    save_labelled_grid(x, tmp_path / "a.png", [name], [name], name)
    save_labelled_grid(x, tmp_path / "b.png", ["caf\\udce9"], ["caf\\udce9"], "caf\\udce9")
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png"), pixels_of(tmp_path / "b.png"))
