"""Values of parameters: text stays text, numbers are numbers, paths are the caller's."""

import os
import re
from pathlib import Path

import nbformat
import pytest

from geolib.book.parameters import (
    File,
    Text,
    by_name,
    declared_parameters,
    files,
    fitted,
    read_yaml,
)

# What YAML takes for a switch, a number, a date, an anchor or nothing at all.
TEXTS = ["NO", "ON", "yes", "n", "true", "2024", "007", "12:30", "1e3", "1_000", "0x10", ".5"]
TEXTS += ["2024-05-01", "null", "~", "None", "nan", "日本", "Côte d'Ivoire", "Korea (South)"]
ODD = ["a #b", "&x", "*.jpg", "!x", "{a", "{a: 1}", ": ", "- a", "a: b", "@x", "`x`", "%x", "|"]
ODD += ["a\\b"]


@pytest.fixture
def declared(tmp_path):
    """The parameter ``x`` of a notebook that declares it as told."""

    def declare(line):
        cell = nbformat.v4.new_code_cell(line, metadata={"tags": ["parameters"]})
        python = {"name": "python3", "language": "python", "display_name": "Python 3"}
        notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": python})
        nbformat.write(notebook, tmp_path / "x.ipynb")
        return declared_parameters(tmp_path / "x.ipynb")["x"]

    return declare


def equal(found, expected):
    return repr(found) == repr(expected)


@pytest.mark.parametrize("text", [*TEXTS, *ODD, "[red]", "[NO, SE]", "'a'", '"a"', "", " a "])
def test_declared_text_stays_as_it_was_typed(text, declared):
    assert equal(fitted(Text(text), declared('x = "a"'), Path()), text)
    if text not in ("null", "None"):
        assert equal(fitted(Text(text), declared("x: str = None"), Path()), text)


@pytest.mark.parametrize("line", ['x = ["FR", "IN"]', "x: list[str] = None", "x: list[str] = []"])
def test_a_list_of_texts_has_its_texts(line, declared):
    texts = [one.strip() for one in (*TEXTS, *ODD)]
    assert equal(fitted(Text(f"[{', '.join(texts)}]"), declared(line), Path()), texts)
    quoted = fitted(Text("['a, b', \"c\", 'it''s', d,]"), declared(line), Path())
    assert equal(quoted, ["a, b", "c", "it's", "d"])
    assert equal(fitted(Text("[]"), declared(line), Path()), [])
    assert equal(fitted(("NO", "SE"), declared(line), Path()), ["NO", "SE"])


def test_texts_of_a_profile_are_texts(declared):
    flow = read_yaml(f"x: [{', '.join(one for one in TEXTS if one != '~')}]")["x"]
    block = read_yaml("x:\n" + "".join(f"- {one}\n" for one in TEXTS if one != "~"))["x"]
    assert fitted(flow, declared("x: list[str] = []"), Path()) == [*TEXTS[:14], *TEXTS[15:]]
    assert flow == block
    quoted = read_yaml("x: ['~', \"a #b\", 'null']")["x"]
    assert fitted(quoted, declared("x: list[str] = []"), Path()) == ["~", "a #b", "null"]
    for text in ("2024", "NO", "12:30", "null", "'2024'"):
        given = read_yaml(f"x: {text}")["x"]
        assert equal(fitted(given, declared('x = "a"'), Path()), text.strip("'"))
    for nothing in ("", "~"):
        assert read_yaml(f"x: {nothing}") == {"x": None}
    merged = read_yaml("a: &one {n: 1}\nb:\n  <<: *one\n  m: 2")
    assert merged == {"a": {"n": "1"}, "b": {"n": "1", "m": "2"}}


@pytest.mark.parametrize(
    ("line", "text", "value"),
    [
        *(("x = 3", "20", 20), ("x = 3", "-1", -1), ("x = 3", "1_000", 1000), ("x = 3", "007", 7)),
        *(("x = 3", "2.0", 2), ("x: int = None", "5", 5), ("x = 3", "null", None)),
        *(("x = 0.5", "1e-3", 0.001), ("x = 0.5", "1e3", 1000.0), ("x = 0.5", "2", 2.0)),
        *(("x: float = None", ".5", 0.5), ("x: float = None", "None", None)),
        *(("x = True", "false", False), ("x = False", "yes", True), ("x = False", "ON", True)),
        *(("x = [1, 2]", "[3, 4]", [3, 4]), ("x = [0.1]", "[1, 1e-1]", [1.0, 0.1])),
        ("x = {}", "{NO: [1, 1e-1], on: yes}", {"NO": [1, 0.1], "on": "yes"}),
        ("x = {}", "{b: true, c: null}", {"b": True, "c": None}),
        ("x: dict[str, list[float]] = {}", "{NO: [59.9, 1]}", {"NO": [59.9, 1.0]}),
        ("x = None", "[NO, 1, 2024-05-01]", ["NO", 1, "2024-05-01"]),
        *(("x = None", "NO", "NO"), ("x = None", "1e3", 1000.0), ("x = None", "null", None)),
        *(("x = None", "007", "007"), ("x = None", "'3'", "3"), ("x = None", "{a", "{a")),
        *(("x = None", "-1.5", -1.5), ("x = None", "true", True), ("x = None", "[a", "[a")),
        *(("x = None", "[a, b]", ["a", "b"]), ("x = None", "'s", "'s")),
    ],
)
def test_a_value_is_what_its_parameter_is(line, text, value, declared):
    assert equal(fitted(Text(text), declared(line), Path()), value)


@pytest.mark.parametrize(
    ("line", "given", "message"),
    [
        *(("x = 3", Text(text), "valid integer") for text in ("2.5", "1e3", "0x10", "12:30", "")),
        *(("x = 3", given, "integer") for given in (2.5, "many", [3])),
        *((line, True, "no switch") for line in ("x = 3", "x: float = None")),
        *(("x = 0.5", Text(text), "number") for text in ("nan", "inf", "1e400", "1,5", "many")),
        *(("x = True", Text(text), "valid boolean") for text in ("2", "maybe", "")),
        *(('x = "a"', given, "valid string") for given in (3, True, ["a"])),
        *(('x = ["a"]', given, "valid list") for given in ("[NO, SE]", Text("NO,SE"), Text("NO"))),
        ("x = [1, 2]", Text("[1, two]"), r"1: .*valid integer"),
        *(("x = [1, 2]", Text(text), "no YAML") for text in ("[1, *two]", "[1, 2", "[1, !x 2]")),
        ('x = ["a"]', read_yaml("[NO, ~]"), "1: .*valid string"),
        ("x = {}", Text("[1]"), "valid dictionary"),
    ],
)
def test_another_value_is_refused(line, given, message, declared):
    with pytest.raises(ValueError, match=message) as refused:
        fitted(given, declared(line), Path())
    assert "\n" not in str(refused.value)


# Paths


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where a command is called: among files with odd names, one of them behind a link."""
    names = ["here/a.csv", "here/meine Plätze.csv", "here/~$a.csv", "beside/b.csv", "home/c.csv"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "here/imagenet").mkdir()
    (tmp_path / "here/link.csv").symlink_to(tmp_path / "beside/b.csv")
    (tmp_path / "here/broken.csv").symlink_to(tmp_path / "nowhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        *((one, f"here/{one}") for one in ("a.csv", "meine Plätze.csv", "~$a.csv", "link.csv")),
        *(("./a.csv", "here/a.csv"), ("../beside/b.csv", "here/../beside/b.csv")),
        *(("~/c.csv", "home/c.csv"), ("~", "home"), (".", "here"), ("..", "here/..")),
        *(("imagenet", "here/imagenet"), ("imagenet/", "here/imagenet")),
    ],
)
def test_a_path_is_absolute_as_seen_from_the_caller(given, found, place, declared, tmp_path):
    parameter = declared('x: "Path" = None')
    for one in (Text(given), given, Path(given), tmp_path / found):
        path = fitted(one, parameter, place)
        assert isinstance(path, File) and path == str(tmp_path / found)
    paths = declared('x: "dict[str, Path]" = {}')
    (of_dict,) = files(fitted(Text(f"{{sam: '{given}'}}"), paths, place))
    assert of_dict == str(tmp_path / found)


@pytest.mark.parametrize(
    "given", ["b.csv", "", " ", "broken.csv", "~nobody/a.csv", "a.csv/b", "x" * 300, 3]
)
def test_a_path_where_nothing_is_is_refused(given, place, declared):
    given = Text(given) if isinstance(given, str) else given
    with pytest.raises(ValueError, match=f"looked for in {re.escape(str(place))}|a path was"):
        fitted(given, declared('x: "Path" = None'), place)


def test_words_are_no_paths_where_they_mean_something(place, declared):
    weights, network = declared('x: "Weights" = None'), declared('x: "Network" = None')
    for word in ("imagenet", "random"):
        assert not list(files(fitted(Text(word), weights, place)))
    assert fitted(Text("./imagenet"), weights, place) == str(place / "imagenet")
    assert fitted(Text("org/model-1.5"), network, place) == "org/model-1.5"
    assert fitted(Text("imagenet"), network, place) == str(place / "imagenet")
    for kind, word in ((weights, "imagnet"), (weights, "org/model"), (network, "a/b/c")):
        with pytest.raises(ValueError, match="looked for in"):
            fitted(Text(word), kind, place)


def test_a_name_that_is_no_utf8_is_refused(place, declared):
    name = os.fsdecode(b"R\xe9union.csv")
    (place / name).touch()
    with pytest.raises(ValueError, match="utf-8"):
        fitted(Text(name), declared('x: "Path" = None'), place)


def test_files_go_by_their_names():
    found = {"a": File("/data/x.csv"), "b": {"sam": File("/data/y")}, "c": ["/data/z"]}
    assert by_name(found) == {"a": "x.csv", "b": {"sam": "y"}, "c": ["/data/z"]}
    assert list(files(found)) == ["/data/x.csv", "/data/y"]
