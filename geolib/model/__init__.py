"""The classifier: load, train, predict."""

from geolib.model.batches import Process
from geolib.model.classifier import Classifier, HeadReplaced, load
from geolib.model.precision import (
    choose_batch_size,
    choose_device,
    inference_precision,
    uses_bf16,
)
from geolib.model.prediction import accuracy, calibration_error, confusion, predict, reliability
from geolib.model.training import PAPER, Schedule, TrainConfig, train

__all__ = [
    "PAPER",
    "Classifier",
    "HeadReplaced",
    "Process",
    "Schedule",
    "TrainConfig",
    "accuracy",
    "calibration_error",
    "choose_batch_size",
    "choose_device",
    "confusion",
    "inference_precision",
    "load",
    "predict",
    "reliability",
    "train",
    "uses_bf16",
]
