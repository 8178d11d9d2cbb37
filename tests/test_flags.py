import dataclasses

import pytest

from config import (
    RECIPES,
    EvaluateConfig,
    GenerateConfig,
    JudgeConfig,
    ManipulateConfig,
    TrainConfig,
)
from vae.errors import UserError
from vae.flags import read_flags


def test_flags_win_over_defaults_given_and_these_over_the_fields():
    stored = {"epochs": 7, "latent_dim": 30, "flip": False, "channels": (8, 16), "run_dir": "a"}
    config = read_flags(TrainConfig, ["--latent-dim", "40"], None, **stored)
    assert (config.epochs, config.latent_dim, config.beta) == (7, 40, 1.0)
    assert (config.flip, config.channels, config.run_dir) == (False, (8, 16), "a")


def test_values_have_the_types_of_their_fields():
    argv = ["--image-size", "64", "--no-flip", "--channels", "8", "16", "--resume", "--beta", "2"]
    config = read_flags(TrainConfig, argv, None)
    assert (config.image_size, config.flip, config.channels) == (64, False, (8, 16))
    assert (config.resume, config.beta, config.crop_size) == ("", 2.0, None)
    assert read_flags(TrainConfig, ["--resume", "runs/a"], None).resume == "runs/a"
    assert read_flags(TrainConfig, [], None).resume is None


def test_negative_strengths_are_numbers_and_not_flags():
    config = read_flags(ManipulateConfig, ["--strengths", "-2", "-.5", "0", "1e-1"], None)
    assert config.strengths == (-2.0, -0.5, 0.0, 0.1)


def test_a_flag_cannot_be_abbreviated():
    with pytest.raises(UserError, match="unrecognized arguments: --epoch"):
        read_flags(TrainConfig, ["--epoch", "3"], None)


def test_help_shows_a_default_where_there_is_one(capsys):
    with pytest.raises(SystemExit):
        read_flags(TrainConfig, ["--help"], "What it does.")
    shown = " ".join(capsys.readouterr().out.split())
    assert "What it does." in shown
    assert "passes over the training split (default: 50)" in shown
    assert "None" not in shown


FLAGS = [
    (TrainConfig, "--image-size 24", "--image-size must be a multiple of 16, at least 32; got 24"),
    (TrainConfig, "--image-size big", "argument --image-size: invalid int value: 'big'"),
    (TrainConfig, "--channels 8 0", "--channels must be at least 1; got 0"),
    (TrainConfig, "--channels", "argument --channels: expected at least one argument"),
    (TrainConfig, "--crop-size 0", "--crop-size must be at least 1"),
    (TrainConfig, "--max-images 3", "--max-images must be at least 10"),
    (TrainConfig, "--latent-dim 1", "--latent-dim must be at least 2"),
    (TrainConfig, f"--latent-dim {10**9}", "--latent-dim must be at most 49152 with"),
    (TrainConfig, "--architecture listed --latent-dim 65537", "--latent-dim must be at most 65536"),
    (TrainConfig, f"--seed {2**63}", "--seed must be below"),
    (TrainConfig, "--seed -1", "--seed must be at least 0"),
    (TrainConfig, "--beta nan", "--beta must be at least 0; got nan"),
    (TrainConfig, "--beta inf", "--beta must be at most 1000000; got inf"),
    (TrainConfig, "--epochs 0", "--epochs must be at least 1"),
    (TrainConfig, "--batch-size 1", "--batch-size must be at least 2"),
    (TrainConfig, "--learning-rate 0", "--learning-rate must be above 0; got 0.0"),
    (TrainConfig, "--learning-rate nan", "--learning-rate must be above 0; got nan"),
    (TrainConfig, "--learning-rate inf", "--learning-rate must be at most 1; got inf"),
    (TrainConfig, "--beta 1e39", "--beta must be at most 1000000; got 1e+39"),
    (TrainConfig, f"--batch-size {10**20}", "--batch-size must be at most 1000000; got 1000"),
    (TrainConfig, "--image-size 8192", "--image-size must be at most 1024; got 8192"),
    (TrainConfig, "--refiner-noise 1e300", "--refiner-noise must be at most 1; got 1e+300"),
    (GenerateConfig, "--temperature 1e39", "--temperature must be at most 1000; got 1e+39"),
    (GenerateConfig, f"--count {10**9}", "--count must be at most 100000; got 1000000000"),
    (TrainConfig, "--precision bf17", "invalid choice: 'bf17'"),
    (TrainConfig, "--recipe fancy", "invalid choice: 'fancy'"),
    (TrainConfig, "--sample-every-epochs 0", "--sample-every-epochs must be at least 1"),
    (TrainConfig, "--save-every-epochs 0", "--save-every-epochs must be at least 1"),
    (TrainConfig, "--ema-decay 1", "--ema-decay must be below 1"),
    (TrainConfig, "--clip-norm -1", "--clip-norm must be at least 0"),
    (TrainConfig, "--run-dir=", "--run-dir is empty"),
    (TrainConfig, "--run-dir a --resume b", "pass one of them"),
    (TrainConfig, "--data synthetic --download", "--download is for CelebA"),
    (GenerateConfig, "--output .png", "--output must end in"),
    (GenerateConfig, "--show all", "invalid choice: 'all'"),
    (GenerateConfig, "--count 0", "--count must be at least 1"),
    (GenerateConfig, "--columns 1", "--columns must be at least 2"),
    (GenerateConfig, "--temperature -1", "--temperature must be at least 0"),
    (GenerateConfig, "--dimensions -1", "--dimensions must be at least 0; got -1"),
    (ManipulateConfig, "--to 1", "--to must be below 1"),
    (ManipulateConfig, "--method pca", "invalid choice: 'pca'"),
    (ManipulateConfig, "--faces -1", "--faces must be at least 0"),
    (ManipulateConfig, "--faces", "argument --faces: expected at least one argument"),
    (ManipulateConfig, "--strengths inf", "got inf"),
    (ManipulateConfig, "--source train", "invalid choice: 'train'"),
    (ManipulateConfig, "--image a.png --source val", "--source and --faces are not for --image"),
    (ManipulateConfig, "--image a.png --faces 3", "--source and --faces are not for --image"),
    (ManipulateConfig, "--strengths 1 2 1.0000001", "--strengths must differ in their first six"),
    (ManipulateConfig, "--strengths 0 -0", "--strengths must differ in their first six"),
    (ManipulateConfig, "--faces 2 3 2", "--faces has one twice"),
    (ManipulateConfig, "--gif --to 0.9", "--gif is for sweeps"),
    (ManipulateConfig, "--gif --add Smiling", "--gif is for sweeps"),
    (ManipulateConfig, "--strengths 1 --to 0.9", "pass one of --strengths, --to, and --add"),
    (ManipulateConfig, "--strengths 1 --add Smiling", "pass one of --strengths, --to, and --add"),
    (ManipulateConfig, "--to 0.9 --remove Smiling", "pass one of --strengths, --to, and --add"),
    (ManipulateConfig, "--add A --attribute B", "--attribute is for sweeps"),
    (EvaluateConfig, "--count 1", "--count must be at least 2"),
    (EvaluateConfig, "--output a.txt", "--output must end in .json; got a.txt"),
    (JudgeConfig, "--image-size 40", "--image-size must be a multiple of 16, at least 32"),
]


@pytest.mark.parametrize(("config", "flags", "message"), FLAGS, ids=[row[1] for row in FLAGS])
def test_a_value_that_is_not_allowed_is_named(config, flags, message):
    with pytest.raises(UserError) as caught:
        read_flags(config, flags.split(), None)
    assert message in str(caught.value)
    assert read_flags(config, [], None) == config()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("precision", "bf17", "--precision must be one of auto, fp32, bf16; got bf17"),
        ("compile", [], "--compile must be one of auto, on, off; got"),
        ("channels", 3, "object of type .int. has no len"),
        ("epochs", "many", "argument --epochs: invalid int value: 'many'"),
        ("crop_size", None, None),
    ],
)
def test_a_stored_value_is_checked_as_a_flag_is(name, value, message):
    if message is None:
        assert read_flags(TrainConfig, [], None, **{name: value}).crop_size is None
        return
    with pytest.raises(UserError, match=message):
        read_flags(TrainConfig, [], None, **{name: value})


def test_add_goes_with_remove():
    config = read_flags(ManipulateConfig, ["--add", "A", "--remove", "B", "C"], None)
    assert (config.add, config.remove) == (("A",), ("B", "C"))


def test_every_recipe_changes_known_fields_alone():
    for recipe in RECIPES.values():
        assert dataclasses.replace(TrainConfig(), **recipe)
