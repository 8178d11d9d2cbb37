import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARP, SMALL, move_pretrained
from PIL import Image

import evaluate
import generate
import manipulate
import train
import train_judge
from config import EvaluateConfig, GenerateConfig, JudgeConfig, ManipulateConfig, TrainConfig
from vae import open_run
from vae.checkpoint import load_checkpoint, save_checkpoint
from vae.data.faces import load_faces
from vae.run_folders import own_run_dir

ROOT = Path(__file__).parent.parent
SCRIPTS = {
    train: TrainConfig,
    train_judge: JudgeConfig,
    generate: GenerateConfig,
    manipulate: ManipulateConfig,
    evaluate: EvaluateConfig,
}


def run_process(*arguments, **options):
    """Run a script as a user does, from the current folder."""
    script, *flags = arguments
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


def snapshot(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# What a run leaves


def test_a_run_leaves_what_the_readme_promises(home):
    names = {path.name for path in Path("runs/celeba-32").iterdir()}
    assert names == {
        "config.json",
        "metrics.csv",
        "curves.png",
        "faces.txt",
        "last.pt",
        "best.pt",
        "reconstructions-epoch-001.png",
        "reconstructions-epoch-002.png",
        "samples-epoch-001.png",
        "samples-epoch-002.png",
    }
    config = json.loads(Path("runs/celeba-32/config.json").read_text())
    assert (config["image_size"], config["beta"]) == (32, 1.0)
    assert set(config) == set(TrainConfig.__dataclass_fields__)
    assert config["device"] == "cpu"
    assert config["precision"] in ("fp32", "bf16")


def read_metrics(path="runs/celeba-32/metrics.csv"):
    with open(path) as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_the_metrics_have_a_line_per_epoch_with_all_terms(home):
    rows = read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert row["val_total"] == pytest.approx(row["val_recon"] + row["val_kl"])
        assert row["train_gradient_norm"] > 0
        assert 0 <= row["val_active_units"] <= 5
    # the last step of a one-cycle run has the lowest learning rate
    assert rows[-1]["learning_rate"] == pytest.approx(3e-3 / 250_000)


def test_best_is_the_epoch_with_the_lowest_validation_total(home):
    totals = [row["val_total"] for row in read_metrics()]
    best = load_checkpoint(Path("runs/celeba-32/best.pt"))
    assert best.epoch == totals.index(min(totals)) + 1


def test_an_epoch_is_one_line_of_at_most_100_columns(celeba, capsys):
    assert train.main([*SMALL, "--epochs", "2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert max(map(len, lines)) <= 100
    row = read_metrics()[1]
    assert lines[1].startswith("epoch 2/2  val ")
    assert f"kl {row['val_kl']:.4g}" in lines[1]
    assert f"PSNR {row['val_psnr']:.2f} dB" in lines[1]


def test_what_differs_from_the_defaults_is_printed_at_the_start(celeba, capsys):
    assert train.main([*SMALL, "--recipe", "classic", "--epochs", "1"]) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("recipe classic; not the defaults: --image-size 32")
    assert "--likelihood classic" in first
    assert "--beta" not in first


def test_training_learns(celeba):
    assert train.main([*SMALL, "--epochs", "12", "--learning-rate", "0.01"]) == 0
    totals = [row["val_total"] for row in read_metrics()]
    assert min(totals) < 0.6 * totals[0]


def same_weights(one, other):
    one, other = (open_run(path).model.state_dict() for path in (one, other))
    return [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_same_seed_gives_the_same_weights(celeba, trained):
    assert train.main([*SMALL, "--epochs", "2"]) == 0
    assert same_weights(trained / "runs/celeba-32/last.pt", "runs/celeba-32/last.pt")


# Resuming


def test_a_resumed_run_ends_as_one_that_never_stopped(celeba):
    # classic: a one-cycle schedule depends on the length of the run
    classic = [*SMALL, "--recipe", "classic"]
    assert train.main([*classic, "--epochs", "4", "--run-dir", "whole"]) == 0
    assert train.main([*classic, "--epochs", "2"]) == 0
    assert train.main(["--resume", "--epochs", "4"]) == 0
    config = load_checkpoint(Path("runs/celeba-32/last.pt")).config
    assert (config["epochs"], config["image_size"], config["likelihood"]) == (4, 32, "classic")
    assert load_checkpoint(Path("runs/celeba-32/last.pt")).epoch == 4
    assert same_weights("whole/last.pt", "runs/celeba-32/last.pt")
    assert [row["epoch"] for row in read_metrics()] == [1, 2, 3, 4]


def test_a_finished_run_is_left_as_it_is(home, capsys):
    before = snapshot("runs")
    assert train.main(["--resume"]) == 0
    assert "runs/celeba-32 is finished: nothing is missing" in capsys.readouterr().out
    assert snapshot("runs") == before


def test_a_finished_run_takes_another_prior_and_trains_nothing(celeba, capsys):
    assert train.main([*SMALL, "--epochs", "1"]) == 0
    before = open_run("runs/celeba-32").model.state_dict()
    assert train.main(["--resume", "--prior", "gaussian"]) == 0
    run = open_run("runs/celeba-32")
    assert run.checkpoint.config["prior"] == "gaussian"
    torch.testing.assert_close(run.model.state_dict(), before, rtol=0, atol=0)


def test_a_run_whose_best_checkpoint_is_gone_gets_one_again(celeba):
    assert train.main([*SMALL, "--epochs", "2"]) == 0
    Path("runs/celeba-32/best.pt").unlink()
    assert train.main(["--resume"]) == 0
    best = load_checkpoint(Path("runs/celeba-32/best.pt"))
    assert best.statistics is not None
    assert best.training is None


def test_resuming_completes_a_run_that_was_killed_before_its_statistics(celeba):
    assert train.main([*SMALL, "--epochs", "2"]) == 0
    expected = {}
    for name in ("last.pt", "best.pt"):
        path = Path("runs/celeba-32", name)
        checkpoint = load_checkpoint(path)
        expected[name], checkpoint.statistics = checkpoint.statistics, None
        save_checkpoint(checkpoint, path)
    assert train.main(["--resume"]) == 0
    for name, statistics in expected.items():
        again = load_checkpoint(Path("runs/celeba-32", name)).statistics
        assert again.pop("attribute_names") == statistics.pop("attribute_names")
        torch.testing.assert_close(again, statistics)


@pytest.mark.parametrize("saves", range(1, 6))
def test_a_run_killed_between_two_checkpoints_ends_as_one_that_was_not(
    celeba, trained, monkeypatch, saves
):
    left = iter(range(saves))

    def save_or_die(checkpoint, path):
        if next(left, None) is None:
            raise SystemExit(137)
        save_checkpoint(checkpoint, path)

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_checkpoint", save_or_die)
        assert train.main([*SMALL, "--epochs", "2"]) == 137
    assert train.main(["--resume"]) == 0
    run, whole = Path("runs/celeba-32"), trained / "runs/celeba-32"
    assert {path.name for path in whole.iterdir()} == {path.name for path in run.iterdir()}
    for name in ("best.pt", "last.pt"):
        assert load_checkpoint(run / name).epoch == load_checkpoint(whole / name).epoch
        assert same_weights(run / name, whole / name)
    for name in ("reconstructions-epoch-001.png", "samples-epoch-002.png", "curves.png"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_the_newest_run_is_resumed_whatever_was_looked_at_since(celeba):
    short = [*SMALL, "--epochs", "1"]
    assert train.main([*short, "--run-dir", "runs/first"]) == 0
    assert train.main([*short, "--run-dir", "runs/second"]) == 0
    looked_at = Path("runs/first/best.pt")
    checkpoint = load_checkpoint(looked_at)
    checkpoint.statistics = None
    save_checkpoint(checkpoint, looked_at)
    os.utime("runs/first/last.pt", (1, 1))
    assert generate.main(["--checkpoint", "runs/first", "--count", "2"]) == 0
    assert load_checkpoint(looked_at).statistics is None
    assert train.main(["--resume", "--epochs", "2"]) == 0
    epochs = [load_checkpoint(Path("runs", run, "last.pt")).epoch for run in ("first", "second")]
    assert epochs == [1, 2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_process_saves_its_work_and_can_be_resumed(celeba, number, code):
    process = run_process("train.py", *SMALL, "--epochs", "10000")
    last = Path("runs/celeba-32/last.pt")
    while not last.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err == (
        "interrupted: saved runs/celeba-32/last.pt; "
        "continue with: python train.py --resume runs/celeba-32\n"
    )
    epochs = load_checkpoint(last).epoch + 1
    assert train.main(["--resume", "runs/celeba-32", "--epochs", str(epochs)]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--latent-dim", "7"], "the run has --latent-dim 5; asked for 7: start a new run"),
        (["--recipe", "classic"], "the run has --recipe calibrated; asked for classic: start a"),
        (["--epochs", "3", "--ema-decay", "0"], "the run has --ema-decay 0.999; asked for 0.0"),
        (["--seed", "1"], "the run has --seed 0; asked for 1: start a new run"),
        (["--epochs", "1"], "--epochs is 1, but the run has begun epoch 2"),
        (["--epochs", "3", "--data", "other"], "names: 20 added, 60 gone"),
        (["--epochs", "3", "--beta", "4"], "the run has --beta 1.0; asked for 4.0"),
    ],
)
def test_what_a_run_cannot_change_is_refused_and_nothing_is_written(home, capsys, flags, message):
    if "other" in flags and not Path("other").exists():
        Path("other").mkdir()
        for index in range(20):
            Image.new("RGB", (40, 40), (index, 0, 0)).save(f"other/{index}.png")
    before = snapshot("runs")
    assert train.main(["--resume", "runs/celeba-32", *flags]) == 2
    assert message in capsys.readouterr().err
    assert snapshot("runs") == before


def test_best_is_for_use_and_not_for_resuming(home, capsys):
    assert train.main(["--resume", "runs/celeba-32/best.pt", "--epochs", "3"]) == 2
    assert (
        "best.pt has no training state: pass the run's folder or its last.pt"
        in capsys.readouterr().err
    )


def test_a_table_that_comes_later_gives_new_statistics_and_trains_nothing(celeba, capsys):
    table = celeba / "list_attr_celeba.txt"
    text = table.read_text()
    table.unlink()
    assert train.main([*SMALL, "--epochs", "2"]) == 0
    before = {
        name: load_checkpoint(Path("runs/celeba-32", name)) for name in ("last.pt", "best.pt")
    }
    # the last three training faces have no row
    lines = text.splitlines()
    table.write_text("\n".join(lines[:39] + lines[42:]) + "\n")
    assert train.main(["--resume"]) == 0
    for name, checkpoint in before.items():
        after = load_checkpoint(Path("runs/celeba-32", name))
        assert "attribute_n" not in checkpoint.statistics
        assert (after.statistics["n"], after.statistics["attribute_n"]) == (40, 37)
        smiling = after.statistics["attribute_names"].index("Smiling")
        assert after.statistics["cooccurrence"][smiling, smiling] == 18
        torch.testing.assert_close(after.weights, checkpoint.weights)
    capsys.readouterr()
    assert train.main(["--resume"]) == 0
    assert "nothing is missing" in capsys.readouterr().out
    table.write_text("\n".join([*lines[:40], lines[40].replace(" 1", "-1"), *lines[41:]]))
    assert train.main(["--resume", "--epochs", "3"]) == 0


def test_a_table_of_held_out_faces_alone_gives_a_model_without_attributes(celeba):
    table = celeba / "list_attr_celeba.txt"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:2] + lines[-10:]))
    assert train.main([*SMALL, "--epochs", "1"]) == 0
    assert "attribute_names" not in load_checkpoint(Path("runs/celeba-32/best.pt")).statistics


def test_pictures_added_or_gone_are_counted_and_other_pixels_are_refused(celeba, capsys):
    assert train.main([*SMALL, "--epochs", "1"]) == 0
    folder = celeba / "img_align_celeba"
    names = Path("runs/celeba-32/faces.txt").read_text().splitlines()
    assert names == sorted(path.name for path in folder.iterdir())
    content = (folder / "000001.jpg").read_bytes()
    (folder / "000001.jpg").unlink()
    Image.new("RGB", (44, 54)).save(folder / "000001.jpg")
    before = snapshot("runs")
    assert train.main(["--resume", "--epochs", "2"]) == 2
    assert "(other pixels): train.py with another --run-dir starts" in capsys.readouterr().err
    (folder / "000001.jpg").write_bytes(content)
    (folder / "000060.jpg").rename(folder / "000061.jpg")
    (folder / "000059.jpg").unlink()
    with (celeba / "list_eval_partition.txt").open("a") as table:
        table.write("000061.jpg 2\n")
    assert train.main(["--resume", "--epochs", "2"]) == 2
    assert "(other names: 1 added, 2 gone): train.py" in capsys.readouterr().err
    assert snapshot("runs") == before


def test_the_current_folder_gives_its_name_to_the_run(celeba, monkeypatch):
    monkeypatch.chdir(celeba)
    assert train.main([*SMALL, "--epochs", "1", "--data", "."]) == 0
    assert Path("runs/celeba-32/last.pt").exists()
    # the pictures of the run are no data
    assert train.main(["--resume", "--epochs", "2"]) == 0


# The recipe sharp: a VAE, then its refiner


def test_a_run_with_a_refiner_leaves_its_files_and_two_checkpoints_with_it(sharp):
    names = {path.name for path in Path("runs/celeba-32").iterdir()}
    phases = [("", ("001", "002")), ("refiner-", ("001",))]
    assert names == {"config.json", "faces.txt", "last.pt", "best.pt"} | {
        name
        for prefix, epochs in phases
        for name in (
            f"{prefix}metrics.csv",
            f"{prefix}curves.png",
            *(f"reconstructions-{prefix}epoch-{epoch}.png" for epoch in epochs),
            *(f"samples-{prefix}epoch-{epoch}.png" for epoch in epochs),
        )
    }
    [row] = read_metrics("runs/celeba-32/refiner-metrics.csv")
    assert row["epoch"] == 1
    assert row["val_total"] > 0
    for name in ("best.pt", "last.pt"):
        checkpoint = load_checkpoint(Path("runs/celeba-32", name))
        assert (checkpoint.arch["architecture"], checkpoint.config["warp"]) == ("skip", 0.7)
        assert checkpoint.refiner["epoch"] == 1
        assert checkpoint.refiner["arch"]["channels"] == [8, 8]
        assert checkpoint.statistics["n"] == 40
        assert (checkpoint.training is None) == (name == "best.pt")


def same_refiners(one, other):
    one, other = (load_checkpoint(Path(path)).refiner["weights"] for path in (one, other))
    return all(torch.equal(one[name], other[name]) for name in one)


def test_more_epochs_of_the_refiner_train_nothing_else(sharp, trained_sharp, capsys):
    table = Path("runs/celeba-32/metrics.csv").read_bytes()
    assert train.main(["--resume", "--refiner-epochs", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:19] for line in lines if "epoch " in line] == [
        "refiner-epoch 2/3  ",
        "refiner-epoch 3/3  ",
    ]
    assert Path("runs/celeba-32/metrics.csv").read_bytes() == table
    rows = read_metrics("runs/celeba-32/refiner-metrics.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    last = "runs/celeba-32/last.pt"
    assert load_checkpoint(Path(last)).refiner["epoch"] == 3
    assert same_weights(last, trained_sharp / last)
    assert not same_refiners(last, trained_sharp / last)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "3"], "--epochs must stay 2: the run has a refiner, which is trained on"),
        (["--refiner-epochs", "0"], "--refiner-epochs is 0, but the run has begun epoch 1"),
        (["--refiner-channels", "8"], "the run has --refiner-channels (8, 8); asked for (8,)"),
    ],
)
def test_what_a_run_with_a_refiner_cannot_change_is_refused(sharp, capsys, flags, message):
    before = snapshot("runs")
    assert train.main(["--resume", *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert snapshot("runs") == before


def test_a_finished_run_with_a_refiner_is_left_as_it_is(sharp, capsys):
    before = snapshot("runs")
    assert train.main(["--resume"]) == 0
    assert "nothing is missing" in capsys.readouterr().out
    assert snapshot("runs") == before


def test_a_run_killed_between_its_phases_ends_as_one_that_was_not(celeba, trained_sharp):
    assert train.main([*SHARP, "--refiner-epochs", "0"]) == 0
    for name in ("best.pt", "last.pt"):
        path = Path("runs/celeba-32", name)
        checkpoint = load_checkpoint(path)
        checkpoint.statistics = None
        save_checkpoint(checkpoint, path)
    assert train.main(["--resume", "--refiner-epochs", "1"]) == 0
    for name in ("best.pt", "last.pt"):
        path = Path("runs/celeba-32", name)
        assert load_checkpoint(path).statistics["n"] == 40
        assert same_weights(path, trained_sharp / path)
        assert same_refiners(path, trained_sharp / path)


# Starting from another run


def test_a_run_takes_its_networks_from_the_one_that_it_starts_from(sharp):
    first = load_checkpoint(Path("runs/celeba-32/best.pt"))
    # rates at which no weight moves
    still = ["--learning-rate", "1e-20", "--refiner-learning-rate", "1e-20", "--refiner-epochs"]
    flags = ["--init", "runs/celeba-32", "--epochs", "1", *still, "1", "--batch-size", "16"]
    assert train.main([*flags, "--device", "cpu", "--run-dir", "second"]) == 0
    second = load_checkpoint(Path("second/best.pt"))
    assert second.arch == first.arch
    assert second.refiner["arch"] == first.refiner["arch"]
    assert (second.config["architecture"], second.config["latent_dim"]) == ("skip", 5)
    for name, parameter in open_run("second").model.named_parameters():
        torch.testing.assert_close(parameter.detach(), first.weights[name], msg=name)
    for name, value in second.refiner["weights"].items():
        torch.testing.assert_close(value, first.refiner["weights"][name], msg=name)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--latent-dim", "7"], "best.pt has --latent-dim 5; asked for 7"),
        (["--image-size", "48"], "best.pt has --image-size 32; asked for 48"),
        (["--channels", "4", "7"], "best.pt has --channels [4, 6]; asked for (4, 7)"),
        (["--architecture", "listed"], "best.pt has --architecture skip; asked for listed"),
        (["--refiner-channels", "8"], "best.pt has --refiner-channels [8, 8]; asked for (8,)"),
    ],
)
def test_a_flag_that_differs_from_the_network_to_start_from_is_refused(
    sharp, capsys, flags, message
):
    before = snapshot(sharp)
    assert train.main(["--init", "runs/celeba-32", *flags]) == 2
    err = capsys.readouterr().err
    assert err == f"error: runs/celeba-32/{message}\n"
    assert snapshot(sharp) == before


def test_a_resumed_run_that_started_from_another_ends_as_one_that_never_stopped(sharp):
    flags = ["--init", "runs/celeba-32", "--schedule", "constant", "--batch-size", "16"]
    flags += ["--refiner-epochs", "0", "--device", "cpu", "--run-dir"]
    assert train.main([*flags, "whole", "--epochs", "2"]) == 0
    assert train.main([*flags, "parts", "--epochs", "1"]) == 0
    assert train.main(["--resume", "parts", "--epochs", "2"]) == 0
    assert same_weights("whole/last.pt", "parts/last.pt")
    assert not same_weights("whole/last.pt", "runs/celeba-32/last.pt")


# Attributes of one's own


def test_three_attributes_of_ones_own_are_trained_on_and_edited(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("mine/img_align_celeba")
    folder.mkdir(parents=True)
    rows = []
    for index in range(90):
        has = (index % 2, index % 3 == 0, index < 60)
        red, green = 40 + 150 * has[0], 40 + 150 * has[1]
        Image.new("RGB", (44, 54), (red, green, 90 + index)).save(folder / f"{index:03d}.png")
        rows.append(f"{index:03d}.png " + " ".join("1" if one else "-1" for one in has))
    table = ["90", "Tattoo Red_Hair Freckles", *rows]
    Path("mine/list_attr_celeba.txt").write_text("\n".join(table) + "\n")
    assert train.main([*SMALL, "--data", "mine", "--epochs", "2"]) == 0
    statistics = load_checkpoint(Path("runs/mine-32/best.pt")).statistics
    assert statistics["attribute_names"] == ["Tattoo", "Red_Hair", "Freckles"]
    assert statistics["cooccurrence"].shape == (3, 3)
    assert manipulate.main(["--faces", "0", "1"]) == 0
    written = {path.name for path in Path("runs/mine-32").glob("*.png")}
    assert {"Tattoo.png", "Red_Hair.png"} <= written
    assert "Freckles.png" not in written
    assert manipulate.main(["--attribute", "freckles", "--faces", "0"]) == 0
    assert evaluate.main([]) == 0
    capsys.readouterr()
    assert manipulate.main(["--attribute", "Smiling"]) == 2
    assert "Known: Tattoo, Red_Hair, Freckles" in capsys.readouterr().err


# Data without attributes


def test_a_plain_folder_trains_and_generates_and_an_edit_says_what_it_lacks(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for index in range(40):
        Image.new("RGB", (50, 40), (5 * index, 90, 0)).save(f"mine/{index}.png")
    assert train.main([*SMALL, "--data", "mine", "--epochs", "1"]) == 0
    assert generate.main(["--show", "grid", "reconstructions", "--count", "4"]) == 0
    capsys.readouterr()
    assert manipulate.main([]) == 2
    assert "trained on pictures without attributes" in capsys.readouterr().err


def test_the_faces_of_photographs_are_cut_and_trained_on(celeba, capsys):
    """No detector is needed here: the pictures are in CelebA's frame."""
    assert train.main([*SMALL, "--align", "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "aligned: 60 faces in 60 of 60 pictures of data/celeba/img_align_celeba" in printed
    folder = next(path for path in Path("data/cache").iterdir() if path.is_dir())
    assert json.loads(Path("runs/celeba-32/config.json").read_text())["data"] == str(folder)
    aligned, plain = (load_faces(data, 32, "data/cache") for data in (str(folder), "data/celeba"))
    np.testing.assert_array_equal(aligned.pixels, plain.pixels)
    np.testing.assert_array_equal(aligned.splits, plain.splits)
    np.testing.assert_array_equal(aligned.attributes, plain.attributes)
    assert train.main([*SMALL, "--resume", "runs/celeba-32", "--epochs", "2"]) == 0
    assert manipulate.main(["--source", "val", "--faces", "0"]) == 0


FACE = "data/celeba/img_align_celeba/000001.jpg"

# Mistakes: one line, the exit code, and nothing written or lost


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (train, ["--image-size", "63"], "--image-size must be a multiple of 16, at least 32; got"),
        (train, ["--image-size", "big"], "argument --image-size: invalid int value: 'big'"),
        (train, ["--epoch", "3"], "unrecognized arguments: --epoch"),
        (train, ["--learning-rate", "0"], "--learning-rate must be above 0; got 0.0"),
        (train, ["--learning-rate", "nan"], "--learning-rate must be above 0; got nan"),
        (train, ["--beta", "-1"], "--beta must be at least 0; got -1.0"),
        (train, ["--device", "gpu"], "--device must be auto, cpu, cuda, cuda:N or mps; got gpu"),
        (train, ["--device", "9" * 30], "--device must be auto, cpu, cuda, cuda:N or mps; got 999"),
        (train, ["--device", "cuda:7"], "--device cuda:7 is not on this machine"),
        (
            train,
            ["--data", "nowhere"],
            "no images under nowhere: there is no such folder; get CelebA",
        ),
        (train, ["--run-dir", "runs/celeba-32"], "holds a run: continue it with --resume"),
        (train, ["--resume", "nowhere"], "there is no checkpoint nowhere"),
        (generate, ["--show", "everything"], "invalid choice: 'everything'"),
        (generate, ["--columns", "1"], "--columns must be at least 2; got 1"),
        (generate, ["--output", "a.xyz"], "--output must end in .png, .jpg, .jpeg, .webp"),
        (generate, ["--image", FACE, "--show", "interpolation"], "needs two faces or more"),
        (generate, ["--show", "traversal", "--dimensions", "5"], "--dimensions go to 4 in this"),
        (generate, ["--checkpoint", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (generate, ["--image", "no.jpg", "--show", "reconstructions"], "no.jpg: no such file"),
        (
            manipulate,
            ["--eyes", "1", "2", "3", "4"],
            "--eyes, --aligned and --which are for --image",
        ),
        (manipulate, ["--image", FACE, "--eyes", "1", "2"], "--eyes needs four numbers, X Y X Y"),
        (
            manipulate,
            ["--image", FACE, "--eyes", "9", "9", "9", "9"],
            "must be two pixels of data/",
        ),
        (manipulate, ["--image", FACE, "--eyes", "9", "9", "99", "9"], "which has 44 x 54"),
        (manipulate, ["--image", FACE, "--which", "1"], "--which goes to 0 in data/celeba/img_al"),
        (manipulate, ["--image", FACE, "--which", "0", "--aligned"], "pass one of --eyes, --align"),
        (train, ["--align", "--data", "synthetic"], "--align is for a folder of photographs"),
        (train, ["--align", "--data", "nowhere"], "no images under nowhere"),
        (manipulate, ["--attribute", "Smilling"], 'no attribute "Smilling": did you mean "Smil'),
        (manipulate, ["--attribute", "Bald"], "Bald: 0 of the 40 training faces have it"),
        (manipulate, ["--source", "val", "--faces", "12"], "--faces of the val split go to 11"),
        (manipulate, ["--attribute", "Smiling", "Bald"], "Bald: 0 of the 40 training faces have"),
        (manipulate, ["--add", "Smiling", "--remove", "Balled"], 'no attribute "Balled"'),
        (generate, ["--show", "grid", "traversal", "--dimensions", "9"], "--dimensions go to 4"),
        (generate, ["--show", "grid", "histograms", "--data", "nowhere"], "no images under nowh"),
        (evaluate, ["--data", "nowhere"], "no images under nowhere"),
        (evaluate, ["--edits"], "there is no guide at runs/celeba-32-judges/guide.pt: python tr"),
        (manipulate, ["--to", "0.9"], "there is no guide at runs/celeba-32-judges/guide.pt: pyt"),
        (manipulate, ["--keep", "Male"], "there is no guide at runs/celeba-32-judges/guide.pt: "),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(home, capsys, script, flags, message):
    before = snapshot(home)
    assert script.main(flags) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert snapshot(home) == before


def cut_a_picture(root):
    picture = root / "img_align_celeba" / "000007.jpg"
    content = picture.read_bytes()
    picture.unlink()  # what is overwritten in place is not seen
    picture.write_bytes(content[:300])


def cut_the_table(root):
    table = root / "list_attr_celeba.txt"
    table.write_text(table.read_text()[:-20])


def cut_the_checkpoint(root):
    last = Path("runs/celeba-32/last.pt")
    last.write_bytes(last.read_bytes()[:5000])


def replace_the_checkpoint(root):
    torch.save({"state_dict": {}}, "runs/celeba-32/last.pt")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_a_picture, "000007.jpg is not a readable image: truncated. 1 of 60 files are not"),
        (cut_the_table, "cells in the row of 000060.jpg, expected 41: fetch the file again"),
        (
            cut_the_checkpoint,
            "is damaged (unexpected end): the run cannot continue from it; runs/celeba-32/best.pt",
        ),
        (replace_the_checkpoint, "last.pt is not a checkpoint of this project"),
    ],
)
def test_damaged_files_are_one_line_and_the_run_is_as_it_was(celeba, capsys, damage, message):
    assert train.main([*SMALL, "--epochs", "2"]) == 0
    damage(celeba)
    before = snapshot("runs")
    capsys.readouterr()
    assert train.main(["--resume", "--epochs", "3"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert snapshot("runs") == before


def test_a_full_disk_is_one_line_and_the_earlier_checkpoint_is_untouched(celeba, capsys):
    assert train.main([*SMALL, "--epochs", "1"]) == 0
    before = snapshot("runs")
    capsys.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        assert train.main(["--resume", "--epochs", "2"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capsys.readouterr().err
    assert err.startswith("stopped: could not write runs/celeba-32/")
    assert err.endswith("the earlier file is untouched\n")
    after = snapshot("runs")
    for name in ("best.pt", "last.pt"):
        assert after[Path("runs/celeba-32", name)] == before[Path("runs/celeba-32", name)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_shows_each_flag_with_its_comment_and_needs_no_data(
    script, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert script.main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, entry in SCRIPTS[script].__dataclass_fields__.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert entry.metadata["help"] in shown
    assert not list(tmp_path.iterdir())


def test_scripts_run_as_processes(home, tmp_path):
    process = run_process("train.py", "--help")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("usage: train.py")
    process = run_process("generate.py", "--count", "2", "--output", str(tmp_path / "a.png"))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == str(tmp_path / "a.png")


def test_a_run_killed_before_its_refiner_still_starts_it_from_the_other_runs(sharp):
    flags = ["--init", "runs/celeba-32", "--epochs", "1", "--batch-size", "16", "--device", "cpu"]
    assert train.main([*flags, "--refiner-epochs", "1", "--run-dir", "whole"]) == 0
    assert train.main([*flags, "--refiner-epochs", "0", "--run-dir", "parts"]) == 0
    assert train.main(["--resume", "parts", "--refiner-epochs", "1"]) == 0
    assert same_weights("whole/last.pt", "parts/last.pt")
    assert same_refiners("whole/last.pt", "parts/last.pt")


def test_a_recipe_is_held_to_its_own_rules_alone(celeba):
    # the default recipe has a refiner that cannot halve 36 pixels three times
    flags = ["--recipe", "classic", "--image-size", "36", "--epochs", "1"]
    assert train.main([*SMALL, *flags]) == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["--refiner-channels", "12"],
        ["--refiner-noise", "0"],
        ["--image-size", "36", "--refiner-channels", "8", "8", "8"],
    ],
)
def test_a_refiner_that_cannot_be_made_is_refused_before_any_work(celeba, capsys, flags):
    assert train.main([*SMALL, "--epochs", "1", "--refiner-epochs", "1", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("runs").exists()


def test_the_residual_of_a_refiner_is_the_standard_deviation_of_what_is_left(celeba):
    flags = ["--recipe", "classic", "--epochs", "1", "--refiner-epochs", "1"]
    assert train.main([*SMALL, *flags, "--refiner-channels", "8"]) == 0
    [row] = read_metrics()
    residual = load_checkpoint(Path("runs/celeba-32/best.pt")).refiner["arch"]["residual"]
    assert residual == pytest.approx((row["val_sse"] / (3 * 32**2)) ** 0.5, rel=0.3)


def test_without_a_run_there_is_nothing_to_resume_and_the_line_says_so(
    celeba, trained, capsys, monkeypatch
):
    Path("repository").mkdir()
    shutil.copy(trained / "runs/celeba-32/best.pt", "repository")
    move_pretrained(monkeypatch, Path("repository").absolute())
    assert train.main(["--resume"]) == 2
    assert "no run under runs/" in capsys.readouterr().err


def test_a_run_with_a_refiner_whose_best_checkpoint_is_gone_gets_one_again(sharp):
    Path("runs/celeba-32/best.pt").unlink()
    assert train.main(["--resume"]) == 0
    assert load_checkpoint(Path("runs/celeba-32/best.pt")).refiner["epoch"] == 1


def test_a_refiner_that_is_not_taken_over_is_said(sharp, capsys):
    flags = ["--init", "runs/celeba-32", "--epochs", "1", "--batch-size", "16", "--device", "cpu"]
    assert train.main([*flags, "--refiner-epochs", "0"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("the refiner of runs/celeba-32/best.pt is not taken over")


def test_a_refiner_from_another_run_resumes_as_the_same_network(sharp):
    flags = ["--init", "runs/celeba-32", "--epochs", "1", "--batch-size", "16", "--device", "cpu"]
    flags += ["--refiner-learning-rate", "1e-20", "--refiner-epochs"]
    assert train.main([*flags, "1", "--run-dir", "parts"]) == 0
    assert train.main(["--resume", "parts", "--refiner-epochs", "2"]) == 0
    first, parts = (
        load_checkpoint(Path(run, "last.pt")).refiner for run in ("runs/celeba-32", "parts")
    )
    assert parts["epoch"] == 2
    assert parts["arch"] == first["arch"]
    for name, weight in parts["weights"].items():
        torch.testing.assert_close(weight, first["weights"][name], msg=name)


# What stands in the way before a script begins


def test_ctrl_c_during_the_imports_ends_without_a_traceback():
    process = run_process("generate.py", "--help")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err == ""
    assert process.returncode == -signal.SIGINT  # 130 in a shell


def test_a_backend_of_a_notebook_disturbs_no_script(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    process = run_process("generate.py", "--help")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_a_second_ctrl_c_ends_at_once_and_leaves_a_run_to_resume(celeba):
    process = run_process("train.py", *SMALL, "--epochs", "100000")
    last = Path("runs/celeba-32/last.pt")
    while not last.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not list(last.parent.glob(".*"))
    epochs = load_checkpoint(last).epoch + 1
    assert train.main(["--resume", "--epochs", str(epochs)]) == 0


def test_a_loss_that_is_not_finite_names_the_images_and_leaves_the_last_checkpoint(celeba, capsys):
    classic = [*SMALL, "--recipe", "classic", "--epochs", "1"]
    assert train.main(classic) == 0
    last = Path("runs/celeba-32/last.pt")
    checkpoint = load_checkpoint(last)
    checkpoint.training["weights"]["fc_logvar.bias"].fill_(200.0)
    save_checkpoint(checkpoint, last)
    before = last.read_bytes()
    assert train.main(["--resume", "--epochs", "2"]) == 1
    err = capsys.readouterr().err
    assert "at epoch 2, step 1: its images are in runs/celeba-32/not-finite.txt; resume" in err
    assert "resume from runs/celeba-32/last.pt with a lower --learning-rate" in err
    assert err.count("\n") == 1
    names = Path("runs/celeba-32/not-finite.txt").read_text().split()
    assert len(names) == 16
    assert set(names) <= {path.name for path in (celeba / "img_align_celeba").iterdir()}
    assert last.read_bytes() == before


def test_two_trainings_at_once_take_two_folders(celeba):
    with own_run_dir(None, "celeba-32"):
        assert train.main([*SMALL, "--epochs", "1"]) == 0
        assert train.main([*SMALL, "--epochs", "1", "--run-dir", "runs/celeba-32"]) == 2
    assert Path("runs/celeba-32-2/last.pt").exists()


def test_a_network_that_no_memory_holds_is_refused_at_once(celeba, capsys):
    flags = ["--channels", "65536", "65536", "--epochs", "1"]
    assert train.main(flags) == 2
    assert re.search(r"[\d,]+ weights in training need .* GB of memory", capsys.readouterr().err)
    assert not Path("runs").exists()


def test_a_checkpoint_of_mixed_phases_is_refused_before_anything_is_written(sharp, capsys):
    last = Path("runs/celeba-32/last.pt")
    checkpoint = load_checkpoint(last)
    checkpoint.training["sums"].append(1.0)
    save_checkpoint(checkpoint, last)
    before = {path: path.read_bytes() for path in last.parent.iterdir()}
    assert train.main(["--resume", "--refiner-epochs", "2"]) == 2
    assert "last.pt is damaged: training sums is not that of its phase" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in last.parent.iterdir()} == before
