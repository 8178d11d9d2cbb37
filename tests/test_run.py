import dataclasses
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import move_pretrained

from config import GenerateConfig
from vae import open_run
from vae.checkpoint import JudgeCheckpoint, load_checkpoint, save_checkpoint
from vae.errors import UserError
from vae.latent.codes import image_noise, seeded_noise
from vae.models.judge import Judge
from vae.models.refiner import refine
from vae.run import open_judge


def without_statistics(path):
    """Write the run's last checkpoint to path without its statistics; return these."""
    checkpoint = load_checkpoint(Path("runs/celeba-32/last.pt"))
    save_checkpoint(dataclasses.replace(checkpoint, statistics=None), path)
    return checkpoint.statistics


# The model and its codes


def test_decode_and_encode_are_the_models(home):
    run, z = open_run("runs/celeba-32"), seeded_noise(0, range(130), 5)
    with torch.no_grad():
        torch.testing.assert_close(run.decode(z), run.model.decode(z), atol=1e-6, rtol=0)
        x = run.decode(z)
        mu, logvar = run.encode(x)
        torch.testing.assert_close((mu, logvar), run.model.encode(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(run.encode(x.split(7)), (mu, logvar), atol=1e-5, rtol=1e-5)


def test_samples_come_from_the_runs_prior_unless_another_is_named(home, capsys):
    run = open_run("runs/celeba-32")
    torch.testing.assert_close(run.sample(3, [1, 4]), run.prior("mixture").sample(3, [1, 4]))
    noise = seeded_noise(3, [1, 4], 5)
    torch.testing.assert_close(run.sample(3, [1, 4], "standard", 0.5), 0.5 * noise)
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["prior: mixture, temperature 1", "prior: standard, temperature 0.5"]


def test_a_moved_data_set_is_found_where_it_is_now(home, tmp_path):
    shutil.copytree("data/celeba", tmp_path / "elsewhere")
    here, there = (
        open_run("runs/celeba-32"),
        open_run("runs/celeba-32", data=tmp_path / "elsewhere"),
    )
    assert here.faces.digest() == there.faces.digest()
    np.testing.assert_array_equal(here.faces.pixels, there.faces.pixels)
    assert there.faces.path != here.faces.path


# The refiner


def test_a_face_is_refined_alike_in_any_batch_and_otherwise_under_another_number(sharp):
    run = open_run("runs/celeba-32")
    x_hat = run.decode(seeded_noise(0, range(4), 5))
    whole = run.refine(x_hat, range(4))
    part = run.refine(x_hat[[2, 0]], [2, 0])
    torch.testing.assert_close(part, whole[[2, 0]], atol=1e-5, rtol=0)
    # frames of a sweep: equal codes and numbers give equal pixels
    frames = run.refine(x_hat[[1, 1, 1]], [1, 1, 6])
    torch.testing.assert_close(frames[:2], whole[[1, 1]], atol=1e-5, rtol=0)
    assert (frames[2] - frames[1]).abs().max() > 0.02
    assert (run.refine(x_hat, range(4), seed=1) - whole).abs().max() > 0.02


def test_the_steps_and_the_strength_are_the_runs_unless_others_are_given(sharp):
    run = open_run("runs/celeba-32")
    x_hat, noise = run.decode(seeded_noise(0, range(3), 5)), image_noise(4, range(3), 32)
    for given, steps, strength in (({}, 8, 0.8), ({"steps": 2, "strength": 1.0}, 2, 1.0)):
        expected = refine(run.refiner, x_hat, noise, steps, strength)
        torch.testing.assert_close(run.refine(x_hat, range(3), 4, **given), expected)
    assert torch.equal(run.refine(x_hat, range(3), 4, strength=0.0), x_hat)


def test_a_run_without_a_refiner_shows_what_it_decodes(home):
    run, z = open_run("runs/celeba-32"), seeded_noise(0, range(3), 5)
    assert run.refiner is None
    assert torch.equal(run.render(z, range(3), GenerateConfig()), run.decode(z))


# Directions


def test_a_direction_is_one_unit_between_the_class_means(home):
    run = open_run("runs/celeba-32")
    mu, _ = run.encode(run.images(run.faces.rows("train")))
    has = torch.from_numpy(run.faces.attributes[:40, run.column("Smiling")])
    between = mu[has].mean(0) - mu[~has].mean(0)
    torch.testing.assert_close(run.direction("smiling", "mean"), between, rtol=1e-3, atol=1e-5)
    for method in ("balanced", "round-trip", "logistic"):
        direction = run.direction("Smiling", method)
        distance = (between @ direction).abs() / direction.norm()
        torch.testing.assert_close(direction.norm(), distance, rtol=1e-3, atol=0)


def test_the_logistic_direction_needs_the_training_faces(home):
    with pytest.raises(UserError, match="no images under nowhere"):
        open_run("runs/celeba-32", data="nowhere").direction("Smiling", "logistic")


def test_attributes_are_chosen_by_name_else_by_default_else_the_first_two(home):
    run = open_run("runs/celeba-32")
    assert run.chosen_attributes(["smiling", "MALE"], ["Young"]) == ["Smiling", "Male"]
    assert run.chosen_attributes([], ["Young", "Bald"]) == ["Young", "Bald"]
    assert run.chosen_attributes([], ["Young", "Tattoo"]) == run.attribute_names[:2]
    with pytest.raises(UserError, match='no attribute "Tattoo"'):
        run.chosen_attributes(["Tattoo"], [])


# Statistics that a file lacks


def test_missing_statistics_are_computed_and_said_and_not_stored(home, tmp_path, capsys):
    path = tmp_path / "last.pt"
    expected = without_statistics(path)
    before = path.read_bytes()
    path.chmod(stat.S_IRUSR)
    run = open_run(path)
    assert run.statistics.pop("attribute_names") == expected.pop("attribute_names")
    torch.testing.assert_close(run.statistics, expected)
    assert f"{path} has no latent statistics: computing them" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_statistics_are_not_computed_from_other_faces_or_none(home, tmp_path):
    path = tmp_path / "last.pt"
    without_statistics(path)
    shutil.copytree("data/celeba", tmp_path / "other")
    (tmp_path / "other/img_align_celeba/000060.jpg").unlink()
    with pytest.raises(UserError, match=r"no latent statistics.*--data has faces"):
        _ = open_run(path, data=str(tmp_path / "other")).statistics
    with pytest.raises(UserError, match=r"no latent statistics.*no images under nowhere"):
        _ = open_run(path, data="nowhere").statistics


# Judges


def test_the_pretrained_model_has_the_judges_beside_it_and_a_run_prefers_its_own(
    home, tmp_path, monkeypatch
):
    def save_guide(path, seed):
        torch.manual_seed(seed)
        judge, crop = Judge((4, 6), ("Smiling",)), open_run("runs/celeba-32").checkpoint.crop
        config = {"image_size": 32}
        weights = judge.state_dict()
        made = JudgeCheckpoint(config, judge.arch, weights, crop, "d", seed, {}, None)
        save_checkpoint(made, path)

    shutil.copytree("runs", tmp_path / "runs")
    shutil.copytree("runs/celeba-32", tmp_path / "repository")
    save_guide(tmp_path / "repository/guide.pt", seed=1)
    monkeypatch.chdir(tmp_path)
    move_pretrained(monkeypatch, tmp_path / "repository")
    pretrained, own = open_run("pretrained"), open_run("runs/celeba-32")
    assert open_judge("guide", own).checkpoint.seed == 1
    save_guide(tmp_path / "runs/celeba-32-judges/guide.pt", seed=2)
    assert open_judge("guide", own).checkpoint.seed == 2
    assert open_judge("guide", pretrained).checkpoint.seed == 1
