"""A study of people: do the elements tell them what they tell the model?

The paper leaves human evaluation to future work (§6 of arXiv 2605.00912). :func:`prepare` builds
the pictures and who sees what, :func:`write` the page that people answer on, :func:`read_answers`
reads what they hand back, and the rest sets people beside the model and the true cues.
:func:`simulate` stands in where nobody has answered yet; its answers say so wherever they go.
"""

from geolib.chapters.people.answers import by_people, label, read_answers, read_key, simulate
from geolib.chapters.people.judging import (
    accuracy,
    accuracy_table,
    advantage,
    agreement,
    in_points,
    judge,
    naming,
    naming_table,
    outcome_note,
    perceptible,
    telling,
)
from geolib.chapters.people.material import prepare
from geolib.chapters.people.page import write

__all__ = [
    "accuracy",
    "accuracy_table",
    "advantage",
    "agreement",
    "by_people",
    "in_points",
    "judge",
    "label",
    "naming",
    "naming_table",
    "outcome_note",
    "perceptible",
    "prepare",
    "read_answers",
    "read_key",
    "simulate",
    "telling",
    "write",
]
