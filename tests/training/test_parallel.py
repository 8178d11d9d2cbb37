import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from test_training import hyperparameters, make_faces
from torch import distributed, multiprocessing

import train
from vae import VAE, load_model
from vae.errors import StopSignal
from vae.parallel import Ranks
from vae.training import Trainer

ROOT = Path(__file__).parent.parent


def train_an_epoch(ranks, likelihood):
    """Train a model without batch norm and, but for one in 10^13, without noise."""
    torch.manual_seed(0)
    model = VAE(32, (4,), 5)
    with torch.no_grad():
        model.fc_logvar.weight.zero_()
        model.fc_logvar.bias.fill_(-60.0)
    trainer = Trainer(
        model,
        make_faces(train=36),
        torch.device("cpu"),
        hyperparameters(beta=0.0, likelihood=likelihood, epochs=1),
        ranks=ranks,
    )
    trainer.run_epoch(StopSignal())
    return trainer


def one_of_two(rank, folder, likelihood):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    trainer = train_an_epoch(Ranks(rank, 2), likelihood)
    torch.save([trainer.model.state_dict(), trainer.history], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("likelihood", ["classic", "calibrated"])
def test_two_ranks_take_the_steps_of_one(tmp_path, likelihood):
    multiprocessing.spawn(one_of_two, (str(tmp_path), likelihood), nprocs=2)
    weights, history = torch.load(tmp_path / "0.pt", weights_only=True)
    others, _ = torch.load(tmp_path / "1.pt", weights_only=True)
    alone = train_an_epoch(Ranks(), likelihood)
    for name in ("train_recon", "val_sse"):
        assert history[0][name] == pytest.approx(alone.history[0][name], rel=1e-5)
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
        torch.testing.assert_close(value, alone.model.state_dict()[name], atol=1e-5, rtol=0)


def test_a_run_on_two_ranks_goes_on_with_one_and_one_with_two(celeba):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", str(ROOT / "train.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, *SMALL, "--epochs", "2"], env=environment, check=True)
    assert train.main(["--resume", "--epochs", "3"]) == 0
    subprocess.run([*torchrun, "--resume", "--epochs", "4"], env=environment, check=True)
    _, checkpoint = load_model("runs/celeba-32/last.pt")
    assert checkpoint.training["epoch"] == 4
    assert [row["epoch"] for row in checkpoint.training["history"]] == [1, 2, 3, 4]
    assert all(not name.startswith("module") for name in checkpoint.training["weights"])
    assert [path.name for path in Path("runs").iterdir()] == ["celeba-32"]
