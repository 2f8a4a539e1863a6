"""What is said of the training and the accuracy follows the settings and numbers."""

from __future__ import annotations

import pandas as pd

from geolib.chapters import classifier
from geolib.chapters.experiment import Experiment


def test_training_note_names_each_departure_and_only_those():
    paper = {
        **{"arch": "resnet50", "weights": "imagenet", "image_size": 224, "max_epochs": 300},
        **{"patience": 30, "schedule": "constant", "batch_size": 64, "horizontal_flip": True},
        **{"learning_rate": 3e-4},
    }
    assert "exactly as the paper" in classifier.training_note(Experiment(**paper))
    changed = classifier.training_note(Experiment(**paper | {"max_epochs": 9}))
    assert "most epochs 9 instead of 300" in changed
    assert ";" not in changed
    assert "nothing was trained" in classifier.training_note(Experiment(checkpoint="x.safetensors"))


def test_accuracy_note_states_the_gap_in_points():
    assert "4.0 percentage points" in classifier.accuracy_note(0.90, {"upright": 0.94})
    assert "unknown" in classifier.accuracy_note(0.90, {})


def test_learning_curves_name_the_epoch_kept():
    history = pd.DataFrame({"epoch": [0, 1]})
    for split in ("train", "validation"):
        history[[f"{split}_loss", f"{split}_accuracy"]] = [[0.5, 0.6], [0.25, 0.7]]
    loss, accuracy = classifier.learning_curves(history).axes
    assert (loss.get_title(), accuracy.get_title()) == ("loss", "accuracy")
    assert loss.get_xlabel() == "epoch (kept: 1)"
    assert [list(line.get_ydata()) for line in loss.lines] == [[0.5, 0.25]] * 2
