import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_generate import as_pixels, assert_close, decode, make_vivid, noise, pixels_of, refined
from torchvision.utils import make_grid

import manipulate
from vae import open_run
from vae.checkpoint import JudgeCheckpoint, load_checkpoint, save_checkpoint
from vae.models.judge import Judge

STANDARD = ["--prior", "standard"]


@pytest.fixture
def vivid(home, tmp_path):
    """Return the folder of a run, as text; the folder with its data set is the current one."""
    return make_vivid("runs/celeba-32", tmp_path / "run")


def mean_difference(statistics, name):
    """Return the mean code with an attribute minus the mean code without it."""
    column = statistics["attribute_names"].index(name)
    count, total = statistics["cooccurrence"][column, column], statistics["class_sums"][column]
    everyone = statistics["attribute_n"] * statistics["attribute_mean"]
    return total / count - (everyone - total) / (statistics["attribute_n"] - count)


def read_faces(folder, *names):
    return np.stack([pixels_of(Path(folder) / f"{name}.png") for name in names])


@pytest.mark.parametrize("source", ["random", "val", "mean"])
def test_a_sweep_adds_the_direction_by_its_strength(vivid, tmp_path, source):
    flags = [
        "--checkpoint",
        vivid,
        "--source",
        source,
        "--faces",
        "0",
        "3",
        "--attribute",
        "smiling",
    ]
    flags += ["--method", "mean", *STANDARD, "--strengths", "-40", "0", "40"]
    output = ["--files", str(tmp_path), "--output", str(tmp_path / "sweep.png")]
    assert manipulate.main([*flags, *output]) == 0
    run = open_run(vivid)
    if source == "random":
        label, z = "3", noise(0, [3])
    elif source == "mean":
        label, z = "mean", run.checkpoint.statistics["mean"][None]
    else:
        label = "3"
        pixels = np.load(next(Path("data/cache").glob("celeba-32px*.npy")))[43]
        with torch.no_grad():
            z, _ = run.model.encode(torch.tensor(pixels).permute(2, 0, 1)[None] / 255)
    direction = mean_difference(run.checkpoint.statistics, "Smiling")
    codes = torch.cat([z - 40 * direction, z, z + 40 * direction])
    shown = read_faces(tmp_path, f"{label}-Smiling-40", f"{label}-Smiling0", f"{label}-Smiling+40")
    assert_close(shown, decode(run.model, codes))


def test_a_sweep_has_a_row_for_each_face_and_a_column_for_each_strength(vivid, tmp_path):
    flags = ["--checkpoint", vivid, "--attribute", "Smiling", "--faces", "5", "2", *STANDARD]
    flags += ["--strengths", "0", "60", "-60", "--files", str(tmp_path)]
    assert manipulate.main([*flags, "--output", str(tmp_path / "sweep.png")]) == 0
    names = [f"{face}-Smiling{strength}" for face in (5, 2) for strength in ("0", "+60", "-60")]
    faces = torch.from_numpy(read_faces(tmp_path, *names)).permute(0, 3, 1, 2) / 255
    grid = make_grid(faces, nrow=3, pad_value=1).mul(255).round().byte().permute(1, 2, 0).numpy()
    size = (3 * grid.shape[1], 3 * grid.shape[0])  # faces of 32 pixels are shown with 96
    enlarged = np.asarray(Image.fromarray(grid).resize(size, Image.LANCZOS))
    picture = pixels_of(tmp_path / "sweep.png")
    places = np.lib.stride_tricks.sliding_window_view(picture, enlarged.shape)[:, :, 0]
    assert (places == enlarged).all(axis=(2, 3, 4)).sum() == 1


def test_each_attribute_has_a_picture_and_both_are_named_last(vivid, tmp_path, capsys):
    flags = ["--checkpoint", vivid, "--faces", "0", "--output", str(tmp_path / "a.png")]
    for replaced in ("", " (replaced)"):
        assert manipulate.main([*flags]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == f"checkpoint: {vivid}/best.pt, epoch 2"
        assert printed[1] == "Smiling: round-trip, from 20 faces with it, 20 without"
        names = ("Smiling", "Eyeglasses")
        assert printed[-2:] == [f"{tmp_path}/a-{name}.png{replaced}" for name in names]


def test_adding_is_a_sweep_to_strength_one_and_removing_is_its_opposite(vivid, tmp_path):
    flags = ["--checkpoint", vivid, "--faces", "0", *STANDARD, "--method", "mean"]
    flags += ["--output", str(tmp_path / "a.png"), "--files"]
    edits = {
        "both": ["--add", "Smiling", "--remove", "smiling"],
        "apart": ["--add", "Smiling", "--remove", "Eyeglasses"],
        "sweep": ["--attribute", "Smiling", "--strengths", "0", "1"],
    }
    for name, edit in edits.items():
        assert manipulate.main([*flags, str(tmp_path / name), *edit]) == 0
    run = open_run(vivid)
    smile, glasses = (
        mean_difference(run.checkpoint.statistics, name) for name in ("Smiling", "Eyeglasses")
    )
    z = noise(0, [0])
    plain, smiling, mixed = decode(run.model, torch.cat([z, z + smile, z + smile - glasses]))
    arithmetic = ("0-arithmetic-before", "0-arithmetic-after")
    for name, expected in (("both", plain), ("apart", mixed)):
        before, after = read_faces(tmp_path / name, *arithmetic).astype(int)
        assert np.abs(before - plain).max() <= 1
        assert np.abs(after - expected).max() <= 1
    moved = read_faces(tmp_path / "sweep", "0-Smiling+1")[0].astype(int)
    assert np.abs(moved - smiling).max() <= 1
    assert np.abs(mixed.astype(int) - plain).max() > 1


def test_a_gif_plays_from_the_first_strength_to_the_last_and_back(vivid, tmp_path):
    flags = ["--checkpoint", vivid, "--gif", "--attribute", "Smiling", "--faces", "0", "1"]
    flags += ["--strengths", "-60", "60", *STANDARD, "--files", str(tmp_path)]
    assert manipulate.main([*flags, "--output", str(tmp_path / "sweep.png")]) == 0
    with Image.open(tmp_path / "sweep.gif") as gif:
        assert gif.n_frames == 48
        frames = []
        for number in (0, 24):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB"))[2:34, 2:34].astype(int))
    ends = read_faces(tmp_path, "0-Smiling-60", "0-Smiling+60").astype(int)
    # a GIF has 256 colours
    assert np.abs(np.stack(frames) - ends).mean() < 8
    assert np.abs(ends[0] - ends[1]).mean() > 16


@pytest.fixture
def guide(vivid, tmp_path):
    """Return a guide of random weights that the run can use; it is in the folder judges."""
    run = open_run(vivid)
    torch.manual_seed(0)
    judge = Judge((4, 6), run.attribute_names).eval()
    judge.head.weight.data *= 30
    checkpoint = run.checkpoint
    made = JudgeCheckpoint(
        config={"image_size": 32},
        arch=judge.arch,
        weights=judge.state_dict(),
        crop=checkpoint.crop,
        digest=checkpoint.digest,
        seed=0,
        attributes={},
        identity=None,
    )
    save_checkpoint(made, tmp_path / "judges" / "guide.pt")
    return judge


def test_equal_codes_of_an_edit_are_equal_refined_pictures(sharp, tmp_path):
    flags = ["--output", str(tmp_path / "a.png"), "--files", str(tmp_path / "faces")]
    edit = ["--add", "Smiling", "--remove", "smiling", "--faces", "0", "1"]
    shown = {}
    for name, given in (("refined", []), ("plain", ["--no-refine"])):
        assert manipulate.main([*edit, *flags, *given]) == 0
        names = [f"{face}-arithmetic-{when}" for face in (0, 1) for when in ("before", "after")]
        shown[name] = read_faces(tmp_path / "faces", *names).astype(int)
        before, after = shown[name][0::2], shown[name][1::2]
        assert np.abs(before - after).max() <= 1
    run = open_run("runs/celeba-32")
    x_hat = run.decode(run.sample(0, [0, 1]))
    assert np.abs(shown["plain"][0::2] - as_pixels(x_hat)).max() <= 1
    assert_close(shown["refined"][0::2], refined(run, x_hat, [0, 1], 8, 0.8))


def test_the_frames_of_a_gif_without_an_edit_are_equal(sharp, tmp_path):
    flags = ["--gif", "--attribute", "Smiling", "--strengths", "0"]
    flags += ["--faces", "0", "1"]
    assert manipulate.main([*flags, "--output", str(tmp_path / "still.png")]) == 0
    with Image.open(tmp_path / "still.gif") as gif:
        frames = []
        for number in range(gif.n_frames):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    assert np.abs(np.stack(frames) - frames[0]).max() <= 2
    assert np.ptp(frames[0]) > 50


def probability(guide, pixels, name="Smiling"):
    """Return the guide's probability of an attribute for pixels (N, S, S, 3)."""
    with torch.no_grad():
        logits = guide(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    return logits[:, guide.arch["attribute_names"].index(name)].sigmoid()


def test_each_face_moves_until_the_guide_gives_the_probability(vivid, guide, tmp_path, capsys):
    run, z = open_run(vivid), noise(0, range(4))
    direction = run.direction("Smiling", "mean")
    steps = torch.linspace(0, 6, 7)
    codes = z[:, None] + steps[None, :, None] * direction
    pixels = decode(run.model, codes.flatten(0, 1))
    curves = probability(guide, pixels).reshape(4, 7)
    # half of the faces reach it
    target = curves.max(dim=1).values.sort().values[1:3].mean().item()
    flags = ["--checkpoint", vivid, "--judges", str(tmp_path / "judges"), "--to", f"{target:.4f}"]
    flags += [
        *STANDARD,
        "--method",
        "mean",
        "--faces",
        "0",
        "1",
        "2",
        "3",
        "--attribute",
        "Smiling",
    ]
    output = ["--files", str(tmp_path / "faces"), "--output", str(tmp_path / "to.png")]
    assert manipulate.main([*flags, *output]) == 0
    printed = capsys.readouterr().out
    assert f"guide: {tmp_path}/judges/guide.pt" in printed
    assert printed.count("not reached, ") == 2
    subject = f"Smiling-to-{float(f'{target:.4f}'):g}"
    before = read_faces(tmp_path / "faces", *(f"{face}-{subject}-before" for face in range(4)))
    after = read_faces(tmp_path / "faces", *(f"{face}-{subject}-after" for face in range(4)))
    assert np.abs(before.astype(int) - decode(run.model, z)).max() <= 1
    for face, seen in enumerate(probability(guide, after).tolist()):
        line = next(line for line in printed.splitlines() if line.startswith(f"  {face}: "))
        if "not reached" in line:
            assert seen < target
            assert seen >= curves[face].max() - 0.01
        else:
            assert seen >= target - 0.01


def test_kept_attributes_change_the_direction_and_are_named(vivid, guide, tmp_path, capsys):
    flags = ["--checkpoint", vivid, "--judges", str(tmp_path / "judges"), "--attribute", "Smiling"]
    flags += ["--strengths", "0", "2", "--faces", "0", "--files", str(tmp_path / "faces")]
    output = ["--output", str(tmp_path / "a.png")]
    assert manipulate.main([*flags, *output]) == 0
    plain = read_faces(tmp_path / "faces", "0-Smiling0", "0-Smiling+2").astype(int)
    assert manipulate.main([*flags, *output, "--keep", "Eyeglasses"]) == 0
    kept = read_faces(tmp_path / "faces", "0-Smiling0", "0-Smiling+2").astype(int)
    assert "Smiling: round-trip, keeping Eyeglasses, from 20 faces" in capsys.readouterr().out
    assert (plain[0] == kept[0]).all()
    assert (plain[1] != kept[1]).any()


def test_edits_are_made_without_the_data_set(home, tmp_path, monkeypatch):
    shutil.copy("runs/celeba-32/best.pt", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert manipulate.main(["--checkpoint", "best.pt", "--faces", "0", "1"]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"Smiling.png", "Eyeglasses.png"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--strengths", "1", "--to", "0.9"], "pass one of --strengths, --to, and --add"),
        (["--strengths", "1", "--add", "Smiling"], "pass one of --strengths, --to, and --add"),
        (["--to", "0.9", "--remove", "Smiling"], "pass one of --strengths, --to, and --add"),
        (["--add", "Smiling", "--attribute", "Smiling"], "--attribute is for sweeps"),
        (["--gif", "--add", "Smiling"], "--gif is for sweeps"),
        (["--output", "file/a.png"], "cannot write file/a-Smiling.png: a part of the path is"),
        (["--output", "a.png"], "cannot write a-Eyeglasses.png: it is a folder"),
        (["--files", "file"], "cannot write file/face.png: a part of the path is a file"),
        (["--attribute", "Smiling", "Smilling"], 'no attribute "Smilling": did you mean "Smiling"'),
    ],
)
def test_a_mistake_is_reported_before_any_work(home, tmp_path, monkeypatch, capsys, flags, message):
    shutil.copy("runs/celeba-32/best.pt", tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("a-Eyeglasses.png").mkdir()
    before = set(tmp_path.rglob("*"))
    # there is no data set here: with work done first, that would be the message
    assert manipulate.main(["--checkpoint", "best.pt", "--source", "val", *flags]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1
    assert "from 20 faces" not in printed.out
    assert set(tmp_path.rglob("*")) == before


def test_a_face_is_edited_alike_whatever_other_faces_are_asked_for(sharp, tmp_path):
    shown = []
    for name, faces in (("alone", ["3"]), ("both", ["0", "3"])):
        flags = ["--attribute", "Smiling", "--strengths", "0", "--faces", *faces]
        output = ["--output", str(tmp_path / "a.png"), "--files", str(tmp_path / name)]
        assert manipulate.main([*flags, *output]) == 0
        shown.append(read_faces(tmp_path / name, "3-Smiling0").astype(int))
    assert np.abs(shown[0] - shown[1]).max() <= 1


@pytest.fixture
def photo(tmp_path):
    """Return the path of a large picture, and the pixels of two eyes in it."""
    pixels = np.random.default_rng(3).integers(0, 256, (27, 36, 3), np.uint8)
    path = tmp_path / "me.png"
    Image.fromarray(pixels).resize((360, 270), Image.BICUBIC).save(path)
    return str(path), ["--eyes", "120", "130", "190", "110"]


def test_the_edit_of_a_photo_is_given_back_to_it(vivid, tmp_path, capsys, photo):
    picture, eyes = photo
    flags = ["--checkpoint", vivid, "--image", picture, *eyes, "--attribute", "Smiling"]
    flags += ["--strengths", "0", "60", "--output", str(tmp_path / "a.png")]
    assert manipulate.main([*flags, "--files", str(tmp_path / "files")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == [f"{tmp_path}/a.png", f"{tmp_path}/files (2 pictures)"]
    before, still, smiling = (
        pixels_of(path).astype(int)
        for path in (picture, *(tmp_path / f"files/0-me-Smiling{at}.png" for at in ("0", "+60")))
    )
    assert (still == before).all()
    changed = np.argwhere((smiling != before).any(axis=2))
    assert len(changed) > 100
    # around the eyes: a square of 3.7 times their distance is cut
    assert np.abs(changed - (120, 155)).max() < 3.7 * 73


def test_the_picture_of_a_photo_has_two_rows_and_says_what_was_cut(vivid, tmp_path, photo):
    picture, eyes = photo
    flags = ["--checkpoint", vivid, "--image", picture, *eyes, "--attribute", "Smiling"]
    assert manipulate.main([*flags, "--strengths", "0", "--output", str(tmp_path / "a.png")]) == 0
    shown = pixels_of(tmp_path / "a.png")
    green = (shown[..., 1].astype(int) - shown[..., [0, 2]].max(axis=2)) > 150
    assert green.sum() > 100  # the frame in the first panel
    assert shown.shape[0] > 2 * 160
    assert shown.shape[1] > 3 * 160


def test_a_photo_is_searched_only_where_its_frame_does_not_say_enough(
    vivid, tmp_path, monkeypatch, capsys, photo
):
    monkeypatch.setitem(sys.modules, "cv2", None)
    flags = ["--checkpoint", vivid, "--attribute", "Smiling", "--strengths", "0"]
    flags += ["--output", str(tmp_path / "a.png"), "--image"]
    framed = "data/celeba/img_align_celeba/000044.jpg"
    assert manipulate.main([*flags, framed, framed]) == 0
    assert manipulate.main([*flags, photo[0], "--aligned"]) == 0
    capsys.readouterr()
    assert manipulate.main([*flags, photo[0]]) == 2
    assert "opencv-python-headless<5" in capsys.readouterr().err


def test_a_photo_of_a_model_in_another_frame_is_cut_by_the_crop_rule(vivid, tmp_path, photo):
    checkpoint = load_checkpoint(Path(vivid) / "best.pt")
    checkpoint.statistics["framed"] = 0.0
    save_checkpoint(checkpoint, tmp_path / "other.pt")
    flags = ["--checkpoint", str(tmp_path / "other.pt"), "--attribute", "Smiling"]
    flags += ["--strengths", "0", "--output", str(tmp_path / "a.png"), "--image", photo[0]]
    assert manipulate.main(flags) == 0
