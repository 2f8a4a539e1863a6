"""The concept list: prompts that describe what is seen, with codes and groups that exist."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import yaml
from babel import Locale

from geolib.runtime.here import data_file

ENGLISH = Locale("en")
# Two-letter codes that CLDR adds to the 249 of ISO 3166-1.
CLDR_ONLY = "AC|CP|CQ|DG|EA|EU|EZ|IC|QO|TA|UN|XA|XB|XK|ZZ"
ISO = {c for c in ENGLISH.territories if re.fullmatch(rf"(?!{CLDR_ONLY})[A-Z]{{2}}", c)}

# Writing systems that carry a language's name but no country's.
SCRIPTS = {"arabic", "bengali", "hebrew", "latin", "sinhala", "tamil", "telugu"}
COUNTRY_NAMES = {name.lower() for name in ENGLISH.territories.values()}
LANGUAGES = {name.lower() for name in ENGLISH.languages.values()} - SCRIPTS
COUNTRY_WORDS = re.compile(rf"\b(?:{'|'.join(map(re.escape, COUNTRY_NAMES | LANGUAGES))})\b")
# Nationalities and regions that are no language's name, and short forms of countries' names.
PLACE_WORDS = re.compile(
    r"""\b(?:african|american|argentine|asian|australian|austrian|bangladeshi|belgian|bolivian
    |brazilian|british|cambodian|canadian|chilean|colombian|egyptian|emirati|european|indian|iranian
    |iraqi|israeli|jordanian|kenyan|lebanese|mexican|moroccan|nepali|nordic|omani|oriental|pakistani
    |peruvian|saudi|scandinavian|scottish|lankan|swiss|taiwanese|tunisian|western
    |america|asia|africa|britain|england|scotland|wales|europe|holland|korea|russia|turkey|uk|usa
    )\b""",
    re.VERBOSE,
)
PEOPLE_WORDS = re.compile(
    r"""\b(?:person|people|human|man|men|woman|women|child|children|boy|girl|baby|pedestrian|cyclist
    |driver|rider|passenger|worker|farmer|vendor|monk|crowd|face|skin|hair|beard|body
    |clothing|clothes|dress|shirt|hat|helmet|sari|turban|veil|scarf|robe|kimono|uniform|shoe
    |slum|shack|shanty|hut|beggar|poor|rich|poverty|wealthy|luxury|derelict|ramshackle
    )s?\b""",
    re.VERBOSE,
)


def faults(name: str) -> set[str]:
    """The rules of the list that a prompt breaks."""
    broken = {
        "form": not re.fullmatch(r"[a-z]+(?:[ -][a-z]+)*", name),
        "length": len(name.split()) > 6,
        "article": name.split(" ")[0] in {"a", "an", "the"},
        "country": COUNTRY_WORDS.search(name) or PLACE_WORDS.search(name),
        "people": PEOPLE_WORDS.search(name),
    }
    return {rule for rule, found in broken.items() if found}


@pytest.fixture(scope="module")
def text() -> str:
    return data_file("concepts.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def document(text: str) -> dict[str, Any]:
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def concepts(document: dict[str, Any]) -> list[dict[str, Any]]:
    return document["concepts"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Yellow kerb", "form"),
        ("kerb, yellow", "form"),
        ("yellow  kerb", "form"),
        ("", "form"),
        ("one two three four five six seven", "length"),
        ("a yellow kerb", "article"),
        ("japan post box", "country"),
        ("japanese post box", "country"),
        ("post box in south africa", "country"),
        ("swiss chalet", "country"),
        ("jersey barrier", "country"),
        ("thai letters", "country"),
        ("two monks at temple", "people"),
        ("pedestrian on kerb", "people"),
        ("red sari", "people"),
        ("wooden shack", "people"),
        ("yellow and black striped kerb", None),
        ("manhole cover", None),
        ("sign in tamil script", None),
        ("v-shaped gas pipe", None),
    ],
)
def test_the_wording_rules(name: str, rule: str | None) -> None:
    assert rule in faults(name) if rule else not faults(name)


def test_prompts_break_no_rule_of_wording(concepts: list[dict[str, Any]]) -> None:
    broken = {concept["name"]: faults(concept["name"]) for concept in concepts}
    assert {name: rules for name, rules in broken.items() if rules} == {}


def test_about_two_hundred_unique_names(concepts: list[dict[str, Any]]) -> None:
    repeated = [name for name, n in Counter(c["name"] for c in concepts).items() if n > 1]
    assert repeated == []
    assert 180 <= len(concepts) <= 250


def test_every_concept_has_the_three_fields_and_a_declared_group(
    document: dict[str, Any], concepts: list[dict[str, Any]]
) -> None:
    assert {frozenset(concept) for concept in concepts} == {
        frozenset({"name", "group", "countries"})
    }
    assert {concept["group"] for concept in concepts} == set(document["groups"])
    assert list(document["groups"]) == sorted(document["groups"])
    assert all(isinstance(line, str) and line for line in document["groups"].values())


def test_codes_are_iso_3166_sorted_and_listed_once(concepts: list[dict[str, Any]]) -> None:
    assert len(ISO) == 249
    for concept in concepts:
        codes = concept["countries"]
        # A bare NO would arrive here as False.
        assert set(codes) <= ISO, concept
        assert codes == sorted(set(codes)), concept


@pytest.mark.parametrize("code", ["FR", "IN", "JP"])
def test_thirty_concepts_speak_for_each_country_of_the_paper(
    concepts: list[dict[str, Any]], code: str
) -> None:
    speaking = [concept for concept in concepts if code in concept["countries"]]
    assert len(speaking) >= 30
    # At least ten of them tell the country from the paper's two others.
    alone = [c for c in speaking if len({"FR", "IN", "JP"} & set(c["countries"])) == 1]
    assert len(alone) >= 10


def test_the_world_is_covered(concepts: list[dict[str, Any]]) -> None:
    assert len({code for concept in concepts for code in concept["countries"]}) >= 60


def test_neutral_controls_are_present_and_few(
    document: dict[str, Any], concepts: list[dict[str, Any]]
) -> None:
    neutral = [concept for concept in concepts if not concept["countries"]]
    assert {"car", "cloud", "tree", "house", "utility pole"} <= {c["name"] for c in neutral}
    assert 15 <= len(neutral) <= 30
    # A control is of use beside concepts of its own kind that do speak.
    assert {concept["group"] for concept in neutral} == set(document["groups"])


def test_one_concept_per_line_sorted_by_group_then_name(
    text: str, concepts: list[dict[str, Any]]
) -> None:
    entry = re.compile(r"  - \{name: [^,{}]+, group: \w+, countries: \[[^\[\]]*\]\}")
    lines = text.split("\nconcepts:\n")[1].splitlines()
    assert [line for line in lines if line and not entry.fullmatch(line)] == []
    assert sum(map(bool, lines)) == len(concepts)
    order = [(concept["group"], concept["name"]) for concept in concepts]
    assert order == sorted(order)
