"""The confirmatory run: scenes that nothing else reads, and rules that were registered first."""

import ast
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geolib import data
from geolib.book import claims, run
from geolib.chapters import confirmatory, decomposition
from geolib.chapters.confirmatory import digest, outcome, register, rules, runs
from geolib.chapters.experiment import Experiment
from geolib.data import scenes
from geolib.data.records import SPLITS
from geolib.pipeline import thresholds

ROOT = Path(__file__).parents[3]
PAIR = "gradcam++", "felzenszwalb"
N = 60


@pytest.fixture
def experiment():
    return Experiment(n_train=12, n_validation=6, n_eval=N, repeats=2, max_epochs=1)


@pytest.fixture
def registered(tmp_path, monkeypatch, experiment):
    """A file in which range 1 is registered for the experiment, and range 0 for other rules."""
    file = tmp_path / "confirmatory.yaml"
    known = digest(experiment, *PAIR)
    lines = [f'- {{range: {i}, rules: "{one}"}}\n' for i, one in enumerate(["0" * 64, known])]
    file.write_text("".join(["# Ranges.\n", *lines]))
    monkeypatch.setattr(confirmatory, "data_file", lambda name: file)
    return file


# Scenes


def numbers(split, n, seed):
    return [record.seed for record in data.load("geoscenes", split, n, seed).records]


def test_no_other_split_of_any_seed_reaches_these_scenes():
    million, reserved = scenes.SCENES_PER_SPLIT, scenes.RESERVED
    seen = set()
    for seed in (0, 1, 2, 7, 10**6):
        (first,) = numbers(scenes.CONFIRMATION, 1, seed)
        assert first % million == million - reserved
        assert first not in seen
        seen.add(first)
    # A range ends with its million, others end before it begins, and each starts at a million.
    assert numbers(scenes.CONFIRMATION, reserved, 3)[-1] == 4 * million - 1
    for split, seed in product(SPLITS, (0, 1, 10**6)):
        assert numbers(split, 1, seed)[0] % million == 0
    for split in (*SPLITS, scenes.CONFIRMATION):
        most = reserved if split == scenes.CONFIRMATION else million - reserved
        with pytest.raises(ValueError, match=f"exceeds the {most} scenes"):
            data.load("geoscenes", split, most + 1)


def names(source):
    """Texts, names and attributes in some code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name


def cells(page):
    """The code of a notebook, without commands of the shell."""
    blocks = re.findall(r"```\{code-cell\}[^\n]*\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        lines = re.sub(r"\A---\n.*?\n---\n", "", block, flags=re.DOTALL).splitlines()
        yield "\n".join(line for line in lines if not line.startswith((":", "%", "!")))


def test_nothing_else_reads_these_scenes():
    known = {ROOT / "geolib/data/scenes.py", ROOT / "geolib/chapters/confirmatory.py"}
    code = [*ROOT.glob("geolib/**/*.py"), *ROOT.glob("geoscenes/**/*.py")]
    found = {
        path: path.read_text(encoding="utf-8") for path in [*code, *ROOT.glob("benchmarks/*.py")]
    }
    for page in ROOT.glob("notebooks/*.md"):
        found[page] = "\n".join(cells(page.read_text(encoding="utf-8")))
    assert len(found) > 100
    forbidden = {scenes.CONFIRMATION, "CONFIRMATION", "RESERVED"}
    assert {path for path, source in found.items() if forbidden & set(names(source))} == known


# Rules


def test_the_registered_rules_are_those_of_the_book():
    """After a changed rule or setting: the line that `confirmatory.REGISTER` holds."""
    parameters = run.resolve(["06-faithfulness"], "default")["06-faithfulness"]
    pair = parameters["attribution"], parameters["segmenter"]
    current = digest(Experiment.from_parameters(parameters), *pair)
    assert runs()[-1]["rules"] == current, confirmatory.REGISTER
    assert [one["range"] for one in runs()] == list(range(len(runs())))


def test_a_changed_rule_changes_the_hash(experiment, monkeypatch):
    found = {digest(experiment, *PAIR), digest(experiment, "gradcam", PAIR[1])}
    changes = [{"n_eval": 30}, {"repeats": 3}, {"n_networks": 2}, {"max_epochs": 2}, {"top_p": 0.1}]
    changes += [{"training_seed": 3}, {"arch": "resnet34"}, {"image_size": 96}]
    found |= {digest(experiment.variant(**change), *PAIR) for change in changes}
    for name in ("MAX_COVERAGE", "METRIC"):
        with monkeypatch.context() as patch:
            patch.setattr(thresholds, name, "other")
            found.add(digest(experiment, *PAIR))
    ledger = claims.claims()
    for name in confirmatory.HEADLINE:
        rule = claims.Rule(above=ledger[name].rule.bounds[0] + 0.001)
        changed = {**ledger, name: ledger[name].model_copy(update={"rule": rule})}
        with monkeypatch.context() as patch:
            patch.setattr(claims, "claims", lambda changed=changed: changed)
            found.add(digest(experiment, *PAIR))
    assert len(found) == 2 + len(changes) + 2 + len(confirmatory.HEADLINE)


def test_what_touches_the_headline_nowhere_does_not_change_the_hash(experiment):
    others = {"n_test": 5, "n_compare": 3, "n_costly": 2, "smoothgrad_samples": 9, "root": "x"}
    assert rules(experiment.variant(**others), *PAIR) == rules(experiment, *PAIR)


def test_a_new_range_is_registered_once_and_earlier_ones_stay(registered, experiment):
    parameters = experiment.model_dump() | {"attribution": PAIR[0], "segmenter": PAIR[1]}
    before = registered.read_text()
    assert "already" in register(parameters) and registered.read_text() == before
    register(parameters | {"repeats": 5})
    assert registered.read_text().startswith(before)
    assert [one["range"] for one in runs()] == [0, 1, 2]
    assert runs()[-1]["rules"] == digest(experiment.variant(repeats=5), *PAIR)


# Outcome


def table(ids, guided):
    """Outcomes in which a number of images are right with each region, and one more when guided."""
    right = {"random": 30, "segments": 40, "prior": 44, "untrained": 40, "guided": guided}
    rows = [
        {"image_id": name, "test": test, "region": region, "repeat": repeat, "n_elements": 1}
        | {"coverage": 0.2, "coverage_gap": 0.0, "attribution": PAIR[0], "segmenter": PAIR[1]}
        | {"fill": "mean", "correct": (i < n) == (test == "insertion")}
        for i, name in enumerate(ids)
        for test in ("deletion", "insertion")
        for region, n in right.items()
        for repeat in range(2 if region in ("random", "segments") else 1)
    ]
    return pd.DataFrame(rows).assign(log_probability=-1.0)


def test_other_rules_than_the_registered_ones_read_nothing(registered, experiment, monkeypatch):
    monkeypatch.setattr(Experiment, "split", lambda *args: pytest.fail("scenes were read"))
    monkeypatch.setattr(decomposition, "outcomes", lambda *args: pytest.fail("was computed"))
    found = outcome(experiment.variant(repeats=3), *PAIR)
    assert "Not computed" in found.note and confirmatory.REGISTER in found.note
    assert found.findings == dict.fromkeys(confirmatory.CONFIRMED) and found.parts.empty
    assert "photographs" in outcome(experiment.variant(dataset="folder", root="x"), *PAIR).note


def test_the_headline_of_the_last_range(registered, experiment, monkeypatch):
    asked = []

    def outcomes(network, attribution, segmenter, images):
        asked.append((network.training.seed, images.ids))
        return table(images.ids, guided=(50, 54, 58)[network.training.seed])

    monkeypatch.setattr(decomposition, "outcomes", outcomes)
    found = outcome(experiment, *PAIR)
    first = scenes.SCENES_PER_SPLIT * 2 - scenes.RESERVED  # of range 1
    ids = [f"scene-{first + i}" for i in range(N)]
    assert asked == [(seed, ids) for seed in range(3)]
    for test in ("deletion", "insertion"):
        one = found.findings[f"object-{test}-confirmed"]
        assert one.value == pytest.approx(np.mean([20, 24, 28]) / N) and one.n == N
        assert 0.02 < one.low < one.value < one.high
        assert claims.verdict(claims.claims()[f"object-{test}-confirmed"], one).startswith("reprod")
    assert (
        "range 1" in found.note
        and "3 networks" in found.note
        and "0 (`000000000000`)" in found.note
    )
    blind = found.parts.query("part == @decomposition.BEYOND")["value"]
    assert blind.tolist() == pytest.approx([np.mean([10, 14, 18]) / N] * 2)
    assert found.note.count("over blind selection") == 2
