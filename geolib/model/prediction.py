"""Predictions of a classifier over a dataset, and what they say about its accuracy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from geolib.data import GeoDataset, pixel_batches
from geolib.model.classifier import Classifier
from geolib.model.device import BatchSize, choose_device, inference_precision


def predict(
    classifier: Classifier,
    dataset: GeoDataset,
    *,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Classify a dataset; unreadable images are left out and noted in ``dataset.skipped``.

    Parameters
    ----------
    classifier : moved to ``device`` and set to evaluation mode.
    dataset : images, resized to the classifier's input.
    batch_size : images per forward pass, by default as the device suggests; halved, with a
        warning, whenever memory runs out.
    device, precision : how it runs; see :func:`geolib.model.device.inference_precision`.
    progress : whether to show a progress bar.

    Returns
    -------
    DataFrame, one row per image: ``image_id``, ``label`` and ``prediction`` (class indices,
    ``label`` missing where unknown), ``probability`` of the prediction, ``label_probability``.
    """
    place = choose_device(device)
    classifier.to(place).to(memory_format=torch.channels_last).eval()
    fitting = BatchSize(batch_size, place)
    found = [torch.empty(0, len(classifier.classes))]
    indices: list[int] = []
    for batch in pixel_batches(dataset, classifier.image_size, fitting.images, progress=progress):
        found.append(_logits(classifier, as_images(batch.pixels, place), precision, fitting))
        indices += batch.indices
    probabilities = torch.cat(found).log_softmax(1).exp().numpy()
    ids, labels = dataset.ids, dataset.labels
    label = pd.array([labels[i] for i in indices], dtype="Int64")
    of_label = probabilities[np.arange(len(indices)), label.fillna(0).to_numpy(int)]
    columns = {
        "image_id": [ids[i] for i in indices],
        "label": label,
        "prediction": probabilities.argmax(1),
        "probability": probabilities.max(1),
        "label_probability": np.where(label.isna(), np.nan, of_label),
    }
    return pd.DataFrame(columns)


def log_probabilities(
    classifier: Classifier,
    images: torch.Tensor,
    *,
    precision: str = "auto",
    batch_size: int | None = None,
) -> torch.Tensor:
    """Log-probability of every class (natural logarithm), computed on the classifier's device.

    Of images ``[B,3,H,W]`` in 0…1, at the classifier's size: ``float64 [B,N]`` on the processor.
    The classifier is set to evaluation mode; ``batch_size`` and ``precision`` are as for
    :func:`predict`. A ValueError where it returns NaN or infinite values.
    """
    fitting = BatchSize(batch_size, classifier.eval().mean.device)
    found = _logits(classifier, images, precision, fitting)
    if not torch.isfinite(found).all():
        raise ValueError("classifier returned NaN or infinite logits; check its weights")
    return found.double().log_softmax(1)


def _logits(
    classifier: Classifier, images: torch.Tensor, precision: str, fitting: BatchSize
) -> torch.Tensor:
    device = classifier.mean.device

    def in_parts(size: int) -> torch.Tensor:
        return torch.cat([classifier(p.to(device)).float().cpu() for p in images.split(size)])

    with torch.inference_mode(), inference_precision(device, precision):
        return fitting.run(in_parts)


def as_images(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Image batch ``float32 [B,3,S,S]``, 0…1, stored channels last, of ``uint8 [B,S,S,3]``."""
    return pixels.to(device).permute(0, 3, 1, 2).float().div_(255)


def accuracy(predictions: pd.DataFrame) -> float:
    """Share of the labelled images of :func:`predict`'s table that are classified correctly."""
    known = labelled(predictions)
    return float((known["prediction"] == known["label"]).mean())


def labelled(predictions: pd.DataFrame) -> pd.DataFrame:
    """Those of the images whose class is known; a ValueError where none is."""
    known = predictions[predictions["label"].notna()]
    if known.empty:
        raise ValueError("predictions hold no labelled image; accuracy needs the true countries")
    return known
