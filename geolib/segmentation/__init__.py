"""Candidate segments of an image (§3.3 of arXiv 2605.00912): one verb, `load`.

A new segmenter is a function and a line in `SEGMENTERS`. The names of its arguments say what it
reads: `image`, `item` and `attribution`; its keyword-only arguments are its options. A segmenter
that holds a network is a class: options go to `__init__`, an image to `__call__`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from geolib.segmentation.regions import (
    felzenszwalb,
    grid,
    none,
    salient_region,
    slic,
    truth,
)
from geolib.segmentation.sam import MobileSamSegmenter, SamSegmenter
from geolib.segmentation.segments import Segments

__all__ = ["SEGMENTERS", "Segmenter", "Segments", "available", "load", "salient_region"]

SEGMENTERS: dict[str, Callable[..., Any]] = {
    "felzenszwalb": felzenszwalb,
    "slic": slic,
    "grid": grid,
    "truth": truth,
    "none": none,
    "sam": SamSegmenter,
    "mobilesam": MobileSamSegmenter,
}

INPUTS = frozenset({"image", "item", "attribution"})


@dataclass(frozen=True)
class Segmenter:
    """A segmenter with its options, ready to be called.

    Attributes
    ----------
    name : its name in `SEGMENTERS`
    options : every option with its value, defaults included
    uses : which of "image", "item" and "attribution" it reads
    key : identifies name, options and weights: equal keys, equal segments
    """

    name: str
    options: Mapping[str, Any]
    uses: frozenset[str]
    key: str
    function: Callable[..., Segments]

    @property
    def needs_attribution(self) -> bool:
        """Whether the segments depend on the attribution map."""
        return "attribution" in self.uses

    @property
    def model(self) -> Any:
        """The network (an `nn.Module`) of a segmenter that has one, else None."""
        return getattr(self.function, "model", None)

    def __call__(self, image: np.ndarray, *, item: Any = None, attribution: Any = None) -> Segments:
        """Segment one image.

        Parameters
        ----------
        image : uint8 [H, W, 3], RGB
        item : the `GeoImage`, for segmenters that read its scene
        attribution : float [H, W] array or tensor, 0…1, for segmenters that read the map

        Raises
        ------
        TypeError, ValueError
            If an input has another type or shape, or one that this segmenter reads is missing.
        """
        image = _checked_image(image)
        given = {"image": image, "item": item}
        if attribution is not None:
            given["attribution"] = _checked_map(attribution, image.shape[:2])
        inputs = {name: given.get(name) for name in self.uses}
        for name, value in inputs.items():
            if value is None:
                raise ValueError(f"segmenter {self.name!r} reads the {name}: pass {name}=…")
        segments = self.function(**inputs)
        if segments.masks.shape[1:] != image.shape[:2]:
            raise ValueError(
                f"segmenter {self.name!r} returned masks of {segments.masks.shape[1:]} pixels "
                f"for an image of {image.shape[:2]}"
            )
        return segments


def load(name: str, **options: Any) -> Segmenter:
    """The segmenter called `name` (a key of `SEGMENTERS`).

    Parameters
    ----------
    name : felzenszwalb | slic | grid | truth | none | sam | mobilesam
    **options : the segmenter's own; networks take ``checkpoint=PATH``

    Returns
    -------
    Segmenter, called as ``segment(image, *, item=None, attribution=None) -> Segments``

    Raises
    ------
    ValueError
        For an unknown name or option (the message lists the known ones), a value out of
        range, or a checkpoint that is missing or does not fit.
    """
    if name not in SEGMENTERS:
        raise ValueError(f"unknown segmenter {name!r}; known: {', '.join(SEGMENTERS)}")
    entry = SEGMENTERS[name]
    parameters = inspect.signature(entry).parameters
    known = [option for option in parameters if option not in INPUTS]
    for option in options:
        if option not in known:
            raise ValueError(
                f"unknown option {option!r} of segmenter {name!r}; "
                f"known: {', '.join(known) or 'none, it takes no options'}"
            )
    options = {option: parameters[option].default for option in known} | options
    function: Callable[..., Segments] = (
        entry(**options) if isinstance(entry, type) else partial(entry, **options)
    )
    uses = INPUTS & frozenset(inspect.signature(function).parameters)
    return Segmenter(name, options, uses, _content_key(name, options), function)


def available(checkpoints: Mapping[str, str | Path] | None = None) -> dict[str, str]:
    """Which segmenters can run here, and why the others cannot.

    Parameters
    ----------
    checkpoints : segmenter name → path of its weights, for those that need some

    Returns
    -------
    Segmenter name → reason why it cannot run, "" if it can.
    """
    reasons = {}
    for name, entry in SEGMENTERS.items():
        path = (checkpoints or {}).get(name)
        if "checkpoint" not in inspect.signature(entry).parameters or (
            path is not None and Path(path).is_file()
        ):
            reasons[name] = ""
        else:
            where = "no checkpoint given" if path is None else f"no file at {path}"
            reasons[name] = f"{where}; it needs {getattr(entry, 'published', 'one')}"
    return reasons


def _content_key(name: str, options: Mapping[str, Any]) -> str:
    """sha256 over the name and options; a checkpoint counts by its bytes, not its path."""
    content = {key: value for key, value in options.items() if key != "device"}
    if content.get("checkpoint") is not None:
        with Path(content["checkpoint"]).open("rb") as file:
            content["checkpoint"] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps([name, content], sort_keys=True).encode()).hexdigest()


def _checked_image(image: Any) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"image must be a uint8 array [H, W, 3] in RGB, got {got}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"image must be [H, W, 3] in RGB, got shape {image.shape}; "
            "repeat a grey image's channel three times, drop an alpha channel"
        )
    return image


def _checked_map(attribution: Any, shape: tuple[int, int]) -> np.ndarray:
    attribution = np.asarray(attribution, dtype=np.float32)
    if attribution.shape != shape:
        raise ValueError(
            f"attribution must have the image's size {shape}, got shape {attribution.shape}"
        )
    if not np.isfinite(attribution).all():
        raise ValueError("attribution must be finite, got NaN or infinite values")
    return attribution
