import re

import numpy as np
import torch
from layouts import zip_layout

from benchmarks import training
from vae.data.faces import load_faces

FLAGS = ["--data", "data/celeba", "--image-size", "32", "--latent-dim", "3", "--device", "cpu"]
FLAGS += ["--rounds", "3", "--steps", "1", "--warm-up", "1", "--workers", "0"]


def printed(capsys, pattern):
    return re.findall(pattern, capsys.readouterr().out, re.MULTILINE)


def numbers(row):
    return [float(text.replace(",", "")) for text in row]


def test_training_prints_medians_and_ratios_with_the_range_of_the_rounds(celeba, capsys):
    assert training.main(FLAGS) == 0
    rows = printed(capsys, r"^(\D+?) +([\d.,]+) \(([\d.,]+) to ([\d.,]+)\)$")
    figures = {name: numbers(row) for name, *row in rows}
    rates = [f"{name}, images/s" for name in ("reference", "classic", "calibrated", "sharp")]
    ratios = ["classic / reference", "calibrated / classic", "sharp / classic"]
    assert list(figures) == [*rates, *ratios]
    for median, low, high in figures.values():
        assert 0 < low <= median <= high


def test_every_second_round_runs_in_reverse_order(celeba, capsys):
    assert training.main(FLAGS) == 0
    names = [name for _, name in printed(capsys, r"^round (\d), (\w+): [\d,]+ images/s$")]
    loops = ["reference", "classic", "calibrated", "sharp"]
    assert names == [*loops, *reversed(loops), *loops]


def test_whole_epochs_of_random_images_are_trained_and_leave_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert training.main([*FLAGS, "--random-images", "24", "--full", "--epochs", "2"]) == 0
    (parts,) = printed(capsys, r"^2 epochs more: training ([\d.]+) s, validation ([\d.]+) s$")
    assert numbers(parts)[0] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_zip_is_refused_because_the_reference_opens_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    zip_layout(tmp_path / "data" / "celeba")
    assert training.main(FLAGS) == 2
    assert "is a zip: the reference loop needs a folder" in capsys.readouterr().err


def test_the_reference_loop_trains_on_the_crops_that_are_packed(celeba):
    faces = load_faces("data/celeba", 32, "cache")
    pictures = training.training_pictures(training.parse_arguments(FLAGS), faces)
    assert len(pictures) == len(faces.rows("train"))
    for index, row in enumerate(faces.rows("train")[:5]):
        square = torch.from_numpy(faces.pixels[row].copy()).permute(2, 0, 1) / 255
        x = pictures[index]
        assert torch.equal(x, square) or torch.equal(x, square.flip(2))


def test_both_loops_take_the_same_steps_given_the_same_batches_and_noise():
    args = training.parse_arguments([*FLAGS, "--precision", "fp32", "--random-images", "24"])
    faces = training.random_faces(24, 32)
    loops = [training.Reference(args, faces), training.Ours(args, faces, "classic")]
    images = next(loops[1].batches())
    losses = []
    for loop in loops:
        torch.manual_seed(4)
        losses.append([list(map(float, loop.step(x))) for x in images.split(8)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
