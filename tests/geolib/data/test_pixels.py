"""Decoding at reduced resolution: what it saves, what it keeps, and how near it stays."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from geolib import data, images
from geolib.data import pixels


def smooth(width: int, height: int) -> Image.Image:
    """Blobs of colour, and grain of the kind that cameras leave."""
    rng = np.random.default_rng(0)
    blobs = cv2.resize(rng.uniform(0, 255, (12, 16, 3)), (width, height))
    grain = rng.normal(0, 5, (height, width, 3))
    return Image.fromarray(np.clip(blobs + grain, 0, 255).astype(np.uint8))


def encoded(photo: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("min_side", "height"),
    [(None, 480), (481, 480), (241, 480), (240, 240), (100, 120), (16, 60)],
)
def test_no_side_falls_below_what_is_asked(min_side, height):
    found = images.read(encoded(smooth(640, 480)), min_side=min_side)
    assert found.shape == (height, height * 4 // 3, 3)


def test_other_formats_are_read_whole():
    photo = smooth(640, 480)
    found = images.read(encoded(photo, "PNG"), min_side=16)
    np.testing.assert_array_equal(found, np.asarray(photo))
    np.testing.assert_array_equal(images.read(photo, min_side=16), np.asarray(photo))


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_rotation_and_colours_are_kept(mode):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    file = encoded(smooth(640, 480).convert(mode), exif=exif)
    whole, reduced = images.read(file), images.read(file, min_side=240)
    assert whole.shape == (640, 480, 3)
    assert reduced.shape == (320, 240, 3)
    halved = whole.reshape(320, 2, 240, 2, 3).mean((1, 3))
    assert np.abs(halved - reduced).mean() < 2


def test_damage_is_found():
    file = encoded(smooth(640, 480))
    with pytest.raises(images.UnreadableImage, match="cannot be decoded"):
        images.read(file[: len(file) // 2], min_side=100)
    with pytest.raises(images.UnreadableImage, match="too small"):
        images.read(encoded(smooth(640, 12)), min_side=16)


def test_batches_stay_near_those_of_the_whole_photograph(tmp_path):
    for width, height in [(1600, 1200), (900, 1300), (300, 200)]:
        (tmp_path / f"{width}.jpg").write_bytes(encoded(smooth(width, height), quality=85))
    dataset = data.load("folder", "all", root=tmp_path)
    (batch,) = data.pixel_batches(dataset, 100, 3, progress=False)
    whole = data.to_batch([dataset[i] for i in batch.indices], 100).permute(0, 2, 3, 1) * 255
    difference = (batch.pixels.float() - whole).abs()
    assert difference.mean() < 0.5
    assert difference.max() <= 2


def test_scenes_are_drawn_once_and_damage_is_mended(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path))
    scenes = data.load("geoscenes", "train", 70, size=48)

    def drawn_pixels(dataset: data.GeoDataset, size: int = 48) -> np.ndarray:
        found = list(data.pixel_batches(dataset, size, 32, progress=False))
        assert [i for batch in found for i in batch.indices] == list(range(len(dataset)))
        assert max(len(batch.indices) for batch in found) <= 32
        return np.concatenate([batch.pixels.numpy() for batch in found])

    with monkeypatch.context() as patch:
        patch.setattr(pixels, "default_workers", lambda n_images: 2)
        first = drawn_pixels(scenes)
    np.testing.assert_array_equal(first, [scenes[i].image for i in range(70)])
    drawn, record = [], type(scenes.records[0])
    read = record.read
    monkeypatch.setattr(record, "read", lambda self: drawn.append(self.id) or read(self))
    np.testing.assert_array_equal(drawn_pixels(scenes), first)
    assert not drawn
    # One that begins alike shares whole files; what differs is drawn.
    shorter = data.load("geoscenes", "train", 66, size=48)
    np.testing.assert_array_equal(drawn_pixels(shorter), first[:66])
    assert drawn == scenes.ids[64:66]
    assert drawn_pixels(scenes, 24).shape == (70, 24, 24, 3)
    file = max(tmp_path.rglob("pixels.webp"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-5] + b"wrong")
    drawn.clear()
    # A file's check is remembered for as long as its manifest stays the same.
    manifest = file.with_name("manifest.json")
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.warns(UserWarning, match=r"damaged cache entry .* of pixels\.webp differs"):
        np.testing.assert_array_equal(drawn_pixels(scenes), first)
    assert drawn == scenes.ids[:64]
