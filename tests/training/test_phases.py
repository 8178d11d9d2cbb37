import copy
import itertools
import signal
from dataclasses import asdict

import pytest
import torch
from torch import nn
from trainers import (
    CPU,
    make_faces,
    make_refiner_trainer,
    make_trainer,
    make_vae,
    without_noise,
)

from config import TrainConfig
from vae.checkpoint import build_model, build_refiner, load_checkpoint, save_checkpoint
from vae.errors import Interrupted, StopSignal
from vae.latent.codes import image_noise
from vae.models.refiner import refine
from vae.models.skip import SkipVAE

SETTINGS = {"warp": 0.5, "ema_decay": 0.8, "schedule": "one-cycle"}


def assert_equal_weights(one, other):
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


# The VAE


def test_the_skip_has_a_tenth_of_the_learning_rate_of_the_layers():
    trainer = make_trainer(
        make_faces(), lambda: SkipVAE(32, (4, 6), 5), learning_rate=1e-3, clip_norm=0.0
    )
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.step(torch.rand(8, 3, 32, 32))
    # the first step of Adam moves a weight by its learning rate, if it has a gradient
    for name, parameter in trainer.model.named_parameters():
        moved = (parameter.detach() - before[name]).abs().max().item()
        rate = 1e-4 if name.startswith("skip") else 1e-3
        assert moved == pytest.approx(rate, rel=0.02), name


# The refiner


def test_the_refiner_learns_from_images_as_they_are():
    vae, checkpoint = make_vae()
    unwarped, warped = (make_refiner_trainer(vae, checkpoint, warp=warp) for warp in (0.0, 1.0))
    for trainer in (unwarped, warped):
        trainer.run_epoch(StopSignal())
    assert_equal_weights(unwarped.model, warped.model)


# in the middle of an epoch, and in its validation
@pytest.mark.parametrize("checks_before_the_signal", [2, 6])
def test_an_interrupted_refiner_ends_with_the_weights_of_one_that_was_not(
    checks_before_the_signal, tmp_path
):
    vae, checkpoint = make_vae()
    whole = make_refiner_trainer(vae, checkpoint, **SETTINGS)
    for _ in range(3):
        whole.run_epoch(StopSignal())

    stopped = make_refiner_trainer(vae, checkpoint, **SETTINGS)
    stopped.run_epoch(StopSignal())
    countdown = itertools.count(1)

    class StopLater(StopSignal):
        def check(self, note=""):
            if next(countdown) == checks_before_the_signal:
                self.received = signal.SIGINT
            super().check()

    with pytest.raises(Interrupted):
        stopped.run_epoch(StopLater())
    save_checkpoint(stopped.checkpoint(asdict(TrainConfig())), tmp_path / "last.pt")
    torch.rand(99)

    loaded = load_checkpoint(tmp_path / "last.pt")
    resumed = make_refiner_trainer(build_model("last.pt", loaded, CPU), loaded, **SETTINGS)
    resumed.load_state(loaded.training, loaded.refiner["weights"], loaded.refiner["epoch"])
    while resumed.epoch < 3:
        resumed.run_epoch(StopSignal())
    assert_equal_weights(whole.model, resumed.model)
    assert_equal_weights(whole.averaged_model, resumed.averaged_model)
    for ours, theirs in zip(whole.history, resumed.history, strict=True):
        for name in ("train_total", "val_total", "learning_rate"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-12), name


def test_the_vae_stays_as_it_is_while_its_refiner_trains():
    vae, checkpoint = make_vae()
    before = copy.deepcopy(vae)
    trainer = make_refiner_trainer(vae, checkpoint)
    first = copy.deepcopy(trainer.model)
    trainer.run_epoch(StopSignal())
    assert_equal_weights(before, vae)
    assert not torch.equal(first.first.weight, trainer.model.first.weight)


def test_the_checkpoint_has_the_vae_and_the_averaged_refiner(tmp_path):
    vae, checkpoint = make_vae()
    trainer = make_refiner_trainer(vae, checkpoint, **SETTINGS)
    for _ in range(2):
        trainer.run_epoch(StopSignal())
    save_checkpoint(trainer.checkpoint(asdict(TrainConfig(seed=4))), tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert_equal_weights(build_model("last.pt", loaded, CPU), vae)
    assert_equal_weights(build_refiner("last.pt", loaded, CPU), trainer.average)
    assert not torch.equal(trainer.average.first.weight, trainer.model.first.weight)
    assert (loaded.config["seed"], loaded.epoch, loaded.refiner["epoch"]) == (4, 1, 2)
    assert (loaded.variance, loaded.digest) == (checkpoint.variance, checkpoint.digest)


def test_the_loss_is_that_of_the_flow_from_the_decoded_sample_and_its_noise():
    vae, checkpoint = make_vae()
    without_noise(vae)
    trainer = make_refiner_trainer(vae, checkpoint, noise=0.3, residual=0.2)
    x = torch.rand(64, 3, 32, 32)
    # as if the velocity were zero, up to the linear estimate from what has moved
    residual = (vae(x)[0] - x).square().mean().item()
    times = (torch.arange(1000) + 0.5) / 1000
    noise, expected = 0.3**2, 0.2**2
    variance = noise * (1 - times) ** 2 + expected * times**2
    slope = (expected * times - noise * (1 - times)) / variance
    # velocity - slope * moved = (1 - slope t) residual - (1 + slope (1 - t)) noise
    error = (1 - slope * times) ** 2 * residual + (1 + slope * (1 - times)) ** 2 * noise
    mean = (error * variance / (noise * expected)).mean().item()
    torch.manual_seed(0)
    losses = [trainer.losses(x)[0].item() for _ in range(20)]
    assert sum(losses) / 20 == pytest.approx(mean, rel=0.05)


def test_a_refiner_has_epochs_a_learning_rate_and_a_clip_norm_of_its_own():
    vae, checkpoint = make_vae()
    settings = {"epochs": 9, "learning_rate": 0.5, "clip_norm": 0.0}
    trainer = make_refiner_trainer(
        vae, checkpoint, refiner_epochs=2, refiner_learning_rate=2e-3, **settings
    )
    nn.init.normal_(trainer.model.last[-1].weight)
    assert trainer.config.epochs == 2
    trainer.run_epoch(StopSignal())
    assert trainer.history[0]["learning_rate"] == 2e-3
    assert trainer.history[0]["train_gradient_norm"] > 1
    gradients = [parameter.grad.flatten() for parameter in trainer.model.parameters()]
    assert torch.cat(gradients).norm().item() == pytest.approx(1, rel=1e-3)


def test_a_refiner_learns():
    vae, checkpoint = make_vae()
    # the faces are noise: their residual is larger than it is told to be
    trainer = make_refiner_trainer(vae, checkpoint, refiner_learning_rate=3e-3)
    for _ in range(3):
        trainer.run_epoch(StopSignal())
    losses = [row["val_total"] for row in trainer.history]
    assert losses[2] < losses[1] < losses[0]


def test_pictures_of_the_phase_are_decoded_and_refined_with_the_noise_of_their_numbers():
    vae, checkpoint = make_vae()
    trainer = make_refiner_trainer(vae, checkpoint, refine_steps=3, refine_strength=0.4)
    z = torch.randn(5, 5)
    noise = image_noise(3, range(5), 32)
    with torch.no_grad():
        expected = refine(trainer.model, vae.decode(z), noise, steps=3, strength=0.4)
    torch.testing.assert_close(trainer.render(z), expected, atol=1e-5, rtol=0)
    assert (expected - vae.decode(z)).abs().max() > 0.05
