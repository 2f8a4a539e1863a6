"""Datasets: what is in them, and that no image is in two splits."""

import warnings
from collections import Counter
from collections.abc import Iterable
from itertools import chain, count, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import everything, write_photo

from geolib import data
from geolib.data import pixels
from geolib.data.folder import _cell
from geolib.images import UnreadableImage

PHOTOS = Path(__file__).parents[4] / "shared" / "photos"
SPLITS = ("train", "validation", "test")


def country_folders(root: Path, **amounts: int) -> Path:
    for number, (country, amount) in enumerate(amounts.items()):
        for i in range(amount):
            write_photo(root / country / f"{i}.png", 1000 * number + i)
    return root


def with_metadata(root: Path, rows: list[tuple], contents: Iterable[int] = count()) -> Path:
    """A photograph for each row of file, country, latitude and longitude, or the first of these."""
    for row, content in zip(rows, contents, strict=False):
        write_photo(root / row[0], content)
    columns = ["file", "country", "latitude", "longitude"][: len(rows[0])]
    pd.DataFrame(rows, columns=columns).to_csv(root / "metadata.csv", index=False)
    return root


def label_of(dataset: data.GeoDataset) -> dict[str, int | None]:
    return dict(zip(dataset.ids, dataset.labels, strict=True))


def splits(root: Path, **options) -> dict[str, data.GeoDataset]:
    return {name: data.load("folder", name, root=root, **options) for name in SPLITS}


# Folders of countries ----------------------------------------------------------------------------


def test_country_folders_give_sorted_classes_and_labels(tmp_path):
    country_folders(tmp_path, Peru=2, Chad=1)
    (tmp_path / "Peru" / ".hidden.png").write_bytes(b"")
    write_photo(tmp_path / "stray.png", 99)
    dataset = everything(tmp_path)
    assert dataset.classes == ("Chad", "Peru")
    assert label_of(dataset) == {"Chad/0.png": 0, "Peru/0.png": 1, "Peru/1.png": 1}
    assert dataset.skipped == [("stray.png", "lies outside the folders of countries")]
    item = dataset[dataset.ids.index("Chad/0.png")]
    np.testing.assert_array_equal(item.image, write_photo(tmp_path / "again.png", 1000))
    assert (item.country, item.label, item.latitude, item.scene) == ("Chad", 0, None, None)


def test_photos_alone_have_no_labels_and_a_root_must_be_there(tmp_path):
    write_photo(tmp_path / "a.png", 0)
    write_photo(tmp_path / "b.png", 1)
    dataset = everything(tmp_path)
    assert (dataset.classes, dataset.labels) == ((), [None] * 2)
    with pytest.raises(ValueError, match="is not a folder"):
        everything(tmp_path / "absent")


def test_given_classes_keep_their_order_and_other_takes_the_rest(tmp_path):
    country_folders(tmp_path, FR=1, IN=1)
    dataset = everything(tmp_path, classes=("IN", "JP", "FR"))
    assert dataset.classes == ("IN", "JP", "FR")
    assert label_of(dataset) == {"FR/0.png": 2, "IN/0.png": 0}
    country_folders(tmp_path, FR=2, IN=1, JP=3)
    dataset = everything(tmp_path, classes=("FR", "other"))
    assert Counter(dataset.labels) == {0: 2, 1: 4}
    assert {item.country for item in dataset} == {"FR", "IN", "JP"}
    with pytest.raises(ValueError, match=r"do not hold 'IN', the country of IN/0\.png.*'other'"):
        everything(tmp_path, classes=("FR", "JP"))


@pytest.mark.filterwarnings("ignore:.*rows have no")
def test_metadata_columns_reach_the_items(tmp_path):
    write_photo(tmp_path / "a.png", 0)
    write_photo(tmp_path / "b.png", 1)
    (tmp_path / "metadata.csv").write_text(  # NA is Namibia, not a missing value
        "file,country,latitude,longitude,licence,attribution\n"
        "a.png,NA,-22.57,17.08,CC0,Someone\nb.png,,,,,\n"
    )
    dataset = everything(tmp_path)
    assert dataset.classes == ("NA",)
    a, b = (dataset[dataset.ids.index(name)] for name in ("a.png", "b.png"))
    assert (a.country, a.label, a.latitude, a.longitude) == ("NA", 0, -22.57, 17.08)
    assert (a.licence, a.attribution) == ("CC0", "Someone")
    assert (b.country, b.label, b.latitude, b.longitude, b.licence) == (None,) * 5


def test_missing_and_unlisted_files_are_counted(tmp_path):
    with_metadata(tmp_path, [("a.png", "FR"), ("b.png", "FR")])
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    dataset = everything(tmp_path)
    assert dataset.ids == ["a.png"]
    missing = ("b.png", "listed in metadata.csv but missing")
    assert set(dataset.skipped) == {missing, ("c.png", "not listed in metadata.csv")}


# Splits ------------------------------------------------------------------------------------------


def labels(found: dict[str, data.GeoDataset]) -> list[dict[int, int]]:
    """How many images of each class are in training, validation and test."""
    return [dict(Counter(part.labels)) for part in found.values()]


def test_shares_are_kept_per_class(tmp_path):
    found = splits(country_folders(tmp_path, FR=60, IN=20))
    assert labels(found) == [{0: 42, 1: 14}, {0: 9, 1: 3}, {0: 9, 1: 3}]
    assert data.load("folder", "eval", root=tmp_path).ids == found["test"].ids


def test_one_place_is_in_one_split(tmp_path):
    # Eighteen places 5 km apart, the date line and a pole; five photographs within 200 m of each.
    points = [(45.0052 + 0.05 * (i // 5) + 0.0003 * (i % 5), 1.003) for i in range(90)]
    points += [(-17, east) for east in (180, -180, 179.99995, -180, -179.99995)]
    points += [(-90, east) for east in (180, -180, 0, 45, -45)]
    rows = [(f"{i // 5}-{i}.png", "FR", *point) for i, point in enumerate(points)]
    found = splits(with_metadata(tmp_path, rows))
    places = {name: {i.split("-")[0] for i in d.ids} for name, d in found.items()}
    assert sum(len(p) for p in places.values()) == 20
    assert sum(len(d) for d in found.values()) == 100
    assert all(places.values())


def test_cells_are_about_a_kilometre_at_any_latitude():
    def cell(latitude, longitude):
        return _cell(data.PhotoRecord("", Path(), None, None, latitude, longitude))

    # A kilometre east is 0.009° at the equator and 0.018° at 60° north.
    assert cell(60.005, 10.003) == cell(60.005, 10.019)
    assert cell(0.005, 10.003) != cell(0.005, 10.019)
    date_line = [(-17, 180), (-17, -180), (-17, 179.9999), (-17, -179.9999)]
    for same in (date_line, [(90, 0), (90, -75), (89.999, 100)], [(-90, 5), (-90, 95)]):
        assert len({cell(*point) for point in same}) == 1
    assert len({cell(-17, longitude) for longitude in (179.95, 180, -179.95)}) == 3
    assert cell(90, 0) != cell(-90, 0)


def test_copies_of_a_photo_stay_together(tmp_path):
    for photo in list(country_folders(tmp_path, FR=30, IN=30).rglob("*.png")):
        photo.with_suffix(".copy.png").write_bytes(photo.read_bytes())
    split_of = {i: name for name, d in splits(tmp_path).items() for i in d.ids}
    assert len(split_of) == 120
    for photo, split in split_of.items():
        assert split_of[f"{photo.partition('.')[0]}.copy.png"] == split


def test_what_is_too_scarce_for_places_or_splits_is_warned_of(tmp_path):
    rows = [(f"FR{i}.png", "FR", 45.005, 1.0) for i in range(20)]
    rows += [(f"IN{i}.png", "IN", 20 + i, 80.0) for i in range(20)]
    with pytest.warns(UserWarning, match="too few places to split by location: FR; .*near-dup"):
        found = splits(with_metadata(tmp_path / "places", rows))
    assert labels(found) == [{0: 14, 1: 14}, {0: 3, 1: 3}, {0: 3, 1: 3}]
    with pytest.warns(UserWarning, match="too few images to be in every split: IN"):
        found = splits(country_folders(tmp_path / "images", FR=20, IN=2))
    assert [part.get(1, 0) for part in labels(found)] == [1, 1, 0]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_splits_partition_the_photos_whatever_their_names(tmp_path_factory, data_):
    places = data_.draw(st.lists(st.integers(0, 6), min_size=3, max_size=25))
    n, country = len(places), st.sampled_from(["FR", "IN", ""])
    countries = data_.draw(st.lists(country, min_size=n, max_size=n))
    order, seed = data_.draw(st.permutations(range(n))), data_.draw(st.integers(0, 3))

    def contents(order):
        """Contents in each split when photographs are named and listed in this order."""
        at = [10.0 + place if place else "" for place in places]
        rows = [(f"{name:03}.png", countries[i], at[i], at[i]) for name, i in enumerate(order)]
        found = splits(with_metadata(tmp_path_factory.mktemp("photos"), rows, order), seed=seed)
        return {name: [order[int(file[:3])] for file in d.ids] for name, d in found.items()}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = contents(range(n)), contents(order)
    assert one == other
    assert sorted(chain(*one.values())) == list(range(n))


def test_n_takes_a_seeded_part_in_a_seeded_order(tmp_path):
    whole = everything(country_folders(tmp_path, FR=40)).ids
    assert everything(tmp_path, n=5).ids == whole[:5]
    assert set(everything(tmp_path, seed=1).ids) == set(whole)
    assert everything(tmp_path, seed=1).ids != whole
    assert len(everything(tmp_path, n=100)) == 40


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_photos_are_skipped_and_counted(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(pixels, "default_workers", lambda n_images: workers)
    country_folders(tmp_path, FR=5)
    (tmp_path / "FR" / "2.png").write_text("not a picture")
    write_photo(tmp_path / "FR" / "3.png", side=8)
    dataset = everything(tmp_path)
    with pytest.raises(UnreadableImage, match=r"2\.png: not an image"):
        dataset[dataset.ids.index("FR/2.png")]
    batches = list(data.pixel_batches(dataset, 16, 2, progress=False))
    shown = [i for batch in batches for i in batch.indices]
    assert shown == sorted(shown)
    assert sorted(dataset.ids[i] for i in shown) == ["FR/0.png", "FR/1.png", "FR/4.png"]
    whole = np.stack([dataset[i].image for i in shown])
    np.testing.assert_array_equal(torch.cat([batch.pixels for batch in batches]), whole)
    assert {s.id: s.reason.split(",")[0] for s in dataset.skipped} == {
        "FR/2.png": "not an image",
        "FR/3.png": "8 × 8 px is too small: both sides must reach 16 px",
    }


# Pixels ------------------------------------------------------------------------------------------


def test_batch_is_0_to_1_and_exact_without_resizing():
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8)
    batch = data.to_batch(images, 20)
    assert batch.dtype == torch.float32
    np.testing.assert_array_equal(batch.permute(0, 2, 3, 1).numpy(), images / np.float32(255))


def test_resizing_averages_and_keeps_everything():
    # Halving both sides with an anti-aliasing filter keeps the mean; nothing is cropped.
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 200
    resized = pixels.resize(image, 20)
    assert resized.shape == (20, 20, 3)
    assert abs(resized.mean() - 100) < 1
    assert (resized[:, :8] == 0).all() and (resized[:, 12:] == 200).all()
    board = np.indices((40, 40)).sum(0) % 2 * 255
    grey = pixels.resize(np.repeat(board[..., None], 3, 2).astype(np.uint8), 20)
    np.testing.assert_allclose(grey[2:-2, 2:-2], 127.5, atol=8)


# Scenes ------------------------------------------------------------------------------------------


def test_scene_splits_share_no_scene():
    parts = product((*SPLITS, "eval"), range(3))
    seen = Counter(i for s, seed in parts for i in data.load("geoscenes", s, n=50, seed=seed).ids)
    assert max(seen.values()) == 1 and len(seen) == 600


def test_scenes_are_balanced_match_their_labels_and_do_not_depend_on_n():
    few, many = (data.load("geoscenes", "train", n=n, size=64) for n in (4, 9))
    assert many.labels == [0, 1, 2] * 3
    assert many.ids[:4] == few.ids
    assert [few.content_key(i) for i in range(4)] == [many.content_key(i) for i in range(4)]
    np.testing.assert_array_equal(few[3].image, many[3].image)
    for item, country in zip(few, ("France", "India", "Japan", "France"), strict=True):
        assert item.country == item.scene.country == country == few.classes[item.label]
        assert item.image.shape == (64, 64, 3)
        np.testing.assert_array_equal(item.image, item.scene.image)
        assert (item.latitude, item.longitude) == (item.scene.latitude, item.scene.longitude)


def test_scene_content_depends_on_the_options():
    options = ({"size": 64}, {"size": 96}, {"size": 64, "countries": ("France", "India")})
    given = product(("train", "eval"), options)
    keys = {data.load("geoscenes", split, n=1, **one).content_key(0) for split, one in given}
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "osv"}, "name='osv' is not a dataset; known: folder, geoscenes"),
        ({"name": "geoscenes", "split": "dev"}, "split='dev' is not known; expected one of train"),
        ({"name": "geoscenes", "split": "all"}, "split='all' is not known"),
        ({"name": "geoscenes", "n": 0}, "n=0 images"),
        ({"name": "geoscenes", "n": 10**7}, "exceeds"),
    ],
)
def test_unknown_requests(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no photographs at {PHOTOS}")
@pytest.mark.filterwarnings("ignore:.*rows have no position")
def test_shared_photographs_against_the_rest():
    found = splits(PHOTOS, classes=("FR", "other"))
    assert sum(len(d) for d in found.values()) == 137
    assert {n: Counter(d.labels) for n, d in found.items()}["test"] == {0: 15, 1: 6}
    whole = everything(PHOTOS)
    assert whole.skipped == []
    item = whole[whole.ids.index("panoramax-a0b0309d.jpg")]
    assert (item.country, item.latitude) == ("FR", 44.765164912)
    assert "Panoramax" in item.attribution
