"""The flow over a dataset: right answers on a planted cause, resuming, skipping, choosing."""

import gc
import json
import os
import re
import signal
import weakref
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from pycocotools import mask as cocomask
from pycocotools.coco import COCO
from toys import BOX, SIDE, classifier, photograph, write_photographs

from geolib import data, pipeline, statistics
from geolib.ablation import ablate
from geolib.attribution import attribute
from geolib.masks import box_region, decode
from geolib.pipeline import EvaluationConfig
from geolib.pipeline import shards as shards_
from geolib.runtime import cache
from geolib.scoring import extract_elements
from geolib.segmentation import Segments

CONFIG = EvaluationConfig(repeats=3, individual=False, shard_size=3, precision="fp32")
PREDICTED = CONFIG.model_copy(update={"label": "predicted"})

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    write_photographs(tmp_path / "photos", 4)
    return tmp_path / "photos"


def _dataset(root, split="all"):
    return data.load("folder", split, root=root)


def _unlabelled(root, flat):
    """The photographs under `root`, moved into a folder without folders of countries."""
    flat.mkdir()
    for i, path in enumerate(sorted(root.rglob("*.png"))):
        path.rename(flat / f"{i}.png")
    return _dataset(flat)


def _evaluate(root, **changes):
    config = CONFIG.model_copy(update=changes)
    return pipeline.evaluate(_dataset(root), classifier(), config, progress=False)


def _elements(root, **changes):
    config = CONFIG.model_copy(update=changes)
    return pipeline.elements(_dataset(root), classifier(), config, progress=False)


def test_the_planted_cause_is_found_and_its_effect_is_exact(root):
    table = _evaluate(root)
    guided = table[(table["region"] == "guided") | (table["test"] == "original")]
    shown = guided.pivot(index="image_id", columns="test", values="probability")
    # Without the square both logits are 0: probability one half, whatever else was removed.
    assert shown["deletion"].to_numpy() == pytest.approx(0.5, abs=1e-6)
    assert shown["insertion"].to_numpy() == pytest.approx(shown["original"].to_numpy(), abs=1e-6)
    compared = statistics.compare(table, metric="probability").set_index("test")
    assert (compared["ci_low"] > 0).all()


def test_elements_carry_their_own_effect(root):
    table = _elements(root)
    best = table[table["element"] == 0]
    x0, y0, x1, y1 = BOX
    assert (best[["x0", "y0"]].to_numpy() <= [x0, y0]).all()
    assert (best[["x1", "y1"]].to_numpy() >= [x1, y1]).all()
    for row in best.to_dict("records"):
        image = data.to_batch([photograph(row["country"], _seed(row["image_id"]))], SIDE)
        box = np.array([[row[c] for c in ("x0", "y0", "x1", "y1")]])
        removed = ablate(image, box_region(box, (SIDE, SIDE))[None], "deletion")
        label = ("blue", "red").index(row["country"])
        with torch.inference_mode():
            whole, left = (classifier()(x).log_softmax(1)[0, label] for x in (image, removed))
        assert row["deletion_effect"] == pytest.approx(float(whole - left), abs=1e-5)


def test_images_without_elements_have_no_rows(root):
    table = _elements(root, s_min=1.0, top_p=0.001)
    assert len(table) == 0
    assert {"image_id", "mask", "deletion_effect", "insertion_probability"} <= set(table)


def test_single_elements_are_added_to_outcomes_that_stay(root, monkeypatch):
    together = _evaluate(root)
    known = _elements(root)
    monkeypatch.setattr(shards_, "ablate_batch", lambda *args: pytest.fail("tested again"))
    table = _evaluate(root, individual=True)
    single = table["region"] == "element"
    keys = ["image_id", "test", "region", "repeat"]
    rest = table[~single].sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(rest, together.sort_values(keys, ignore_index=True))
    deleted = table[single & (table["test"] == "deletion")].set_index(["image_id", "element"])
    whole = together[together["test"] == "original"].set_index("image_id")["log_probability"]
    known = known.set_index(["image_id", "element"])
    lost = whole.reindex(known.index, level="image_id") - deleted["log_probability"]
    pd.testing.assert_series_equal(lost, known["deletion_effect"], check_names=False)


def _seed(image_id):
    colour, name = image_id.split("/")
    return 2 * int(Path(name).stem) + (colour == "red")


@pytest.mark.parametrize("change", [{"shard_size": 1}, {"shard_size": 50}, {"batch_size": 5}])
def test_the_table_does_not_depend_on_how_the_work_is_cut(root, change):
    one, other = _evaluate(root), _evaluate(root, **change)
    key = ["image_id", "test", "region", "repeat", "element"]
    one, other = (t.sort_values(key).reset_index(drop=True) for t in (one, other))
    pd.testing.assert_frame_equal(one, other, rtol=1e-5)


def _die_in_the_third_shard(root):
    ablate_batch, calls = shards_.ablate_batch, count(1)

    def dies(*args):
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return ablate_batch(*args)

    shards_.ablate_batch = dies
    _evaluate(root)


def _exit_codes(*runs):
    """Of functions with their arguments, each run in a process of its own, all at once."""
    started = [get_context("spawn").Process(target=run, args=given) for run, *given in runs]
    for process in started:
        process.start()
    for process in started:
        process.join(240)
    return [process.exitcode for process in started]


def test_a_killed_run_goes_on_at_the_last_shard_with_an_identical_table(
    root, tmp_path, monkeypatch
):
    assert _exit_codes((_die_in_the_third_shard, root)) == [-signal.SIGKILL]
    shards = []
    ablate_batch = shards_.ablate_batch

    def counting(*args):
        shards.append(args)
        return ablate_batch(*args)

    monkeypatch.setattr(shards_, "ablate_batch", counting)
    resumed = _evaluate(root)
    assert len(shards) == 1
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / "fresh"))
    fresh = _evaluate(root)
    assert len(shards) == 4
    pd.testing.assert_frame_equal(resumed, fresh, check_exact=True)


def test_a_second_run_reads_no_pixels(root, monkeypatch):
    first = _evaluate(root)
    monkeypatch.setattr(
        data.GeoDataset, "__getitem__", lambda self, i: pytest.fail("an image was read again")
    )
    pd.testing.assert_frame_equal(first, _evaluate(root), check_exact=True)


def test_unreadable_images_are_skipped_and_counted(root):
    good = _evaluate(root)
    (root / "red" / "broken.jpg").write_bytes(b"this is no picture")
    whole = (root / "red" / "0.png").read_bytes()
    (root / "blue" / "cut.png").write_bytes(whole[: len(whole) // 2])
    for size in (1, 3):  # alone in a shard, or with others
        with pytest.warns(UserWarning, match="2 of 10 images were skipped"):
            table = _evaluate(root, shard_size=size)
        assert {s["id"] for s in table.attrs["skipped"]} == {"red/broken.jpg", "blue/cut.png"}
        assert set(table["image_id"]) == set(good["image_id"])


def test_memory_holds_one_shard_of_images_at_a_time(root, monkeypatch):
    alive, counts = weakref.WeakSet(), []
    read = data.GeoDataset.__getitem__

    def tracked(self, index):
        item = read(self, index)
        alive.add(item)
        gc.collect()
        counts.append(len(alive))
        return item

    monkeypatch.setattr(data.GeoDataset, "__getitem__", tracked)
    _evaluate(root, shard_size=2)
    assert len(counts) == 8
    assert max(counts) <= 4  # the shard at work, and the one before it until it is let go


def test_unlabelled_images_are_judged_by_the_prediction(root, tmp_path):
    flat = _unlabelled(root, tmp_path / "flat")
    with pytest.raises(ValueError, match="label='predicted'"):
        pipeline.evaluate(flat, classifier(), CONFIG, progress=False)
    table = pipeline.evaluate(flat, classifier(), PREDICTED, progress=False)
    assert table.loc[table["test"] == "original", "correct"].all()


def test_unknown_methods_and_empty_unreadable_or_foreign_datasets_are_errors(root):
    with pytest.raises(ValueError, match="gradcam"):
        _evaluate(root, attribution="gradkam")
    with pytest.raises(ValueError, match="felzenszwalb"):
        _evaluate(root, segmenter="sam9")
    with pytest.raises(ValueError, match="holds no images"):
        pipeline.evaluate(_dataset(root).subset([]), classifier(), CONFIG)
    (root / "green").mkdir()
    (root / "green" / "0.png").write_bytes(b"this is no picture")
    with pytest.raises(ValueError, match=r"green.*label='predicted'"):
        _evaluate(root)
    with pytest.raises(ValueError, match="none of the 1 images"):
        pipeline.evaluate(_dataset(root).subset([4]), classifier(), PREDICTED, progress=False)


def test_maps_and_segments_depend_on_how_photographs_are_read(root, monkeypatch):
    known, compute, code, made = cache.module_code, cache.compute, {}, set()

    def module_code(name):
        return (code["now"], []) if name == "geolib.images" else known(name)

    def noted(stage, *rest):
        folder = compute(stage, *rest)
        made.add((stage, folder))
        return folder

    monkeypatch.setattr(cache, "module_code", module_code)
    monkeypatch.setattr(cache, "compute", noted)
    (shard,) = shards_.shards(_dataset(root).subset([0]), classifier(), 1)
    for code["now"] in ("before", "after"):
        cache.fingerprint.cache_clear()
        shards_.maps_folder(shard, classifier(), CONFIG)
        shards_.segments(shard, classifier(), CONFIG)
    cache.fingerprint.cache_clear()
    assert sorted(stage for stage, _ in made) == ["maps", "maps", "segments", "segments"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("candidates", "salient"), ("center", "box"), ("combine", "overlap")),
        *(("criterion", "min"), ("max_elements", 2)),
    ],
)
def test_how_elements_are_chosen_is_a_setting_and_in_the_key(name, value):
    rng = np.random.default_rng(1)
    corners = np.sort(rng.integers(0, SIDE, (24, 2, 2)), axis=1).reshape(24, 4)
    corners[:, 2:] += 1
    # Two boxes each, so that a segment's centroid is not its box's centre.
    masks = np.stack([box_region(pair, (SIDE, SIDE)) for pair in corners.reshape(12, 2, 4)])
    item = data.GeoImage("x", np.zeros((SIDE, SIDE, 3), np.uint8), None, None, None, None)
    images, maps = torch.zeros(1, 3, SIDE, SIDE), torch.from_numpy(rng.random((1, SIDE, SIDE)))
    low = CONFIG.model_copy(update={"s_min": 0.1, "suppression": 0.5})
    tables = []
    for config in (low, low.model_copy(update={name: value})):
        (found,) = shards_.extract_batch([item], images, maps, [Segments(masks)], config)
        tables.append(found.elements.table)
    options = {"s_min": 0.1, "threshold": 0.5, name: value}
    pd.testing.assert_frame_equal(tables[1], extract_elements(maps[0], masks, **options).table)
    assert not tables[0].equals(tables[1])
    assert shards_.config_key(low) != shards_.config_key(config)
    with pytest.raises(ValueError, match=name):
        EvaluationConfig(**{name: "salty"})


def test_the_true_class_can_be_asked_for_where_another_is_predicted(root):
    for old, new in (("blue", "x"), ("red", "blue"), ("x", "red")):
        (root / old).rename(root / new)
    (shard,) = shards_.shards(_dataset(root), classifier(), 50)
    truly = CONFIG.model_copy(update={"attribution_target": "true"})
    predicted, true = (shards_.attribution_maps(shard, classifier(), c) for c in (CONFIG, truly))
    labels = [item.label for item in shard.items]
    torch.testing.assert_close(true, attribute(classifier(), shard.batch, targets=labels))
    # All photographs are misfiled, and nothing in them speaks for the class they are filed under.
    assert (predicted.amax((1, 2)) == 1).all() and not true.any()


# One photograph -----------------------------------------------------------------------------------


def test_explain_names_the_cause_in_the_photographs_own_pixels(tmp_path):
    size = (SIDE * 4, SIDE * 2)
    large = Image.fromarray(photograph("red", 1)).resize(size, Image.Resampling.NEAREST)
    large.save(tmp_path / "street.png")
    found = pipeline.explain(classifier(), tmp_path / "street.png", CONFIG)
    assert found.prediction == "red"
    x0, y0, x1, y1 = found.boxes[0]
    assert x0 <= 4 * BOX[0] and y0 <= 2 * BOX[1] and x1 >= 4 * BOX[2] and y1 >= 2 * BOX[3]
    record = json.loads(json.dumps(found.to_dict()))
    assert record["prediction"] == "red"
    assert "note" not in record
    assert "name" not in record["elements"][0]
    effects = [element["deletion_effect"] for element in record["elements"]]
    expected = np.log(found.probabilities["red"]) - np.log(0.5)
    assert effects[0] == pytest.approx(expected, abs=1e-5)
    assert effects == sorted(effects, reverse=True)
    assert [element["number"] for element in record["elements"]] == [*range(1, len(effects) + 1)]
    bars = found.figure().axes[2].patches
    assert [bar.get_width() for bar in bars] == pytest.approx(effects[: len(bars)], abs=1e-6)


def test_a_classifier_of_scenes_says_so_on_a_photograph(tmp_path):
    synthetic = classifier()
    synthetic.trained_on = "geoscenes"
    found = pipeline.explain(synthetic, photograph("red", 1), CONFIG)
    assert found.to_dict()["note"] == pipeline.SYNTHETIC_NOTE
    texts = [t.get_text() for t in found.figure().findobj(lambda a: hasattr(a, "get_text"))]
    assert any(pipeline.SYNTHETIC_NOTE in t for t in texts)


BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "changes", "why"),
    [
        (BLACK, {}, r"the gradcam\+\+ map is zero everywhere: nothing in it speaks for blue"),
        (BLACK, {"segmenter": "none", "s_min": 0}, "map is zero everywhere"),
        (
            photograph("red", 1),
            {"segmenter": "grid", "s_min": 0.9, "top_p": 0.01},  # a tenth of the salient box
            r"the best of \d+ segments scores 0\.447; it takes s_min = 0\.9, and more than zero",
        ),
    ],
)
def test_without_elements_it_says_why(image, changes, why):
    found = pipeline.explain(classifier(), image, CONFIG.model_copy(update=changes))
    assert len(found.elements) == 0
    assert re.search(why, found.note)
    assert found.to_dict()["note"] == found.note
    drawn = [text.get_text() for text in found.figure().findobj(Text)]
    assert found.note in [" ".join(text.split()) for text in drawn]


def test_without_segments_it_says_so(monkeypatch):
    nothing = Segments(np.zeros((0, SIDE, SIDE), bool), note="too dark")
    monkeypatch.setattr(shards_, "segment_batch", lambda *arguments: [nothing])
    found = pipeline.explain(classifier(), photograph("red", 1), CONFIG)
    assert found.note == "No elements: felzenszwalb found no segments (too dark)."


def test_exif_and_position_never_reach_an_output(tmp_path):
    image = Image.fromarray(photograph("red", 1))
    exif = image.getexif()
    exif[0x010E] = "SECRETDESCRIPTION"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "N", (48.0, 51.0, 24.0)
    image.save(tmp_path / "street.jpg", exif=exif, quality=95)
    assert b"SECRETDESCRIPTION" in (tmp_path / "street.jpg").read_bytes()
    found = pipeline.explain(classifier(), tmp_path / "street.jpg", CONFIG)
    found.figure().savefig(tmp_path / "figure.png")
    assert b"SECRETDESCRIPTION" not in (tmp_path / "figure.png").read_bytes()
    assert not Image.open(tmp_path / "figure.png").getexif()
    written = "image width height prediction probabilities settings elements"
    assert set(found.to_dict()) == set(written.split())


def test_export_writes_what_was_computed(root, tmp_path):
    dataset, oracle = _dataset(root), classifier()
    files = pipeline.export(tmp_path / "out", dataset, oracle, CONFIG)
    names = "elements.coco.json elements.parquet maps.parquet outcomes.parquet"
    assert [f.name for f in files] == names.split()
    table = pd.read_parquet(tmp_path / "out" / "elements.parquet")
    coco = COCO(tmp_path / "out" / "elements.coco.json")
    assert len(coco.anns) == len(table)
    annotations = coco.loadAnns(coco.getAnnIds())
    for annotation, row in zip(annotations, table.to_dict("records"), strict=True):
        mask = decode({"size": [row["height"], row["width"]], "counts": row["mask"]})
        packed = cocomask.encode(np.asfortranarray(mask, np.uint8))
        assert coco.annToRLE(annotation)["counts"] == packed["counts"].decode()
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"][2] == row["x1"] - row["x0"]
    maps = pd.read_parquet(tmp_path / "out" / "maps.parquet").set_index("image_id")
    side = int(maps["side"].iloc[0])
    stored = np.frombuffer(maps.loc["red/0.png", "map"], np.float32).reshape(side, side)
    shown = pipeline.explain(oracle, root / "red" / "0.png", CONFIG)
    assert stored == pytest.approx(shown.attribution, abs=1e-6)


def _write_outcomes(root, path):
    _evaluate(root).to_parquet(path)


def test_two_runs_at_once_on_one_cache_agree(root, tmp_path):
    paths = [tmp_path / f"{i}.parquet" for i in range(2)]
    assert _exit_codes(*((_write_outcomes, root, path) for path in paths)) == [0, 0]
    one, other = map(pd.read_parquet, paths)
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_elements_carry_the_names_that_their_segmenter_knows():
    scenes = data.load("geoscenes", "eval", 2, size=SIDE)
    change = {"segmenter": "truth", "attribution": "edges", "s_min": 0.0}
    config = PREDICTED.model_copy(update=change)
    found = pipeline.elements(scenes, classifier(), config, progress=False)
    assert len(found)
    for item in scenes:
        shown = [o for o in item.scene.objects if o.mask.any()]
        for row in found[found["image_id"] == item.id].to_dict("records"):
            mask = decode({"size": [row["height"], row["width"]], "counts": row["mask"]})
            assert any(row["name"] == o.category and (mask & o.mask).any() for o in shown)
