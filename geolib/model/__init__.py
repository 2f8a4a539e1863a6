"""The classifier: load, train, predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geolib.model.classifier import Classifier, HeadReplaced, load
from geolib.model.device import choose_device
from geolib.model.prediction import accuracy, log_probabilities, predict
from geolib.model.settings import PAPER, Schedule, TrainConfig

if TYPE_CHECKING:
    from geolib.training.recipe import train

__all__ = ["PAPER", "Classifier", "HeadReplaced", "Schedule", "TrainConfig", "accuracy"]
__all__ += ["choose_device", "load", "log_probabilities", "predict", "train"]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import.
    if name == "train":
        from geolib.training.recipe import train

        return train
    raise AttributeError(f"module 'geolib.model' has no attribute '{name}'")
