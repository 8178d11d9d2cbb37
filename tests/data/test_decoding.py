import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.io import decode_jpeg

from vae.data.decoding import (
    UNREADABLE,
    crop_box,
    decode_picture,
    read_pictures,
    to_float,
    why_unreadable,
)
from vae.errors import UserError


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


def test_a_photo_is_turned_upright_and_converted_to_rgb(tmp_path):
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
def test_torchvision_decodes_plain_jpegs_only_and_pixels_equal_pillows(kind, image_size):
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


@pytest.mark.parametrize("damage", ["cut in its header", "cut in its pixels", "a huge size"])
def test_a_damaged_jpeg_has_pillows_reason_with_either_decoder(damage):
    content = bytearray(picture_file())
    frame = content.index(b"\xff\xc0")
    if damage == "a huge size":
        content[frame + 5 : frame + 9] = b"\xff\xf0" * 2
    else:
        del content[frame + 3 if damage == "cut in its header" else -60 :]
    errors = []
    # memory must not be allocated for a huge size
    other = pytest.fail if damage == "a huge size" else decode_jpeg
    for decoder in (None, other):
        with pytest.raises(UNREADABLE) as caught:
            decode_picture(bytes(content), 16, "largest", decoder)
        errors.append((caught.type, why_unreadable(caught.value)))
    assert errors[0] == errors[1]


def test_a_picture_with_damaged_exif_is_unreadable():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 3, "hello"
    # text in place of numbers: Pillow cannot write it again when it turns the picture
    damaged = exif.tobytes().replace(b"\x0e\x01", b"\x2d\x01").replace(b"\x01\x0e", b"\x01\x2d")
    with pytest.raises(UNREADABLE):
        decode_picture(picture_file(exif=damaged), 16, "largest")


def test_pixels_become_floats_from_0_to_1_with_channels_first():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    x = to_float(pixels)
    assert x.shape == (1, 3, 16, 16)
    assert (x.min(), x.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(x, pixels.numpy().transpose(0, 3, 1, 2) / np.float32(255))


def test_pictures_are_read_in_order_as_float_images(tmp_path):
    contents = {"a.png": picture_file(suffix="png"), "b.jpg": picture_file()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    x = read_pictures([str(tmp_path / name) for name in contents], 16)
    assert x.shape == (2, 3, 16, 16)
    for got, content in zip(x, contents.values(), strict=True):
        square = decode_picture(content, 16, "largest")
        np.testing.assert_array_equal(got, square.transpose(2, 0, 1) / np.float32(255))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"hello", "not a readable image: not a pict")]
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "me.jpg"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"me.jpg.*{message}"):
        read_pictures([str(path)], 32)
