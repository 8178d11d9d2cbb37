import io
import os
import subprocess
import sys
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from vae.data.decoding import BadPicture, crop_box, decode_photo, read_photo, read_square, to_float
from vae.data.pictures import find_pictures
from vae.errors import UserError


@pytest.mark.parametrize(
    ("width", "height", "crop", "box"),
    [
        (178, 218, "frame", (25, 45, 153, 173)),
        (89, 109, "frame", (12, 22, 76, 86)),
        (356, 436, "frame", (50, 90, 306, 346)),
        (44, 54, "frame", (6, 11, 38, 43)),
        (218, 178, "frame", (20, 0, 198, 178)),  # it lies on its side
        (128, 128, "frame", (0, 0, 128, 128)),
        (178, 220, "frame", (0, 21, 178, 199)),
        (300, 200, "frame", (50, 0, 250, 200)),
        (101, 200, "frame", (0, 49, 101, 150)),
        (178, 218, 148, (15, 35, 163, 183)),
        (300, 200, 148, (76, 26, 224, 174)),
    ],
)
def test_crops_are_centred_squares(width, height, crop, box):
    assert crop_box(width, height, crop) == box


def swapped_profile():
    """Return the profile of sRGB with red and green exchanged."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = content.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))
    red, green = content.index(b"rXYZ"), content.index(b"gXYZ")
    content = bytearray(content)
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(content)


PROFILE = swapped_profile()


def colours(mode, size, seed=3):
    """Return a smooth picture of random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 4), np.uint8)
    picture = Image.fromarray(pixels).resize(size)
    return picture.convert("RGB").quantize(64) if mode == "P" else picture.convert(mode)


def file_of(picture, suffix, **options):
    file = io.BytesIO()
    picture.save(file, suffix, **options)
    return file.getvalue()


def by_eye(content, size, box):
    """Return the square as Pillow's own tools show it, in another order: whole, then cut."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    icc = picture.info.get("icc_profile")
    seen = picture.convert("RGB")
    if icc:
        profiles = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
        seen = ImageCms.profileToProfile(seen, *profiles, outputMode="RGB")
    if picture.has_transparency_data:
        white = Image.new("RGB", seen.size, "white")
        white.paste(seen, mask=picture.convert("RGBA").getchannel("A"))
        seen = white
    return np.asarray(seen.crop(box).resize((size, size), Image.Resampling.BICUBIC))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


TURNS = range(1, 9)
KINDS = [
    *(("RGB", suffix) for suffix in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")),
    *(("L", suffix) for suffix in ("PNG", "JPEG", "TIFF")),
    *(("RGBA", suffix) for suffix in ("PNG", "TIFF", "WEBP", "GIF")),
    *(("LA", "PNG"), ("LA", "TIFF"), ("P", "PNG"), ("P", "GIF"), ("1", "PNG"), ("CMYK", "JPEG")),
]


@pytest.mark.parametrize("profile", [None, PROFILE], ids=["sRGB", "another profile"])
@pytest.mark.parametrize(("mode", "suffix"), KINDS)
def test_a_picture_is_upright_on_white_and_in_srgb(mode, suffix, profile):
    options = {"icc_profile": profile} if profile and mode != "CMYK" else {}
    if mode == "P":
        options["transparency"] = 3
    for turn in TURNS if suffix in ("PNG", "JPEG", "TIFF", "WEBP") else [1]:
        options |= {"exif": exif(turn)} if suffix not in ("BMP", "GIF") else {}
        content = file_of(colours(mode, (53, 40)), suffix, **options)
        size = (40, 53) if turn > 4 else (53, 40)
        box = (0, 6, 40, 46) if turn > 4 else (6, 0, 46, 40)
        assert crop_box(*size, "frame") == box
        square, framed = read_square(content, 32, "frame")
        assert not framed
        assert np.abs(square.astype(int) - by_eye(content, 32, box)).max() <= 1, turn


def test_a_profile_changes_the_colours_unless_it_is_srgb_or_damaged():
    picture = colours("RGB", (40, 40))
    plain = read_square(file_of(picture, "PNG"), 40, "frame")[0]
    np.testing.assert_array_equal(plain, np.asarray(picture))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (own, b"profile", grey):
        square, _ = read_square(file_of(picture, "PNG", icc_profile=profile), 40, "frame")
        np.testing.assert_array_equal(square, plain)
    square, _ = read_square(file_of(picture, "PNG", icc_profile=PROFILE), 40, "frame")
    assert np.abs(square.astype(int) - plain).mean() > 10


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
def test_16_bits_are_seen_as_their_high_bytes(suffix):
    values = np.random.default_rng(1).integers(0, 2**16, (40, 40)).astype(np.uint16)
    square, _ = read_square(file_of(Image.fromarray(values), suffix), 40, "frame")
    np.testing.assert_array_equal(square, np.repeat((values >> 8)[..., None], 3, axis=2))
    deep = Image.fromarray(values.astype(np.int32))
    square, _ = read_square(file_of(deep, "TIFF"), 40, "frame")
    np.testing.assert_array_equal(square, np.repeat((values >> 8)[..., None], 3, axis=2))


def test_a_transparent_value_of_16_bits_is_white():
    values = np.full((32, 32), 700, np.uint16)
    values[:, 16:] = 30_000
    chunk = b"tRNS" + (700).to_bytes(2, "big")  # not every Pillow writes it
    content = file_of(Image.fromarray(values), "PNG")
    content = content[:33] + b"\0\0\0\2" + chunk + crc32(chunk).to_bytes(4, "big") + content[33:]
    square, _ = read_square(content, 32, "frame")
    assert (square[:, :16] == 255).all()
    assert (square[:, 16:] == 30_000 >> 8).all()


def bmp_with_alpha(alpha):
    """Return a BMP of 32 bits with masks of all four channels: Pillow writes none."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[...] = (10, 200, 100, alpha)  # blue, green, red
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    number = lambda value, size=4: value.to_bytes(size, "little")  # noqa: E731
    info = number(108) + number(32) * 2 + number(1, 2) + number(32, 2) + number(3) + bytes(20)
    info += masks + bytes(108 - len(info) - len(masks))
    start = 14 + len(info)
    return (
        b"BM" + number(start + pixels.nbytes) + bytes(4) + number(start) + info + pixels.tobytes()
    )


def test_a_bmp_whose_alpha_is_0_everywhere_is_opaque():
    for alpha, expected in ((0, (100, 200, 10)), (255, (100, 200, 10)), (51, (224, 244, 206))):
        content = bmp_with_alpha(alpha)
        assert Image.open(io.BytesIO(content)).mode == "RGBA"
        square, _ = read_square(content, 32, "frame")
        assert np.abs(square.astype(int) - expected).max() <= 1
    content = file_of(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), "PNG")
    assert (read_square(content, 32, "frame")[0] == 255).all()


@pytest.mark.parametrize("suffix", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_taken(suffix):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "WEBP" else {}
    content = file_of(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert (read_square(content, 32, "frame")[0] == (255, 0, 0)).all()


def test_a_picture_whose_exif_is_damaged_is_read():
    tags = exif(3)
    tags[0x010E] = "hello"
    # text in place of numbers: Pillow cannot write it again
    damaged = tags.tobytes().replace(b"\x0e\x01", b"\x2d\x01").replace(b"\x01\x0e", b"\x01\x2d")
    content = file_of(colours("RGB", (40, 40)), "PNG", exif=damaged)
    upright = np.asarray(colours("RGB", (40, 40)))[::-1, ::-1]
    np.testing.assert_array_equal(read_square(content, 40, "frame")[0], upright)


def jpeg_of_size(width, height):
    content = bytearray(file_of(colours("RGB", (40, 40)), "JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(content)


JPEG = file_of(colours("RGB", (40, 40)), "JPEG")
FLOATS = file_of(Image.fromarray(np.zeros((40, 40), np.float32)), "TIFF")
BAD = {
    "truncated": (JPEG[:-60], "^truncated$"),
    "cut in its header": (JPEG[:30], "^truncated$"),
    "noise after a signature": (b"\x89PNG\r\n\x1a\n" + bytes(30), "^damaged"),
    "text": (b"hello", "^Pillow cannot read this kind of file$"),
    "nothing": (b"", "^the file is empty$"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot read this kind"),
    "float pixels": (FLOATS, "^Pillow cannot read this kind of file as a picture"),
    "deeper than 16 bits": (
        file_of(Image.fromarray(np.full((40, 40), 70_000, np.int32)), "TIFF"),
        "deeper than 16 bits",
    ),
    "too many pixels": (jpeg_of_size(65_500, 65_500), "^it has more than 178 million pixels$"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_picture_that_cannot_be_used_says_why(kind):
    content, message = BAD[kind]
    with pytest.raises(BadPicture, match=message):
        read_square(content, 32, "frame")


def test_a_picture_smaller_than_the_crop_says_so():
    with pytest.raises(BadPicture, match=r"a square of 41 does not fit into 40 x 40 \(--crop-size"):
        read_square(JPEG, 32, 41)


def test_heic_is_read_where_pillow_heif_is_installed():
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(colours("RGB", (64, 64))).save(file, quality=95)
    square, _ = read_square(file.getvalue(), 64, "frame")
    assert np.abs(square.astype(int) - np.asarray(colours("RGB", (64, 64)))).mean() < 12


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA"])
def test_a_photo_is_written_back_as_it_was_stored(tmp_path, mode):
    picture = colours(mode, (53, 40))
    for turn in TURNS:
        path = tmp_path / "me.png"
        picture.save(path, exif=exif(turn), icc_profile=PROFILE)
        photo = read_photo(str(path))
        upright = ImageOps.exif_transpose(Image.open(path))
        assert (photo.own.mode, photo.own.tobytes()) == (mode, upright.tobytes())
        again = Image.open(io.BytesIO(photo.encode(photo.own)))
        assert (again.mode, again.tobytes()) == (mode, picture.tobytes())
        assert again.getexif().get(0x0112, 1) == turn
        assert again.info["icc_profile"] == PROFILE
        square, _ = read_square(path.read_bytes(), 40, "frame")
        middle = photo.seen.crop((0, 6, 40, 46) if turn > 4 else (6, 0, 46, 40))
        assert np.abs(np.asarray(middle, int) - square).max() <= 1


@pytest.mark.parametrize(
    ("mode", "options", "own"),
    [
        ("1", {}, "L"),
        ("P", {}, "RGB"),
        ("P", {"transparency": 3}, "RGBA"),
        ("I;16", {}, "L"),
        ("CMYK", {}, "RGB"),
    ],
)
def test_other_kinds_of_pictures_become_grey_or_colours_of_8_bits(mode, options, own):
    picture = colours("L" if mode == "I;16" else mode, (40, 40))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    photo = decode_photo(file_of(picture, "TIFF" if mode == "CMYK" else "PNG", **options))
    assert (photo.own.mode, photo.seen.mode) == (own, "RGB")
    if mode == "CMYK":
        assert photo.own is photo.seen  # no profile is kept: it would be of CMYK
    elif mode != "P":
        grey = np.asarray(colours("1" if mode == "1" else "L", (40, 40)).convert("L"))
        assert (np.asarray(photo.own) == grey).all()


CODE = """
import io, resource, sys
import numpy as np
from PIL import Image
from vae.data.decoding import read_photo
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
photos = [read_photo(path) for path in sys.argv[1:]]
print(len(photos), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_picture_of_108_megapixels_is_read_in_bounded_memory_and_silence(tmp_path):
    path = tmp_path / "phone.jpg"
    Image.new("RGB", (12_000, 9_000), "teal").save(path, exif=exif(6))
    warned = tmp_path / "warned.tif"
    content = file_of(colours("RGB", (40, 40)), "TIFF", compression="tiff_lzw")
    # a tag of a wrong type: libtiff and Pillow complain
    warned.write_bytes(content.replace(b"\x1a\x01\x05\x00", b"\x1a\x01\x0d\x00"))
    command = [sys.executable, "-W", "always", "-c", CODE, str(path), str(warned)]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=here)
    assert done.stderr == ""
    count, megabytes = map(int, done.stdout.split())
    assert count == 2
    assert megabytes < 1500


def test_pixels_become_floats_from_0_to_1_with_channels_first():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    x = to_float(pixels)
    assert x.shape == (1, 3, 16, 16)
    assert (x.min(), x.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(x, pixels.numpy().transpose(0, 3, 1, 2) / np.float32(255))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"hello", "not a readable image: Pillow cannot"), ("folder", "Is a")],
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "me.jpg"
    if content == "folder":
        path.mkdir()
    elif content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"me.jpg.*{message}"):
        read_photo(str(path))


def test_a_pipe_is_no_picture_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "me.jpg")
    with pytest.raises(UserError, match=r"me.jpg is not a readable image: it is not a file"):
        read_photo(str(tmp_path / "me.jpg"))
    with pytest.raises(UserError, match=r"me.jpg is neither a file nor a folder"):
        find_pictures(tmp_path / "me.jpg")


def test_a_file_that_pillow_heif_cannot_open_is_counted_and_not_read(tmp_path):
    pytest.importorskip("pillow_heif")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "clip.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    pictures = find_pictures(tmp_path)
    assert (pictures.names, pictures.others) == (["a.png"], {"clip.heic": ".heic"})
