import dataclasses

import pytest

from config import (
    RECIPES,
    EvaluateConfig,
    GenerateConfig,
    ManipulateConfig,
    TrainConfig,
    as_table,
    read_flags,
    resolve,
)
from vae.directions import METHODS


def test_later_layers_win_and_the_table_says_where_each_value_is_from():
    checkpoint, flags = {"epochs": 7, "latent_dim": 30}, {"latent_dim": 40}
    config, origins = resolve(TrainConfig, checkpoint=checkpoint, flag=flags)
    assert (config.epochs, config.latent_dim, config.beta) == (7, 40, 1.0)
    assert (origins["epochs"], origins["latent_dim"], origins["beta"]) == (
        "checkpoint",
        "flag",
        "default",
    )
    lines = [line.split() for line in as_table(config, origins).splitlines()]
    assert ["latent_dim", "40", "flag"] in lines


def test_the_classic_recipe_is_the_published_one_and_flags_win_over_it():
    config, origins = resolve(TrainConfig, recipe=RECIPES["classic"], flag={"learning_rate": 5e-4})
    assert (config.likelihood, config.beta, config.prior) == ("classic", 1.0, "standard")
    assert (config.schedule, config.ema_decay, config.clip_norm) == ("constant", 0, 0)
    assert config.learning_rate == 5e-4
    assert (origins["likelihood"], origins["learning_rate"]) == ("recipe", "flag")
    assert TrainConfig(**RECIPES["classic"]).learning_rate == 1e-3


def test_the_default_recipe_is_the_defaults():
    assert TrainConfig(**RECIPES[TrainConfig().recipe]) == TrainConfig()


def test_every_method_can_be_asked_for():
    for config in (EvaluateConfig, ManipulateConfig):
        (method,) = (e for e in dataclasses.fields(config) if e.name == "method")
        assert method.metadata["choices"] == tuple(METHODS)


def test_only_what_was_said_is_read():
    argv = ["--image-size", "64", "--no-flip", "--channels", "8", "16", "--resume"]
    assert read_flags(TrainConfig, argv, None) == {
        "image_size": 64,
        "flip": False,
        "channels": (8, 16),
        "resume": "",
    }


def test_negative_strengths_are_numbers_and_not_flags():
    flags = read_flags(ManipulateConfig, ["--strengths", "-2", "-.5", "0", "1e-1"], None)
    assert flags == {"strengths": (-2.0, -0.5, 0.0, 0.1)}


@pytest.mark.parametrize(
    ("config", "field", "value", "message"),
    [
        (TrainConfig, "image_size", 24, "--image-size must be a multiple of 16, at least 32"),
        (TrainConfig, "channels", (8, 0), "--channels must be positive"),
        (TrainConfig, "channels", (), "--channels needs a value"),
        (TrainConfig, "crop_size", 0, "--crop-size must be at least 1"),
        (TrainConfig, "max_images", 3, "--max-images must be at least 10"),
        (TrainConfig, "latent_dim", 1, "--latent-dim must be at least 2"),
        (TrainConfig, "latent_dim", 10**9, "--latent-dim must be at most 65536"),
        (TrainConfig, "seed", 2**63, "--seed must be below"),
        (TrainConfig, "run_dir", "", "--run-dir is empty"),
        (GenerateConfig, "output", ".png", "--output must end in"),
        (TrainConfig, "beta", float("nan"), "--beta must be at least 0"),
        (TrainConfig, "epochs", 0, "--epochs must be at least 1"),
        (TrainConfig, "batch_size", 1, "--batch-size must be at least 2"),
        (TrainConfig, "learning_rate", float("inf"), "--learning-rate must be positive"),
        (TrainConfig, "seed", -1, "--seed must be at least 0"),
        (TrainConfig, "precision", "bf17", "--precision must be one of"),
        (TrainConfig, "sample_every_epochs", 0, "--sample-every-epochs must be at least 1"),
        (TrainConfig, "save_every_epochs", 0, "--save-every-epochs must be at least 1"),
        (GenerateConfig, "show", ("all",), "--show must be one of"),
        (GenerateConfig, "count", 0, "--count must be at least 1"),
        (GenerateConfig, "temperature", -1.0, "--temperature must be at least 0"),
        (TrainConfig, "ema_decay", 1.0, "--ema-decay must be below 1"),
        (TrainConfig, "clip_norm", -1.0, "--clip-norm must be at least 0"),
        (TrainConfig, "beta_warmup_epochs", float("nan"), "--beta-warmup-epochs must be at"),
        (TrainConfig, "recipe", "fancy", "--recipe must be one of"),
        (TrainConfig, "mixture_components", 0, "--mixture-components must be at least 1"),
        (ManipulateConfig, "to", 1.0, "--to is a P in 0 to 1"),
        (ManipulateConfig, "method", "pca", "--method must be one of"),
        (EvaluateConfig, "count", 1, "--count must be at least 2"),
        (GenerateConfig, "dimensions", (-1,), "--dimensions count from 0"),
        (ManipulateConfig, "faces", (-1,), "--faces count from 0"),
        (ManipulateConfig, "faces", (), "--faces needs a value"),
        (ManipulateConfig, "strengths", (float("inf"),), "--strengths go to 1000"),
        (ManipulateConfig, "source", "train", "--source must be one of"),
    ],
)
def test_a_field_out_of_range_is_named(config, field, value, message):
    with pytest.raises(ValueError, match=message):
        config(**{field: value})
    dataclasses.replace(config())


def test_fields_that_contradict_each_other_are_named():
    with pytest.raises(ValueError, match="pass one of them"):
        TrainConfig(run_dir="a", resume="b")
    with pytest.raises(ValueError, match="--gif is of sweeps"):
        ManipulateConfig(gif=True, to=0.9)
    with pytest.raises(ValueError, match="--download fetches CelebA"):
        TrainConfig(data="synthetic", download=True)
