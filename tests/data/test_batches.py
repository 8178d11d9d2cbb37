import threading

import numpy as np
import pytest
import torch
from conftest import COUNT, TRAIN

from vae.data.batches import batches, copy_pixels, place_pixels
from vae.data.faces import PackedFaces, load_faces

CPU = torch.device("cpu")


def load() -> PackedFaces:
    return load_faces("data/celeba", 32, "cache")


def test_batches_are_the_given_rows_in_order_scaled_and_mirrored_one_by_one(celeba):
    faces = load()
    rows = np.array([9, 4, 7, 1, 0])
    mirrored = np.array([True, False, False, True, True])
    x = torch.cat(list(batches(faces, rows, 2, mirrored=mirrored)))
    assert x.dtype == torch.float32
    for got, row, mirror in zip(x, rows, mirrored, strict=True):
        expected = np.asarray(faces.pixels[row]).transpose(2, 0, 1) / np.float32(255)
        np.testing.assert_array_equal(got, expected[:, :, ::-1] if mirror else expected)


def scattered_faces() -> PackedFaces:
    """Return faces whose training rows are not the first rows, of different pixels each."""
    faces = load()
    splits = np.roll(faces.splits, 7)
    splits[::5] = 1
    return PackedFaces(faces.pixels, faces.names, splits, None, faces.crop, faces.path)


def test_resident_batches_equal_streamed_batches(celeba):
    faces = scattered_faces()
    rows = np.random.default_rng(0).permutation(faces.rows("train"))
    mirrored = np.arange(len(rows)) % 3 == 0
    resident = copy_pixels(faces, CPU)
    assert len(resident) == len(rows) < TRAIN
    streamed = list(batches(faces, rows, 7, mirrored=mirrored))
    # pixels that are not read from the file any more
    blank = PackedFaces(np.zeros_like(faces.pixels), faces.names, faces.splits, None, 1, faces.path)
    placed = list(batches(blank, rows, 7, mirrored=mirrored, resident=resident))
    assert [len(x) for x in placed] == [7] * (len(rows) // 7) + [len(rows) % 7]
    for x, other in zip(streamed, placed, strict=True):
        assert torch.equal(x, other)


def test_every_second_row_of_an_order_gives_the_same_batches_resident_or_streamed(celeba):
    faces = scattered_faces()
    rows = faces.rows("train")[::-1][1::2]
    resident = copy_pixels(faces, CPU)
    streamed = torch.cat(list(batches(faces, rows, 4)))
    placed = torch.cat(list(batches(faces, rows, 4, resident=resident)))
    assert torch.equal(streamed, placed)


def test_rows_that_are_not_resident_are_read_from_the_file(celeba):
    faces = scattered_faces()
    rows = faces.rows("val")
    x = torch.cat(list(batches(faces, rows, 4, resident=copy_pixels(faces, CPU))))
    assert torch.equal(x, torch.cat(list(batches(faces, rows, 4))))


def test_no_rows_give_no_batches(celeba):
    faces = load()
    for resident in (None, copy_pixels(faces, CPU)):
        assert list(batches(faces, np.arange(0), 4, resident=resident)) == []


def test_pixels_stay_in_the_file_on_a_cpu(celeba):
    assert place_pixels(load(), CPU) is None


def test_batches_that_are_not_used_up_leave_no_thread(celeba):
    def reading():
        return [one.name for one in threading.enumerate() if one.name.startswith("batches")]

    stream = batches(load(), np.arange(COUNT), 2)
    next(stream)
    assert reading()
    stream.close()
    assert not reading()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs cuda")
@pytest.mark.parametrize("place", ["resident", "streamed"])
def test_on_cuda_an_epoch_never_waits_for_the_device(celeba, place):
    faces, device = load(), torch.device("cuda")
    rows = np.random.default_rng(0).permutation(faces.rows("train"))
    mirrored = np.arange(len(rows)) % 2 == 0
    resident = place_pixels(faces, device) if place == "resident" else None
    torch.cuda.set_sync_debug_mode("error")
    try:
        epoch = list(batches(faces, rows, 7, device, mirrored, resident=resident))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = torch.cat(list(batches(faces, rows, 7, mirrored=mirrored)))
    torch.testing.assert_close(torch.cat(epoch).cpu(), expected)
