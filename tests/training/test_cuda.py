"""What only a machine with cuda can show: no waiting, compilation, saving, repetition."""

import contextlib
from dataclasses import asdict

import numpy as np
import pytest
import torch
from trainers import (
    CPU,
    MODERN,
    make_faces,
    make_model,
    make_refiner_trainer,
    make_trainer,
    make_vae,
    without_noise,
)

from config import TrainConfig
from vae.checkpoint import build_model, load_checkpoint, save_checkpoint
from vae.device import pick_compile, pick_precision, prepare_backend
from vae.errors import StopSignal
from vae.models.skip import SkipVAE
from vae.models.vae import VAE

CUDA = torch.device("cuda", 0)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no cuda device")


@pytest.fixture(autouse=True)
def backend():
    """Compute as the scripts do, and leave the flags as they were."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic
    prepare_backend(CUDA)
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.deterministic = before[1]


@contextlib.contextmanager
def waiting_is_an_error():
    """Raise RuntimeError where the host waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_waiting_for_the_device_is_noticed():
    with waiting_is_an_error(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(3, device=CUDA).sum().item()


def never_waits(trainer):
    """Take an epoch's steps twice; the second time, waiting raises RuntimeError."""
    order, mirrored = np.arange(37), np.arange(37) % 2 == 0
    # the first pass allocates memory and chooses algorithms
    for x in trainer.training_batches(order, mirrored):
        trainer.step(x)
    with waiting_is_an_error():
        for x in trainer.training_batches(order, mirrored):
            trainer.step(x)
    assert trainer.steps == 10


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("likelihood", ["classic", "calibrated"])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_steps_never_wait_for_the_device(resident, likelihood, precision):
    settings = MODERN | {"likelihood": likelihood, "precision": pick_precision(CUDA, precision)}
    trainer = make_trainer(make_faces(), device=CUDA, **settings)
    assert trainer.resident is not None
    if not resident:
        trainer.resident = None
    never_waits(trainer)


def test_steps_of_a_skip_on_warped_images_never_wait_for_the_device():
    settings = MODERN | {"precision": pick_precision(CUDA, "auto"), "warp": 0.7}
    never_waits(make_trainer(make_faces(), lambda: SkipVAE(32, (4, 6), 5), CUDA, **settings))


def test_steps_of_the_refiner_never_wait_for_the_device():
    settings = {"device": CUDA, "precision": pick_precision(CUDA), "warp": 0.7}
    never_waits(make_refiner_trainer(*make_vae(), **settings))


def test_resident_and_read_batches_equal_those_on_the_cpu():
    faces, order = make_faces(), np.random.default_rng(0).permutation(37)
    expected = list(make_trainer(faces).training_batches(order, order % 2 == 0))
    trainer = make_trainer(faces, device=CUDA)
    for resident in (trainer.resident, None):
        trainer.resident = resident
        found = list(trainer.training_batches(order, order % 2 == 0))
        assert all(x.device == CUDA for x in found)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs)


def test_steps_nearly_equal_those_of_the_cpu():
    totals = []
    for device in (CPU, CUDA):
        trainer = make_trainer(make_faces(), lambda: without_noise(make_model()), device, beta=0.0)
        part = trainer.training_batches(np.arange(37), np.zeros(37, bool))
        totals.append([trainer.step(x)[0].item() for x in part])
    # TF32 keeps 10 bits of the mantissa
    assert totals[1] == pytest.approx(totals[0], rel=5e-3)


@pytest.mark.skipif(
    torch.cuda.is_available() and not pick_compile(CUDA, "on"), reason="cannot compile"
)
def test_compiled_steps_equal_eager_steps():
    eager, compiled = (
        make_trainer(
            make_faces(), lambda: without_noise(make_model()), CUDA, compile=compile, beta=0.0
        )
        for compile in (False, True)
    )
    # the last batch is smaller, as in an epoch
    images = torch.rand(21, 3, 32, 32, generator=torch.manual_seed(0))
    for number, x in enumerate(images.split(8)):
        ours, theirs = compiled.step(x.to(CUDA)), eager.step(x.to(CUDA))
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-3)
        for name, parameter in eager.model.named_parameters() if number == 0 else ():
            expected, found = parameter.grad, compiled.model.get_parameter(name).grad
            # batch norm takes the bias before it away: what is left of its gradient is rounding
            if name != "encoder.0.bias":
                assert (found - expected).norm() < 0.01 * expected.norm() + 1e-6, name


def test_a_checkpoint_saved_on_cuda_is_used_on_the_cpu(tmp_path):
    trainer = make_trainer(make_faces(), device=CUDA, **MODERN)
    trainer.run_epoch(StopSignal())
    model, path = trainer.averaged_model, tmp_path / "last.pt"
    save_checkpoint(trainer.checkpoint(asdict(TrainConfig())), path)

    checkpoint = load_checkpoint(path)
    restored = build_model(path, checkpoint, CPU)
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected, _ = model.eval().encode(x.to(CUDA))
        found, _ = restored.encode(x)
    for name, value in restored.state_dict().items():
        assert value.device == CPU
        assert torch.equal(value, model.state_dict()[name].cpu()), name
    torch.testing.assert_close(found, expected.cpu(), rtol=0.02, atol=5e-3)

    resumed = make_trainer(make_faces(), **MODERN)
    resumed.load_state(checkpoint.training, checkpoint.weights, checkpoint.epoch)
    resumed.run_epoch(StopSignal())
    assert resumed.epoch == 2


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_repeated_run_ends_with_the_same_bits(precision):
    ended = []
    for _ in range(2):
        settings = MODERN | {"precision": pick_precision(CUDA, precision)}
        trainer = make_trainer(make_faces(), lambda: VAE(32, (8, 16), 5), CUDA, **settings)
        for _ in range(2):
            trainer.run_epoch(StopSignal())
        ended.append([trainer.model.state_dict(), trainer.averaged_model.state_dict()])
    for ours, theirs in zip(*ended, strict=True):
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name


def test_a_repeated_run_of_the_refiner_ends_with_the_same_bits():
    settings = {"device": CUDA, "precision": pick_precision(CUDA), "warp": 0.7}
    ended = []
    for _ in range(2):
        trainer = make_refiner_trainer(*make_vae(), **settings)
        trainer.run_epoch(StopSignal())
        ended.append(trainer.averaged_model.state_dict())
    for name, value in ended[0].items():
        assert torch.equal(value, ended[1][name]), name
