"""What a run takes: counted by hand, and costs of the right order."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import classifier, write_photographs

from geolib import data, model, pipeline, segmentation
from geolib.book.sphinx_results import format_result
from geolib.chapters import cost
from geolib.chapters.cost import Costs, Workload
from geolib.pipeline import EvaluationConfig

ROOT = Path(__file__).parents[3]

COSTS = Costs(
    **{"forward": 0.5, "gradient": 2.0, "step": 3.0, "segmentation": 10.0, "segmenter": "some"},
    **{"map_bytes": 100.0, "segments_bytes": 10.0, "outcomes_bytes": 1.0},
)
SMALL = Workload(
    **{"training_images": 20, "epochs": 3, "images": 2, "methods": ("gradcam", "smoothgrad")},
    **{"segmenters": 3, "tests": 2, "repeats": 4},
)


def test_an_image_is_looked_at_once_whole_and_once_per_test_and_layout():
    # 1 untouched; deletion and insertion with 1 guided and 4 random layouts each.
    assert cost.ablation_passes(SMALL) == 11
    # 1 + 2 × (1 + 10)
    assert cost.ablation_passes(cost.PAPER) == 23


def test_a_small_run_by_hand():
    table = cost.plan(SMALL, COSTS, gpu_speedup=10)
    # Steps: 20 images × 3 epochs. Maps: per image 1 + 1 forward passes and 50 gradients.
    # Segmentations: 2 × 3. Ablation: 2 images × (2 × 3) pairs × 11.
    # Bytes: 2 images × 2 maps × 100; 2 × 3 segmentations × 10; 2 images × 6 pairs × 1.
    parts = ["training", "maps", "segmentation", "ablation"]
    passes = [60, 2 * (2 + 50), 6, 132]
    seconds = [60 * 3.0, 2 * (2 * 0.5 + 50 * 2.0), 60.0, 66.0]
    assert table["passes"].to_dict() == dict(zip(parts, passes, strict=True))
    hours = pytest.approx(dict(zip(parts, seconds, strict=True)))
    assert table["hours"].mul(3600).to_dict() == hours
    assert table["bytes"].to_dict() == dict(zip(parts, [0, 400, 60, 12], strict=True))
    speedup = table["hours"] / table["gpu_hours"]
    assert speedup.drop("segmentation").to_numpy() == pytest.approx(10)
    assert speedup.isna().to_dict() == {part: part == "segmentation" for part in table.index}


def test_the_papers_setting_by_hand():
    work = cost.PAPER
    assert (work.training_images, work.epochs, work.images) == (100_000, 300, 600)
    assert (len(work.methods), work.segmenters, work.repeats) == (4, 3, 10)
    table = cost.plan(work, COSTS)
    assert table.loc["training", "passes"] == 30_000_000
    # Grad-CAM and Grad-CAM++ once, SmoothGrad 1 + 50, Score-CAM 1 + 2048 channels.
    assert table.loc["maps", "passes"] == 600 * (1 + 1 + 51 + 2049)
    assert table.loc["segmentation", "passes"] == 1800
    # 4 methods × 3 segmenters × 23 looks.
    assert table.loc["ablation", "passes"] == 600 * 12 * 23


def test_the_assumed_factor_changes_gpu_hours_and_nothing_else():
    slow, fast = (cost.summary(COSTS, factor) for factor in (50.0, 100.0))
    changed = {name for name in slow if slow[name] != fast[name]}
    assert changed == {name for name in slow if "gpu" in name}
    assert slow["plan_paper_training_gpu_hours"] == pytest.approx(
        2 * fast["plan_paper_training_gpu_hours"]
    )
    # 30 million steps of 3 s on the measured machine.
    assert fast["plan_paper_training_hours"] == pytest.approx(25_000)
    assert fast["plan_paper_training_gpu_hours"] == pytest.approx(250)


def test_the_summary_holds_the_costs_and_both_runs():
    found = cost.summary(COSTS)
    assert found["plan_forward_ms"] == 500
    assert found["plan_segmenter"] == "some"
    assert found["plan_paper_ablation_passes"] == 600 * 12 * 23
    share = cost.OSV5M.images / cost.PAPER.images
    for name in ("maps_passes", "ablation_hours", "gigabytes", "ablation_gpu_hours"):
        assert found[f"plan_osv5m_{name}"] == pytest.approx(share * found[f"plan_paper_{name}"])


def test_the_page_quotes_what_the_summary_holds():
    page = (ROOT / "book" / "planning.md").read_text()
    quoted = re.findall(r"\{result\}`(06-faithfulness\.[^`]+)`", page)
    assert len(quoted) > 30
    results = {"06-faithfulness": cost.summary(COSTS)}
    assert all(format_result(text, results) for text in quoted)
    # Numbers are quoted, never typed; shell commands are examples.
    typed = re.sub(r"```bash.*?```|\{[\w:]+\}`[^`]*`", "", page, flags=re.DOTALL)
    names = {"OSV-5M", "OpenStreetView-5M", "2", "3,", "float32", "bfloat16"}
    assert set(re.findall(r"\S*\d\S*", typed)) == names


@pytest.mark.parametrize(
    ("methods", "factor", "message"),
    [
        *((SMALL.methods, factor, "gpu_speedup") for factor in (0, -1, float("nan"))),
        (("gradcam", "lime"), 1, r"\['lime'\].*scorecam"),
    ],
)
def test_what_cannot_be_planned_is_named(methods, factor, message):
    with pytest.raises(ValueError, match=message):
        cost.plan(replace(SMALL, methods=methods), COSTS, factor)


def test_counts_are_those_of_the_network():
    network = model.load(cost.ARCH, weights="random", classes=("a",), image_size=cost.IMAGE_SIZE)
    assert network.target_layer.conv3.out_channels == cost.CHANNELS
    assert set(cost.MAP_PASSES) == set(cost.PAPER.methods)


def test_more_work_takes_longer():
    small = model.load("resnet18", weights="random", classes=("a", "b"), image_size=64)
    found = cost.network_seconds(small)
    assert 0 < found["forward"] < found["gradient"]
    assert found["forward"] < found["step"]


@pytest.fixture
def explained(tmp_path, monkeypatch):
    """A dataset that the pipeline has explained."""
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / "cache"))
    write_photographs(tmp_path / "photos", 2)
    dataset = data.load("folder", "all", root=tmp_path / "photos")
    pipeline.evaluate(dataset, classifier(), EvaluationConfig(repeats=1), progress=False)
    return dataset


def test_bytes_per_image_are_those_of_the_files(explained, tmp_path):
    files = [p for p in (tmp_path / "cache" / "maps").rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files if p.suffix != ".lock")
    found = cost.stored_bytes("maps", explained, classifier().image_size)
    assert found == size / len(explained)
    # A map of 48 × 48 float32 values, and a little around it.
    assert 48 * 48 * 4 < found < 48 * 48 * 4 + 2000


def test_other_images_and_other_sizes_do_not_count(explained):
    size = classifier().image_size
    with pytest.raises(ValueError, match="no maps of the 1 images"):
        cost.stored_bytes("maps", explained.subset([0]), size)
    with pytest.raises(ValueError, match="evaluate them first"):
        cost.stored_bytes("maps", explained, size + 1)


def test_costs_are_measured_with_the_slowest_segmenter_of_the_image(explained, monkeypatch):
    monkeypatch.setattr(cost, "ARCH", "squeezenet1_1")
    monkeypatch.setattr(cost, "IMAGE_SIZE", 96)
    segmenters = [segmentation.load(name) for name in ("grid", "felzenszwalb", "none")]
    found = cost.measure(explained, classifier().image_size, segmenters)
    assert found.segmenter == "felzenszwalb"
    assert 0 < found.segmentation < 5
    # Twice the side, four times the pixels.
    assert found.map_bytes == 4 * cost.stored_bytes("maps", explained, 48)
    with pytest.raises(ValueError, match="reads nothing but the image"):
        cost.measure(explained, 48, [segmentation.load("none")])


def test_peak_memory_is_what_is_held_at_once():
    """A tensor of 4 MB, then twice as much beside it, then 1 MB after both are gone."""

    def run() -> None:
        one = torch.zeros(1_000_000)
        two = torch.cat([one, one])
        del one, two
        torch.zeros(250_000)

    assert cost.peak_memory(run) == pytest.approx(12_000_000, rel=0.01)
    assert cost.peak_memory(lambda: None) == 0
