"""The layers of the house: their contracts hold, and the picture of them is true."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import classifier

from geolib import attribution, data, segmentation

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def lint(folder):
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    options = {"cwd": folder, "env": {"PYTHONPATH": str(folder)}, "capture_output": True}
    return subprocess.run(command, **options, text=True, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for package in ("geolib", "geoscenes"):
        shutil.copytree(ROOT / package, folder / package)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_contracts_hold(copy):
    found = lint(copy)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("geolib/scoring.py", "geolib.chapters.tables"),  # upwards
        ("geolib/statistics.py", "geolib.data.folder"),  # from the core into a wing
        ("geoscenes/camera.py", "geolib.images"),  # out of the benchmark
    ],
)
def test_a_forbidden_import_fails(copy, module, forbidden):
    path = copy / module
    source = path.read_text(encoding="utf-8")
    path.write_text(source + f"\n\ndef _late():\n    import {forbidden}\n", encoding="utf-8")
    found = lint(copy)
    path.write_text(source, encoding="utf-8")
    assert found.returncode == 1
    assert f"{module.removesuffix('.py').replace('/', '.')} -> {forbidden}" in found.stdout


def test_the_picture_shows_the_layers_of_the_contract():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    layers = [{m.removeprefix("geolib.") for m in row.split(" | ")} for row in contract["layers"]]
    labels = dict(re.findall(r'^    (\w+)\["([^:"]+)[^"]*"\]$', GUIDE, re.MULTILINE))
    arrows = re.findall(r"^    (\w+(?: --> \w+)+)$", GUIDE, re.MULTILINE)
    first, second = (line.split(" --> ") for line in arrows)
    assert first[-1] == second[0]
    drawn = [set(labels[name].split(", ")) for name in [*first, *second[1:]]]
    assert len(drawn) == len(labels)
    assert drawn == layers


def test_the_additions_of_the_guide_work(tmp_path, monkeypatch):
    """Each block of the guide, run as it stands, and then used."""
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / "cache"))
    names = {
        **vars(data),
        "METHODS": dict(attribution.METHODS),
        "SEGMENTERS": dict(segmentation.SEGMENTERS),
        "DATASETS": dict(data.DATASETS),
        "Segments": segmentation.Segments,
        "np": np,
        "Path": Path,
    }
    for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        exec(block, names)
    monkeypatch.setattr(attribution, "METHODS", names["METHODS"])
    monkeypatch.setattr(segmentation, "SEGMENTERS", names["SEGMENTERS"])
    monkeypatch.setattr(data, "DATASETS", names["DATASETS"])
    network = classifier()
    side = network.image_size
    Image.new("RGB", (side, side), (90, 120, 30)).save(tmp_path / "a.jpg")
    photographs = data.load("mine", "eval", root=tmp_path)
    image = data.to_batch([photographs[0]], side)
    # A flat map has no most important place: by definition it is scaled to zeros.
    assert not attribution.attribute(network, image, "flat").any()
    found = segmentation.load("halves")(photographs[0].image)
    assert torch.as_tensor(found.masks).flatten(1).float().mean(1).tolist() == [0.5, 0.5]
