"""The command line: what a user types, what comes back, and how mistakes are answered."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from PIL import Image
from toys import classifier, write_photographs
from typer.testing import CliRunner

from geolib.cli import app, join_parameters

runner = CliRunner()


@pytest.fixture(autouse=True)
def _wide(own_cache, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def root(tmp_path, monkeypatch):
    write_photographs(tmp_path / "photos", 4)
    monkeypatch.setattr("geolib.model.load", lambda *args, **kwargs: classifier())
    return tmp_path / "photos"


@pytest.mark.parametrize(
    "command", ["run", "book", "train", "evaluate", "explain", "fetch", "osv5m"]
)
def test_help_teaches_with_an_example(command):
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"geolib {command}" in result.stdout


def test_explain_writes_a_figure_and_a_record_per_photograph(root, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is no picture")
    photos = [str(root / "red" / "0.png"), str(broken), str(root / "blue" / "1.png")]
    out = tmp_path / "out"
    result = runner.invoke(app, ["explain", *photos, "--model", "m", "--output", str(out)])
    assert result.exit_code == 0, result.output
    assert "1 of 3 photographs were skipped" in result.output
    assert sorted(p.name for p in out.iterdir()) == ["0.json", "0.png", "1.json", "1.png"]
    record = json.loads((out / "0.json").read_text())
    assert record["prediction"] == "red"
    assert record["elements"][0]["deletion_effect"] > 0
    assert Image.open(out / "0.png").size[0] > 500


def test_without_a_model_the_books_own_explains(root, tmp_path, monkeypatch):
    monkeypatch.setattr("geolib.chapters.experiment.Experiment.classifier", classifier())
    arguments = ["explain", str(root / "red" / "0.png"), "--output", str(tmp_path / "out")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "the book's own classifier" in result.output
    result = runner.invoke(app, [*arguments, "--weights", "file"])
    assert result.exit_code == 1
    assert "--model is missing" in result.output


def test_two_photographs_of_one_name_keep_both_results(root, tmp_path):
    photos = [str(root / "red" / "0.png"), str(root / "blue" / "0.png")]
    out = tmp_path / "out"
    result = runner.invoke(app, ["explain", *photos, "--model", "m", "--output", str(out)])
    assert result.exit_code == 0, result.output
    found = {json.loads(p.read_text())["prediction"] for p in out.glob("*.json")}
    assert found == {"red", "blue"}


def test_evaluate_prints_the_comparison_and_exports(root, tmp_path):
    out = tmp_path / "out"
    arguments = ["evaluate", "--model", "m", "--dataset", "folder", "--root", str(root)]
    arguments += ["--split", "all", "--repeats", "2", "--output", str(out)]
    arguments += ["--segmenter", "felzenszwalb", "--segmenter", "grid"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
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
        (["run", "99-nothing"], "01-data"),
        (["run", "06-faithfulness", "-p", "repeat", "20"], "repeats"),
        (["book", "--profile", "fast"], "smoke"),
    ],
)
def test_mistakes_are_answered_in_one_line_without_a_traceback(root, arguments, words):
    result = runner.invoke(app, join_parameters(arguments))
    assert result.exit_code == 1
    assert words in result.output
    assert "Traceback" not in result.output


def test_info_lists_methods_and_cache(tmp_path):
    result = runner.invoke(app, ["info"])
    assert result.exit_code == 0
    assert str(tmp_path / "cache") in result.stdout
    assert "scorecam" in result.stdout
    assert "felzenszwalb" in result.stdout


@pytest.mark.parametrize(
    ("typed", "joined"),
    [
        (["run", "-p", "a", "1", "-p", "b", "x y"], ["run", "-p", "a=1", "-p", "b=x y"]),
        (["run", "-p", "a=1", "06"], ["run", "-p", "a=1", "06"]),
        (["explain", "photo.jpg"], ["explain", "photo.jpg"]),
    ],
)
def test_parameters_are_typed_as_papermill_takes_them(typed, joined):
    assert join_parameters(typed) == joined


def test_a_parameter_without_a_value_is_an_error():
    with pytest.raises(ValueError, match="NAME VALUE"):
        join_parameters(["run", "-p", "repeats"])


def test_train_writes_a_checkpoint_and_prints_its_accuracy(tmp_path):
    write_photographs(tmp_path / "photos", 14)
    out = tmp_path / "mine.safetensors"
    arguments = ["train", "--dataset", "folder", "--root", str(tmp_path / "photos")]
    arguments += ["--arch", "squeezenet1_1", "--image-size", "48", "--max-epochs", "1"]
    result = runner.invoke(app, [*arguments, "--output", str(out)])
    assert result.exit_code == 0, result.output
    assert "accuracy on" in result.output
    assert out.is_file()
