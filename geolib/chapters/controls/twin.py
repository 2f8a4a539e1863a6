"""A classifier to which masked boxes are nothing new."""

from __future__ import annotations

from pathlib import Path

from geolib import model
from geolib.chapters.experiment import Experiment
from geolib.runtime import cache


def twin(
    experiment: Experiment, n_train: int, max_epochs: int, box_masks: float = 0.5
) -> Experiment:
    """The experiment with a classifier that learns on, a share of its images masked by boxes.

    It starts from the experiment's classifier, sees the first ``n_train`` training images
    ``max_epochs`` times, and is explained with the same thresholds.
    """
    first = experiment.classifier
    train = experiment.train.subset(range(min(n_train, len(experiment.train))))
    config = experiment.training.model_copy(
        update={
            "weights": None,
            "image_size": first.image_size,
            "learning_rate": experiment.learning_rate / 4,  # it has learnt already
            "max_epochs": max_epochs,
            "box_masks": box_masks,
        }
    )
    params = {
        "config": config.model_dump(mode="json"),
        "initial": first.weights_sha256,
        "train": train.identity,
        "validation": experiment.validation.identity,
    }

    def build(folder: Path) -> None:
        start = folder / "start.safetensors"
        first.save(start)  # a checkpoint keeps its last layer, too
        going_on = config.model_copy(update={"arch": str(start)})
        learnt = model.train(train, experiment.validation, going_on)
        learnt.training_config = config.model_dump(mode="json")
        learnt.save(folder / "twin.safetensors")
        start.unlink()

    folder = cache.compute("twin", params, ("geolib.training.recipe",), build)
    chosen = experiment.tuned.config
    checkpoint = str(folder / "twin.safetensors")
    return experiment.variant(checkpoint=checkpoint, top_p=chosen.top_p, s_min=chosen.s_min)
