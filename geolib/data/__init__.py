"""Datasets of geolocated images: the procedural benchmark, and photographs.

A new dataset is a function and a line in `DATASETS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geolib.data.folder import folder
from geolib.data.osv5m import osv5m
from geolib.data.panoramax import panoramax
from geolib.data.pixels import PixelBatch, pixel_batches, to_batch
from geolib.data.records import GeoDataset, GeoImage, PhotoRecord, Skipped
from geolib.data.scenes import geoscenes
from geoscenes import COUNTRIES

__all__ = ["COUNTRIES", "DATASETS", "GeoDataset", "GeoImage", "PhotoRecord", "PixelBatch"]
__all__ += ["Skipped", "load", "pixel_batches", "to_batch"]

DATASETS: dict[str, Callable[..., GeoDataset]] = {
    "geoscenes": geoscenes,
    "folder": folder,
    "osv5m": osv5m,
    "panoramax": panoramax,
}


def load(
    name: str, split: str = "eval", n: int | None = None, seed: int = 0, **options: Any
) -> GeoDataset:
    """Load a dataset by name.

    Parameters
    ----------
    name : ``"geoscenes"``, ``"folder"``, ``"osv5m"`` or ``"panoramax"``; the functions of these
        names describe their ``options``.
    split : ``"train"``, ``"validation"``, ``"test"``, ``"eval"`` (the images that the pipeline
        explains), or ``"all"`` (``folder`` and ``panoramax`` only).
    n : number of images, at most as many as there are; all of them by default.
    seed : decides which images belong to which split. Splits of one seed share no image.

    Raises
    ------
    ValueError
        If the name, the split or an option's value is not known.
    """
    if name not in DATASETS:
        raise ValueError(f"name={name!r} is not a dataset; known: {', '.join(sorted(DATASETS))}")
    if n is not None and n < 1:
        raise ValueError(f"n={n} images were asked for; expected at least 1, or None for all")
    return DATASETS[name](split, n, seed, **options)
