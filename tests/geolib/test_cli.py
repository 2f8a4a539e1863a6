"""The command line: what a user types, what comes back, and how mistakes are answered."""

import json

import pandas as pd
import pytest
from PIL import Image
from toys import classifier, write_photographs
from typer.testing import CliRunner

from geolib.cli import app, join_parameters


def typed(*arguments, code=0):
    """What the command prints."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(autouse=True)
def _wide(own_cache, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def root(tmp_path, monkeypatch):
    write_photographs(tmp_path / "photos", 4)
    monkeypatch.setattr("geolib.model.load", lambda *args, **kwargs: classifier())
    return tmp_path / "photos"


def test_help_teaches_with_an_example():
    for command in ("run", "book", "train", "evaluate", "explain", "fetch", "osv5m", "study-page"):
        shown = typed(command, "--help")
        assert "Example" in shown and f"geolib {command}" in shown


def test_explain_writes_a_figure_and_a_record_per_photograph(root, tmp_path):
    broken, out = tmp_path / "broken.jpg", tmp_path / "out"
    broken.write_bytes(b"this is no picture")
    photos = [root / "red" / "0.png", broken, root / "blue" / "1.png"]
    shown = typed("explain", *photos, "--model", "m", "--output", out)
    assert "1 of 3 photographs were skipped" in shown
    assert sorted(p.name for p in out.iterdir()) == ["0.json", "0.png", "1.json", "1.png"]
    record = json.loads((out / "0.json").read_text())
    assert record["prediction"] == "red"
    assert record["elements"][0]["deletion_effect"] > 0
    assert Image.open(out / "0.png").size[0] > 500
    # Two of one name keep both results.
    typed("explain", photos[0], root / "blue" / "0.png", "--model", "m", "--output", out / "two")
    found = {json.loads(p.read_text())["prediction"] for p in (out / "two").glob("*.json")}
    assert found == {"red", "blue"}


def test_without_a_model_the_books_own_explains(root, tmp_path, monkeypatch):
    monkeypatch.setattr("geolib.chapters.experiment.Experiment.classifier", classifier())
    arguments = ["explain", root / "red" / "0.png", "--output", tmp_path / "out"]
    assert "the book's own classifier" in typed(*arguments)
    assert "--model is missing" in typed(*arguments, "--weights", "file", code=1)


def test_evaluate_prints_the_comparison_and_exports(root, tmp_path):
    out = tmp_path / "out"
    arguments = ["evaluate", "--model", "m", "--dataset", "folder", "--root", root]
    arguments += ["--split", "all", "--repeats", 2, "--output", out]
    shown = typed(*arguments, "--segmenter", "felzenszwalb", "--segmenter", "grid")
    assert "p_holm" in shown and "felzenszwalb" in shown
    comparison = pd.read_csv(out / "comparison.csv")
    assert set(comparison["segmenter"]) == {"felzenszwalb", "grid"}
    assert (comparison["n_images"] == 8).all()
    for name in ("gradcam++-felzenszwalb", "gradcam++-grid"):
        assert (out / name / "elements.coco.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "--model", "m", "--dataset", "folder"], "--root is missing"),
        (["explain", "nowhere.jpg", "--model", "m"], "nowhere.jpg"),
        # Before the book's own classifier is trained:
        (["explain", "no[where].jpg"], "no[where].jpg: no such file"),
        (["explain", "nowhere.jpg", "--segmenter", "slick"], "'slick'"),
        (["explain", "nowhere.jpg", "--attribution", "gradkam"], "gradcam++"),
        (["train", "--dataset", "folder"], "--root is missing"),
        (["run", "99-nothing"], "looking for what has changed"),
        (["run", "99-nothing"], "01-data"),
        (["run", "-p", "repeats"], "NAME VALUE"),
        (["run", "06-faithfulness", "-p", "repeat", "20"], "repeats"),
        (["book", "--profile", "fast"], "smoke"),
    ],
)
def test_mistakes_are_answered_in_one_line_without_a_traceback(root, arguments, words):
    shown = typed(*arguments, code=1)
    assert words in shown and "Traceback" not in shown


def test_info_lists_methods_and_cache(tmp_path):
    shown = typed("info")
    assert str(tmp_path / "cache") in shown and "scorecam" in shown and "felzenszwalb" in shown


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        (["run", "-p", "a", "1", "-p", "b", "x y"], ["run", "-p", "a=1", "-p", "b=x y"]),
        (["run", "-p", "a=1", "06"], ["run", "-p", "a=1", "06"]),
        (["explain", "photo.jpg"], ["explain", "photo.jpg"]),
    ],
)
def test_parameters_are_typed_as_papermill_takes_them(given, joined):
    assert join_parameters(given) == joined


def test_train_writes_a_checkpoint_and_prints_its_accuracy(tmp_path):
    write_photographs(tmp_path / "photos", 14)
    out = tmp_path / "mine.safetensors"
    arguments = ["train", "--dataset", "folder", "--root", tmp_path / "photos", "--output", out]
    arguments += ["--arch", "squeezenet1_1", "--image-size", 48, "--max-epochs", 1]
    assert "accuracy on" in typed(*arguments)
    assert out.is_file()
