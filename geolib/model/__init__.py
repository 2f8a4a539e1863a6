"""The classifier: load, train, predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geolib.model.classifier import Classifier, HeadReplaced, load
from geolib.model.device import (
    Process,
    choose_batch_size,
    choose_device,
    inference_precision,
    uses_bf16,
)
from geolib.model.prediction import (
    accuracy,
    log_probabilities,
    predict,
)
from geolib.model.settings import PAPER, Schedule, TrainConfig

if TYPE_CHECKING:
    from geolib.training.recipe import train

__all__ = [
    "PAPER",
    "Classifier",
    "HeadReplaced",
    "Process",
    "Schedule",
    "TrainConfig",
    "accuracy",
    "choose_batch_size",
    "choose_device",
    "inference_precision",
    "load",
    "log_probabilities",
    "predict",
    "train",
    "uses_bf16",
]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import.
    if name == "train":
        from geolib.training.recipe import train

        return train
    raise AttributeError(f"module 'geolib.model' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
