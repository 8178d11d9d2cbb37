import shutil
from pathlib import Path

import pytest
import torch

from vae import VAE, load_model
from vae.checkpoint import (
    Checkpoint,
    choose_run_dir,
    find_checkpoint,
    load_checkpoint,
    newest_run,
    require_statistics,
    save_checkpoint,
)
from vae.errors import UserError
from vae.loader import load_run_faces


def make_checkpoint(**changes):
    model = VAE(32, (4, 6), 5)
    training = {"weights": model.state_dict(), "average": None, "epoch": 2}
    known = {"config": {"seed": 1}, "arch": model.arch, "crop": "celeba", "digest": "d"}
    return Checkpoint(**{**known, "origins": {}, "training": training, **changes})


def test_a_checkpoint_rebuilds_its_model_by_itself(tmp_path):
    checkpoint = make_checkpoint()
    save_checkpoint(checkpoint, tmp_path / "last.pt")
    model, loaded = load_model(tmp_path / "last.pt")
    assert not model.training
    assert loaded.arch == {"image_size": 32, "channels": [4, 6], "latent_dim": 5}
    for name, value in checkpoint.training["weights"].items():
        assert torch.equal(model.state_dict()[name], value)


def test_the_file_holds_tensors_and_primitives_alone(home):
    stored = torch.load("runs/celeba-32/best.pt", weights_only=True)

    def leaves(value):
        if isinstance(value, dict):
            assert all(isinstance(key, str | int) for key in value)
            return [leaf for item in value.values() for leaf in leaves(item)]
        if isinstance(value, list | tuple):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    allowed = torch.Tensor | str | int | float | bool | None
    assert all(isinstance(leaf, allowed) for leaf in leaves(stored))
    assert not [name for name in stored["training"]["weights"] if name.startswith(("module", "_"))]


def test_the_statistics_of_a_run_are_those_of_its_weights(home):
    model, checkpoint = load_model("runs/celeba-32")
    faces = load_run_faces(checkpoint.config)
    x = torch.from_numpy(faces.pixels[faces.rows("train")]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        mu, logvar = model.encode(x)
    statistics = checkpoint.statistics
    torch.testing.assert_close(statistics["mean"], mu.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics["covariance"], torch.cov(mu.T), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(statistics["mean_variance"], logvar.exp().mean(0), rtol=1e-4, atol=0)
    assert statistics["cooccurrence"].diagonal().sum() == faces.attributes[:40].sum()


def without_statistics(path):
    """Write the run's last checkpoint to path without its statistics; return these."""
    checkpoint = load_checkpoint(Path("runs/celeba-32/last.pt"))
    statistics, checkpoint.statistics = checkpoint.statistics, None
    save_checkpoint(checkpoint, path)
    return statistics


def test_statistics_that_are_missing_are_computed_and_stored(home, tmp_path):
    path = tmp_path / "last.pt"
    expected = without_statistics(path)
    require_statistics(path, *load_model(path))
    again = load_checkpoint(path).statistics
    for name, value in expected.items():
        torch.testing.assert_close(again[name], value)


def test_round_trips_that_an_older_file_lacks_are_added_without_its_faces(home, tmp_path):
    path = tmp_path / "last.pt"
    checkpoint = load_checkpoint(Path("runs/celeba-32/last.pt"))
    expected = checkpoint.statistics.pop("round_trips")
    save_checkpoint(checkpoint, path)
    require_statistics(path, *load_model(path), "nowhere")
    torch.testing.assert_close(load_checkpoint(path).statistics["round_trips"], expected)


def test_statistics_are_not_computed_from_other_faces_or_none(home, tmp_path):
    path = tmp_path / "last.pt"
    without_statistics(path)
    shutil.copytree("data/celeba", tmp_path / "other")
    (tmp_path / "other/img_align_celeba/000060.jpg").unlink()
    with pytest.raises(UserError, match=r"no latent statistics yet.*--data has faces"):
        require_statistics(path, *load_model(path), str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"no latent statistics yet.*no images under nowhere"):
        require_statistics(path, *load_model(path), "nowhere")
    assert load_checkpoint(path).statistics is None


def test_the_last_checkpoint_before_is_kept_and_named_when_the_last_is_damaged(tmp_path):
    last = tmp_path / "last.pt"
    for epoch in (1, 2):
        save_checkpoint(make_checkpoint(training={"epoch": epoch}), last, tmp_path / "last.prev.pt")
    assert load_checkpoint(tmp_path / "last.prev.pt").training["epoch"] == 1
    whole = last.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        last.write_bytes(whole[:size])
        with pytest.raises(UserError) as caught:
            load_checkpoint(last)
        prev = tmp_path / "last.prev.pt"
        assert str(caught.value) == (
            f"{last} is damaged (unexpected end); the one before it is {prev}"
        )


def test_a_byte_that_turned_is_noticed(tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(make_checkpoint(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"best.pt is damaged \(a checksum is wrong\)$"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "foreign", [{"state_dict": {}}, [1, 2], Path("a"), {"format": 2}, {"format": 2, "epoch": 3}]
)
def test_a_file_of_another_project_is_refused(tmp_path, foreign):
    path = tmp_path / "model.pt"
    torch.save(foreign, path)
    with pytest.raises(UserError, match=r"model.pt is not a checkpoint of this project"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "changes", [{"arch": {"image_size": 32, "channels": [4, 6], "latent_dim": 7}}, {"arch": {}}]
)
def test_weights_that_do_not_fit_their_network_are_said(tmp_path, changes):
    save_checkpoint(make_checkpoint(**changes), tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last.pt is damaged: its weights do not fit its network"):
        load_model(tmp_path / "last.pt")


def test_a_text_file_is_no_checkpoint(tmp_path):
    (tmp_path / "notes.pt").write_text("these are my notes, and they are long enough")
    with pytest.raises(UserError, match=r"notes.pt is not a checkpoint of this project"):
        load_checkpoint(tmp_path / "notes.pt")


def test_a_format_of_the_future_is_refused(tmp_path):
    save_checkpoint(make_checkpoint(format=3), tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last.pt has format 3, this code reads 2"):
        load_checkpoint(tmp_path / "last.pt")


def test_the_best_of_a_run_is_taken_else_the_last_else_the_one_before(tmp_path):
    for name in ("last.prev.pt", "last.pt", "best.pt"):
        (tmp_path / name).write_bytes(b"")
        assert find_checkpoint(tmp_path).name == name
    assert find_checkpoint(tmp_path, prefer="last.pt").name == "last.pt"
    assert find_checkpoint(tmp_path / "last.pt").name == "last.pt"


def test_where_no_run_is_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no run under runs/: train one \(python train.py\)"):
        newest_run()
    with pytest.raises(UserError, match=r"no checkpoint under .*: looked for best.pt, last.pt"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"there is no checkpoint nowhere.pt"):
        load_checkpoint(Path("nowhere.pt"))


def test_runs_are_numbered_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("celeba-32", "celeba-32-2", "celeba-32-3"):
        run_dir = choose_run_dir(None, "celeba-32")
        assert run_dir == Path("runs") / name
        save_checkpoint(make_checkpoint(), run_dir / "last.pt")
    with pytest.raises(UserError, match="holds a run: go on with --resume runs/celeba-32-2"):
        choose_run_dir("runs/celeba-32-2", "celeba-32")
    assert newest_run() == Path("runs/celeba-32-3")
