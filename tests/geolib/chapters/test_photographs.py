"""Real streets come only if asked for, and what comes from elsewhere does nothing."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import toys
from markdown_it import MarkdownIt

from geolib import data, pipeline
from geolib.chapters import photographs
from geolib.chapters.experiment import Experiment
from geolib.download.http import Unreachable

AREAS = {"France": (48.0, 2.0, 1.0), "Japan": (35.0, 139.0, 1.0)}
HOSTILE = "<script>steal()</script> [me](javascript:steal()) **/ Panoramax"


def fails(error: Exception):
    def call(*args, **options):
        raise error

    return call


@pytest.fixture
def street_photos(tmp_path):
    toys.write_photographs(tmp_path, 2)
    return data.load("folder", "all", root=tmp_path)


def test_without_real_streets_the_note_says_why_and_what_would_be_done(monkeypatch):
    monkeypatch.setattr(data, "load", fails(AssertionError("the network was used")))
    untold = photographs.real_streets(AREAS, 2, network=False)
    assert photographs.real_streets(AREAS, 2, network="false") == untold  # as papermill says it
    monkeypatch.setattr(data, "load", fails(Unreachable("<b>host</b> is silent")))
    silent = photographs.real_streets(AREAS, 2, network=True)
    reasons = "This run was not to use the network", "&lt;b&gt;host&lt;/b&gt; is silent"
    for streets, why in zip((untold, silent), reasons, strict=True):
        assert (streets.images, streets.classifier) == (None, None)
        shown = MarkdownIt().render(streets.note)
        assert why in shown
        assert "up to 2 openly licensed photographs each of France, Japan" in shown
    assert "Otherwise the chapter fetches" in silent.note


def test_real_streets_without_weights_name_no_folder(monkeypatch, street_photos):
    monkeypatch.setattr(data, "load", lambda *_, **__: street_photos)
    away = Unreachable("bring it to /home/ada/x.pth")
    monkeypatch.setattr(photographs.assets, "fetch", fails(away))
    streets = photographs.real_streets(AREAS, 2, network=True)
    assert (streets.images, streets.classifier) == (None, None)
    assert "could not be had (Unreachable)" in streets.note and "ada" not in streets.note


def test_real_streets_count_what_came(monkeypatch, street_photos):
    network = toys.classifier()
    monkeypatch.setattr(data, "load", lambda *_, **__: street_photos)
    monkeypatch.setattr(photographs.assets, "fetch", lambda *_, **__: "resnet50.pth")
    monkeypatch.setattr(photographs.model, "load", lambda name, weights: network)
    streets = photographs.real_streets(AREAS, 2, network=True)
    assert streets.images is street_photos and streets.classifier is network
    assert "2 of blue, 2 of red" in MarkdownIt().render(streets.note)


def test_a_credit_is_shown_as_it_is_and_does_nothing():
    credit = photographs.credit(SimpleNamespace(credit=f"{HOSTILE}, CC-BY-SA-4.0"))
    shown = MarkdownIt("commonmark", {"html": True}).render(credit)
    assert "<script" not in shown and "<a " not in shown and "<strong" not in shown
    assert "Photograph: &lt;script&gt;steal()&lt;/script&gt; [me](javascript:steal())" in shown
    assert "CC-BY-SA-4.0" in shown
    assert photographs.credit(SimpleNamespace(credit="")) == ""


def test_photographs_are_explained_with_thresholds_of_their_own_or_given_ones(street_photos):
    for given, words in (({}, "without labels on 4 images"), ({"s_min": 0.1}, "as given")):
        experiment = Experiment(image_size=64, checkpoint="x", **given)
        found = photographs.explanations(
            experiment, toys.classifier(), street_photos, "gradcam++", "grid"
        )
        assert all(words in one.settings["thresholds"] for one in found)
        assert all(len(one.elements) for one in found)


def test_segmenters_that_cannot_run_say_why(monkeypatch, street_photos):
    reasons = {"grid": "", "truth": "", "sam": "run `geolib fetch sam_vit_b`"}
    monkeypatch.setattr(photographs.segmentation, "available", lambda checkpoints: dict(reasons))
    present, note = photographs.segmenters(Experiment(), street_photos)
    assert present == ["grid"]
    shown = MarkdownIt().render(note)
    assert "Present: <code>grid</code>" in shown
    assert "<li><code>sam</code>: run <code>geolib fetch sam_vit_b</code></li>" in shown
    assert "<code>truth</code>: only scenes" in shown
    scenes = data.load("geoscenes", "eval", 1, size=32)
    assert photographs.segmenters(Experiment(), scenes)[0] == ["grid", "truth"]


def test_element_pictures_are_a_row_per_photograph(street_photos):
    few = street_photos.subset([0, 1])
    config = pipeline.EvaluationConfig(segmenter="grid", s_min=0.0)
    found = pipeline.explain_all(toys.classifier(), few, config, progress=False)
    assert all(len(one.elements) for one in found)
    empty = [replace(one, elements=one.elements.iloc[:0]) for one in found]
    rows = photographs.element_pictures({"grid": found, "slic": empty})
    assert len(rows) == 2
    for i, (photo, outlined, untouched) in enumerate(rows):
        np.testing.assert_allclose(photo, few[i].image / 255)
        assert untouched is photo
        colours = [len(np.unique(one.reshape(-1, 3), axis=0)) for one in (photo, outlined)]
        assert colours[0] < colours[1]


@pytest.mark.parametrize(
    ("used", "paper", "words"),
    [
        (["mobilesam"], ["mobilesam"], ""),
        (["sam3", "slic", "mobilesam", "sam2"], ["mobilesam", "sam2", "sam3"], ""),
        (["slic"], ["mobilesam"], "MobileSAM of the paper was not run; `slic` ran instead."),
        (["sam2", "slic"], [], ""),
        (["sam2"], ["sam2", "sam3"], "SAM 3 of the paper was not run; no other ran instead."),
    ],
)
def test_a_stand_in_is_named_only_where_a_segmenter_of_the_paper_is_absent(used, paper, words):
    assert photographs.stand_in(used, paper).removeprefix("*Stand-in:* ") == words


def test_segmenter_table_by_hand():
    def one(*effects: float):
        table = pd.DataFrame({"deletion_effect": list(effects)})
        return SimpleNamespace(name="a", prediction="red", probabilities={"red": 1}, elements=table)

    found = {"grid": [one(0.5, 0.25), one(1.0)], "slic": [one(0.5), one()], "sam": [one(), one()]}
    table = photographs.segmenter_table(found)
    assert table["elements"].tolist() == [1.5, 0.5, 0.0]
    effects = table["largest effect"].tolist()
    assert effects == pytest.approx([0.75, 0.5, np.nan], nan_ok=True)
