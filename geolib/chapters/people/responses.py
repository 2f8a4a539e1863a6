"""Answers of a study: read and checked, or generated where nobody has answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from geolib.chapters.people.material import CANNOT_TELL, KEY, OTHER, THINGS, Key
from geolib.data.tables import read_table

COLUMNS = (
    *("study", "source", "participant", "position", "item", "condition"),
    *("answer", "element", "other", "seconds"),
)
PERSON, GENERATED = "person", "generated"


def read_key(folder: str | Path) -> Key:
    """Key of the study whose answers lie in a folder, which is refused without one."""
    path = Path(folder) / KEY
    if not path.is_file():
        hint = "put there the key that `geolib study-page` wrote beside the page"
        raise ValueError(f"{KEY} is not in {str(folder)!r}, the folder of the answers; {hint}")
    try:
        return Key.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no key that `geolib study-page` wrote: {error}") from error


def read_answers(folder: str | Path, key: Key) -> pd.DataFrame:
    """Answers of all CSV files in a folder, with ``COLUMNS``. Refused are values that the page does
    not write, answers that are there twice, and generated ones among people's; who stopped early
    counts all the same."""
    files = sorted(Path(folder).glob("*.csv"))
    if not files:
        raise ValueError(f"folder={str(folder)!r} holds no CSV file with answers")
    answers = pd.concat([_read(path, key) for path in files], ignore_index=True)
    if answers["source"].nunique() > 1:
        raise ValueError(f"folder={str(folder)!r} mixes people's answers with generated ones")
    twice = answers[answers.duplicated(["participant", "item"], keep=False)]
    if len(twice):
        twice = twice.sort_values(["participant", "item"], kind="stable")
        places = ", ".join(f"{file} row {row}" for file, row in twice[["file", "row"]].values[:2])
        raise ValueError(
            f"participant {twice['participant'].iloc[0]} answers item {twice['item'].iloc[0]} "
            f"twice ({places}): remove a copy, or give every participant a number of their own"
        )
    return answers[list(COLUMNS)]


def _read(path: Path, key: Key) -> pd.DataFrame:
    table = read_table(path, COLUMNS, required=COLUMNS)
    table = table.assign(file=path.name, row=table.index)
    for line in table.to_dict("records"):
        for column, expected in _expected(line, key).items():
            if line[column] not in expected:
                listed = ", ".join(map(repr, expected))
                _refuse(line, column, listed if len(expected) < 20 else "a number of the study")
    table["seconds"] = table["seconds"].str.replace(",", ".")
    seconds = pd.to_numeric(table["seconds"], errors="coerce")
    for line in table[~seconds.between(0, np.finfo(float).max)].to_dict("records"):
        _refuse(line, "seconds", "a number of at least 0")
    return table.astype({"participant": int, "position": int, "item": int, "seconds": float})


def _refuse(line: Mapping[Any, Any], column: str, expected: str) -> None:
    where = f"{line['file']} row {line['row']}, column {column!r}"
    raise ValueError(f"{where}: {line[column]!r}; expected {expected}")


def _expected(line: Mapping[Any, str], key: Key) -> dict[str, Sequence[str]]:
    """What may stand in the columns of a row; a column may depend on those before it."""
    people = [str(number) for number in range(1, len(key.schedule) + 1)]
    orders = dict(zip(people, key.schedule, strict=True))
    shown = {str(i): number for i, number in enumerate(orders.get(line["participant"], ()), 1)}
    number = shown.get(line["position"])
    asked = [] if number is None else [key.items[number]]
    return {
        "study": [key.id],
        "source": [PERSON, GENERATED],
        "participant": people,
        "position": list(shown),
        "item": [str(item.item) for item in asked],
        "condition": [item.condition for item in asked],
        "answer": [*key.classes, CANNOT_TELL],
        "element": [*THINGS, OTHER, CANNOT_TELL],
    }


# How often a simulated person knows the country. Guided and random boxes tell it equally often, so
# that nobody takes a table of generated answers for a finding.
KNOWS = {"whole": 0.8, "guided": 0.5, "random": 0.5}
NAMES = 0.7


def simulate(
    key: Key, n_participants: int, seed: int = 0, knows: Mapping[str, float] = KNOWS
) -> pd.DataFrame:
    """Answers as the page would write them, generated; ``source`` says so in every row.

    Log-odds to know the country are those of ``knows`` plus a person's skill and a scene's ease,
    both normal with deviation one half; who does not know cannot tell half of the time, or guesses.
    """
    rng = np.random.default_rng(seed)
    skill = rng.normal(0, 0.5, n_participants)
    ease = rng.normal(0, 0.5, len(key.items))
    rows = []
    for person in range(n_participants):
        for position, number in enumerate(key.schedule[person], start=1):
            item = key.items[number]
            odds = logit(knows[item.condition]) + skill[person] + ease[item.scene]
            if rng.random() < expit(odds):
                answer = item.country
            else:
                answer = CANNOT_TELL if rng.random() < 0.5 else str(rng.choice(key.classes))
            named = (*item.things[:1], *item.cues) if item.frame is None else item.things[:1]
            likely = named if named and rng.random() < NAMES else tuple(THINGS)
            said = (answer, str(rng.choice(likely)), "", round(float(rng.lognormal(2.3, 0.4)), 1))
            rows.append((key.id, GENERATED, person + 1, position, number, item.condition, *said))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_people(answers: pd.DataFrame) -> bool:
    """Whether people gave all of these answers, none being generated."""
    return set(answers["source"]) == {PERSON}


def note(answers: pd.DataFrame, key: Key, made: Key) -> str:
    """Whose answers to how much the report shows, and whether to the study ``made`` by this run."""
    whose = label(answers)
    if not by_people(answers):
        return (
            f"**Nobody has answered yet.** *{whose}.* So that the report can be seen, the figures "
            "and tables below are made from them. The generator knows the country as often from "
            "guided as from random boxes: nothing below says anything about people, no number is "
            "quoted elsewhere, and no claim rests on it."
        )
    complete = answers.groupby("participant").size() == len(key.schedule[0])
    items = answers["item"].unique()
    n_scenes = len({key.items[item].scene for item in items})
    others = " They saw **other pictures than those below**: this run makes a study of its own."
    return (
        f"**{whose}** to {len(items)} pictures of {n_scenes} scenes; {complete.sum()} answered all "
        f"that they were to see.{'' if key.id == made.id else others}"
    )


def label(answers: pd.DataFrame) -> str:
    """Whose answers these are: stands over every figure and table."""
    n_people = answers["participant"].nunique()
    if by_people(answers):
        return f"Answers of {n_people} people"
    return f"GENERATED answers of {n_people} simulated participants: no person has answered"
