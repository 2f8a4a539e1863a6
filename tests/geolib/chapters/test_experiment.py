"""What the notebooks share: profiles, splits, the trained classifier, the chosen thresholds."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from toys import SIDE, classifier, write_photographs

from geolib import model
from geolib.book import run
from geolib.chapters.experiment import Experiment

CHAPTERS = ("02-classifier", "06-faithfulness")


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_paper_profile_is_the_papers_recipe(chapter):
    experiment = Experiment.from_parameters(run.resolve([chapter], "paper")[chapter])
    assert experiment.training == model.TrainConfig()
    assert experiment.training.model_dump(
        include={"learning_rate", "weight_decay", "label_smoothing"}
    ) == {
        "learning_rate": 3e-4,
        "weight_decay": 0.02,
        "label_smoothing": 0.1,
    }
    assert (experiment.training.arch, experiment.training.weights) == ("resnet50", "imagenet")
    assert (experiment.training.max_epochs, experiment.training.patience) == (300, 30)
    assert experiment.training.horizontal_flip
    assert experiment.image_size == 224
    assert (experiment.n_eval, experiment.repeats, experiment.smoothgrad_samples) == (600, 10, 50)
    assert (experiment.dataset, experiment.classes) == ("osv5m", ("FR", "IN", "JP"))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_default_profile_keeps_loss_and_optimiser(chapter):
    experiment = Experiment.from_parameters(run.resolve([chapter], "default")[chapter])
    kept = {"weight_decay", "label_smoothing", "color_jitter"}
    assert experiment.training.model_dump(include=kept) == model.PAPER.model_dump(include=kept)
    assert experiment.training.arch == "resnet10t?output_stride=16"
    assert not experiment.training.horizontal_flip  # the driving side is a cue


def test_splits_share_no_scene():
    experiment = Experiment(n_train=30, n_validation=20, n_test=20, n_eval=10)
    ids = [
        *experiment.train.ids,
        *experiment.validation.ids,
        *experiment.test.ids,
        *experiment.evaluation.ids,
    ]
    assert len(set(ids)) == 80


def test_methods_are_compared_on_the_first_evaluation_images():
    experiment = Experiment(n_eval=10, n_compare=4)
    assert experiment.compared.ids == experiment.evaluation.ids[:4]
    assert Experiment(n_eval=10).compared.ids == experiment.evaluation.ids
    experiment = experiment.variant(n_costly=2)
    assert experiment.compared_with("scorecam").ids == experiment.evaluation.ids[:2]
    assert experiment.compared_with("gradcam").ids == experiment.compared.ids


def test_unknown_settings_are_refused():
    with pytest.raises(ValidationError, match="n_images"):
        Experiment(n_images=3)


def test_names_of_a_notebook_that_are_no_settings_are_ignored():
    experiment = Experiment.from_parameters({"n_eval": 5, "methods": ["gradcam"], "In": []})
    assert experiment.n_eval == 5


def test_a_classifier_is_trained_once_and_found_again(tmp_path, monkeypatch):
    write_photographs(tmp_path / "photos", 14)
    settings = {
        **{"dataset": "folder", "root": str(tmp_path / "photos"), "image_size": SIDE},
        **{"max_epochs": 1, "batch_size": 8, "arch": "squeezenet1_1"},
    }
    first = Experiment(**settings).classifier
    monkeypatch.setattr(model, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    again = Experiment(**settings).classifier
    assert again.weights_sha256 == first.weights_sha256
    assert again.classes == ("blue", "red")
    assert again.trained_on == "folder"
    assert not list((tmp_path / "cache" / "unfinished").glob("*"))


def test_outcomes_hold_each_pair_once(tmp_path, monkeypatch):
    write_photographs(tmp_path / "photos", 14)
    oracle = classifier()
    monkeypatch.setattr("geolib.model.load", lambda path: oracle)
    experiment = Experiment(
        **{"dataset": "folder", "root": str(tmp_path / "photos"), "checkpoint": "x"},
        **{"image_size": SIDE, "top_p": 0.1, "s_min": 0.3, "repeats": 2},
    )
    pairs = [("gradcam", "grid"), ("gradcam++", "grid"), ("gradcam", "grid")]
    table = experiment.outcomes(pairs)
    guided = table[(table["region"] == "guided") & (table["test"] == "deletion")]
    assert len(guided) == 2 * len(experiment.evaluation)
    assert experiment.tuned.note == "p = 0.1 and s_min = 0.3, as given"
    assert experiment.ceilings() == {}


def test_a_variant_is_validated_and_takes_nothing_over():
    experiment = Experiment(n_eval=5, image_size=64)
    assert len(experiment.evaluation) == 5
    variant = experiment.variant(n_eval=3)
    assert (len(variant.evaluation), variant.image_size) == (3, 64)
    assert len(experiment.evaluation) == 5
    with pytest.raises(ValidationError, match="n_eval"):
        experiment.variant(n_eval=0)
