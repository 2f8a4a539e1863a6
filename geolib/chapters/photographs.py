from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from geolib import data, figures, model, pipeline, segmentation
from geolib.chapters.experiment import Experiment
from geolib.data import GeoDataset
from geolib.download import assets
from geolib.download.http import RemoteError
from geolib.masks import decode
from geolib.model import Classifier
from geolib.pipeline import Explanation

# The classifier that looks at real streets: an architecture and its public weights.
STREET_ARCH = "resnet50"
STREET_WEIGHTS = "resnet50-imagenet"
# The paper's segmenters.
PAPER = {"mobilesam": "MobileSAM", "sam2": "SAM 2", "sam3": "SAM 3"}


def stand_in(used: Sequence[str], paper: Sequence[str] = tuple(PAPER)) -> str:
    """Names what was run in place of segmenters of the paper; empty where all of them were run."""
    absent = [PAPER[name] for name in paper if name not in used]
    if not absent:
        return ""
    others = ", ".join(f"`{name}`" for name in used if name not in PAPER) or "no other"
    were = "was" if len(absent) == 1 else "were"
    return f"*Stand-in:* {', '.join(absent)} of the paper {were} not run; {others} ran instead."


def summary(explanations: Sequence[Explanation]) -> pd.DataFrame:
    """What was predicted for some photographs, and on how many elements it leans."""
    return pd.DataFrame(
        {
            "photograph": one.name,
            "prediction": one.prediction,
            "probability": one.probabilities[one.prediction],
            "elements": len(one.elements),
            "largest effect": one.elements["deletion_effect"].max(),
        }
        for one in explanations
    )


@dataclass(frozen=True)
class Streets:
    """Real street photographs with a classifier for them, both or neither, and what was done."""

    images: GeoDataset | None
    classifier: Classifier | None
    note: str


def real_streets(areas: Mapping[str, Sequence[float]], per_area: int, *, network: bool) -> Streets:
    """Photographs of Panoramax and the public ImageNet weights, if there is a network to use."""
    plan = (
        f"the chapter fetches up to {per_area} openly licensed photographs each of "
        f"{', '.join(areas)} from Panoramax, whose servers blur faces and number plates, and the "
        "public ImageNet weights of ResNet-50, runs the same analysis on them, and prints author "
        "and licence under each."
    )
    if not TypeAdapter(bool).validate_python(network):  # `false` is text to papermill
        return _none("This run was not to use the network.", f"With `-p panoramax true` {plan}")
    try:
        images = data.load("panoramax", "all", areas=areas, per_area=per_area)
    except (RemoteError, ValueError) as error:
        return _none(f"{plain(str(error))}.", f"Otherwise {plan}")
    try:
        classifier = model.load(STREET_ARCH, weights=assets.fetch(STREET_WEIGHTS, shown=False))
    except (RemoteError, ValueError) as error:
        # The message may name a folder of this machine.
        why = f"The weights of ResNet-50 could not be had ({type(error).__name__})."
        return _none(why, f"Otherwise {plan}")
    counts = Counter(label for label in images.labels if label is not None)
    found = ", ".join(f"{counts[i]} of {name}" for i, name in enumerate(images.classes))
    note = (
        f"Photographs from Panoramax: {plain(found)}. A ResNet-50 with the public ImageNet "
        "weights looks at them: it names things, not countries. The pictures below are adaptations "
        "of the photographs, and stand under the licence that is printed with each."
    )
    return Streets(images, classifier, note)


def _none(why: str, instead: str) -> Streets:
    return Streets(None, None, f"**No real streets.** {why} {instead}")


def plain(text: str) -> str:
    """Text that comes from elsewhere, for use in Markdown: nothing in it is markup."""
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", text)


def credit(explanation: Explanation) -> str:
    """Author and licence, to be printed under a photograph; empty where none is known."""
    return f"Photograph: {plain(explanation.credit)}" if explanation.credit else ""


def explanations(
    experiment: Experiment,
    classifier: Classifier,
    images: GeoDataset,
    attribution: str,
    segmenter: str,
) -> list[Explanation]:
    """Explanations of photographs that may have no labels, with the thresholds of the experiment,
    or those that coverage on these photographs chooses."""
    config = experiment.config(attribution, segmenter, tuned=False)
    config = config.model_copy(update={"label": "predicted", "shard_size": 1})
    given = experiment.top_p, experiment.s_min
    tuned = pipeline.tune(images, classifier, config, top_p=given[0], s_min=given[1])
    return pipeline.explain_all(classifier, images, tuned)


def segmenters(experiment: Experiment, images: GeoDataset) -> tuple[list[str], str]:
    """Names of the segmenters that can run on some images, and why the others cannot."""
    reasons = segmentation.available(experiment.segmenter_checkpoints)
    if images.name != "geoscenes":
        reasons["truth"] = "only scenes of the benchmark have true outlines"
    present = [name for name, reason in reasons.items() if not reason]
    absent = [f"- `{name}`: {reason}" for name, reason in reasons.items() if reason]
    named = ", ".join(f"`{name}`" for name in present)
    return present, "\n".join([f"Present: {named}. Absent:\n", *absent])


def element_pictures(found: Mapping[str, Sequence[Explanation]]) -> list[list[np.ndarray]]:
    """A row per photograph: itself, then the outlines of the elements from each segmenter."""
    rows = []
    for explanations in zip(*found.values(), strict=True):
        shape = explanations[0].attribution.shape
        photo = cv2.resize(explanations[0].photo, shape, interpolation=cv2.INTER_AREA) / 255
        rows.append([photo, *(_outlined(photo, one) for one in explanations)])
    return rows


def _outlined(photo: np.ndarray, one: Explanation) -> np.ndarray:
    columns = (one.elements[name] for name in ("height", "width", "mask"))
    masks = [decode({"size": size, "counts": mask}) for *size, mask in zip(*columns, strict=True)]
    return figures.outline(photo, np.array(masks)) if masks else photo


def segmenter_table(found: Mapping[str, Sequence[Explanation]]) -> pd.DataFrame:
    """How many elements each segmenter leads to, and how much the strongest one matters."""
    columns = ["elements", "largest effect"]
    return pd.DataFrame({name: summary(each)[columns].mean() for name, each in found.items()}).T
