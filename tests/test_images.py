import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision.io import decode_jpeg

from vae.errors import UserError
from vae.images import (
    UNREADABLE,
    above,
    crop_box,
    decode_picture,
    make_grid,
    picture_path,
    read_pictures,
    save_gif,
    save_grid,
    save_pictures,
    to_float,
    to_uint8,
    why_unreadable,
)


@pytest.mark.parametrize(
    ("width", "height", "crop", "box"),
    [
        (178, 218, "celeba", (25, 45, 153, 173)),
        (89, 109, "celeba", (12, 22, 76, 86)),
        (356, 436, "celeba", (50, 90, 306, 346)),
        (300, 200, "largest", (50, 0, 250, 200)),
        (101, 200, "largest", (0, 49, 101, 150)),
        (178, 218, 148, (15, 35, 163, 183)),
    ],
)
def test_crops_are_centred_squares(width, height, crop, box):
    assert crop_box(width, height, crop) == box


def test_a_photograph_is_turned_upright_and_made_rgb(tmp_path):
    upright = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    file = io.BytesIO()
    upright.rotate(180).save(file, "png", exif=exif)
    pixels = decode_picture(file.getvalue(), 4, "largest")
    expected = np.asarray(upright)[:, 1:5]
    np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2))


def picture_file(mode="RGB", suffix="jpeg", **options):
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).resize((40, 56))
    file = io.BytesIO()
    noise.convert(mode).save(file, suffix, **options)
    return file.getvalue()


UPSIDE_DOWN = Image.Exif()
UPSIDE_DOWN[0x0112] = 3
PLAIN = {
    "baseline": {},
    "progressive": {"progressive": True},
    "full colour": {"subsampling": 0},
    "restarts": {"restart_marker_blocks": 2},
    "comment": {"comment": b"a face"},
}
NOT_PLAIN = {
    "gray": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "turned": {"exif": UPSIDE_DOWN},
    "colour profile": {"icc_profile": b"profile"},
    "PNG": {"suffix": "png"},
}


@pytest.mark.parametrize("kind", [*PLAIN, *NOT_PLAIN])
@pytest.mark.parametrize("image_size", [32, 20])
def test_torchvision_decodes_plain_jpegs_and_gives_pillows_pixels(kind, image_size):
    given = []

    def decoder(content):
        given.append(content.numpy().tobytes())
        return decode_jpeg(content)

    content = picture_file(**(PLAIN | NOT_PLAIN)[kind])
    pixels = decode_picture(content, image_size, 32, decoder)
    assert given == ([content] if kind in PLAIN else [])
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    square = picture.crop((4, 12, 36, 44)).resize((image_size, image_size), Image.BICUBIC)
    np.testing.assert_array_equal(pixels, np.asarray(square))


@pytest.mark.parametrize("damage", ["cut in its header", "cut in its pixels", "of a huge size"])
def test_of_a_damaged_jpeg_pillow_says_what_it_is(damage):
    content = bytearray(picture_file())
    frame = content.index(b"\xff\xc0")
    if damage == "of a huge size":
        content[frame + 5 : frame + 9] = b"\xff\xf0" * 2
    else:
        del content[frame + 3 if damage == "cut in its header" else -60 :]
    errors = []
    # what claims a huge size must not even be given room
    other = pytest.fail if damage == "of a huge size" else decode_jpeg
    for decoder in (None, other):
        with pytest.raises(UNREADABLE) as caught:
            decode_picture(bytes(content), 16, "largest", decoder)
        errors.append((caught.type, why_unreadable(caught.value)))
    assert errors[0] == errors[1]


def test_a_picture_whose_notes_are_damaged_is_unreadable():
    notes = Image.Exif()
    notes[0x0112], notes[0x010E] = 3, "hello"
    # a text where there should be numbers: PIL cannot write it again as it turns the picture
    damaged = notes.tobytes().replace(b"\x0e\x01", b"\x2d\x01").replace(b"\x01\x0e", b"\x01\x2d")
    with pytest.raises(UNREADABLE):
        decode_picture(picture_file(exif=damaged), 16, "largest")


def test_eight_bit_pixels_survive_the_way_to_floats_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    x = to_float(pixels)
    assert x.shape == (1, 3, 16, 16)
    assert (x.min(), x.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(to_uint8(x), pixels)


def test_a_grid_holds_each_image_in_its_place(tmp_path):
    x = torch.rand(5, 3, 7, 7)
    save_grid(x, tmp_path / "grid.png", columns=3)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 9 + 2, 3 * 9 + 2, 3)
    np.testing.assert_array_equal(grid[11:18, 11:18], to_uint8(x)[4])
    assert (grid[11:18, 20:27] == 255).all()


@pytest.mark.parametrize(("count", "columns"), [(6, 3), (7, 3), (2, 5), (1, 1)])
def test_a_grid_equals_torchvisions(count, columns):
    x = torch.rand(count, 3, 5, 5)
    oracle = torchvision.utils.make_grid(x, nrow=columns, padding=2, pad_value=1.0)
    if count > 1:
        assert torch.equal(make_grid(x, columns), oracle)
    assert make_grid(x, columns).shape[2] == 2 + min(count, columns) * 7


def test_rows_of_two_stacks_alternate_also_where_the_last_is_short():
    upper, lower = torch.zeros(5, 1, 1, 1), torch.full((5, 1, 1, 1), 0.5)
    grid = above(upper, lower, columns=3).flatten().tolist()
    assert grid == [0, 0, 0, 0.5, 0.5, 0.5, 0, 0, 1, 0.5, 0.5, 1]


def test_each_face_can_have_a_file_of_its_own(tmp_path):
    x = torch.rand(2, 3, 8, 8)
    save_pictures(x, tmp_path / "faces", ["a", "b"])
    again = read_pictures([str(tmp_path / "faces" / f"{name}.png") for name in "ab"], 8)
    torch.testing.assert_close(again, x, atol=0.5 / 255 + 1e-6, rtol=0)


def test_a_gif_runs_there_and_back(tmp_path):
    save_gif([torch.full((2, 3, 8, 8), v) for v in (0.0, 0.4, 0.8)], tmp_path / "a.gif", columns=2)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 4
        assert gif.info["loop"] == 0


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"hello", "not a readable image: not a pict")]
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "me.jpg"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"me.jpg.*{message}"):
        read_pictures([str(path)], 32)


def test_several_pictures_of_one_call_put_their_subject_before_the_suffix():
    run = Path("runs/a")
    assert picture_path(None, run, "grid", several=True) == run / "grid.png"
    assert picture_path("out/me.png", run, "grid", several=False) == Path("out/me.png")
    assert picture_path("out/me.png", run, "grid", several=True) == Path("out/me-grid.png")
