"""Thresholds: two bounds kept by every method, an objective, and images that are never read."""

import numpy as np
import pytest
from toys import QUICK, SIDE, Item, classifier, photograph, write_photographs

from geolib import data, images, model, pipeline
from geolib.attribution import METHODS
from geolib.chapters.experiment import Experiment
from geolib.data import GeoDataset
from geolib.pipeline import EvaluationConfig, thresholds
from geolib.pipeline.thresholds import _at, _cuts, _Ranked, _reached

CONFIG = EvaluationConfig(shard_size=10, precision="fp32")
PREDICTED = CONFIG.model_copy(update={"label": "predicted"})
BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def photos(tmp_path):
    write_photographs(tmp_path / "photos", 4)
    return data.load("folder", "all", root=tmp_path / "photos")


# Both bounds --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained():
    arch = "resnet10t?output_stride=8&channels=(16,16,32,32)"
    found = model.load(arch, weights="random", classes=data.COUNTRIES, image_size=64, seed=0)
    found.network.fc.weight.data[0].abs_()  # something speaks for the first class everywhere
    return found


@pytest.fixture(scope="module")
def scenes():
    """Twenty to choose on and forty others, drawn once."""
    drawn = data.load("geoscenes", "eval", 60, size=64)
    items = [Item(i, one.image, one.label) for i, one in enumerate(drawn)]
    return [
        GeoDataset("folder", drawn.classes, split, part)
        for split, part in (("validation", items[:20]), ("eval", items[20:]))
    ]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_elements_in_other_images_too(method, untrained, scenes):
    """Scores of SmoothGrad are a third of those of Grad-CAM: no cut serves both."""
    config = CONFIG.model_copy(
        update={
            "attribution": method,
            "attribution_options": QUICK.get(method, {}),
            "segmenter": "grid",
        }
    )
    validation, others = scenes
    tuned = pipeline.tune(validation, untrained, config, progress=False)
    found = pipeline.extract(others, untrained, tuned.config)
    kept = [len(one.elements) > 0 for one in found if one.attribution.any()]
    assert np.mean(kept) >= 0.95 and len(kept) >= 5
    assert tuned.chosen["kept"] >= 0.95
    assert tuned.chosen["coverage"] <= 0.25 or "none tried both" in tuned.note
    assert tuned.curve["s_min"].between(0, 1).all() and len(tuned.curve) <= 6


# Scores and coverage of the first 0, 1 and 2 elements of two images.
TWO = [
    _Ranked(np.array([0.8, 0.4]), np.array([0, 0.1, 0.3])),
    _Ranked(np.array([0.6, 0.2]), np.array([0, 0.2, 0.5])),
]


def test_both_bounds_by_hand():
    coverage, kept = _at(TWO, np.array([0.9, 0.8, 0.6, 0.4, 0.2]))
    assert coverage.tolist() == [0, 0.05, 0.15, 0.25, 0.4]
    assert kept.tolist() == [0, 0.5, 1, 1, 1]
    assert _reached(TWO) == 0.6
    assert _cuts(TWO) == [0.4]  # 0.2 covers too much; 0.6 lies above 0.9 · 0.6
    nothing = _Ranked(np.array([]), np.array([0.0]))
    assert _reached([*TWO, nothing]) == 0.6
    # Of twenty images one may be left out; an image without scores is that one.
    assert _reached([*TWO, *[TWO[0]] * 18]) == 0.8
    assert _reached([*TWO, *[TWO[0]] * 17, nothing]) == 0.6
    large = [_Ranked(np.array([0.5, 0.1]), np.array([0, 0.4, 0.9]))]
    assert _cuts(large) == [pytest.approx(0.45)]  # nothing keeps both bounds
    # While choosing none of twenty images may be left out.
    assert max(_cuts([*TWO, *[TWO[0]] * 18])) <= 0.54
    assert _cuts([nothing]) == []


@pytest.mark.parametrize("factor", [0.1, 0.5])
def test_the_range_of_the_scores_does_not_matter(factor):
    rng = np.random.default_rng(0)
    scores = [np.sort(rng.random(12))[::-1] for _ in range(20)]
    covered = [np.append(0, np.sort(rng.random(12))) for _ in scores]
    pairs = list(zip(scores, covered, strict=True))
    one, other = (
        _cuts([_Ranked(*p) for p in pairs]),
        _cuts([_Ranked(factor * s, c) for s, c in pairs]),
    )
    for a, b in zip(one, other, strict=True):
        assert [(s >= a).sum() for s in scores] == [(factor * s >= b).sum() for s in scores]


def test_the_order_of_images_does_not_matter(photos):
    turned = photos.subset(range(len(photos))[::-1])
    one, other = (pipeline.tune(p, classifier(), CONFIG, progress=False) for p in (photos, turned))
    assert one.config == other.config
    assert other.curve.to_numpy() == pytest.approx(one.curve.to_numpy(), abs=1e-9)


def test_the_best_within_the_bounds_is_chosen_and_found_again(photos, monkeypatch):
    tuned = pipeline.tune(photos, classifier(), CONFIG, progress=False)
    within = tuned.curve.query("coverage <= 0.25 and kept >= 0.95")
    assert tuned.chosen["insertion_advantage"] == within["insertion_advantage"].max()
    assert tuned.config.model_dump(include={"top_p", "s_min"}).items() <= tuned.chosen.items()
    assert "chosen on 8 validation images" in tuned.note
    # Coverage and elements in use are those that were promised.
    used = pipeline.extract(photos, classifier(), tuned.config)
    coverage = np.mean([one.elements.coverage for one in used])
    assert coverage == pytest.approx(tuned.chosen["coverage"], abs=1e-6)
    monkeypatch.setattr(thresholds, "ablate_batch", lambda *args: pytest.fail("tried again"))
    assert pipeline.tune(photos, classifier(), CONFIG, progress=False).note == tuned.note


def test_what_is_given_is_kept(photos):
    tuned = pipeline.tune(photos, classifier(), CONFIG, top_p=0.15, progress=False)
    assert set(tuned.curve["top_p"]) == {0.15} == {tuned.config.top_p}
    tuned = pipeline.tune(photos, classifier(), CONFIG, s_min=0.3, progress=False)
    assert set(tuned.curve["s_min"]) == {0.3} == {tuned.config.s_min}
    note = pipeline.tune(photos, classifier(), PREDICTED, s_min=0.3, progress=False).note
    assert note == "p = 0.2 and s_min = 0.3, as given"


def test_without_segmentation_p_makes_the_segments(photos):
    """The pieces of the salient region cover about as much as it does."""
    config = CONFIG.model_copy(update={"segmenter": "none", "s_min": 0.0, "padding": 0.0})
    for p in (0.05, 0.1):
        one = pipeline.extract(photos, classifier(), config.model_copy(update={"top_p": p}))[0]
        assert one.segments.masks.any(0).mean() == pytest.approx(p, abs=0.08)


# Which images are read ----------------------------------------------------------------------------


def test_evaluation_images_are_never_read_while_choosing(tmp_path, monkeypatch):
    write_photographs(tmp_path / "photos", 12)
    oracle, read, opened = classifier(), images.read, set()
    monkeypatch.setattr("geolib.model.load", lambda path: oracle)
    folder = {"dataset": "folder", "root": str(tmp_path / "photos")}
    experiment = Experiment(**folder, checkpoint="x", image_size=SIDE)
    forbidden = {p.path for p in (*experiment.evaluation.records, *experiment.train.records)}
    assert forbidden
    monkeypatch.setattr(images, "read", lambda source: opened.add(source) or read(source))
    for method in ("gradcam++", "random"):
        tuned = experiment.tuned(method, "grid")
        assert len(tuned.curve) and experiment.config(method, "grid") == tuned.config
        assert experiment.tuned(method, "grid") is tuned
    untuned = experiment.config("gradcam++", "grid", tuned=False)
    assert (untuned.top_p, untuned.s_min) == (0.2, 0.7)
    assert opened == {p.path for p in experiment.validation.records}
    assert not opened & forbidden


# Without labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("attribution", ["gradcam++", "random"])
def test_without_labels_elements_cover_nearest_below_the_target(photos, attribution, monkeypatch):
    monkeypatch.setattr(thresholds, "ablate_batch", lambda *args: pytest.fail("outcomes"))
    config = PREDICTED.model_copy(update={"attribution": attribution, "segmenter": "slic"})
    tuned = pipeline.tune(photos, classifier(), config, progress=False)
    assert tuned.config.top_p == 0.2

    def coverage(s_min):
        one = config.model_copy(update={"s_min": s_min})
        return np.mean([e.elements.coverage for e in pipeline.extract(photos, classifier(), one)])

    every = pipeline.extract(photos, classifier(), config.model_copy(update={"s_min": 0.0}))
    scores = np.unique(np.concatenate([one.elements.table["score"] for one in every]))
    below = scores[scores < tuned.config.s_min - 1e-6]
    assert coverage(tuned.config.s_min) == pytest.approx(tuned.chosen["coverage"], abs=1e-6)
    if tuned.chosen["coverage"] <= 0.25:
        assert not len(below) or coverage(below[-1]) > 0.25
        assert "nearest below the target of 25%" in tuned.note
    else:  # what it takes to keep an element everywhere
        assert tuned.chosen["kept"] == 1 and coverage(tuned.config.s_min + 1e-5) < coverage(0)
        assert "above the target" in tuned.note
    flat = GeoDataset("folder", (), "all", photos.records)
    assert pipeline.by_coverage(flat, classifier(), config, progress=False).config == tuned.config


def test_a_photograph_alone_has_elements_best_first_up_to_the_target():
    found = pipeline.explain(classifier(), photograph("red", 1))
    note = found.settings["thresholds"]
    assert "chosen without labels on 1 image: elements cover" in note
    every = pipeline.explain(classifier(), photograph("red", 1), EvaluationConfig(s_min=0.0))
    assert 0 < len(found.elements) <= len(every.elements)
    assert every.settings["thresholds"] == "p = 0.2 and s_min = 0, as given"
    best = every.elements.sort_values("score", ascending=False)["score"].head(len(found.elements))
    assert set(best) == set(found.elements["score"])
    assert found.to_dict()["settings"]["thresholds"] == note


def test_of_segments_that_are_each_too_large_the_best_stays(photos):
    config = EvaluationConfig(segmenter="grid", segmenter_options={"cells": 1})
    few = photos.subset([0])
    tuned = pipeline.by_coverage(few, classifier(), config, progress=False)
    (one,) = pipeline.extract(few, classifier(), tuned.config)
    assert tuned.chosen["coverage"] == pytest.approx(one.elements.coverage) and len(one.elements)
    assert one.elements.coverage > 0.25 and "above the target of 25%" in tuned.note
    assert one.elements.table["score"].min() == pytest.approx(tuned.config.s_min, abs=1e-6)


def test_of_nothing_nothing_is_kept_and_it_is_said(photos):
    broken = GeoDataset("folder", photos.classes, "validation", [Item(0, None, 0)])
    for given in (None, 0.3):
        tuned = pipeline.tune(broken, classifier(), CONFIG, s_min=given, progress=False)
        assert "no segment scores above zero in the 1 images" in tuned.note
    empty = pipeline.by_coverage(photos.subset([]), classifier(), CONFIG, progress=False)
    assert empty.config == CONFIG
    found = pipeline.explain(classifier(), BLACK)
    assert len(found.elements) == 0
    assert "the defaults: no segment scores above zero" in found.settings["thresholds"]
    assert "map is zero everywhere" in found.note


def test_thresholds_serve_all_photographs_at_hand(photos):
    found = pipeline.explain_all(classifier(), photos, progress=False)
    (note,) = {one.settings["thresholds"] for one in found}
    assert "on 8 images" in note
    (s_min,) = {one.settings["s_min"] for one in found}
    chosen = CONFIG.model_copy(update={"s_min": s_min})
    used = pipeline.extract(photos, classifier(), chosen)
    assert [len(one.elements) for one in used] == [len(one.elements) for one in found]
