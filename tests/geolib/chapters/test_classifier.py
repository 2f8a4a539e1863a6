"""What is said of the training and the accuracy follows the settings and numbers."""

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from geolib import model
from geolib.chapters import classifier
from geolib.chapters.experiment import Experiment


def test_notes_name_each_departure_and_only_those_and_the_gap_in_points():
    paper = model.PAPER.model_dump(include=set(Experiment.model_fields) - {"seed"})
    assert "exactly as the paper" in classifier.training_note(Experiment(**paper))
    changed = classifier.training_note(Experiment(**paper | {"max_epochs": 9}))
    assert "most epochs 9 instead of 300" in changed and ";" not in changed
    assert "4.0 percentage points" in classifier.accuracy_note(0.90, {"upright": 0.94})
    assert "unknown" in classifier.accuracy_note(0.90, {})
    ceilings = {"upright": 0.94, "mirrored": 0.9}
    for note in (classifier.accuracy_note(0.90, ceilings), classifier.ceiling_note(ceilings)):
        assert "observer of all cues of at least 30 pixels" in note
    assert "nothing was trained" in classifier.training_note(Experiment(checkpoint="x.safetensors"))


def test_each_network_is_named_with_its_images_and_its_accuracy():
    class Trained:
        def __init__(self, n, right):
            self.train, self.right = range(n), right

        def accuracy(self, split):
            return {"value": self.right[split]}

    both: list = [Trained(6000, {"test": 0.875}), Trained(30, {"test": 0.5})]
    said = "Trained on 6,000, 30 images, right on 87.5%, 50.0% of the test images."
    assert classifier.networks_note(both) == said


def test_learning_curves_name_the_epoch_kept():
    history = pd.DataFrame({"epoch": [0, 1]})
    for split in ("train", "validation"):
        history[[f"{split}_loss", f"{split}_accuracy"]] = [[0.5, 0.6], [0.25, 0.7]]
    loss, accuracy = classifier.learning_curves(history).axes
    assert (loss.get_title(), accuracy.get_title()) == ("loss", "accuracy")
    assert loss.get_xlabel() == "epoch (kept: 1)"
    assert [list(line.get_ydata()) for line in loss.lines] == [[0.5, 0.25]] * 2


def table(label, prediction, probability) -> pd.DataFrame:
    found = {"prediction": prediction, "probability": probability}
    return pd.DataFrame({"label": pd.array(label, dtype="Int64"), **found})


def test_accuracy_and_confusion_by_hand():
    found = table([0, 0, 1, None, 2], [0, 1, 1, 0, 0], [0.5] * 5)
    assert model.accuracy(found) == 0.5
    counts = classifier.confused(found, ("A", "B", "C"))
    assert counts.to_numpy().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert counts.loc["C", "A"] == 1


def test_calibration_by_hand():
    # Two images at 0.6, one of them right: gap 0.1. Two at 0.95, both right: gap 0.05.
    found = table([0, 1, 0, 1], [0, 0, 0, 1], [0.58, 0.58, 0.95, 0.95])
    curve = classifier.calibration(found, n_bins=10)
    expected = {"confidence": [0.58, 0.95], "accuracy": [0.5, 1.0], "n_images": [2, 2]}
    assert curve.to_dict("list") == {name: pytest.approx(v) for name, v in expected.items()}
    assert classifier.calibration_error(curve) == pytest.approx((0.08 + 0.05) / 2)


def test_calibration_error_agrees_with_torchmetrics():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 500)
    right = rng.random(500) < confidence**2
    found = table(np.zeros(500, int), np.where(right, 0, 1), confidence)
    expected = binary_calibration_error(torch.tensor(confidence), torch.tensor(right).int(), 15)
    error = classifier.calibration_error(classifier.calibration(found, n_bins=15))
    assert error == pytest.approx(expected.item(), abs=1e-6)
