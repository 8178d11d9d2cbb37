import csv
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import evaluate
import train_judge
from benchmarks import peers
from vae.errors import UserError
from vae.models.vae import VAE
from vae.run import open_run

RUN = "runs/celeba-32"


@pytest.fixture(autouse=True)
def _log_again():
    yield
    logging.disable(logging.NOTSET)


def test_without_pythae_one_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pythae", None)
    assert peers.main([RUN]) == 2
    assert capsys.readouterr().err == "error: pythae is not installed: pip install pythae\n"


def test_the_time_to_train_is_that_of_all_epochs_of_the_run(home, tmp_path):
    run = open_run(RUN)
    with open(f"{RUN}/metrics.csv") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    assert len(seconds) == 2
    assert peers.training_seconds(run) == pytest.approx(sum(seconds))
    shutil.copy(run.path, tmp_path / "alone.pt")
    with pytest.raises(UserError, match="pass --seconds"):
        peers.training_seconds(open_run(tmp_path / "alone.pt"))


@pytest.mark.parametrize("now", [4.0, 5.0, 6.0])
def test_no_batch_begins_after_the_time(monkeypatch, now):
    clock = [0.0]
    monkeypatch.setattr(peers.time, "perf_counter", lambda: clock[0])
    loader = DataLoader([{"data": torch.tensor(index)} for index in range(7)], batch_size=3)
    timed = peers.TimedLoader(loader, 5.0, "vae")
    first = [batch["data"].tolist() for batch in timed]
    assert first == [batch["data"].tolist() for batch in loader]
    assert timed.images == 7
    clock[0] = now
    assert len(list(timed)) == (3 if now < 5 else 0)
    assert timed.images == (14 if now < 5 else 7)


@pytest.mark.parametrize("name", peers.MODELS)
def test_training_changes_our_layers_and_pythae_encodes_and_decodes_with_them(name):
    pytest.importorskip("pythae")
    arch = {"image_size": 32, "channels": [4, 6], "latent_dim": 3}
    images = torch.rand(9, 3, 32, 32)
    network, model, progress = peers.train(name, arch, images, seconds=0.5, seed=2)
    assert progress["seconds"] >= 0.5
    assert progress["images"] >= 9
    assert progress["images"] % 9 == 0
    torch.manual_seed(2)
    before = VAE(**arch).state_dict()
    left = {key for key, now in network.state_dict().items() if torch.equal(now, before[key])}
    assert left == ({"fc_logvar.weight", "fc_logvar.bias"} if name == "rae" else set())
    model.eval()
    mu, _ = network.encode(images)
    assert torch.equal(model.encoder(images).embedding, mu)
    assert torch.equal(model.decoder(mu).reconstruction, network.decode(mu))


@pytest.mark.parametrize("sampler", peers.SAMPLERS)
def test_samples_are_images_that_follow_from_the_seed(sampler):
    pytest.importorskip("pythae")
    images = torch.rand(20, 3, 32, 32).round()
    arch = {"image_size": 32, "channels": [4, 6], "latent_dim": 3}
    _, model, _ = peers.train("vae", arch, images, seconds=0.1, seed=0)
    x, again, other = (peers.draw(sampler, model, images, 5, seed) for seed in (1, 1, 2))
    assert x.shape == (5, 3, 32, 32)
    assert 0 <= x.min() <= x.max() <= 1
    assert torch.equal(x, again)
    assert not torch.equal(x, other)


def test_real_faces_have_the_figures_of_evaluate(trained, tmp_path, monkeypatch, capfd):
    pytest.importorskip("pythae")
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    # the other sampler refuses images without a value of 1
    monkeypatch.setattr(peers, "SAMPLERS", {"normal": "NormalSampler"})
    small = ["--image-size", "32", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
    assert train_judge.main(small) == 0
    assert evaluate.main(["--output", "ours.json"]) == 0
    capfd.readouterr()
    flags = ["--seconds", "2", "--models", "vae", "rae"]
    flags += ["--output", "peers.json", "--pictures", "pictures"]
    assert peers.main([RUN, *flags]) == 0
    assert capfd.readouterr().err == ""
    ours, theirs = (json.loads(Path(f"{name}.json").read_text()) for name in ("ours", "peers"))
    rows = theirs["features_of_the_judge"]
    sets = [f"{name}-{kind}" for name in ("vae", "rae") for kind in ("reconstructions", "normal")]
    assert list(rows) == ["real", *(name.replace("-", ", ") for name in sets)]
    assert rows["real"] == ours["features_of_the_judge"]["rows"]["real"]
    assert {path.stem for path in Path("pictures").iterdir()} == set(sets)
    for row in theirs["models"].values():
        assert row["seconds"] >= 2
        assert row["psnr"] == pytest.approx(-10 * np.log10(row["sse"] / (3 * 32**2)))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("data", "runs", "pictures", "ours.json", "ours.png", "peers.json")
    }
