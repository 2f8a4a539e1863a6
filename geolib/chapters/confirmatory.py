"""The headline once more, under rules registered first, on scenes that nothing else reads.

``data/confirmatory.yaml`` lists ranges of scenes and, for each, the hash of the :func:`rules` that
were registered for it. A range is read under its own rules alone: whoever changes one of them
registers a new range, and the earlier ones stay listed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from geolib.book import claims
from geolib.chapters import decomposition, tables
from geolib.chapters.experiment import TUNING_IMAGES, Experiment
from geolib.chapters.findings import TESTS, Found, dataset_name
from geolib.data.scenes import CONFIRMATION
from geolib.pipeline import thresholds
from geolib.runtime.here import data_file, parsed_file

FILE = "confirmatory.yaml"
CONFIRMED = tuple(f"object-{test}-confirmed" for test in TESTS)
HEADLINE = tuple(f"object-{test}{end}" for test in TESTS for end in ("", "-blind", "-confirmed"))
# What of an experiment touches the headline, beside its pipeline and its training.
SETTINGS = {"dataset", "classes", "n_train", "n_train_further", "n_networks", "n_validation"}
SETTINGS |= {"n_eval", "top_p", "s_min", "seed", "checkpoint"}
# Where and how fast it is computed decides nothing.
MACHINE = {"batch_size", "shard_size", "precision", "device"}
# The baselines, in words, of the parts of a decomposition that start from them.
AGAINST = {decomposition.WHOLE: "random boxes", decomposition.BEYOND: "blind selection"}
REGISTER = (
    'python -c "from geolib.book import run; from geolib.chapters import confirmatory as c; '
    "print(c.register(run.resolve(['06-faithfulness'], 'default')['06-faithfulness']))\""
)


@dataclass(frozen=True)
class Outcome:
    """What came out, or why nothing was computed, in words; the parts; and the ledger's rows."""

    note: str
    parts: pd.DataFrame = field(default_factory=pd.DataFrame)
    findings: Found = field(default_factory=lambda: dict.fromkeys(CONFIRMED))


def rules(experiment: Experiment, attribution: str, segmenter: str) -> dict[str, Any]:
    """All that decides on the headline: the ledger's rows and margins, the settings of the pipeline
    and how it chooses thresholds, the training and the sizes of the splits."""
    config = experiment.config(attribution, segmenter, tuned=False)
    choice = {k: v for k, v in vars(thresholds).items() if k.isupper() and not k.startswith("_")}
    return {
        "claims": {name: claims.claims()[name].model_dump(mode="json") for name in HEADLINE},
        "least images": claims.MIN_N,
        "pipeline": config.model_dump(mode="json", exclude=MACHINE),
        "thresholds": choice | {"images": TUNING_IMAGES},
        "training": experiment.training.model_dump(mode="json", exclude=MACHINE - {"batch_size"}),
        "experiment": experiment.model_dump(mode="json", include=SETTINGS),
    }


def digest(experiment: Experiment, attribution: str, segmenter: str) -> str:
    """SHA-256 of the :func:`rules`."""
    content = json.dumps(rules(experiment, attribution, segmenter), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def runs() -> list[dict[str, Any]]:
    """The registered ranges, oldest first, each with the hash of its rules."""
    return parsed_file(data_file(FILE)) or []


def register(parameters: Mapping[str, Any]) -> str:
    """Register a new range for the rules as they stand and a chapter's parameters, unless the last
    one has them already; its line."""
    pair = parameters["attribution"], parameters["segmenter"]
    found, known = digest(Experiment.from_parameters(parameters), *pair), runs()
    if known and known[-1]["rules"] == found:
        return f"range {known[-1]['range']} has these rules already"
    line = f'- {{range: {len(known)}, rules: "{found}"}}\n'
    with data_file(FILE).open("a", encoding="utf-8") as file:
        file.write(line)
    return line


def outcome(experiment: Experiment, attribution: str, segmenter: str) -> Outcome:
    """Advantages of the last registered range, over random boxes and over blind selection, with
    every network of the experiment; nothing is read under other rules than its own."""
    *earlier, last = runs()
    if experiment.dataset != "geoscenes":
        return Outcome("The confirmatory run is one of scenes: photographs have no such range.")
    if digest(experiment, attribution, segmenter) != last["rules"]:
        return Outcome(
            f"**Not computed.** Range {last['range']} was registered for other rules than those of "
            "this run: the run has other settings than the book's, or a rule or a setting has been "
            "changed since. A changed rule needs a new range, which this line registers: "
            f"`{REGISTER}`"
        )
    range_ = experiment.variant(seed=last["range"])
    images = range_.split(CONFIRMATION, experiment.n_eval)
    networks = experiment.networks()
    found = [decomposition.outcomes(one, attribution, segmenter, images) for one in networks]
    data = (
        f"{dataset_name(experiment.dataset)}, range {last['range']}, {attribution} with {segmenter}"
    )
    rows = decomposition.claims(found, data)
    parts = decomposition.summary(found)
    note = (
        f"On {len(images)} scenes that nothing else reads, with {len(networks)} networks, under "
        f"rules registered beforehand (range {last['range']}, `{last['rules'][:12]}`): "
        f"{_told(parts)}."
    )
    if earlier:
        listed = ", ".join(f"{one['range']} (`{one['rules'][:12]}`)" for one in earlier)
        note += f" Earlier ranges, under earlier rules: {listed}."
    return Outcome(
        note, parts, {f"object-{test}-confirmed": rows[f"object-{test}"] for test in TESTS}
    )


def _told(parts: pd.DataFrame) -> str:
    rows = parts[parts["part"].isin(AGAINST)].to_dict("records")
    return "; ".join(
        f"advantage over {AGAINST[row['part']]} in {row['test']} "
        f"{tables.sentence(row['value'], row['low'], row['high'])}"
        for row in rows
    )
