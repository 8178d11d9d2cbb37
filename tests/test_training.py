import itertools
import os
import signal

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vae import VAE
from vae.errors import Interrupted, RunStopped, StopSignal, UserError
from vae.latent import seeded_noise
from vae.loader import PackedFaces
from vae.loss import psnr
from vae.schedule import epoch_order, learning_rate_at, seed_noise
from vae.steps import batch_loss, descend
from vae.training import Hyperparameters, Trainer, validate

CPU = torch.device("cpu")


def make_faces(train=37, val=7, side=32):
    pixels = np.random.default_rng(0).integers(0, 256, (train + val, side, side, 3), np.uint8)
    splits = np.repeat([0, 1], [train, val]).astype(np.uint8)
    names = tuple(f"{index}.jpg" for index in range(train + val))
    return PackedFaces(pixels, names, splits, None, "largest", None)


CLASSIC = {
    "likelihood": "classic",
    "beta": 1.5,
    "beta_warmup_epochs": 0.0,
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "clip_norm": 0.0,
    "ema_decay": 0.0,
    "flip": True,
    "seed": 3,
}
MODERN = {
    "likelihood": "calibrated",
    "beta_warmup_epochs": 1.5,
    "schedule": "one-cycle",
    "clip_norm": 100.0,
    "ema_decay": 0.8,
}


def hyperparameters(**settings):
    return Hyperparameters(**CLASSIC | settings)


def train_step(model, optimizer, x, beta, precision="fp32"):
    return descend(optimizer, batch_loss(model, x, beta, precision))


def make_trainer(faces, seed=3, **settings):
    torch.manual_seed(seed)
    return Trainer(VAE(32, (4, 6), 5), faces, CPU, hyperparameters(**{"seed": seed, **settings}))


def test_one_face_is_not_trained_on():
    with pytest.raises(UserError, match="the train split has one face"):
        make_trainer(make_faces(train=1))


def test_training_equals_a_plain_loop_in_float64():
    torch.manual_seed(0)
    batches = torch.rand(50, 6, 3, 32, 32, dtype=torch.float64)
    ours, plain = VAE(32, (4, 6), 5).double(), VAE(32, (4, 6), 5).double()
    plain.load_state_dict(ours.state_dict())
    our_optimizer = torch.optim.Adam(ours.parameters(), 1e-3, fused=True)
    plain_optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, foreach=False)

    torch.manual_seed(1)
    our_losses = [train_step(ours, our_optimizer, x, beta=1.0).total.item() for x in batches]

    torch.manual_seed(1)
    plain_losses = []
    for x in batches:
        h = plain.encoder(x).reshape(6, -1)
        mu, logvar = plain.fc_mu(h), plain.fc_logvar(h)
        z = mu + torch.exp(logvar / 2) * torch.randn_like(mu)
        x_hat = plain.decoder(plain.fc_decode(z).reshape(6, 6, 8, 8))
        recon = F.mse_loss(x_hat, x, reduction="sum") / 6
        kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / 6
        plain_optimizer.zero_grad()
        (recon + kl).backward()
        plain_optimizer.step()
        plain_losses.append((recon + kl).item())

    assert our_losses == pytest.approx(plain_losses, rel=1e-8)
    for ours_value, plain_value in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours_value, plain_value, rtol=1e-8, atol=1e-8)


def test_channels_last_and_fused_adam_take_the_plain_steps_in_float32():
    torch.manual_seed(0)
    batches = torch.rand(5, 8, 3, 32, 32)
    losses = []
    for layout, options in (
        (torch.contiguous_format, {"foreach": False}),
        (torch.channels_last, {"fused": True}),
    ):
        torch.manual_seed(1)
        model = VAE(32, (4, 6), 5).to(memory_format=layout)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, **options)
        images = [x.contiguous(memory_format=layout) for x in batches]
        losses.append([train_step(model, optimizer, x, beta=1.0).total.item() for x in images])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    faces = make_faces()
    states = []
    for seed in (3, 3, 4):
        trainer = make_trainer(faces, seed)
        trainer.run_epoch(StopSignal())
        states.append(trainer.model.fc_mu.weight.detach().clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# an epoch looks for a signal after each of five steps, at their end, and in validation
@pytest.mark.parametrize("settings", [CLASSIC, MODERN], ids=["classic", "modern"])
@pytest.mark.parametrize("steps_before_the_signal", [2, 5, 6, 7])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(steps_before_the_signal, settings):
    faces = make_faces()
    whole = make_trainer(faces, **settings)
    for _ in range(3):
        whole.run_epoch(StopSignal())

    stopped = make_trainer(faces, **settings)
    stopped.run_epoch(StopSignal())
    countdown = itertools.count(1)

    class StopLater(StopSignal):
        def check(self, note=""):
            if next(countdown) == steps_before_the_signal:
                self.received = signal.SIGINT
            super().check()

    with pytest.raises(Interrupted):
        stopped.run_epoch(StopLater())
    state = stopped.state()
    torch.rand(99)

    resumed = make_trainer(faces, **settings)
    resumed.load_state(state)
    while resumed.epoch < 3:
        resumed.run_epoch(StopSignal())
    for model in ("model", "averaged_model"):
        weights = getattr(resumed, model).state_dict()
        for name, value in getattr(whole, model).state_dict().items():
            assert torch.equal(value, weights[name]), name
    for ours, theirs in zip(whole.history, resumed.history, strict=True):
        for name in ours.keys() - {"images_per_second", "seconds"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-12), name


def test_a_signal_is_noted_and_the_second_is_not_waited_for():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            stop.check()
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) == before


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    trainer = make_trainer(make_faces())
    with torch.no_grad():
        trainer.model.fc_logvar.bias.fill_(200.0)
    with pytest.raises(RunStopped, match=r"became .* at epoch 1, step 1$"):
        trainer.run_epoch(StopSignal())


def test_a_validation_that_is_not_finite_stops_the_run():
    model = VAE(32, (4, 6), 5)
    with torch.no_grad():
        model.fc_logvar.bias.fill_(200.0)
    with pytest.raises(RunStopped, match=r"validation came to recon .* kl inf"):
        validate(model, [torch.rand(2, 3, 32, 32)], beta=1.0, seed=0)


def test_the_metrics_of_an_epoch_are_means_over_images():
    trainer = make_trainer(make_faces(train=21), learning_rate=1e-12, flip=False)
    model = trainer.model
    order, _ = epoch_order(np.arange(21), seed=3, epoch=1, flip=False)
    seed_noise(3, epoch=1)
    recon = 0.0
    model.train()
    for part in np.split(order, [8, 16]):
        x = torch.from_numpy(trainer.faces.pixels[part]).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            recon += (model(x)[0] - x).square().sum().item()
    trainer.run_epoch(StopSignal())
    assert trainer.history[0]["train_recon"] == pytest.approx(recon / 21, rel=1e-5)


def test_validation_is_the_bound_under_noise_of_its_own_whatever_the_batch_size():
    torch.manual_seed(0)
    model, x = VAE(32, (4, 6), 5).eval(), torch.rand(7, 3, 32, 32)
    with torch.no_grad():
        mu, logvar = model.encode(x)
        z = mu + (0.5 * logvar).exp() * seeded_noise(9, range(7), 5)
        recon = (model.decode(z) - x).square().sum((1, 2, 3)).mean().item()
        sse = (model.decode(mu) - x).square().sum((1, 2, 3)).mean().item()
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean().item()
    for size in (7, 3):
        numbers = validate(model, x.split(size), beta=2.0, seed=9)
        assert numbers["recon"] == pytest.approx(recon, rel=1e-5)
        assert numbers["kl"] == pytest.approx(kl, rel=1e-5)
        assert numbers["total"] == pytest.approx(recon + 2 * kl, rel=1e-5)
        assert numbers["sse"] == pytest.approx(sse, rel=1e-5)
        assert numbers["psnr"] == pytest.approx(psnr(sse, 32), rel=1e-5)


def test_bfloat16_takes_nearly_the_step_of_float32():
    torch.manual_seed(0)
    x = torch.rand(8, 3, 32, 32)
    totals = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(1)
        model = VAE(32, (4, 6), 5)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        loss = train_step(model, optimizer, x, 1.0, precision)
        assert loss.total.dtype == torch.float32
        totals.append(loss.total.item())
    assert totals[0] != totals[1]
    assert totals[1] == pytest.approx(totals[0], rel=0.02)


def test_the_average_of_the_weights_equals_its_formula():
    faces = make_faces()
    trainer = make_trainer(faces, ema_decay=0.5)
    expected = None
    for step, x in enumerate(list(trainer.training_batches(np.arange(37), np.zeros(37, bool)))):
        trainer.running.add(trainer.step(x), len(x))
        now = trainer.model.fc_mu.weight.detach()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = now.clone() if expected is None else decay * expected + (1 - decay) * now
    torch.testing.assert_close(trainer.averaged_model.fc_mu.weight, expected)
    variances = trainer.averaged_model.encoder[1].running_var
    assert not torch.equal(variances, trainer.model.encoder[1].running_var)


def test_validation_measures_the_averaged_weights_under_the_variance_of_training():
    trainer = make_trainer(make_faces(), **MODERN)
    trainer.run_epoch(StopSignal())
    row = trainer.history[0]
    assert trainer.state()["variance"] == row["train_variance"]
    x = torch.from_numpy(trainer.faces.pixels[37:]).permute(0, 3, 1, 2) / 255
    numbers = validate(trainer.averaged_model, [x], 1.5, 3, row["train_variance"])
    for name, value in numbers.items():
        assert row[f"val_{name}"] == pytest.approx(value, rel=1e-5), name
    with torch.no_grad():
        mu, logvar = trainer.averaged_model.encode(x)
        z = mu + (0.5 * logvar).exp() * seeded_noise(3, range(7), 5)
        decoder = torch.distributions.Normal(
            trainer.averaged_model.decode(z), row["train_variance"] ** 0.5
        )
    nats = -decoder.log_prob(x).sum((1, 2, 3)).mean().item()
    constant = 0.5 * 3 * 32**2 * np.log(np.pi)
    assert row["val_recon"] == pytest.approx(nats - constant, rel=1e-5)


def test_a_gradient_is_cut_to_the_norm_that_is_allowed():
    torch.manual_seed(0)
    model, x = VAE(32, (4, 6), 5), torch.rand(8, 3, 32, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    descend(optimizer, batch_loss(model, x, 1.0), clip_norm=0.25)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.25, rel=1e-3)


def test_the_learning_rate_of_a_step_is_the_schedules():
    trainer = make_trainer(make_faces(), schedule="one-cycle", epochs=2)
    trainer.run_epoch(StopSignal())
    rate = learning_rate_at(4, 10, 1e-3, "one-cycle")
    assert trainer.optimizer.param_groups[0]["lr"] == rate
