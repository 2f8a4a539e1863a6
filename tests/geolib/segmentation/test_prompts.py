"""The concept list: prompts that describe what is seen, with codes and groups that exist."""

import re

import pytest
import yaml
from babel import Locale

from geolib.runtime.here import data_file

TEXT = data_file("concepts.yaml").read_text(encoding="utf-8")
DOCUMENT = yaml.safe_load(TEXT)
CONCEPTS = DOCUMENT["concepts"]

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


def faults(name):
    """The rules of the list that a prompt breaks."""
    broken = {
        "form": not re.fullmatch(r"[a-z]+(?:[ -][a-z]+)*", name),
        "length": len(name.split()) > 6,
        "article": name.split(" ")[0] in {"a", "an", "the"},
        "country": COUNTRY_WORDS.search(name) or PLACE_WORDS.search(name),
        "people": PEOPLE_WORDS.search(name),
    }
    return {rule for rule, found in broken.items() if found}


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("form", ["Yellow kerb", "kerb, yellow", "yellow  kerb", ""]),
        ("length", ["one two three four five six seven"]),
        ("article", ["a yellow kerb"]),
        ("country", ["japan post box", "japanese post box", "post box in south africa"]),
        ("country", ["swiss chalet", "jersey barrier", "thai letters"]),
        ("people", ["two monks at temple", "pedestrian on kerb", "red sari", "wooden shack"]),
    ],
)
def test_the_wording_rules(rule, names):
    assert [name for name in names if rule not in faults(name)] == []
    fine = ["yellow and black striped kerb", "manhole cover", "v-shaped gas pipe"]
    assert set().union(*map(faults, [*fine, "sign in tamil script"])) == set()


def test_prompts_break_no_rule_of_wording():
    broken = {concept["name"]: faults(concept["name"]) for concept in CONCEPTS}
    assert {name: rules for name, rules in broken.items() if rules} == {}


def test_about_two_hundred_unique_names_with_three_fields_and_a_declared_group():
    names = [concept["name"] for concept in CONCEPTS]
    assert len(names) == len(set(names)) and 180 <= len(names) <= 250
    assert all(concept.keys() == {"name", "group", "countries"} for concept in CONCEPTS)
    assert sorted({concept["group"] for concept in CONCEPTS}) == list(DOCUMENT["groups"])
    assert all(isinstance(line, str) and line for line in DOCUMENT["groups"].values())


def test_codes_are_iso_3166_sorted_listed_once_and_cover_the_world():
    assert len(ISO) == 249
    assert len({code for concept in CONCEPTS for code in concept["countries"]}) >= 60
    for concept in CONCEPTS:
        codes = concept["countries"]
        # A bare NO would arrive here as False.
        assert set(codes) <= ISO, concept
        assert codes == sorted(set(codes)), concept


def test_thirty_concepts_speak_for_each_country_of_the_paper_and_few_for_none():
    for code in ("FR", "IN", "JP"):
        speaking = [concept for concept in CONCEPTS if code in concept["countries"]]
        assert len(speaking) >= 30, code
        # At least ten of them tell the country from the paper's two others.
        alone = [c for c in speaking if len({"FR", "IN", "JP"} & set(c["countries"])) == 1]
        assert len(alone) >= 10, code
    neutral = [concept for concept in CONCEPTS if not concept["countries"]]
    assert {"car", "cloud", "tree", "house", "utility pole"} <= {c["name"] for c in neutral}
    assert 15 <= len(neutral) <= 30
    # A control is of use beside concepts of its own kind that do speak.
    assert {concept["group"] for concept in neutral} == set(DOCUMENT["groups"])


def test_one_concept_per_line_sorted_by_group_then_name():
    entry = re.compile(r"  - \{name: [^,{}]+, group: \w+, countries: \[[^\[\]]*\]\}")
    lines = TEXT.split("\nconcepts:\n")[1].splitlines()
    assert [line for line in lines if line and not entry.fullmatch(line)] == []
    assert sum(map(bool, lines)) == len(CONCEPTS)
    order = [(concept["group"], concept["name"]) for concept in CONCEPTS]
    assert order == sorted(order)
