import dataclasses
from pathlib import Path

import pytest

from config import (
    DEFAULT_ATTRIBUTES,
    RECIPES,
    EvaluateConfig,
    GenerateConfig,
    JudgeConfig,
    ManipulateConfig,
    TrainConfig,
)
from vae import VAE
from vae.flags import check

CONFIGS = [TrainConfig, GenerateConfig, ManipulateConfig, EvaluateConfig, JudgeConfig]


def test_the_default_recipe_is_the_field_defaults():
    assert TrainConfig(**RECIPES[TrainConfig().recipe]) == TrainConfig()


def test_the_classic_recipe_is_the_published_objective():
    config = TrainConfig(recipe="classic", **RECIPES["classic"])
    assert (config.likelihood, config.beta, config.prior) == ("classic", 1.0, "standard")
    assert (config.schedule, config.ema_decay, config.clip_norm) == ("constant", 0, 0)
    assert (config.learning_rate, config.batch_size, config.epochs) == (1e-3, 128, 50)


@pytest.mark.parametrize("recipe", ["calibrated", "classic"])
def test_the_other_recipes_are_the_listed_network_alone(recipe):
    config = TrainConfig(recipe=recipe, **RECIPES[recipe])
    assert (config.architecture, config.warp, config.refiner_epochs) == ("listed", 0, 0)


def test_every_recipe_can_be_asked_for():
    (recipe,) = (entry for entry in dataclasses.fields(TrainConfig) if entry.name == "recipe")
    assert recipe.metadata["choices"] == tuple(RECIPES)


def test_config_and_model_have_the_same_defaults():
    config, arch = TrainConfig(), VAE().arch
    assert arch.pop("architecture") == "listed"
    for name, value in arch.items():
        expected = getattr(config, name)
        assert value == (list(expected) if isinstance(expected, tuple) else expected)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_defaults_obey_their_own_rules(config):
    check(config())


@pytest.mark.parametrize("config", CONFIGS)
def test_every_number_has_an_upper_bound(config):
    for entry in dataclasses.fields(config):
        kind = str(entry.type)
        if "int" in kind or "float" in kind:
            assert entry.metadata.keys() & {"at_most", "below"}, entry.name


def test_what_describes_the_trained_weights_is_fixed_on_resume():
    fixed = {entry.name for entry in dataclasses.fields(TrainConfig) if entry.metadata.get("fixed")}
    assert fixed >= {"recipe", "image_size", "crop_size", "latent_dim", "channels", "likelihood"}
    assert fixed >= {"beta", "batch_size", "schedule", "ema_decay", "seed", "flip", "clip_norm"}
    may_change = {"epochs", "learning_rate", "device", "precision", "prior", "temperature", "data"}
    assert not fixed & (may_change | {"sample_every_epochs", "save_every_epochs", "cache_dir"})


def test_scripts_use_the_same_word_for_the_same_thing():
    comments = {}
    for config in CONFIGS[1:4]:
        for entry in dataclasses.fields(config):
            if entry.name in ("checkpoint", "data", "device", "prior", "temperature", "seed"):
                comments.setdefault(entry.name, set()).add(entry.metadata["help"])
    assert len(comments) == 6
    assert all(len(known) == 1 for known in comments.values()), comments


def test_config_stays_short():
    assert len(Path(__file__).parent.parent.joinpath("config.py").read_text().splitlines()) < 365


def test_the_default_attributes_are_named_in_the_help():
    for config in (ManipulateConfig, EvaluateConfig):
        (entry,) = (entry for entry in dataclasses.fields(config) if entry.name == "attribute")
        assert " ".join(DEFAULT_ATTRIBUTES) in entry.metadata["help"]


@pytest.mark.parametrize("config", [GenerateConfig, ManipulateConfig])
def test_steps_and_strength_of_the_refiner_need_refine(config):
    for given in ({"refine_steps": 4}, {"refine_strength": 0.0}):
        assert config(**given).refine
        with pytest.raises(ValueError, match="are for --refine"):
            config(refine=False, **given)
