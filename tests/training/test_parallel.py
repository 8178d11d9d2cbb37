import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARP, SMALL
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from trainers import MODERN, make_config, make_faces, make_trainer, without_noise

import train
from vae.checkpoint import load_checkpoint
from vae.errors import StopSignal, UserError
from vae.models.vae import VAE
from vae.training.parallel import ALONE, Ranks

ROOT = Path(__file__).parents[2]


def train_plain(ranks):
    """Train for an epoch without batch norm, and without noise up to 1e-13."""
    settings = {"beta": 0.0, "epochs": 1, "ranks": ranks}
    trainer = make_trainer(make_faces(36), lambda: without_noise(VAE(32, (4,), 5)), **settings)
    trainer.run_epoch(StopSignal())
    return trainer


def make_plain_faces(train, val):
    """Return faces of one colour each, which a small model learns in a few epochs."""
    faces = make_faces(train, val)
    colours = np.broadcast_to(faces.pixels[:, :1, :1], faces.pixels.shape)
    return dataclasses.replace(faces, pixels=colours.copy())


def train_modern(ranks):
    """Train with batch norm, noise, a calibrated likelihood and an average of the weights."""
    # with these settings, other noise changes the validation total by less than 1 %
    settings = MODERN | {"learning_rate": 1e-3, "epochs": 15, "batch_size": 32, "seed": 4}
    faces = make_plain_faces(train=401, val=30)
    trainer = make_trainer(faces, lambda: VAE(32, (8, 16), 5), ranks=ranks, **settings)
    while trainer.epoch < 15:
        trainer.run_epoch(StopSignal())
    return trainer


def one_of_two(rank, folder):
    """Train both models as one of two processes, and save what came out."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    for train_some in (train_plain, train_modern):
        trainer = train_some(Ranks(rank, 2))
        weights, averaged = trainer.model.state_dict(), trainer.averaged_model.state_dict()
        ended = [weights, averaged, trainer.history]
        torch.save(ended, f"{folder}/{train_some.__name__}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Return a function from a training to weights, averages and history of each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_of_two, (str(folder),), nprocs=2)

    def load(train_some):
        paths = [folder / f"{train_some.__name__}-{rank}.pt" for rank in range(2)]
        return [torch.load(path, weights_only=True) for path in paths]

    return load


def test_two_ranks_without_batch_norm_and_noise_take_the_steps_of_one(two_ranks):
    (weights, _, history), (others, _, _) = two_ranks(train_plain)
    alone = train_plain(ALONE)
    for name in ("train_recon", "train_gradient_norm", "val_sse"):
        assert history[0][name] == pytest.approx(alone.history[0][name], rel=1e-5)
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
        torch.testing.assert_close(value, alone.model.state_dict()[name], atol=1e-5, rtol=0)


def test_two_ranks_end_with_equal_weights_and_averages_near_those_of_one(two_ranks):
    main, other = two_ranks(train_modern)
    (weights, averaged, history), (other_weights, other_averaged, other_history) = main, other
    for name, _ in VAE(32, (8, 16), 5).named_parameters():
        assert torch.equal(weights[name], other_weights[name]), name
        assert torch.equal(averaged[name], other_averaged[name]), name
    assert not torch.equal(weights["fc_mu.weight"], averaged["fc_mu.weight"])
    expected, start = train_modern(ALONE).history[-1], history[0]
    assert history[-1]["val_total"] == pytest.approx(expected["val_total"], rel=0.02)
    assert history[-1]["train_total"] == pytest.approx(expected["train_total"], rel=0.02)
    assert history[-1]["val_total"] < start["val_total"] - 200
    # rank 0 alone validates; what the training measures is the same on both
    names = {name for name in history[0] if name.startswith("val_")}
    assert names >= {"val_total", "val_psnr"}
    for row, theirs in zip(history, other_history, strict=True):
        assert row.keys() - theirs.keys() == names
        for name in ("train_total", "train_variance", "train_gradient_norm", "learning_rate"):
            assert row[name] == theirs[name], name


def test_a_batch_that_cannot_be_divided_among_the_ranks_is_refused():
    with pytest.raises(UserError, match="--batch-size must be a multiple of 3 ranks: 8"):
        train.require_equal_shares(make_config(batch_size=8), Ranks(1, 3))
    with pytest.raises(UserError, match="--refiner-batch-size must be a multiple of 3 ranks: 4"):
        config = make_config(batch_size=9, refiner_epochs=1, refiner_batch_size=4)
        train.require_equal_shares(config, Ranks(1, 3))


def test_a_compiled_network_averages_its_gradients_over_the_ranks_too(tmp_path):
    meeting = f"file://{tmp_path}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        trainer = make_trainer(make_faces(), ranks=Ranks(0, 2), compile=True)
        modules = list(trainer.network.modules())
    finally:
        distributed.destroy_process_group()
    assert any(isinstance(module, DistributedDataParallel) for module in modules)
    assert trainer.model in modules


def test_the_ranks_divide_the_faces_of_an_epoch_among_them():
    parts = []
    for rank in range(2):
        trainer = make_trainer(make_faces(), batch_size=8)
        trainer.ranks = Ranks(rank, 2)
        order = torch.arange(36).numpy()
        parts.append(list(trainer.training_batches(order, order < 0)))
    assert [len(x) for x in parts[0]] == [len(x) for x in parts[1]] == [4, 4, 4, 4, 2]
    pixels = torch.from_numpy(trainer.faces.pixels[:36]).permute(0, 3, 1, 2) / 255
    for rank, part in enumerate(parts):
        torch.testing.assert_close(torch.cat(part), pixels[rank::2])


def test_two_ranks_train_both_phases_of_the_default_recipe(celeba):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", str(ROOT / "train.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    flags = [*SHARP, "--epochs", "1", "--refiner-epochs", "1"]
    subprocess.run([*torchrun, *flags], env=environment, check=True)
    checkpoint = load_checkpoint(Path("runs/celeba-32/best.pt"))
    assert (checkpoint.epoch, checkpoint.refiner["epoch"]) == (1, 1)
    assert checkpoint.statistics["n"] == 40


def test_a_run_of_two_ranks_continues_with_one_and_one_of_one_with_two(celeba):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", str(ROOT / "train.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, *SMALL, "--epochs", "2"], env=environment, check=True)
    assert train.main(["--resume", "--epochs", "3"]) == 0
    subprocess.run([*torchrun, "--resume", "--epochs", "4"], env=environment, check=True)
    checkpoint = load_checkpoint(Path("runs/celeba-32/last.pt"))
    assert checkpoint.epoch == 4
    assert [row["epoch"] for row in checkpoint.training["history"]] == [1, 2, 3, 4]
    for weights in (checkpoint.weights, checkpoint.training["weights"]):
        assert all(not name.startswith("module") for name in weights)
    assert [path.name for path in Path("runs").iterdir()] == ["celeba-32"]
