import contextlib
import os
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from config import TrainConfig
from vae import VAE, open_run
from vae.checkpoint import (
    FORMAT,
    Checkpoint,
    JudgeCheckpoint,
    build_model,
    load_checkpoint,
    save_checkpoint,
)
from vae.errors import RunStopped, UserError
from vae.run_folders import PRETRAINED

CPU = torch.device("cpu")


def make_checkpoint(**changes):
    model = VAE(32, (4, 6), 5)
    known = {"config": asdict(TrainConfig()), "arch": model.arch, "weights": model.state_dict()}
    known |= {"crop": "frame", "digest": "d", "epoch": 2, "variance": 0.5}
    return Checkpoint(**known | changes)


def test_a_checkpoint_rebuilds_its_model_by_itself(tmp_path):
    checkpoint = make_checkpoint()
    save_checkpoint(checkpoint, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    model = build_model(tmp_path / "last.pt", loaded, CPU)
    assert not model.training
    assert loaded.arch == {
        "architecture": "listed",
        "image_size": 32,
        "channels": [4, 6],
        "latent_dim": 5,
    }
    for name, value in checkpoint.weights.items():
        assert torch.equal(model.state_dict()[name], value)


def leaves(value):
    if isinstance(value, dict):
        assert all(isinstance(key, str | int) for key in value)
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_the_file_has_tensors_and_primitives_alone(home, name):
    stored = torch.load(f"runs/celeba-32/{name}", weights_only=True)
    allowed = torch.Tensor | str | int | float | bool | None
    assert all(isinstance(leaf, allowed) for leaf in leaves(stored))
    assert not [key for key in stored["weights"] if key.startswith(("module", "_"))]


def test_only_the_last_checkpoint_has_what_resuming_needs(home):
    last = load_checkpoint(Path("runs/celeba-32/last.pt"))
    best = load_checkpoint(Path("runs/celeba-32/best.pt"))
    assert {"weights", "optimizer", "history"} <= last.training.keys()
    assert best.training is None
    assert best.statistics.keys() == last.statistics.keys()
    sizes = [Path(f"runs/celeba-32/{name}.pt").stat().st_size for name in ("best", "last")]
    # the weights in training, and the two moments of Adam
    numbers = sum(value.numel() for value in last.weights.values())
    assert sizes[1] - sizes[0] > 3 * 4 * numbers


def test_the_statistics_of_a_run_are_those_of_its_weights(home):
    run = open_run("runs/celeba-32/best.pt")
    x = torch.from_numpy(run.faces.pixels[run.faces.rows("train")]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        mu, logvar = run.model.encode(x)
    statistics = run.checkpoint.statistics
    assert statistics["n"] == 40
    torch.testing.assert_close(statistics["mean"], mu.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics["covariance"], torch.cov(mu.T), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(statistics["mean_variance"], logvar.exp().mean(0), rtol=1e-4, atol=0)
    assert statistics["cooccurrence"].diagonal().sum() == run.faces.attributes[:40].sum()
    assert statistics["attribute_names"] == list(run.faces.attribute_names)


def test_a_file_that_was_cut_is_called_damaged(tmp_path):
    last = tmp_path / "last.pt"
    save_checkpoint(make_checkpoint(), last)
    whole = last.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        last.write_bytes(whole[:size])
        with pytest.raises(UserError) as caught:
            load_checkpoint(last)
        assert str(caught.value) == f"{last} is damaged (unexpected end)"


def test_a_damaged_last_checkpoint_names_the_best_one_where_there_is_one(tmp_path):
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    save_checkpoint(make_checkpoint(), best)
    last.write_bytes(best.read_bytes()[:-50])
    with pytest.raises(UserError) as caught:
        load_checkpoint(last)
    uses = f"the run cannot continue from it; {best} still generates"
    assert str(caught.value) == f"{last} is damaged (unexpected end): {uses}"


def test_a_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(make_checkpoint(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"best.pt is damaged \(a checksum is wrong\)$"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "foreign",
    [
        {"state_dict": {}},
        [1, 2],
        Path("a"),
        {"format": FORMAT},
        {"format": FORMAT, "epoch": 3},
        {"format": str(FORMAT)},
    ],
)
def test_a_file_of_another_project_is_refused(tmp_path, foreign):
    path = tmp_path / "model.pt"
    torch.save(foreign, path)
    with pytest.raises(UserError, match=r"model.pt is not a checkpoint of this project"):
        load_checkpoint(path)


def test_a_run_and_a_judge_are_not_taken_for_one_another(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(make_checkpoint(), path)
    with pytest.raises(UserError, match=r"last.pt is not a checkpoint of this project"):
        load_checkpoint(path, JudgeCheckpoint)


@pytest.mark.parametrize("changes", [{"latent_dim": 7}, {"architecture": "unet"}, {"channels": 3}])
def test_weights_that_do_not_fit_their_network_are_damage(tmp_path, changes):
    path = tmp_path / "last.pt"
    checkpoint = make_checkpoint()
    checkpoint.arch = checkpoint.arch | changes
    save_checkpoint(checkpoint, path)
    with pytest.raises(UserError, match=r"last.pt is damaged: "):
        load_checkpoint(path)


def test_a_text_file_is_no_checkpoint(tmp_path):
    (tmp_path / "notes.pt").write_text("these are my notes, and they are long enough")
    with pytest.raises(UserError, match=r"notes.pt is not a checkpoint of this project"):
        load_checkpoint(tmp_path / "notes.pt")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match=r"there is no checkpoint nowhere.pt"):
        load_checkpoint(Path("nowhere.pt"))


def test_another_format_is_refused(tmp_path):
    for number in (FORMAT - 1, FORMAT + 1):
        save_checkpoint(make_checkpoint(format=number), tmp_path / "last.pt")
        with pytest.raises(
            UserError, match=f"last.pt has format {number}, this code reads {FORMAT}"
        ):
            load_checkpoint(tmp_path / "last.pt")


def test_damage_anywhere_in_the_file_is_one_line(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(make_checkpoint(), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    # most flips in the directory, at the end, where zipfile raises many kinds of errors
    places = rng.integers(len(whole) - 3000, len(whole), 150)
    for place in places.tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            load_checkpoint(path)


@pytest.mark.parametrize("part", ["weights", "statistics", "training"])
def test_what_is_not_finite_is_refused(home, tmp_path, part):
    stored = torch.load("runs/celeba-32/last.pt", weights_only=True)
    places = {
        "weights": (stored["weights"]["fc_mu.bias"], "weights fc_mu.bias"),
        "statistics": (stored["statistics"]["mean"], "statistics mean"),
        "training": (
            stored["training"]["optimizer"]["state"][3]["exp_avg"],
            "training optimizer state 3 exp_avg",
        ),
    }
    tensor, name = places[part]
    tensor[2] = float("nan")
    torch.save(stored, tmp_path / "last.pt")
    with pytest.raises(UserError, match=f"last.pt is damaged: {name} is not finite"):
        load_checkpoint(tmp_path / "last.pt")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(make_checkpoint(), path)
    before = path.read_bytes()
    checkpoint = make_checkpoint()
    checkpoint.weights["fc_mu.bias"][2] = float("inf")
    with pytest.raises(RunStopped, match="was not written: weights became infinite"):
        save_checkpoint(checkpoint, path)
    assert path.read_bytes() == before


WRONG = [
    ("variance", None),
    ("variance", 0),
    ("variance", -1.0),
    ("config", {}),
    ("config prior", 3),
    ("config temperature", 10**30),
    ("config channels", torch.zeros(2, 2)),
    ("arch channels", [0, 0, 0]),
    ("arch latent_dim", 2_000_000),
    ("weights fc_mu.bias", "gone"),
    ("weights fc_mu.bias", torch.zeros(1).expand(7)),
    ("epoch", -1),
    ("statistics", {}),
    ("statistics mean", torch.zeros(4)),
    ("statistics priors mixture means", torch.zeros(8, 6)),
    ("statistics cooccurrence", torch.zeros(2, 2)),
    ("statistics attribute_names", [None] * 40),
    ("training", {}),
    ("training history", [{}]),
    ("training sums", None),
    ("training steps", -3),
    ("training weights fc_mu.bias", torch.zeros(3)),
    ("training optimizer param_groups", [{}]),
    ("training optimizer state", {0: {}}),
]


@pytest.mark.parametrize(("place", "value"), WRONG, ids=[f"{a}-{b}"[:40] for a, b in WRONG])
def test_a_part_that_is_missing_or_does_not_fit_is_one_line(home, tmp_path, place, value):
    stored = torch.load("runs/celeba-32/last.pt", weights_only=True)
    *above, last = place.split(" ")
    part = stored
    for name in above:
        part = part[name]
    if isinstance(value, str) and value == "gone":
        del part[last]
    else:
        part[last] = value
    torch.save(stored, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last.pt is damaged: "):
        load_checkpoint(tmp_path / "last.pt")


def test_a_tensor_in_the_place_of_a_dict_is_one_line_and_no_warning(home, tmp_path, recwarn):
    stored = torch.load("runs/celeba-32/last.pt", weights_only=True)
    torch.save(stored | {"training": torch.zeros(5, 3)}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last.pt is damaged: "):
        load_checkpoint(tmp_path / "last.pt")
    assert not recwarn.list


def test_a_judge_with_an_attribute_that_has_no_name_is_damaged(tmp_path):
    stored = torch.load(PRETRAINED / "guide.pt", weights_only=True)
    stored["arch"]["attribute_names"][3] = None
    torch.save(stored, tmp_path / "guide.pt")
    with pytest.raises(UserError, match=r"guide.pt is damaged: arch attribute_names cannot be"):
        load_checkpoint(tmp_path / "guide.pt", JudgeCheckpoint)


def test_an_archive_that_would_unpack_to_more_than_its_size_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(make_checkpoint(), path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(10**7))
    with pytest.raises(UserError, match="is not a checkpoint of this project"):
        load_checkpoint(path)


def test_a_pipe_is_no_checkpoint_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "last.pt")
    with pytest.raises(UserError, match="it is not a file"):
        load_checkpoint(tmp_path / "last.pt")
