from pathlib import Path

import pytest
import torch
from conftest import move_pretrained

import generate
import manipulate
import train_judge
from benchmarks import make_pretrained
from vae import open_run
from vae.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def judges(trained_sharp):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained_sharp)
        flags = ["--image-size", "32", "--epochs", "1", "--device", "cpu"]
        assert train_judge.main([*flags, "--run-dir", "judges"]) == 0
    return trained_sharp / "judges"


@pytest.fixture
def pretrained(judges, sharp, monkeypatch):
    """Make pretrained/ from the small run, as the only model there is; return its folder."""
    folder = sharp / "pretrained"
    flags = ["runs/celeba-32", str(judges), "--target", str(folder)]
    assert make_pretrained.main(flags) == 0
    Path("runs").rename("elsewhere")
    Path("data").rename("nowhere")
    move_pretrained(monkeypatch, folder)
    return folder


def test_the_files_draw_the_faces_of_the_run_within_the_rounding(pretrained):
    small, run = open_run("pretrained"), open_run("elsewhere/celeba-32")
    weights = load_checkpoint(pretrained / "best.pt").weights
    assert {one.dtype for one in weights.values() if one.is_floating_point()} == {torch.float16}
    z = run.sample(0, range(6))
    torch.testing.assert_close(small.sample(0, range(6)), z)
    torch.testing.assert_close(small.decode(z), run.decode(z), atol=5e-3, rtol=0)
    x, refined = run.decode(z), run.refine(run.decode(z), range(6))
    torch.testing.assert_close(small.refine(x, range(6)), refined, atol=5e-3, rtol=0)


def test_scripts_without_a_run_use_it_and_write_into_runs(pretrained, capsys):
    before = {path: path.read_bytes() for path in pretrained.iterdir()}
    assert generate.main(["--count", "4", "--device", "cpu"]) == 0
    flags = ["--attribute", "Smiling", "--to", "0.5", "--faces", "0", "--device", "cpu"]
    assert manipulate.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"checkpoint: {pretrained / 'best.pt'}, epoch 2" in lines
    assert f"guide: {pretrained / 'guide.pt'}" in lines
    names = {path.name for path in Path("runs/pretrained").iterdir()}
    assert names == {"grid.png", "Smiling-to-0.5.png"}
    assert {path: path.read_bytes() for path in pretrained.iterdir()} == before


def test_a_run_of_ones_own_comes_before_it(pretrained, capsys):
    Path("elsewhere").rename("runs")
    assert generate.main(["--count", "1", "--device", "cpu"]) == 0
    assert "checkpoint: runs/celeba-32/best.pt" in capsys.readouterr().out


def test_judges_of_other_faces_and_an_unfinished_run_are_refused(judges, sharp, capsys):
    best = Path("runs/celeba-32/best.pt")
    checkpoint = load_checkpoint(best)
    checkpoint.digest = "other"
    save_checkpoint(checkpoint, best)
    flags = ["runs/celeba-32", str(judges), "--target", "made"]
    assert make_pretrained.main(flags) == 2
    assert "was trained on other faces than runs/celeba-32" in capsys.readouterr().err
    checkpoint.statistics = None
    save_checkpoint(checkpoint, best)
    assert make_pretrained.main(flags) == 2
    assert "runs/celeba-32 has no latent statistics" in capsys.readouterr().err
    assert not Path("made").exists()


def test_weights_that_16_bits_cannot_hold_are_refused():
    with pytest.raises(make_pretrained.UserError, match="first has values"):
        make_pretrained.to_float16({"first": torch.tensor([1e6])})
