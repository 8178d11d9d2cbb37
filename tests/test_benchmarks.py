import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_celeba import NAMES, SIGNS, kaggle_layout, torchvision_layout

import train
from benchmarks import (
    against_pythae,
    loops,
    make_celeba8k,
    measuring,
    memory,
    packing,
    tied_glasses,
    training,
)
from vae.celeba import find_faces
from vae.loader import load_faces
from vae.model import VAE
from vae.synthetic import write_synthetic


def test_the_small_set_is_the_first_pictures_at_half_scale_with_their_tables(tmp_path, capsys):
    source, target = kaggle_layout(tmp_path / "full"), tmp_path / "sets" / "small"
    (source / "identity_CelebA.txt").write_text("".join(f"{name} {name[3:6]}\n" for name in NAMES))
    assert make_celeba8k.main([str(source), str(target), "--count", "16"]) == 0
    small = find_faces(target)
    assert small.names == NAMES[:16]
    assert np.bincount(small.splits).tolist() == [14, 1, 1]
    np.testing.assert_array_equal(small.attributes, SIGNS[:16] == 1)
    assert len((target / "identity_CelebA.txt").read_text().splitlines()) == 16
    with small.reader() as read:
        assert Image.open(io.BytesIO(read(NAMES[15]))).size == (9, 11)
    assert capsys.readouterr().out.strip() == str(target)
    assert [path.name for path in target.parent.iterdir()] == ["small"]


def test_the_small_set_is_not_made_over_another_nor_from_too_few(tmp_path, capsys):
    source, target = torchvision_layout(tmp_path / "full"), tmp_path / "small"
    assert make_celeba8k.main([str(source), str(target)]) == 2
    assert "--count must be from 1 to 20; got 8000" in capsys.readouterr().err
    assert make_celeba8k.main([str(source), str(source), "--count", "4"]) == 2
    assert "is there already" in capsys.readouterr().err
    (source / "list_attr_celeba.txt").unlink()
    assert make_celeba8k.main([str(source), str(target), "--count", "4"]) == 2
    assert "has no list_attr_celeba.txt beside it" in capsys.readouterr().err


CPU = torch.device("cpu")
TINY = ["--data", "data/celeba", "--image-size", "32", "--latent-dim", "3"]
TINY += ["--batch-size", "8", "--device", "cpu", "--rounds", "2"]
BRIEF = ["--steps", "1", "--warm-up", "1", "--workers", "0"]


def figures_printed(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def is_spread(figures):
    return 0 < figures["min"] <= figures["median"] <= figures["max"]


def test_training_gives_rates_ratio_and_parts_of_both_loops(celeba, capsys):
    flags = [*TINY, *BRIEF, "--image-size", "16"]
    assert training.main([*flags, "--epochs", "3"]) == 0
    figures = figures_printed(capsys)
    counts = {name: len(rates) for name, rates in figures["rates"].items()}
    assert counts == {"reference": 2, "ours": 2, "ours, best recipe": 2}
    assert is_spread(figures["ratio"])
    assert is_spread(figures["recipe_ratio"])
    for loop in ("reference", "ours"):
        assert list(figures["milliseconds"][loop]) == ["load", "forward", "backward", "step"]
        seconds = 3 * 40 / np.median(figures["rates"][loop])
        assert figures["predicted_seconds"][loop] == pytest.approx(seconds)
    versions = {"torch", "torchvision", "pillow"}
    assert set(figures["machine"]) == {"processor", "cores", "gpu"} | versions


def test_training_takes_random_pixels_and_runs_whole_epochs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [*TINY, *BRIEF, "--random-images", "24"]
    assert training.main([*flags, "--full", "--epochs", "2"]) == 0
    figures = figures_printed(capsys)
    assert figures["full"]["epochs"] == 2
    assert figures["full"]["training_seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_reference_loop_sees_the_squares_that_are_packed(celeba):
    faces = load_faces("data/celeba", 32, "cache")
    pictures = loops.training_pictures(faces, celeba, 32)
    assert len(pictures) == len(faces.rows("train"))
    for index, row in enumerate(faces.rows("train")[:5]):
        square = torch.from_numpy(faces.pixels[row].copy()).permute(2, 0, 1) / 255
        x = pictures[index]
        assert torch.equal(x, square) or torch.equal(x, square.flip(2))


def test_both_loops_take_the_same_steps_given_the_same_batches_and_noise():
    args = training.parse_arguments([*TINY, "--precision", "fp32", "--workers", "0"])
    with loops.random_faces(24, 32) as faces:
        pictures = loops.training_pictures(faces, None, 32)
        reference = loops.Reference(args, pictures, CPU)
        ours = loops.Ours(args, faces, CPU)
        images = list(ours.epoch(1))
    losses = {}
    for name, loop in {"reference": reference, "ours": ours}.items():
        torch.manual_seed(4)
        for x in images:
            loop.step(x)
        losses[name] = [term.item() for term in loop.loss(images[0])]
    assert losses["ours"] == pytest.approx(losses["reference"], rel=1e-4)


@pytest.mark.skipif(not memory.STATUS.exists(), reason="counts what Linux counts")
def test_memory_beyond_the_model_is_the_peak_less_four_floats_a_weight(capsys):
    flags = ["--images", "24", "--image-size", "32", "--latent-dim", "3", "--batch-size", "8"]
    assert memory.main([*flags, "--steps", "4"]) == 0
    megabytes = figures_printed(capsys)["megabytes"]
    weights = sum(weight.numel() for weight in VAE(32, latent_dim=3).parameters())
    # weight, gradient and two moments; Adam's count of steps is one float a tensor
    state = megabytes["weights, gradients and Adam"]
    assert state == pytest.approx(16 * weights / 1e6, rel=1e-3)
    rest = megabytes["largest RssAnon"] - megabytes["RssAnon beyond those"]
    assert rest == pytest.approx(state)
    assert megabytes["largest RssAnon"] >= megabytes["RssAnon before the model"]


def test_turns_are_taken_in_either_order():
    taken = []
    measures = {"a": lambda: taken.append("a") or 1.0, "b": lambda: taken.append("b") or 2.0}
    assert measuring.in_turns(measures, 3) == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert "".join(taken) == "abbaab"


def test_packing_gives_shares_of_bare_decoding_from_folder_and_zip(celeba, capsys):
    flags = ["--data", "data/celeba", "--image-size", "16", "--rounds", "2"]
    assert packing.main([*flags, "--max-images", "20", "--copies", "3"]) == 0
    figures = figures_printed(capsys)
    assert figures["count"] == 60
    assert list(figures["seconds_of_finding"]) == ["folder", "zip"]
    for key in ("shares", "shares_of_torchvision"):
        assert list(figures[key]) == ["pack, folder", "pack, zip"]
        assert all(is_spread(share) for share in figures[key].values())
    assert list(celeba.parent.iterdir()) == [celeba]


def test_without_pythae_one_line_says_what_to_install(celeba, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pythae", None)
    assert against_pythae.main(TINY) == 2
    assert "pip install pythae" in capsys.readouterr().err


def test_with_pythae_both_trainers_get_rates_and_a_ratio(celeba, capsys):
    pytest.importorskip("pythae")
    assert against_pythae.main(TINY) == 0
    figures = figures_printed(capsys)
    assert figures["count"] == 40
    counts = {name: len(rates) for name, rates in figures["rates"].items()}
    assert counts == {"pythae": 2, "ours": 2}
    assert is_spread(figures["ratio"])


def test_tied_glasses_gives_each_methods_cosine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_synthetic(Path("drawn"), 60)
    small = ["--image-size", "32", "--channels", "4", "6", "--latent-dim", "5", "--epochs", "1"]
    assert train.main([*small, "--data", "drawn", "--run-dir", "run"]) == 0
    capsys.readouterr()
    assert tied_glasses.main(["--checkpoint", "run", "--count", "150"]) == 0
    cosines = figures_printed(capsys)["cosines"]
    assert list(cosines) == ["mean", "balanced", "round-trip", "lda", "logistic"]
    assert all(-1 <= cosine <= 1 for cosine in cosines.values())
