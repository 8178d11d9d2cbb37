import csv
import json
import os
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
from conftest import SMALL
from PIL import Image

import evaluate
import generate
import manipulate
import train
import train_judge
from config import EvaluateConfig, GenerateConfig, JudgeConfig, ManipulateConfig, TrainConfig
from vae import VAE, load_model
from vae.images import to_uint8
from vae.latent import seeded_noise

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
    assert names >= {
        "config.json",
        "metrics.csv",
        "curves.png",
        "last.pt",
        "best.pt",
        "reconstructions-epoch-002.png",
        "samples-epoch-002.png",
    }
    with open("runs/celeba-32/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        total = float(row["val_recon"]) + float(row["val_kl"])
        assert float(row["val_total"]) == pytest.approx(total)
    config = json.loads(Path("runs/celeba-32/config.json").read_text())
    assert (config["image_size"], config["beta"]) == (32, 1.0)
    assert set(config) == {*TrainConfig.__dataclass_fields__, "crop", "origins"}
    assert (config["origins"]["image_size"], config["origins"]["beta"]) == ("flag", "default")
    assert (config["device"], config["crop"]) == ("cpu", "celeba")
    assert config["precision"] in ("fp32", "bf16")


def test_best_is_the_epoch_with_the_lowest_validation_total(home):
    with open("runs/celeba-32/metrics.csv") as file:
        totals = [float(row["val_total"]) for row in csv.DictReader(file)]
    _, best = load_model("runs/celeba-32/best.pt")
    assert best.training["epoch"] == totals.index(min(totals)) + 1


def test_training_learns(celeba):
    assert train.main([*SMALL, "--epochs", "12", "--learning-rate", "0.01"]) == 0
    with open("runs/celeba-32/metrics.csv") as file:
        totals = [float(row["val_total"]) for row in csv.DictReader(file)]
    assert min(totals) < 0.6 * totals[0]


def test_the_same_seed_gives_the_same_weights(celeba, trained):
    once, _ = load_model(trained / "runs/celeba-32/last.pt")
    assert train.main([*SMALL, "--epochs", "2"]) == 0
    twice, _ = load_model("runs/celeba-32/last.pt")
    for name, value in once.state_dict().items():
        assert torch.equal(value, twice.state_dict()[name]), name


def test_config_and_model_hold_the_same_defaults():
    config, model = TrainConfig(), VAE()
    for name, value in model.arch.items():
        expected = getattr(config, name)
        assert value == (list(expected) if isinstance(expected, tuple) else expected)


# Resuming


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(celeba):
    classic = [*SMALL, "--recipe", "classic"]
    assert train.main([*classic, "--epochs", "3", "--run-dir", "whole"]) == 0
    assert train.main([*classic, "--epochs", "2"]) == 0
    Path("runs/celeba-32/last.pt").write_bytes(b"PK")
    assert train.main(["--resume", "runs/celeba-32/last.prev.pt", "--epochs", "3"]) == 0
    whole, _ = load_model("whole/last.pt")
    resumed, _ = load_model("runs/celeba-32/last.pt")
    assert torch.equal(whole.fc_mu.weight, resumed.fc_mu.weight)
    assert load_model("runs/celeba-32/last.prev.pt")


def test_a_resumed_run_ends_as_one_that_never_stopped(celeba):
    # classic: a one-cycle rate would know how long the run is to be
    classic = [*SMALL, "--recipe", "classic"]
    assert train.main([*classic, "--epochs", "4", "--run-dir", "whole"]) == 0
    assert train.main([*classic, "--epochs", "2"]) == 0
    assert train.main(["--resume", "--epochs", "4"]) == 0
    origins = json.loads(Path("runs/celeba-32/config.json").read_text())["origins"]
    names = ("epochs", "image_size", "likelihood", "beta")
    assert [origins[name] for name in names] == ["flag", "flag", "recipe", "default"]
    whole, _ = load_model("whole/last.pt")
    resumed, checkpoint = load_model("runs/celeba-32/last.pt")
    assert checkpoint.training["epoch"] == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_process_saves_its_work_and_goes_on(celeba, number, code):
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
        "go on with: python train.py --resume runs/celeba-32\n"
    )
    _, checkpoint = load_model(last)
    epochs = checkpoint.training["epoch"] + 1
    assert train.main(["--resume", "runs/celeba-32", "--epochs", str(epochs)]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--latent-dim", "7"], "the run has --latent-dim 5; asked for 7: start a new run"),
        (["--recipe", "classic"], "the run has --recipe best; asked for classic: start a new"),
        (["--epochs", "3", "--ema-decay", "0"], "the run has --ema-decay 0.999; asked for 0.0"),
        (["--seed", "1"], "the run has --seed 0; asked for 1: start a new run"),
        (["--epochs", "2"], "the run has had 2 epochs: pass an --epochs above"),
        (["--epochs", "3", "--data", "other"], "crop celeba; --data has faces"),
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


# Pictures


def test_every_picture_of_generate_is_written_and_named_last(home, tmp_path, capsys):
    out = tmp_path / "out.png"
    shows = ["grid", "reconstructions", "interpolation", "histograms", "traversal"]
    assert generate.main(["--show", *shows, "--count", "8", "--output", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("checkpoint: runs/celeba-32/best.pt")
    subjects = [*shows[:3], "histograms-means", "histograms-samples", "traversal"]
    assert printed[1:3] == ["prior: mixture, temperature 1"] * 2
    assert printed[3:] == [str(tmp_path / f"out-{subject}.png") for subject in subjects]
    for path in printed[3:]:
        assert Image.open(path).size[0] > 100


def test_a_grid_shows_the_decoded_noise_of_its_seed(home, tmp_path):
    arguments = ["--count", "3", "--seed", "5", "--prior", "standard", "--temperature", "0.5"]
    arguments += ["--files", str(tmp_path)]
    assert generate.main([*arguments, "--output", str(tmp_path / "grid.png")]) == 0
    model, _ = load_model("runs/celeba-32")
    with torch.no_grad():
        x = model.decode(0.5 * seeded_noise(5, range(3), 5))
    for index, pixels in enumerate(to_uint8(x)):
        written = np.asarray(Image.open(tmp_path / f"grid-{index:04d}.png"))
        np.testing.assert_array_equal(written, pixels)


def test_a_face_does_not_change_with_the_count(home, tmp_path):
    for count in ("2", "70"):
        generate.main(
            [
                "--count",
                count,
                "--files",
                str(tmp_path / count),
                "--output",
                str(tmp_path / "x.png"),
            ]
        )
    few = (tmp_path / "2" / "grid-0001.png").read_bytes()
    assert few == (tmp_path / "70" / "grid-0001.png").read_bytes()


def test_ones_own_pictures_are_reconstructed_and_interpolated(home, tmp_path):
    pictures = [f"data/celeba/img_align_celeba/00000{number}.jpg" for number in (1, 2, 3)]
    shows = ["--show", "reconstructions", "interpolation"]
    output = ["--output", str(tmp_path / "me.png"), "--files", str(tmp_path)]
    assert generate.main([*shows, "--image", *pictures, *output]) == 0
    assert len(list(tmp_path.glob("reconstructions-*.png"))) == 3
    assert len(list(tmp_path.glob("interpolation-*.png"))) == 2 * 2 * 8


def test_pictures_are_made_without_the_data_set(home, tmp_path, monkeypatch):
    shutil.copy("runs/celeba-32/best.pt", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert generate.main(["--checkpoint", "best.pt", "--show", "grid", "traversal"]) == 0
    assert manipulate.main(["--checkpoint", "best.pt", "--faces", "0", "1"]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "grid.png",
        "traversal.png",
        "Smiling.png",
        "Eyeglasses.png",
    }


@pytest.mark.parametrize("source", ["random", "val", "mean"])
def test_strength_zero_is_the_face_itself(celeba, tmp_path, source):
    # classic: six steps of its rate are enough for a direction to be seen
    assert train.main([*SMALL, "--recipe", "classic", "--epochs", "2"]) == 0
    flags = ["--source", source, "--faces", "0", "3", "--attribute", "smiling", "--strengths"]
    output = ["--files", str(tmp_path), "--output", str(tmp_path / "sweep.png")]
    assert manipulate.main([*flags, "-2", "0", "2", *output]) == 0
    model, checkpoint = load_model("runs/celeba-32")
    label = {"random": "3", "val": "3", "mean": "mean"}[source]
    with torch.no_grad():
        if source == "random":
            z = seeded_noise(0, [3], 5)
        elif source == "mean":
            z = checkpoint.statistics["mean"][None]
        else:
            pixels = np.load(next(Path("data/cache").glob("celeba-32px*.npy")))[43]
            z, _ = model.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
        expected = to_uint8(model.decode(z))[0]
    unmoved = np.asarray(Image.open(tmp_path / f"{label}-Smiling0.png"))
    assert np.abs(unmoved.astype(int) - expected).max() <= 1
    moved = np.asarray(Image.open(tmp_path / f"{label}-Smiling+2.png"))
    assert np.abs(moved.astype(int) - expected).max() > 1


def test_adding_and_removing_the_same_attribute_changes_nothing(home, tmp_path):
    flags = ["--add", "Smiling", "--faces", "0", "--output", str(tmp_path / "a.png"), "--files"]
    for name, more in {"both": ["--remove", "smiling"], "one": []}.items():
        assert manipulate.main([*flags, str(tmp_path / name), *more]) == 0
    assert manipulate.main(["--strengths", "0", "1", *flags[2:], str(tmp_path / "sweep")]) == 0
    plain = np.asarray(Image.open(tmp_path / "sweep" / "0-Smiling0.png")).astype(int)
    moved = np.asarray(Image.open(tmp_path / "sweep" / "0-Smiling+1.png")).astype(int)
    both = np.asarray(Image.open(tmp_path / "both" / "0-edited.png"))
    one = np.asarray(Image.open(tmp_path / "one" / "0-edited.png"))
    assert np.abs(both - plain).max() <= 1
    assert np.abs(one - moved).max() <= 1


def test_a_sweep_can_move(home, tmp_path):
    flags = ["--gif", "--attribute", "Eyeglasses", "--output", str(tmp_path / "sweep.png")]
    assert manipulate.main(flags) == 0
    with Image.open(tmp_path / "sweep.gif") as gif:
        assert gif.n_frames == 48


# Data without attributes


def test_a_plain_folder_trains_and_generates_and_says_what_an_edit_lacks(
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
    assert "list_attr_celeba.txt" in capsys.readouterr().err


# Mistakes: one line, the exit code, and nothing written or lost


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (train, ["--image-size", "63"], "--image-size must be a multiple of 16, at least 32; got"),
        (train, ["--image-size", "big"], "argument --image-size: invalid int value: 'big'"),
        (train, ["--epoch", "3"], "unrecognized arguments: --epoch"),
        (train, ["--learning-rate", "0"], "--learning-rate must be positive; got 0.0"),
        (train, ["--learning-rate", "nan"], "--learning-rate must be positive; got nan"),
        (train, ["--beta", "-1"], "--beta must be at least 0; got -1.0"),
        (train, ["--device", "gpu"], "--device must be auto, cpu, cuda, cuda:N or mps; got gpu"),
        (train, ["--device", "cuda:7"], "--device cuda:7 is not on this machine"),
        (train, ["--data", "nowhere"], "looked for img_align_celeba/, img_align_celeba.zip"),
        (train, ["--run-dir", "runs/celeba-32"], "holds a run: go on with --resume"),
        (train, ["--resume", "nowhere"], "there is no checkpoint nowhere"),
        (generate, ["--show", "everything"], "invalid choice: 'everything'"),
        (generate, ["--columns", "1"], "--columns must be at least 2; got 1"),
        (generate, ["--output", "a.xyz"], "--output must end in .png, .jpg, .jpeg, .webp"),
        (generate, ["--image", "a.png", "--show", "interpolation"], "two --image pictures"),
        (generate, ["--show", "traversal", "--dimensions", "5"], "--dimensions go to 4 in this"),
        (generate, ["--checkpoint", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (generate, ["--image", "no.jpg", "--show", "reconstructions"], "no.jpg: no such file"),
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
    picture.write_bytes(picture.read_bytes()[:300])


def drop_a_row(root):
    table = root / "list_attr_celeba.txt"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))


def cut_the_checkpoint(root):
    last = Path("runs/celeba-32/last.pt")
    last.write_bytes(last.read_bytes()[:5000])


def replace_the_checkpoint(root):
    torch.save({"state_dict": {}}, "runs/celeba-32/last.pt")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_a_picture, "000007.jpg is not a readable image: truncated. 1 such files of 60"),
        (drop_a_row, "list_attr_celeba.txt has 59 rows, says 60 on line 1"),
        (
            cut_the_checkpoint,
            "is damaged (unexpected end); the one before it is runs/celeba-32/last",
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


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(celeba, capsys):
    assert train.main([*SMALL, "--epochs", "1"]) == 0
    before = snapshot("runs")
    assert train.main(["--resume", "--epochs", "9", "--learning-rate", "1e9"]) == 1
    err = capsys.readouterr().err
    assert "resume from runs/celeba-32/last.pt with a lower --learning-rate" in err
    assert err.count("\n") == 1
    assert "stopped: " in err
    assert " at epoch " in err
    model, _ = load_model("runs/celeba-32/last.pt")
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert before.keys() <= snapshot("runs").keys()


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
