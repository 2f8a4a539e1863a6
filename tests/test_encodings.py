"""Files are UTF-8 in any locale: text is never read or written in that of the machine."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path for part in ("geolib", "geoscenes", "benchmarks") for path in (ROOT / part).rglob("*.py")
]


def without_encoding(source):
    """Lines that read or write text in an encoding that they do not name."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        modes = [one.value for one in node.args if isinstance(one, ast.Constant)]
        opens = name == "open" and any(str(mode)[:1] in ("r", "w", "a", "x") for mode in modes)
        opens |= isinstance(node.func, ast.Name) and name == "open"
        text = opens and not any("b" in str(mode) for mode in modes)
        text |= name in ("read_text", "write_text")
        given = {one.arg for one in node.keywords}
        if (text or ("text" in given and name in ("run", "Popen"))) and "encoding" not in given:
            yield node.lineno


def test_every_encoding_is_named():
    source = 'open(a)\npath.open("w")\npath.open("rb")\nb.read_text()'
    assert list(without_encoding(source)) == [1, 2, 4]
    found = {p.relative_to(ROOT): list(without_encoding(p.read_text("utf-8"))) for p in SOURCES}
    assert len(found) > 50
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("terminal", "name", "shown"),
    [
        ("", b"K\xc3\xa4che", "Käche"),
        ("ascii", b"K\xc3\xa4che", r"K\xe4che"),
        ("", b"K\xe4che", r"K\udce4che"),
    ],
)
def test_the_command_works_in_any_locale(terminal, name, shown, tmp_path):
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "COLUMNS": "300"}
    environment |= {"PYTHONIOENCODING": terminal, "GEOLIB_CACHE": f"{tmp_path}/{os.fsdecode(name)}"}
    command = [sys.executable, "-m", "geolib.cli", "info"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert f"/{shown}\n" in done.stdout.decode()
