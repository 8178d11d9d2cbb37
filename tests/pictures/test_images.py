from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vae.errors import UserError
from vae.pictures.images import above, picture_paths, save_gif, save_grid, save_pictures, to_uint8


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_pixels_are_rounded_to_the_nearest_of_256_levels():
    levels = torch.arange(256).repeat(3).reshape(1, 3, 16, 16) / 255
    expected = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for offset in (-0.4 / 255, 0.0, 0.4 / 255):
        pixels = to_uint8(levels + offset)
        assert pixels.shape == (1, 16, 16, 3)
        for channel in range(3):
            np.testing.assert_array_equal(pixels[0, :, :, channel], expected)


@pytest.mark.parametrize(("count", "columns"), [(6, 3), (7, 3), (2, 5)])
def test_a_grid_holds_each_image_in_its_place_on_white(tmp_path, count, columns):
    x = torch.rand(count, 3, 7, 7)
    assert save_grid(x, tmp_path / "grid.png", columns) == str(tmp_path / "grid.png")
    columns = min(columns, count)
    expected = np.full((-(-count // columns) * 9 + 2, columns * 9 + 2, 3), 255, np.uint8)
    for index, image in enumerate(x):
        top, left = (2 + 9 * place for place in divmod(index, columns))
        rounded = np.round(255 * image.permute(1, 2, 0).numpy())
        expected[top : top + 7, left : left + 7] = rounded
    np.testing.assert_array_equal(pixels_of(tmp_path / "grid.png"), expected)


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp"])
def test_the_suffix_decides_the_format(tmp_path, suffix):
    path = tmp_path / f"grid.{suffix}"
    save_grid(torch.full((2, 3, 16, 16), 0.5), path, columns=2)
    formats = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
    with Image.open(path) as picture:
        assert picture.format == formats[suffix.lower()]
    assert np.abs(pixels_of(path)[10, 10].astype(int) - 128).max() <= 3


def test_rows_of_two_stacks_alternate_also_where_the_last_is_short():
    upper, lower = torch.zeros(5, 1, 1, 1), torch.full((5, 1, 1, 1), 0.5)
    grid = above(upper, lower, columns=3).flatten().tolist()
    assert grid == [0, 0, 0, 0.5, 0.5, 0.5, 0, 0, 1, 0.5, 0.5, 1]


def test_each_face_can_have_a_file_of_its_own(tmp_path):
    x = torch.rand(2, 3, 8, 8)
    save_pictures(x, tmp_path / "faces", ["a", "b"])
    for name, image in zip("ab", x, strict=True):
        pixels = torch.from_numpy(pixels_of(tmp_path / "faces" / f"{name}.png").copy())
        expected = image.permute(1, 2, 0)
        torch.testing.assert_close(pixels / 255, expected, atol=0.5 / 255 + 1e-6, rtol=0)


def test_single_faces_are_counted_and_so_are_those_that_they_replace(tmp_path):
    x = torch.rand(3, 3, 8, 8)
    assert save_pictures(x[:1], tmp_path, "a") == f"{tmp_path} (1 picture)"
    assert save_pictures(x, tmp_path, "abc") == f"{tmp_path} (3 pictures, 1 replaced)"
    assert save_pictures(x, tmp_path, "def") == f"{tmp_path} (3 pictures)"


def test_a_gif_plays_its_grids_forwards_and_backwards(tmp_path):
    greys = (0.0, 0.4, 0.8)
    save_gif([torch.full((2, 3, 8, 8), v) for v in greys], tmp_path / "a.gif", columns=2)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.info["loop"], gif.size) == (4, 0, (22, 12))
        shown = []
        for frame in range(4):
            gif.seek(frame)
            pixels = np.asarray(gif.convert("RGB"))
            assert (pixels[6, 11] == 255).all()  # the gap between the two images
            shown.append(int(pixels[6, 6, 0]))
            assert pixels[6, 16, 0] == shown[-1]
    assert shown == [0, 102, 204, 102]


def test_several_pictures_of_one_call_put_their_subject_before_the_suffix():
    run = Path("runs/a")
    assert picture_paths(None, run, ["grid", "b"]) == {"grid": run / "grid.png", "b": run / "b.png"}
    assert picture_paths("out/me.jpg", run, ["grid"]) == {"grid": Path("out/me.jpg")}
    assert picture_paths("out/me.jpg", run, ["grid", "Hat/Cap"]) == {
        "grid": Path("out/me-grid.jpg"),
        "Hat/Cap": Path("out/me-Hat-Cap.jpg"),
    }


@pytest.mark.parametrize(
    ("output", "files", "message"),
    [
        ("file/a.png", None, "cannot write file/a-x.png: a part of the path is a file"),
        ("taken.png", None, "cannot write taken-y.png: it is a folder"),
        (None, "file", "cannot write file/face.png: a part of the path is a file"),
    ],
)
def test_places_that_cannot_be_written_are_refused(tmp_path, monkeypatch, output, files, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("taken-y.png").mkdir()
    with pytest.raises(UserError, match=f"^{message}$"):
        picture_paths(output, Path("runs/a"), ["x", "y"], files)
    assert not Path("runs").exists()


@pytest.mark.parametrize(("name", "side"), [("a.webp", 16384), ("a.jpg", 65536)])
def test_a_picture_too_large_for_its_format_is_one_line_and_the_old_one_stays(tmp_path, name, side):
    path = tmp_path / name
    save_grid(torch.zeros(1, 3, 8, 8), path, columns=1)
    before = path.read_bytes()
    with pytest.raises(UserError, match="the picture is too large for its format: pass fewer"):
        save_grid(torch.zeros(1, 3, 4, side), path, columns=1)
    assert path.read_bytes() == before
