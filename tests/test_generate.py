import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import generate
from vae import open_run
from vae.checkpoint import load_checkpoint, save_checkpoint
from vae.data.decoding import read_square, to_float


def make_vivid(run, folder):
    """Write a copy of a run to folder, in which faces differ clearly from code to code."""
    checkpoint = load_checkpoint(Path(run) / "best.pt")
    for name in ("fc_mu.weight", "fc_decode.weight"):
        checkpoint.weights[name] *= 20
    checkpoint.statistics["mean"] += 0.1
    checkpoint.statistics["attribute_mean"] += 0.1
    save_checkpoint(checkpoint, folder / "best.pt")
    return str(folder)


@pytest.fixture
def vivid(home, tmp_path):
    """Return the folder of a run, as text; the folder with its data set is the current one."""
    return make_vivid("runs/celeba-32", tmp_path / "run")


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def as_pixels(x):
    """Return images (N, 3, S, S) as rounded uint8 (N, S, S, 3)."""
    return np.round(255 * x.permute(0, 2, 3, 1).numpy()).astype(np.uint8)


def cells(picture, columns, side=32):
    """Return the images of a grid, row by row."""
    step = side + 2
    rows = (len(picture) - 2) // step
    corners = [
        (2 + step * row, 2 + step * column) for row in range(rows) for column in range(columns)
    ]
    return np.stack([picture[top : top + side, left : left + side] for top, left in corners])


def decode(model, z):
    with torch.no_grad():
        return as_pixels(model.decode(z))


def noise(seed, indices, latent_dim=5):
    rows = [
        np.random.default_rng((seed, i)).standard_normal(latent_dim, np.float32) for i in indices
    ]
    return torch.from_numpy(np.stack(rows))


def assert_close(pixels, expected):
    """Compare pixels to within one level; the expected images must not be all alike."""
    assert np.abs(np.diff(expected.astype(int), axis=0)).max() > 20
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 1


STANDARD = ["--prior", "standard"]
SHOWS = ["grid", "reconstructions", "interpolation", "histograms", "traversal"]
SUBJECTS = [*SHOWS[:3], "histograms-means", "histograms-samples", "traversal"]


def test_every_picture_is_written_and_named_last(vivid, tmp_path, capsys):
    flags = ["--checkpoint", vivid, "--show", *SHOWS, "--count", "8"]
    assert generate.main([*flags, "--output", str(tmp_path / "out.png")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"checkpoint: {vivid}/best.pt, epoch 2"
    assert printed[1:3] == ["prior: mixture, temperature 1"] * 2
    assert printed[3:] == [str(tmp_path / f"out-{subject}.png") for subject in SUBJECTS]
    for path in printed[3:]:
        pixels = pixels_of(path)
        assert pixels.shape[1] > 100
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50, path


def test_a_picture_that_stood_there_before_is_said_to_be_replaced(vivid, tmp_path, capsys):
    output = ["--output", str(tmp_path / "a.jpg"), "--files", str(tmp_path / "faces")]
    for count, replaced, faces in ((2, "", "2 pictures"), (3, " (replaced)", "3 pictures, 2 rep")):
        assert generate.main(["--checkpoint", vivid, "--count", str(count), *output]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[-2] == f"{tmp_path}/a.jpg{replaced}"
        assert printed[-1].startswith(f"{tmp_path}/faces ({faces}")
    assert len(list((tmp_path / "faces").iterdir())) == 3


def test_a_grid_shows_the_decoded_noise_of_its_seed(vivid, tmp_path):
    flags = ["--checkpoint", vivid, "--count", "5", "--columns", "3", "--seed", "5", *STANDARD]
    output = ["--output", str(tmp_path / "grid.png"), "--files", str(tmp_path)]
    assert generate.main([*flags, "--temperature", "0.5", *output]) == 0
    expected = decode(open_run(vivid).model, 0.5 * noise(5, range(5)))
    shown = cells(pixels_of(tmp_path / "grid.png"), columns=3)
    assert_close(shown[:5], expected)
    assert (shown[5] == 255).all()
    singles = [pixels_of(tmp_path / f"grid-{index:04d}.png") for index in range(5)]
    np.testing.assert_array_equal(np.stack(singles), shown[:5])


def test_a_face_does_not_change_with_the_count(vivid, tmp_path):
    for count in ("2", "70"):
        files = ["--files", str(tmp_path / count), "--output", str(tmp_path / "x.png")]
        assert generate.main(["--checkpoint", vivid, "--count", count, *files]) == 0
    few = (tmp_path / "2" / "grid-0001.png").read_bytes()
    assert few == (tmp_path / "70" / "grid-0001.png").read_bytes()


def test_reconstructions_stand_under_their_originals(vivid, tmp_path):
    flags = ["--checkpoint", vivid, "--show", "reconstructions", "--count", "8", "--columns", "4"]
    assert generate.main([*flags, "--output", str(tmp_path / "a.png")]) == 0
    originals, reconstructions = np.split(cells(pixels_of(tmp_path / "a.png"), columns=4), 2)
    model, packed = (
        open_run(vivid).model,
        np.load(next(Path("data/cache").glob("celeba-32px*.npy"))),
    )
    validation = {image.tobytes() for image in packed[40:52]}
    assert len({image.tobytes() for image in originals} & validation) == 4
    with torch.no_grad():
        mu, _ = model.encode(torch.from_numpy(originals).permute(0, 3, 1, 2) / 255)
    assert_close(reconstructions, decode(model, mu))


def test_an_interpolation_goes_from_one_code_to_the_next(vivid, tmp_path):
    flags = ["--checkpoint", vivid, "--show", "interpolation", "--count", "20", "--columns", "5"]
    output = ["--files", str(tmp_path), "--output", str(tmp_path / "a.png")]
    assert generate.main([*flags, *STANDARD, *output]) == 0
    names = [f"interpolation-{index:04d}.png" for index in range(20)]
    images = np.stack([pixels_of(tmp_path / name) for name in names]).reshape(2, 2, 5, 32, 32, 3)
    z = noise(0, range(4)).reshape(2, 2, 5)
    for pair in range(2):
        start, end = z[pair]
        for way in range(2):
            ends = images[pair, way, [0, -1]]
            assert_close(ends, decode(open_run(vivid).model, torch.stack([start, end])))
        line = torch.stack([start, 0.75 * start + 0.25 * end, (start + end) / 2])
        assert_close(images[pair, 0, :3], decode(open_run(vivid).model, line))
        assert np.abs(images[pair, 0, 2].astype(int) - images[pair, 1, 2]).max() > 1


def test_a_traversal_changes_one_dimension_of_the_mean_code_at_a_time(vivid, tmp_path):
    flags = [
        "--checkpoint",
        vivid,
        "--show",
        "traversal",
        "--columns",
        "3",
        "--dimensions",
        "4",
        "1",
    ]
    output = ["--files", str(tmp_path), "--output", str(tmp_path / "a.png")]
    assert generate.main([*flags, *output]) == 0
    run, codes = open_run(vivid), []
    for dimension in (4, 1):
        for value in (-3.0, 0.0, 3.0):
            z = run.checkpoint.statistics["mean"].clone()
            z[dimension] = value
            codes.append(z)
    images = [pixels_of(tmp_path / f"traversal-{index:04d}.png") for index in range(6)]
    assert_close(np.stack(images), decode(run.model, torch.stack(codes)))


# Refined faces


def refined(run, x_hat, numbers, steps, strength, seed=0):
    """Return decoded images refined, by a loop over the times, as pixels."""
    shape = (3, 32, 32)
    rows = [
        np.random.default_rng((seed, one, 2)).standard_normal(shape, np.float32) for one in numbers
    ]
    refiner, y = run.refiner, x_hat + run.refiner.noise * torch.from_numpy(np.stack(rows))
    with torch.no_grad():
        for step in range(steps):
            y = y + refiner(y, x_hat, torch.full((len(y),), step / steps)) / steps
    return as_pixels((x_hat + strength * (y - x_hat)).clamp(0, 1))


def shown_by(tmp_path, name, *flags):
    """Return the single faces that generate.py writes with these flags, in their order."""
    output = ["--files", str(tmp_path / name), "--output", str(tmp_path / "a.png")]
    assert generate.main([*flags, *output]) == 0
    return np.stack([pixels_of(path) for path in sorted((tmp_path / name).iterdir())])


def test_a_grid_shows_refined_faces_unless_told_not_to(sharp, tmp_path):
    flags = ["--count", "5", "--seed", "3", *STANDARD]
    run = open_run("runs/celeba-32")
    with torch.no_grad():
        x_hat = run.model.decode(noise(3, range(5))).clamp(0, 1)
    plain = as_pixels(x_hat)
    assert_close(shown_by(tmp_path, "plain", "--no-refine", *flags), plain)
    for name, given, steps, strength in (
        ("run", [], 8, 0.8),
        ("given", ["--refine-steps", "3", "--refine-strength", "1"], 3, 1.0),
    ):
        expected = refined(run, x_hat, range(5), steps, strength, seed=3)
        assert_close(shown_by(tmp_path, name, *flags, *given), expected)
        assert np.abs(expected.astype(int) - plain).max() > 4


def test_pictures_that_are_not_refined_have_names_of_their_own(sharp, capsys):
    for flags in ([], ["--no-refine"]):
        assert generate.main(["--count", "2", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(".png")] == [
        "runs/celeba-32/grid.png",
        "runs/celeba-32/grid-decoded.png",
    ]


def test_a_run_without_a_refiner_cannot_be_told_how_to_refine(home, tmp_path, capsys):
    output = ["--output", str(tmp_path / "a.png")]
    assert generate.main(["--count", "2", *output]) == 0
    assert generate.main(["--refine-steps", "2", *output]) == 2
    assert "runs/celeba-32/best.pt has no refiner: train.py --resume" in capsys.readouterr().err


def test_a_refined_face_does_not_change_with_the_count(sharp, tmp_path):
    few = shown_by(tmp_path, "few", "--count", "2")
    many = shown_by(tmp_path, "many", "--count", "70")
    assert np.abs(few.astype(int) - many[:2]).max() <= 1


def test_equal_codes_of_an_interpolation_are_equal_refined_pictures(sharp, tmp_path):
    one, other = (f"data/celeba/img_align_celeba/00000{number}.jpg" for number in (1, 2))
    flags = ["--show", "interpolation", "--columns", "3", "--image", one, one, other]
    shown = shown_by(tmp_path, "faces", *flags).astype(int).reshape(2, 2, 3, 32, 32, 3)
    still, moving = shown
    assert np.abs(still - still[0, 0]).max() <= 1
    assert np.abs(moving[:, 0] - moving[:, 2]).max() > 20
    # the noise is that of the pair
    run = open_run("runs/celeba-32")
    squares = [read_square(Path(path).read_bytes(), 32, "frame")[0] for path in (one, other)]
    x_hat = run.decode(run.encode(to_float(torch.from_numpy(np.stack(squares))))[0])
    assert_close(moving[0, [0, 2]], refined(run, x_hat, [1, 1], 8, 0.8))


def test_the_faces_of_a_traversal_have_the_same_noise(sharp, tmp_path):
    flags = ["--show", "traversal", "--columns", "3", "--dimensions", "4", "1"]
    shown = shown_by(tmp_path, "faces", *flags)
    run, codes = open_run("runs/celeba-32"), []
    for dimension in (4, 1):
        for value in (-3.0, 0.0, 3.0):
            codes.append(run.checkpoint.statistics["mean"].clone())
            codes[-1][dimension] = value
    assert_close(shown, refined(run, run.decode(torch.stack(codes)), [0] * 6, 8, 0.8))


def test_histograms_show_narrower_means_than_samples(home, tmp_path):
    output = ["--output", str(tmp_path / "a.png"), "--dimensions", "2"]
    assert generate.main(["--show", "histograms", *output]) == 0
    widths = {}
    for kind in ("means", "samples"):
        pixels = pixels_of(tmp_path / f"a-histograms-{kind}.png").astype(int)
        blue = (np.abs(pixels - (76, 114, 176)) <= 2).all(axis=2)
        widths[kind] = np.ptp(np.nonzero(blue)[1])
    # the small model's means are all near 0, its samples nearly those of N(0, 1)
    assert widths["means"] < 20
    assert widths["samples"] > 40


def test_ones_own_pictures_are_reconstructed_and_interpolated(vivid, tmp_path):
    pictures = [f"data/celeba/img_align_celeba/00000{number}.jpg" for number in (1, 2, 3)]
    shows = ["--checkpoint", vivid, "--show", "reconstructions", "interpolation"]
    output = ["--output", str(tmp_path / "me.png"), "--files", str(tmp_path)]
    assert generate.main([*shows, "--image", *pictures, *output]) == 0
    shown = cells(pixels_of(tmp_path / "me-reconstructions.png"), columns=3)
    for path, original in zip(pictures, shown, strict=False):
        with Image.open(path) as picture:
            square = picture.crop((6, 11, 38, 43))  # 32 x 32 of 44 x 54: the crop of training
        assert np.abs(np.asarray(square).astype(int) - original).mean() < 3
    assert len(list(tmp_path.glob("reconstructions-*.png"))) == 3
    assert len(list(tmp_path.glob("interpolation-*.png"))) == 2 * 2 * 8
    first, last = (pixels_of(tmp_path / f"interpolation-000{index}.png") for index in (0, 7))
    assert_close(np.stack([first, last]), shown[3:5])


def test_pictures_are_made_without_the_data_set(home, tmp_path, monkeypatch):
    shutil.copy("runs/celeba-32/best.pt", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert generate.main(["--checkpoint", "best.pt", "--show", "grid", "traversal"]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"grid.png", "traversal.png"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "file/a.png"], "cannot write file/a.png: a part of the path is a file"),
        (["--output", "taken.png"], "cannot write taken.png: it is a folder"),
        (["--files", "file"], "cannot write file/face.png: a part of the path is a file"),
        (
            ["--show", "grid", "reconstructions", "--output", "all.png"],
            "cannot write all-reconstructions.png: it is a folder",
        ),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    home, tmp_path, monkeypatch, capsys, flags, message
):
    shutil.copy("runs/celeba-32/best.pt", tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    for name in ("taken.png", "all-reconstructions.png"):
        Path(name).mkdir()
    before = set(tmp_path.rglob("*"))
    # there is no data set here: with work done first, that would be the message
    shows = [] if "--show" in flags else ["--show", "reconstructions"]
    assert generate.main(["--checkpoint", "best.pt", *shows, *flags]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: {message}\n"
    assert "prior: " not in printed.out
    assert set(tmp_path.rglob("*")) == before
