"""The command line: what a user types, what comes back, and how mistakes are answered."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from toys import classifier, write_photographs
from typer.testing import CliRunner

from geolib import cli, data, model, pipeline
from geolib.book import run
from geolib.chapters.experiment import Experiment
from geolib.cli import app, join_parameters
from geolib.model import load
from geolib.model.classifier import build


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


@pytest.fixture
def plain(monkeypatch):
    """Figures of 200 pixels with nothing in them, where what they show is not the matter."""
    monkeypatch.setattr(pipeline.Explanation, "figure", lambda self: Figure((2, 2)))


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
    assert f"thresholds: {record['settings']['thresholds']}" in shown
    assert "chosen without labels on 2 images" in shown
    assert Image.open(out / "0.png").size[0] > 500


def test_two_photographs_of_one_name_keep_both_results(root, plain, tmp_path):
    photos = root / "red" / "0.png", root / "blue" / "0.png"
    given = "--model", "m", "--output", tmp_path / "two", "--top-p", 0.1, "--s-min", 0.2
    assert "p = 0.1 and s_min = 0.2, as given" in typed("explain", *photos, *given)
    found = {json.loads(p.read_text())["prediction"] for p in (tmp_path / "two").glob("*.json")}
    assert found == {"red", "blue"}


def test_explain_takes_folders_and_every_photograph_once(root, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(root / "red")
    (root / "red" / "link.png").symlink_to("0.png")
    (root / "red" / "c.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (root / "empty").mkdir()
    for _ in range(2):  # figures of the first call are no photographs of the second
        shown = typed("explain", ".", "0.png", "../empty", "--model", "m")
        assert "skipped: ./c.heic: HEIC cannot be decoded here; convert it to JPEG" in shown
        assert "skipped: ../empty: a folder without photographs" in shown
        place = tmp_path / "cache" / "skipped.csv"
        assert (
            "4 photographs read, 4 of 8 photographs were skipped (2 × reached twice; 1 × HEIC "
            f"cannot be decoded here; 1 × a folder without photographs); all of them: {place}\n"
        ) in shown
        named = {"./c.heic", "./link.png", "./0.png", "../empty"}
        assert set(pd.read_csv(place)["id"]) == named
    assert len(list((root / "red" / "explanations").glob("*.json"))) == 4


def test_figures_are_no_photographs_and_replace_none(root, plain):
    folder = root / "blue"
    assert "4 photographs read" in typed("explain", folder, "--model", "m", "--output", root)
    (root / "red" / "0.png").rename(folder / "street.jpg")
    typed("explain", folder / "street.jpg", "--model", "m", "--output", folder)
    shown = typed("explain", folder, "--model", "m", "--output", folder, code=1)
    assert "a figure would replace" in shown and "skipped" not in shown
    assert Image.open(folder / "0.png").size[0] < 100


def test_explain_prints_names_that_no_terminal_takes(root, plain, tmp_path):
    lines, latin = root / "two\nlines.png", root / os.fsdecode(b"caf\xe9.png")
    for path in (lines, latin):
        shutil.copy(root / "red" / "0.png", path)
    (root / "x.jpg").mkdir()
    given = [lines, latin, root / "x.jpg"]
    shown = typed("explain", *given, "--model", "m", "--output", tmp_path / "out")
    assert "\ntwo\\nlines.png: red (" in shown
    assert "caf\\xe9.png: its name is not UTF-8; rename it" in shown
    assert "x.jpg: a folder, not a photograph" in shown
    (record,) = (tmp_path / "out").glob("*.json")
    assert json.loads(record.read_text())["image"] == r"two\nlines.png"
    assert "none of the photographs could be read" in typed("explain", latin, code=1)


def test_a_network_of_tokens_says_which_methods_explain_it(root, tmp_path, monkeypatch):
    name = "vit_tiny_patch16_224?img_size=32&patch_size=8&depth=2&embed_dim=16&num_heads=2"
    tokens = load(name, weights="random", classes=["blue", "red"], image_size=32)
    monkeypatch.setattr("geolib.model.load", lambda *args, **kwargs: tokens)
    explain = ["explain", root / "red" / "0.png", "--model", "m", "--output", tmp_path]
    evaluate = ["evaluate", "--model", "m", "--dataset", "folder", "--root", root, "--split", "all"]
    for command in (explain, [*explain, "--attribution", "combicam"], evaluate):
        shown = typed(*command, code=1)
        assert "use smoothgrad or integrated_gradients" in " ".join(shown.split())
        assert shown.count("error:") == 1 and "Traceback" not in shown
    typed(*explain, "--attribution", "integrated_gradients")
    assert (tmp_path / "0.json").is_file()
    # Before the first method runs.
    monkeypatch.setattr("geolib.pipeline.evaluate", raises(AssertionError("it ran")))
    for method, words in (("scorecam", "use smoothgrad or"), ("gradkam", "known: gradcam")):
        shown = typed(*evaluate, "--attribution", "edges", "--attribution", method, code=1)
        assert words in " ".join(shown.split())


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


@pytest.mark.filterwarnings("ignore:too few images")
@pytest.mark.parametrize(
    ("n", "given", "words"),
    [
        # A seventh of 28 photographs is the validation split; of two there is none.
        (14, [], "gradcam++ × grid: p = {} and s_min = {}, chosen on 4 validation images: highest"),
        (14, ["--split", "all"], "s_min = {}, chosen without labels on 28 images: elements cover"),
        (14, ["--label", "predicted"], "chosen without labels on 4 images: elements cover"),
        (14, ["--s-min", 0.3, "--split", "all"], "p = 0.2 and s_min = 0.3, as given"),
        (14, ["--top-p", 0.15], "p = 0.15 and s_min = {}, chosen on 4 validation images"),
    ],
)
def test_evaluate_says_which_thresholds_it_uses(root, tmp_path, n, given, words):
    write_photographs(tmp_path / "photos", n)
    arguments = ["evaluate", "--model", "m", "--dataset", "folder", "--root", root]
    shown = typed(*arguments, "--segmenter", "grid", "--repeats", 1, *given)
    assert re.search(re.escape(words).replace(r"\{\}", r"0\.\d+"), shown), shown
    assert "no element" in shown and "kept no element" not in shown


@pytest.mark.parametrize(("s_min", "kept"), [(1.0, False), (0.0, True)])
def test_a_method_that_keeps_nothing_is_named_and_has_no_numbers(root, tmp_path, s_min, kept):
    arguments = ["evaluate", "--model", "m", "--dataset", "folder", "--root", root, "--split"]
    arguments += ["all", "--repeats", 1, "--segmenter", "grid", "--attribution", "random"]
    shown = typed(*arguments, "--s-min", s_min, "--output", tmp_path / "out")
    row = next(line for line in shown.splitlines() if "deletion" in line)
    assert ("100%" in row and "–" in row and "0.500" not in row) != kept
    empty = "random × grid kept no element in 8 of 8 images: nothing is learnt of it"
    assert (empty in shown) != kept
    thresholds = pd.read_csv(tmp_path / "out" / "comparison.csv")["thresholds"]
    assert set(thresholds) == {f"p = 0.2 and s_min = {s_min:g}, as given"}


def test_evaluate_counts_what_was_skipped_whether_or_not_it_is_in_the_cache(root, tmp_path):
    (root / "red" / "broken.jpg").write_bytes(b"no picture")
    (root / "red" / "gone.jpg").symlink_to("nowhere")
    arguments = ["evaluate", "--model", "m", "--dataset", "folder", "--root", root]
    arguments += ["--split", "all", "--repeats", 1, "--segmenter", "grid"]
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 of 9 images were skipped, the first, red/broken"):
            shown = typed(*arguments)
        assert "8 photographs read, 2 skipped (1 × a link to" in shown
        listed = pd.read_csv(tmp_path / "cache" / "skipped.csv").set_index("id")["reason"]
        assert listed["red/gone.jpg"] == "a link to nothing"
        assert listed["red/broken.jpg"].startswith("not an image")


PHOTO = "photos/red/0.png", "--model", "m"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "--model", "m", "--dataset", "folder"], "--root is missing"),
        (["evaluate", "--dataset", "folder"], "--root is missing"),
        (["evaluate", "--attribution", "gradkam"], "gradcam++"),
        (["explain", *PHOTO, "--output", "photos/red"], "a figure would replace photos/red/0.png"),
        (["explain", "nowhere.jpg", "--model", "m"], "nowhere.jpg"),
        # Before the book's own classifier is trained:
        (["explain", "no[where].jpg"], "no[where].jpg: no such file"),
        (["explain", "nowhere.jpg", "--segmenter", "slick"], "'slick'"),
        (["explain", "nowhere.jpg", "--attribution", "gradkam"], "gradcam++"),
        (["train", "--dataset", "folder"], "--root is missing"),
        (["train", "--learning-rate", "-1"], "learning_rate=-1.0: Input should be greater than 0"),
        (["explain", *PHOTO, "--output", __file__], "test_cli.py: nothing can be written there"),
        (["explain", *PHOTO, "--output", f"{__file__}/out"], "out: nothing can be written there"),
        (["run", "99-nothing"], "looking for what has changed"),
        (["run", "99-nothing"], "01-data"),
        (["run", "-p", "repeats"], "NAME VALUE"),
        (["run", "06-faithfulness", "-p", "repeat", "20"], "repeats"),
        (
            ["run", "06-faithfulness", "-p", "repeats", "1e3"],
            "'repeats' of 06-faithfulness is '1e3'",
        ),
        (["run", "09-partitioning", "-p", "coordinates", "gone.csv"], "'gone.csv'"),
        (["study-page", "STUDY", "-p", "root", "gone"], "'root' of 15-human-study is 'gone'"),
        (["book", "--profile", "fast"], "smoke"),
    ],
)
def test_mistakes_are_answered_in_one_line_without_a_traceback(root, monkeypatch, arguments, words):
    monkeypatch.chdir(root.parent)
    shown = typed(*arguments, code=1)
    assert words in shown and "Traceback" not in shown


def raises(error):
    def fail(*arguments, **options):
        raise error

    return fail


HERE = "in test_cli, line"  # whatever is not the package's own
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (AssertionError("Wrong image height!"), f"AssertionError {HERE}"),
        (SafetensorError("Error while deserializing header:\n too small"), "header:; too small"),
        (yaml.YAMLError("while scanning\n  in line 3"), "while scanning; in line 3"),
        (KeyError("osm_type"), f"KeyError {HERE}"),
        (EOFError("Ran out of input"), f"EOFError {HERE}"),
        (MemoryError(), "no message; PYTHONDEVMODE=1 shows the traceback"),
        (RuntimeError("[enforce fail] . unexpected pos 576 vs 534"), "needs more room"),
        (FULL, "No space left on device; the output or the cache, "),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "Permission denied: 'out'"),
    ],
)
def test_every_failure_is_one_line(root, tmp_path, monkeypatch, error, told):
    monkeypatch.setattr("geolib.model.load", raises(error))
    given = ["explain", root / "red" / "0.png", "--model", "m", "--output", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(argument) for argument in given])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and told in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_interrupted_command_says_so(root, monkeypatch):
    monkeypatch.setattr("geolib.model.load", raises(KeyboardInterrupt))
    shown = typed("explain", root / "red" / "0.png", "--model", "m", code=cli.INTERRUPTED)
    assert shown == "interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_named(root, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0.json").symlink_to("/dev/full")
    photo, out = root / "red" / "0.png", tmp_path / "out"
    shown = typed("explain", photo, "--model", "m", "--output", out, code=1)
    assert "No space left on device" in shown and str(tmp_path / "cache") in shown


def command(*arguments, flags=(), **streams):
    """A command in a process of its own."""
    given = [sys.executable, *flags, "-m", "geolib.cli", *arguments]
    return subprocess.run(given, stderr=subprocess.PIPE, text=True, check=False, **streams)


@pytest.mark.parametrize(
    ("flags", "ends"),
    [((), "error: -p repeats: expected NAME VALUE, as in -p repeats 20\n"), (("-X", "dev"), None)],
)
def test_development_mode_shows_where(flags, ends):
    done = command("run", "-p", "repeats", flags=flags)
    assert done.returncode == 1
    assert done.stderr == ends if ends else "Traceback" in done.stderr


def test_warnings_are_single_lines_and_come_before_the_reason(tmp_path):
    write_photographs(tmp_path, 1)
    done = command("train", "--dataset", "folder", "--root", tmp_path, "--arch", "squeezenet1_1")
    *_, warning, reason = done.stderr.splitlines()
    assert warning == "warning: too few images to be in every split: blue, red"
    assert reason.startswith("error: the split ")


def test_a_reader_that_has_left_is_no_failure_to_talk_about():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as unread:
        done = command("fetch", "--list", stdout=unread)
    assert (done.returncode, done.stderr) == (1, "")


NAMES = ["[red]a", "[bold]", ":smile:", r"\[x]", "日本", "x" * 251]  # the longest name there is


def test_names_are_printed_as_they_are(root, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    photos, broken = [tmp_path / f"{name}.png" for name in NAMES], tmp_path / "[" / "]b.png"
    broken.parent.mkdir()
    broken.write_bytes(b"this is no picture")
    for photo in photos:
        shutil.copy(root / "red" / "0.png", photo)
    out = tmp_path / "[out]"
    shown = typed("explain", *photos, broken, "--model", "m", "--output", out).splitlines()
    assert f"skipped: {broken}: not an image, or in a format that is not known" in shown
    lines = dict(line.split(": red (") for line in shown if ": red (" in line)
    assert lines.keys() == {photo.name for photo in photos}
    for name in NAMES:
        assert lines[f"{name}.png"].endswith(f", {out / name[:240]}.png")
        record = json.loads((out / f"{name[:240]}.json").read_text())
        assert record["image"] == f"{name}.png"


def test_cells_of_tables_are_printed_as_they_are(capsys):
    cli._print([{"[red]a": ":smile:", "b": r"\[x]"}])
    shown = capsys.readouterr().out
    assert "[red]a" in shown and ":smile:" in shown and r"\[x]" in shown


@pytest.mark.filterwarnings("ignore:too few images")
def test_an_empty_split_says_why(root, tmp_path):
    write_photographs(tmp_path / "few", 1)
    few = ["--dataset", "folder", "--root", tmp_path / "few"]
    for given in (["train"], ["evaluate", "--model", "m"]):
        shown = typed(*given, *few, code=1)
        assert "is empty: it holds 2 photographs (0 skipped)" in shown
        assert "three different ones of a country" in shown


def test_info_lists_methods_and_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / "[red]:smile:"))
    shown = typed("info")
    assert str(tmp_path / "[red]:smile:") in shown
    assert "scorecam" in shown and "felzenszwalb" in shown


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


def test_paths_are_the_callers_and_text_is_as_typed(tmp_path, monkeypatch):
    (tmp_path / "Plätze.csv").touch()
    (tmp_path / "NO").mkdir()
    monkeypatch.chdir(tmp_path)
    given = []
    monkeypatch.setattr("geolib.book.run.execute", lambda *args, jobs: given.append(args) or [])
    typed("run", "09-partitioning", "-p", "coordinates", "Plätze.csv", "-p", "classes", "[NO, SE]")
    names, profile, parameters = given[0]
    (resolved,) = run.resolve(names, profile, parameters).values()
    assert resolved["coordinates"] == str(tmp_path / "Plätze.csv")
    assert resolved["classes"] == ["NO", "SE"]


def test_train_writes_a_checkpoint_of_any_name_and_prints_its_accuracy(tmp_path):
    write_photographs(tmp_path / "photos", 14)
    arguments = ["train", "--dataset", "folder", "--root", tmp_path / "photos", "--max-epochs", 1]
    arguments += ["--arch", "squeezenet1_1", "--image-size", 48, "--output"]
    for name in ("mine.safetensors", "mine.pth", "x"):
        assert "accuracy on" in typed(*arguments, tmp_path / name)
        again = model.load(tmp_path / name)
        assert (again.name, again.classes) == ("squeezenet1_1", ("blue", "red"))
        assert again.image_size == 48


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--arch", "squeezenet1_1"], 160),
        (["--arch", "vit_tiny_patch16_224"], 224),
        (["--arch", "vit_tiny_patch16_224?img_size=64"], 64),
        (["--arch", "squeezenet1_1", "--image-size", 48], 48),
    ],
)
def test_training_is_at_a_size_that_the_network_takes(tmp_path, monkeypatch, options, size):
    write_photographs(tmp_path / "photos", 14)
    seen = []

    def trained(experiment):
        seen.append(experiment.image_size)
        return classifier()

    monkeypatch.setattr(Experiment, "classifier", property(trained))
    arguments = ["--dataset", "folder", "--root", tmp_path / "photos", "--output", tmp_path / "x"]
    typed("train", *arguments, *options)
    assert set(seen) == {size}


def test_a_size_that_does_not_fit_is_refused_before_training(tmp_path):
    write_photographs(tmp_path / "photos", 14)
    arguments = ["--dataset", "folder", "--root", tmp_path / "photos", "--output", tmp_path / "x"]
    arguments += ["--arch", "vit_tiny_patch16_224", "--image-size", 160]
    shown = typed("train", *arguments, code=1)
    assert "image_size=160 does not fit vit_tiny_patch16_224, which takes 224" in shown


# Weights with outputs of one's own ----------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """Three-class weights whose outputs are told apart by their biases, and a photograph."""
    tensors = dict(build("squeezenet1_1", 3).state_dict())
    tensors["classifier.1.bias"] = torch.tensor([0.0, 2.0, 1.0])
    save_file(tensors, tmp_path / "w.pth")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for country in ("FR", "IN", "JP"):
        (tmp_path / "photos" / country).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / country / "a.png")
    return tmp_path


NAMED = ["--model", "squeezenet1_1", "--weights", "w.pth"]


def test_explain_names_the_outputs_of_ones_own_weights(own, plain):
    photo = own / "photos" / "FR" / "a.png"
    arguments = ["--model", "squeezenet1_1", "--weights", own / "w.pth", "--classes", "FR,IN,JP"]
    typed("explain", photo, *arguments, "--output", own / "out")
    found = json.loads((own / "out" / "a.json").read_text())["probabilities"]
    network = model.load("squeezenet1_1", weights=own / "w.pth", classes=("a", "b", "c"))
    images = data.to_batch([np.asarray(Image.open(photo))], 224)
    expected = model.log_probabilities(network, images)[0].exp().tolist()
    assert list(found) == ["IN", "JP", "FR"]
    assert [found[name] for name in ("FR", "IN", "JP")] == pytest.approx(expected, abs=1e-3)


def test_evaluate_names_the_outputs_of_ones_own_weights(own):
    arguments = ["--model", "squeezenet1_1", "--weights", own / "w.pth", "--classes", "FR,IN,JP"]
    arguments += ["--dataset", "folder", "--root", own / "photos", "--split", "all"]
    out = own / "out"
    typed("evaluate", *arguments, "--segmenter", "grid", "--repeats", 1, "--output", out)
    found = pd.read_parquet(out / "gradcam++-grid" / "outcomes.parquet")
    found = found[found["test"] == "original"]
    assert len(found) == 3
    assert set(found["prediction"]) == {1}


MISFITS = [
    ([*NAMED, "--classes", "FR,IN"], "--classes: the last layer of w.pth (3 outputs) does not fit"),
    ([*NAMED, "--classes", "FR,IN,JP,US"], "does not fit the 4 classes FR, IN, JP, US"),
    ([*NAMED, "--classes", "FR,IN,FR"], "'FR,IN,FR': expected names that differ"),
    ([*NAMED, "--classes", "FR,,JP"], "'FR,,JP': expected names that differ"),
    (NAMED, "w.pth has 3 outputs; name them"),
    ([*NAMED[:3], "mine", "--classes", "JP,IN,FR"], "mine (FR, IN, JP) does not fit the 3 classes"),
    # In `evaluate` those of a checkpoint are the photographs' alone.
    (["--model", "mine", "--classes", "JP,IN,FR"], "mine (FR, IN, JP) does not fit the 3"),
    (["--model", "mine", "--classes", "FR"], "has one output"),
    (["--classes", "FR,IN,JP"], "--model is missing"),
]


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        *((["explain", "photos/FR/a.png"], *row) for row in MISFITS),
        *((["evaluate", "--dataset", "folder", "--root", "photos"], *row) for row in MISFITS[:6]),
    ],
)
def test_outputs_that_do_not_fit_are_refused(own, monkeypatch, given, options, words):
    monkeypatch.chdir(own)
    model.load("squeezenet1_1", weights="w.pth", classes=("FR", "IN", "JP")).save("mine")
    assert words in typed(*given, *options, code=1)


# Places for results are looked at first -----------------------------------------------------------


@pytest.fixture
def no_work(root, tmp_path, monkeypatch):
    """Photographs, a file in a folder's place, and a classifier that is never asked for."""

    def begun(*args, **kwargs):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(Experiment, "classifier", property(begun))
    monkeypatch.setattr("geolib.book.run.plan", begun)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")


PHOTOS = ["--dataset", "folder", "--root", "photos"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", *PHOTOS, "--output", "no/x.safetensors"], "there is no folder no; make it"),
        (["train", *PHOTOS, "--output", "photos"], "photos is a folder; expected a file"),
        (["evaluate", *PHOTOS, "--output", "file"], "nothing can be written there (Not a dir"),
        (
            ["explain", "photos/red/0.png", "--output", "file/x"],
            "(Not a directory); choose another",
        ),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(no_work, arguments, words):
    assert words in typed(*arguments, code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", *PHOTOS, "--output", "x"],
        ["evaluate", *PHOTOS, "--output", "out"],
        ["explain", "photos/red/0.png", "--output", "out/new"],
        ["run", "01-data"],
        ["book"],
    ],
)
def test_too_little_space_and_no_permission_are_said_before_the_work(
    no_work, arguments, monkeypatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1))
    assert "0 MB are free there" in typed(*arguments, code=1)

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert "nothing can be written there (Permission denied)" in typed(*arguments, code=1)


@pytest.mark.filterwarnings("ignore:.*unreadable")
def test_train_counts_what_was_skipped_whether_or_not_it_is_in_the_cache(tmp_path):
    write_photographs(tmp_path / "photos", 14)
    for colour, i in product(("blue", "red"), range(4)):  # some of them to train
        (tmp_path / "photos" / colour / f"{i}.jpg").write_text(f"no picture {i} {colour}")
    arguments = ["train", "--dataset", "folder", "--root", tmp_path / "photos"]
    arguments += ["--arch", "squeezenet1_1", "--image-size", 48, "--max-epochs", 1]
    for _ in range(2):
        shown = typed(*arguments, "--output", tmp_path / "x")
        assert "28 photographs read, 8 skipped (8 × not an image" in shown
