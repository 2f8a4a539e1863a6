"""What the notebooks share: profiles, splits, the trained classifier, the chosen thresholds."""

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
    recipe = {"learning_rate": 3e-4, "weight_decay": 0.02, "label_smoothing": 0.1}
    recipe |= {"arch": "resnet50", "weights": "imagenet", "image_size": 224}
    recipe |= {"max_epochs": 300, "patience": 30, "horizontal_flip": True}
    assert experiment.training.model_dump(include={*recipe}) == recipe
    assert (experiment.n_eval, experiment.repeats, experiment.smoothgrad_samples) == (600, 10, 50)
    assert (experiment.dataset, experiment.classes) == ("osv5m", ("FR", "IN", "JP"))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_default_profile_keeps_loss_and_optimiser(chapter):
    experiment = Experiment.from_parameters(run.resolve([chapter], "default")[chapter])
    kept = {"weight_decay", "label_smoothing", "color_jitter"}
    assert experiment.training.model_dump(include=kept) == model.PAPER.model_dump(include=kept)
    assert experiment.training.arch == "resnet10t?output_stride=16&channels=(64,128,256,256)"
    assert not experiment.training.horizontal_flip  # the driving side is a cue


def test_splits_share_no_scene_and_methods_are_compared_on_the_first_to_explain():
    experiment = Experiment(n_train=30, n_validation=20, n_test=20, n_eval=10, n_compare=4)
    splits = experiment.train, experiment.validation, experiment.test, experiment.evaluation
    assert len({name for split in splits for name in split.ids}) == 80
    ids = experiment.evaluation.ids
    assert experiment.compared.ids == ids[:4]
    assert Experiment(n_eval=10).compared.ids == ids
    few = experiment.variant(n_costly=2)
    assert few.compared_with("scorecam").ids == ids[:2]
    assert few.compared_with("gradcam").ids == ids[:4]


def test_further_networks_differ_in_their_training_alone():
    experiment = Experiment(n_train=30, n_eval=6, seed=4, n_train_further=12, max_epochs=1)
    first, *others = experiment.networks()
    assert first is experiment and len(others) == 2 and len(experiment.networks(5)) == 5
    for k, other in enumerate(others, 1):
        for split in ("validation", "test", "evaluation", "compared"):
            assert getattr(other, split).ids == getattr(experiment, split).ids
        assert other.train.ids == experiment.train.ids[:12]
        assert other.training == experiment.training.model_copy(update={"seed": 4 + k})
    assert len(experiment.variant(n_train_further=None).networks(2)[1].train) == 30
    assert len(experiment.variant(checkpoint="x").networks()) == 1


def test_unknown_settings_are_refused_but_not_those_of_a_notebook():
    with pytest.raises(ValidationError, match="n_images"):
        Experiment(n_images=3)
    assert Experiment.from_parameters({"n_eval": 5, "methods": ["gradcam"], "In": []}).n_eval == 5


@pytest.fixture
def on_photographs(tmp_path):
    """Settings of an experiment on a few photographs."""
    write_photographs(tmp_path / "photos", 14)
    return {"dataset": "folder", "root": str(tmp_path / "photos"), "image_size": SIDE}


def test_a_classifier_is_trained_once_and_found_again(
    on_photographs, own_cache, tmp_path, monkeypatch
):
    settings = {**on_photographs, "max_epochs": 1, "batch_size": 8, "arch": "squeezenet1_1"}
    start = model.load("squeezenet1_1", weights="random", classes=("blue", "red"))
    start.save(tmp_path / "w.safetensors")
    first = Experiment(**settings, weights=str(tmp_path / "w.safetensors")).classifier
    assert first.training_config["weights"] == "w.safetensors"
    monkeypatch.setattr(model, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    (tmp_path / "w.safetensors").rename(tmp_path / "moved.safetensors")
    again = Experiment(**settings, weights=str(tmp_path / "moved.safetensors")).classifier
    assert again.weights_sha256 == first.weights_sha256
    assert (again.classes, again.trained_on) == (("blue", "red"), "folder")
    assert not list((own_cache / "unfinished").glob("*"))


def test_outcomes_hold_each_pair_once(on_photographs, monkeypatch):
    monkeypatch.setattr("geolib.model.load", lambda path: classifier())
    chosen = {"checkpoint": "x", "top_p": 0.1, "s_min": 0.3, "repeats": 2}
    experiment = Experiment(**on_photographs, **chosen)
    pairs = [("gradcam", "grid"), ("gradcam++", "grid"), ("gradcam", "grid")]
    guided = experiment.outcomes(pairs).query("region == 'guided' and test == 'deletion'")
    assert len(guided) == 2 * len(experiment.evaluation)
    assert experiment.tuned("gradcam", "grid").note == "p = 0.1 and s_min = 0.3, as given"
    assert experiment.ceilings() == {}


def test_a_variant_is_validated_and_takes_nothing_over():
    experiment = Experiment(n_eval=5, image_size=64)
    assert len(experiment.evaluation) == 5
    variant = experiment.variant(n_eval=3)
    assert (len(variant.evaluation), variant.image_size) == (3, 64)
    assert len(experiment.evaluation) == 5
    with pytest.raises(ValidationError, match="n_eval"):
        experiment.variant(n_eval=0)


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        *(("n_train", 1000.0, 1000), ("horizontal_flip", "no", False), ("top_p", 1, 1.0)),
        *(("n_train", 2.5, None), ("horizontal_flip", "maybe", None), ("top_p", "0x1", None)),
        *(("classes", "[NO, SE]", None), ("classes", [False, "SE"], None), ("classes", 2024, None)),
        *(("arch", 1e3, None), ("root", 2024, None), ("weights", 7, None), ("label", True, None)),
    ],
)
def test_what_papermill_takes_for_something_else_is_refused(name, given, taken):
    """Its ``-p`` reads numbers, and text for lists and switches; its ``-y`` reads NO as False."""
    if taken is None:
        with pytest.raises(ValidationError, match=name):
            Experiment.from_parameters({name: given})
    else:
        assert getattr(Experiment.from_parameters({name: given}), name) == taken
