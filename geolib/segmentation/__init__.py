"""Candidate segments of an image (§3.3 of arXiv 2605.00912): one verb, `load`.

A new segmenter is a function and a line in `SEGMENTERS`. The names of its arguments say what it
reads: `image`, `item`, `attribution` and `size`; its keyword-only arguments are its options. A
segmenter that holds a network is a class: its fields are the options, `__call__` takes an image.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

from geolib.segmentation.regions import felzenszwalb, grid, none, salient_region, slic, truth
from geolib.segmentation.segments import Segments

__all__ = ["SEGMENTERS", "Segmenter", "Segments", "available", "load", "salient_region", "shared"]

# Networks take seconds to import, so they are named by the place of their class.
SEGMENTERS: dict[str, Callable[..., Any] | str] = {
    "felzenszwalb": felzenszwalb,
    "slic": slic,
    "grid": grid,
    "truth": truth,
    "none": none,
    "sam": "geolib.segmentation.networks.sam:SamSegmenter",
    "mobilesam": "geolib.segmentation.networks.sam:MobileSamSegmenter",
    "sam2": "geolib.segmentation.networks.sam2:Sam2Segmenter",
    "sam3": "geolib.segmentation.networks.sam3:Sam3Segmenter",
}

INPUTS = frozenset({"image", "item", "attribution", "size"})
# Options that say where and in what portions a network runs; the segments do not depend on them.
EXECUTION = frozenset({"device", "prompts_per_batch"})


@dataclass(frozen=True)
class Segmenter:
    """A segmenter with its options (defaults included), ready to be called.

    `uses` names what it reads of "image", "item", "attribution" and "size". `key` identifies name,
    options and weights: equal keys, equal segments.
    """

    name: str
    options: Mapping[str, Any]
    uses: frozenset[str]
    key: str
    function: Callable[..., Segments]

    @property
    def native(self) -> bool:
        """Whether it wants the photograph in its own pixels, not the classifier's: networks do."""
        return "size" in self.uses

    @property
    def model(self) -> Any:
        """The network (an `nn.Module`) of a segmenter that has one, else None."""
        return getattr(self.function, "model", None)

    def __call__(
        self, image: np.ndarray, *, item: Any = None, attribution: Any = None, size: Any = None
    ) -> Segments:
        """Segment one image.

        Parameters
        ----------
        image : uint8 [H, W, 3], RGB
        item : the `GeoImage`, for segmenters that read its scene
        attribution : float [H, W] array or tensor, 0…1, for segmenters that read the map
        size : (height, width) of the masks; by default the image's. Networks map their masks to
            it one at a time, and never hold them all at a large photograph's own size.

        Raises
        ------
        TypeError, ValueError
            If an input has another type or shape, or one that this segmenter reads is missing.
        """
        _check_image(image)
        wanted = size or image.shape[:2]
        given = {"image": image, "item": item, "attribution": attribution, "size": wanted}
        for name in self.uses:
            if given[name] is None:
                raise ValueError(f"segmenter {self.name!r} reads the {name}: pass {name}=…")
        if "attribution" in self.uses:
            given["attribution"] = _checked_map(attribution, image.shape[:2])
        segments = self.function(**{name: given[name] for name in self.uses})
        expected = wanted if self.native else image.shape[:2]
        if segments.masks.shape[1:] != expected:
            raise ValueError(
                f"segmenter {self.name!r} returned masks of {segments.masks.shape[1:]} pixels "
                f"instead of {expected}"
            )
        return segments.resize(wanted)


def load(name: str, **options: Any) -> Segmenter:
    """The segmenter called `name`.

    Parameters
    ----------
    name : felzenszwalb | slic | grid | truth | none | sam | mobilesam | sam2 | sam3
    **options : the segmenter's own; networks take ``checkpoint=PATH``

    Returns
    -------
    Segmenter, called as ``segment(image, *, item=None, attribution=None, size=None) -> Segments``

    Raises
    ------
    ValueError
        For an unknown name or option (the message lists the known ones), a value out of
        range, or a checkpoint that is missing or does not fit.
    """
    if name not in SEGMENTERS:
        raise ValueError(f"unknown segmenter {name!r}; known: {', '.join(SEGMENTERS)}")
    entry = _entry(name)
    parameters = inspect.signature(entry).parameters
    known = [option for option in parameters if option not in INPUTS]
    for option in options:
        if option not in known:
            raise ValueError(
                f"unknown option {option!r} of segmenter {name!r}; "
                f"known: {', '.join(known) or 'none, it takes no options'}"
            )
    options = {option: parameters[option].default for option in known} | options
    function = entry(**options) if isinstance(entry, type) else partial(entry, **options)
    uses = INPUTS.intersection(inspect.signature(function).parameters)
    # A network keeps its options, with what stands for the defaults: the weights, the concepts.
    options = {option: getattr(function, option, options[option]) for option in options}
    return Segmenter(name, options, uses, _content_key(name, options), function)


def shared(name: str, **options: Any) -> Segmenter:
    """The segmenter of `load`; the last one is kept, and handed out again while its files stand.

    The pipeline asks once per shard, and a network may take gigabytes to read. Whoever changes
    its `model` should `load` one of their own.
    """
    stamps: tuple[int, ...] = ()
    if options.get("checkpoint") is not None:
        from geolib.segmentation.networks.base import weight_files

        files = weight_files(Path(options["checkpoint"]))
        stamps = tuple(path.stat().st_mtime_ns for path in files if path.is_file())
    text = json.dumps(options, sort_keys=True, default=str)
    return _shared(name, SEGMENTERS.get(name), text, stamps)


@lru_cache(maxsize=1)
def _shared(name: str, entry: Any, options: str, stamps: tuple[int, ...]) -> Segmenter:
    return load(name, **json.loads(options))


def available(checkpoints: Mapping[str, str | Path] | None = None) -> dict[str, str]:
    """Which segmenters can run here, and why the others cannot.

    `checkpoints` maps names to weights, by default those that `geolib fetch` left. Returned is name
    → reason why it cannot run and what to do about it, "" if it can.
    """
    reasons = dict.fromkeys(SEGMENTERS, "")
    for name in SEGMENTERS:
        find = getattr(_entry(name), "find", None)
        try:
            if find:
                find((checkpoints or {}).get(name))
        except ValueError as error:
            reasons[name] = str(error)
    return reasons


def _entry(name: str) -> Any:
    """The function or class called `name`."""
    entry = SEGMENTERS[name]
    return resolve_name(entry) if isinstance(entry, str) else entry


def _content_key(name: str, options: Mapping[str, Any]) -> str:
    """sha256 over the name and options; a checkpoint counts by its bytes, not its path."""
    content = {key: value for key, value in options.items() if key not in EXECUTION}
    if content.get("checkpoint") is not None:
        from geolib.segmentation.networks.base import digest

        content["checkpoint"] = digest(Path(content["checkpoint"]))
    return hashlib.sha256(json.dumps([name, content], sort_keys=True).encode()).hexdigest()


def _check_image(image: Any) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"image must be a uint8 array [H, W, 3] in RGB, got {got}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"image must be [H, W, 3] in RGB, got shape {image.shape}; "
            "repeat a grey image's channel three times, drop an alpha channel"
        )


def _checked_map(attribution: Any, shape: tuple[int, ...]) -> np.ndarray:
    attribution = np.asarray(attribution, dtype=np.float32)
    if attribution.shape != shape:
        got = attribution.shape
        raise ValueError(f"attribution must have the image's size {shape}, got shape {got}")
    if not np.isfinite(attribution).all():
        raise ValueError("attribution must be finite, got NaN or infinite values")
    return attribution
