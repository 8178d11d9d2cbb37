import copy
import itertools
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from trainers import CLASSIC, MODERN, make_faces, make_trainer, without_noise

from vae.errors import Interrupted, RunStopped, StopSignal, UserError
from vae.models.vae import VAE
from vae.training.schedule import epoch_order, learning_rate_at, seed_generators
from vae.training.trainer import update_average
from vae.training.validation import validate


def images_of(faces, rows):
    """Return faces as float images (N, 3, S, S), by numpy."""
    return torch.from_numpy(faces.pixels[rows].transpose(0, 3, 1, 2) / np.float32(255))


def plain_loss(model, x, beta=1.0):
    """Return the classic loss of a batch, written out: total, recon, kl."""
    h = model.encoder(x).reshape(len(x), -1)
    mu, logvar = model.fc_mu(h), model.fc_logvar(h)
    z = mu + torch.exp(logvar / 2) * torch.randn_like(mu)
    x_hat = model.decoder(model.fc_decode(z).reshape(len(x), 6, 8, 8))
    recon = F.mse_loss(x_hat, x, reduction="sum") / len(x)
    kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / len(x)
    return recon + beta * kl, recon, kl


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# A step


def test_training_equals_a_plain_loop_in_float64():
    torch.manual_seed(0)
    batches = torch.rand(50, 6, 3, 32, 32, dtype=torch.float64)
    trainer = make_trainer(make_faces(), lambda: VAE(32, (4, 6), 5).double(), beta=1.0)
    plain = copy.deepcopy(trainer.model)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, foreach=False)

    torch.manual_seed(1)
    our_losses = [trainer.step(x)[0].item() for x in batches]

    torch.manual_seed(1)
    plain_losses = []
    for x in batches:
        total, _, _ = plain_loss(plain, x)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        plain_losses.append(total.item())

    assert our_losses == pytest.approx(plain_losses, rel=1e-8)
    for ours, theirs in zip(trainer.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_channels_last_and_fused_adam_take_the_plain_steps_in_float32():
    torch.manual_seed(0)
    batches = torch.rand(5, 8, 3, 32, 32)
    trainer = make_trainer(make_faces(), beta=1.0)
    plain = copy.deepcopy(trainer.model).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, foreach=False)

    torch.manual_seed(1)
    layout = torch.channels_last
    our_losses = [trainer.step(x.contiguous(memory_format=layout))[0].item() for x in batches]

    torch.manual_seed(1)
    plain_losses = []
    for x in batches:
        total, _, _ = plain_loss(plain, x)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        plain_losses.append(total.item())

    assert trainer.model.encoder[3].weight.is_contiguous(memory_format=layout)
    assert our_losses == pytest.approx(plain_losses, rel=1e-4)


def test_the_gradient_in_bfloat16_nearly_equals_that_in_float32():
    x, steps = images_of(make_faces(), range(16)), {}
    for precision in ("fp32", "bf16"):
        trainer = make_trainer(make_faces(), precision=precision)
        torch.manual_seed(1)
        terms = trainer.step(x)
        assert terms.dtype == torch.float32
        steps[precision] = terms[0].item(), gradients(trainer.model)
    (total, exact), (rounded_total, rounded) = steps["fp32"], steps["bf16"]
    assert not torch.equal(rounded["fc_mu.bias"], exact["fc_mu.bias"])
    assert rounded_total == pytest.approx(total, rel=0.005)
    # batch norm takes the bias before it away: what is left of its gradient is rounding
    for name in exact.keys() - {"encoder.0.bias"}:
        ours, theirs = rounded[name].flatten(), exact[name].flatten()
        assert ours.dtype == torch.float32, name
        assert F.cosine_similarity(ours, theirs, dim=0) > 0.99, name
        torch.testing.assert_close(ours.norm(), theirs.norm(), rtol=0.05, atol=0, msg=name)


def test_a_gradient_is_clipped_to_the_norm_that_is_allowed():
    x = images_of(make_faces(), range(8))
    free, clipped = make_trainer(make_faces()), make_trainer(make_faces(), clip_norm=0.25)
    for trainer in (free, clipped):
        torch.manual_seed(1)
        trainer.step(x)
    exact = torch.cat([grad.flatten() for grad in gradients(free.model).values()])
    ours = torch.cat([grad.flatten() for grad in gradients(clipped.model).values()])
    assert exact.norm() > 1
    assert ours.norm().item() == pytest.approx(0.25, rel=1e-3)
    torch.testing.assert_close(ours, exact * (0.25 / exact.norm()), rtol=1e-4, atol=1e-8)


def test_a_clip_norm_of_zero_leaves_the_gradient_bit_equal():
    x = images_of(make_faces(), range(8))
    trainer = make_trainer(make_faces(), clip_norm=0.0, beta=1.0)
    plain = copy.deepcopy(trainer.model)
    torch.manual_seed(1)
    trainer.step(x)
    torch.manual_seed(1)
    x_hat, mu, logvar = plain(x)
    recon = (x_hat - x).square().sum((1, 2, 3)).mean()
    kl = (0.5 * (mu.square() + logvar.exp() - 1.0 - logvar)).sum(1).mean()
    (recon + kl).backward()
    expected = gradients(plain)
    for name, gradient in gradients(trainer.model).items():
        assert torch.equal(gradient, expected[name]), name


def test_the_learning_rate_of_a_step_is_that_of_the_schedule():
    trainer = make_trainer(make_faces(), schedule="one-cycle", epochs=2)
    rates = []
    for x in trainer.training_batches(np.arange(37), np.zeros(37, bool)):
        trainer.step(x)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == [learning_rate_at(step, 10, 1e-3, "one-cycle") for step in range(5)]


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_compiled_steps_equal_eager_steps():
    trainers = [
        make_trainer(
            make_faces(), lambda: without_noise(VAE(8, (2, 4), 3)), compile=compile, beta=0
        )
        for compile in (False, True)
    ]
    eager, compiled = trainers
    assert eager.network is eager.model
    assert compiled.network is not compiled.model
    assert compiled.model.state_dict().keys() == eager.model.state_dict().keys()
    for x in torch.rand(3, 4, 3, 8, 8, generator=torch.manual_seed(0)):
        ours, theirs = compiled.step(x), eager.step(x)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        expected = gradients(eager.model)
        for name, gradient in gradients(compiled.model).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)


# The average of the weights


def test_an_average_keeps_a_part_of_weights_and_buffers_and_copies_counts():
    torch.manual_seed(0)
    average, model = VAE(32, (4, 6), 5), VAE(32, (4, 6), 5)
    model(torch.rand(4, 3, 32, 32))
    before, now = copy.deepcopy(average.state_dict()), copy.deepcopy(model.state_dict())
    update_average(average, model, decay=0.75)
    counts = 0
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * now[name])
        else:
            counts += 1
            assert value == now[name] == 1
            assert before[name] == 0
    assert counts == 1
    assert not torch.equal(before["encoder.1.running_var"], now["encoder.1.running_var"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, now[name]), name


def test_the_average_after_some_steps_equals_its_formula():
    trainer = make_trainer(make_faces(), ema_decay=0.3)
    expected = copy.deepcopy(trainer.model.state_dict())
    for step, x in enumerate(trainer.training_batches(np.arange(37), np.zeros(37, bool))):
        trainer.step(x)
        decay = min(0.3, (1 + step) / (10 + step))
        for name, value in trainer.model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value.clone()
    # the decay has come from 1/10 to its limit
    assert step == 4
    for name, value in trainer.averaged_model.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert not torch.equal(trainer.averaged_model.fc_mu.weight, trainer.model.fc_mu.weight)


def test_without_a_decay_the_model_in_training_is_the_one_that_is_used():
    trainer = make_trainer(make_faces(), ema_decay=0.0)
    assert trainer.averaged_model is trainer.model


# An epoch


def test_a_single_face_is_refused():
    with pytest.raises(UserError, match="the train split has one face"):
        make_trainer(make_faces(train=1))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    faces, states = make_faces(), []
    for seed in (3, 3, 4):
        trainer = make_trainer(faces, seed=seed)
        trainer.run_epoch(StopSignal())
        states.append(trainer.model.fc_mu.weight.detach().clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_the_metrics_of_an_epoch_are_means_over_images(clip_norm):
    # the learning rate leaves the weights as they are
    trainer = make_trainer(
        make_faces(train=21), learning_rate=1e-12, flip=False, clip_norm=clip_norm
    )
    model = copy.deepcopy(trainer.model)
    order, _ = epoch_order(np.arange(21), seed=3, epoch=1, flip=False)
    sums = np.zeros(4)
    model.train()
    for step, part in enumerate(np.split(order, [8, 16])):
        seed_generators(3, step)
        model.zero_grad()
        total, recon, kl = plain_loss(model, images_of(trainer.faces, part), beta=1.5)
        total.backward()
        squares = sum(grad.square().sum().item() for grad in gradients(model).values())
        sums += len(part) * np.array([total.item(), recon.item(), kl.item(), squares**0.5])
    trainer.run_epoch(StopSignal())
    row = trainer.history[0]
    found = [row[f"train_{name}"] for name in ("total", "recon", "kl", "gradient_norm")]
    assert found == pytest.approx(sums / 21, rel=1e-4)
    assert row["train_variance"] == 0.5


def test_the_history_has_the_learning_rate_and_the_active_units_of_each_epoch():
    trainer = make_trainer(make_faces(), schedule="one-cycle", epochs=2, beta=0.7)
    with torch.no_grad():
        trainer.model.fc_mu.weight *= 10
        trainer.model.fc_mu.weight[[0, 3]] = 0.0
        trainer.model.fc_mu.weight.requires_grad_(False)
    for _ in range(2):
        trainer.run_epoch(StopSignal())
    assert [row["epoch"] for row in trainer.history] == [1, 2]
    rates = [learning_rate_at(step, 10, 1e-3, "one-cycle") for step in (4, 9)]
    assert [row["learning_rate"] for row in trainer.history] == rates
    with torch.no_grad():
        mu, _ = trainer.model.eval().encode(images_of(trainer.faces, range(37, 44)))
    active = int((mu.numpy().var(0, ddof=1) > 0.01).sum())
    assert 0 < active <= 3
    assert trainer.history[1]["val_active_units"] == active


def test_validation_measures_the_averaged_weights_with_the_variance_of_training():
    trainer = make_trainer(make_faces(), **MODERN)
    trainer.run_epoch(StopSignal())
    row = trainer.history[0]
    assert trainer.checkpoint({}).variance == row["train_variance"] != 0.5
    x = images_of(trainer.faces, range(37, 44))
    numbers = validate(trainer.averaged_model, [x], 1.5, 3, "calibrated", row["train_variance"])
    for name, value in numbers.items():
        assert row[f"val_{name}"] == pytest.approx(value, rel=1e-5), name


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    trainer = make_trainer(make_faces())
    with torch.no_grad():
        trainer.model.fc_logvar.bias.fill_(200.0)
    with pytest.raises(RunStopped, match=r"became .* at epoch 1, step 1$"):
        trainer.run_epoch(StopSignal())
    order, _ = epoch_order(np.arange(37), seed=3, epoch=1, flip=True)
    assert trainer.failed_names() == [f"{row}.jpg" for row in order[:8]]


# Stopping and resuming


# an epoch checks for a signal after each of five steps, and in validation
@pytest.mark.parametrize("settings", [CLASSIC, MODERN], ids=["classic", "modern"])
@pytest.mark.parametrize("checks_before_the_signal", [2, 5, 6])
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(
    checks_before_the_signal, settings
):
    faces = make_faces()
    whole = make_trainer(faces, **settings)
    for _ in range(3):
        whole.run_epoch(StopSignal())

    stopped = make_trainer(faces, **settings)
    stopped.run_epoch(StopSignal())
    countdown = itertools.count(1)

    class StopLater(StopSignal):
        def check(self, note=""):
            if next(countdown) == checks_before_the_signal:
                self.received = signal.SIGINT
            super().check()

    with pytest.raises(Interrupted):
        stopped.run_epoch(StopLater())
    state, averaged = stopped.state(), copy.deepcopy(stopped.averaged_model.state_dict())
    torch.rand(99)

    resumed = make_trainer(faces, **settings)
    resumed.load_state(state, averaged, stopped.epoch)
    while resumed.epoch < 3:
        resumed.run_epoch(StopSignal())
    for model in ("model", "averaged_model"):
        weights = getattr(resumed, model).state_dict()
        for name, value in getattr(whole, model).state_dict().items():
            assert torch.equal(value, weights[name]), name
    for ours, theirs in zip(whole.history, resumed.history, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"images_per_second", "seconds"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-12), name


def test_a_long_epoch_is_saved_within_and_ends_alike_from_there(monkeypatch):
    monkeypatch.setattr("vae.training.trainer.READ_EVERY_STEPS", 2)
    faces, states = make_faces(), []
    whole = make_trainer(faces, **MODERN, save_every_minutes=1e-9)
    whole.run_epoch(StopSignal())

    def save():
        states.append(copy.deepcopy((whole.state(), whole.averaged_model.state_dict())))

    whole.run_epoch(StopSignal(), save)
    assert [state["steps"] for state, _ in states] == [2, 4]
    resumed = make_trainer(faces, **MODERN, save_every_minutes=10)
    resumed.load_state(*states[0], epoch=1)
    resumed.run_epoch(StopSignal(), save)
    assert len(states) == 2
    weights = whole.averaged_model.state_dict()
    for name, value in resumed.averaged_model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_the_first_signal_is_noted_and_the_second_ends_the_process_without_saving():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            stop.check()
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGINT) == before
