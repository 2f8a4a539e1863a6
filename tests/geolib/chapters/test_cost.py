"""What a run takes: counted by hand, and costs of the right order."""

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

# In seconds and bytes: forward, gradient, step, segmentation; map, segments, outcomes.
COSTS = Costs(0.5, 2.0, 3.0, 10.0, "some", 100.0, 10.0, 1.0)
SMALL = Workload(20, epochs=3, images=2, methods=("gradcam", "smoothgrad"), repeats=4)


def test_a_small_run_by_hand():
    # 1 untouched; deletion and insertion with 1 guided and 4 random layouts each.
    assert cost.ablation_passes(SMALL) == 11
    table = cost.plan(SMALL, COSTS, gpu_speedup=10)
    # Steps: 20 images × 3 epochs. Maps: per image 1 + 1 forward passes and 50 gradients.
    # Segmentations: 2 × 3. Ablation: 2 images × (2 × 3) pairs × 11.
    # Bytes: 2 images × 2 maps × 100; 2 × 3 segmentations × 10; 2 images × 6 pairs × 1.
    assert table.index.tolist() == ["training", "maps", "segmentation", "ablation"]
    assert table["passes"].tolist() == [60, 2 * (2 + 50), 6, 132]
    seconds = [60 * 3, 2 * (2 * 0.5 + 50 * 2), 60, 66]
    assert table["hours"].mul(3600).tolist() == pytest.approx(seconds)
    assert table["bytes"].tolist() == [0, 400, 60, 12]
    speedup = table["hours"] / table["gpu_hours"]
    assert speedup.drop("segmentation").to_numpy() == pytest.approx(10)
    assert speedup.isna().to_dict() == {part: part == "segmentation" for part in table.index}


def test_the_papers_setting_by_hand():
    work = cost.PAPER
    assert (work.training_images, work.epochs, work.images) == (100_000, 300, 600)
    assert (len(work.methods), work.segmenters, work.repeats) == (4, 3, 10)
    assert cost.ablation_passes(work) == 1 + 2 * (1 + 10)
    table = cost.plan(work, COSTS)
    # Grad-CAM and Grad-CAM++ once, SmoothGrad 1 + 50, Score-CAM 1 + 2048 channels.
    maps = 600 * (1 + 1 + 51 + 2049)
    # 4 methods × 3 segmenters × 23 looks.
    assert table["passes"].tolist() == [30_000_000, maps, 1800, 600 * 12 * 23]


def test_the_assumed_factor_changes_gpu_hours_and_nothing_else():
    slow, fast = (cost.summary(COSTS, factor) for factor in (50.0, 100.0))
    changed = {name for name in slow if slow[name] != fast[name]}
    assert changed == {name for name in slow if "gpu" in name}
    # 30 million steps of 3 s on the measured machine.
    assert fast["plan_paper_training_hours"] == pytest.approx(25_000)
    gpu = [found["plan_paper_training_gpu_hours"] for found in (slow, fast)]
    assert gpu == pytest.approx([500, 250])


def test_the_summary_holds_the_costs_and_both_runs():
    found = cost.summary(COSTS)
    assert (found["plan_forward_ms"], found["plan_segmenter"]) == (500, "some")
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


def test_what_cannot_be_planned_is_named():
    for factor in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="gpu_speedup"):
            cost.plan(SMALL, COSTS, factor)
    with pytest.raises(ValueError, match=r"\['lime'\].*scorecam"):
        cost.plan(replace(SMALL, methods=("gradcam", "lime")), COSTS)


def test_counts_are_those_of_the_network_and_more_work_takes_longer():
    two = {"weights": "random", "classes": ("a", "b")}
    network = model.load(cost.ARCH, image_size=cost.IMAGE_SIZE, **two)
    assert network.target_layer.conv3.out_channels == cost.CHANNELS
    assert set(cost.MAP_PASSES) == set(cost.PAPER.methods)
    small = model.load("resnet18", image_size=64, **two)
    found = cost.network_seconds(small)
    assert 0 < found["forward"] < min(found["gradient"], found["step"])


@pytest.fixture
def explained(tmp_path, own_cache):
    """A dataset that the pipeline has explained."""
    write_photographs(tmp_path / "photos", 2)
    dataset = data.load("folder", "all", root=tmp_path / "photos")
    pipeline.evaluate(dataset, classifier(), EvaluationConfig(repeats=1), progress=False)
    return dataset


def test_bytes_per_image_are_those_of_the_files(explained, own_cache):
    files = [p for p in (own_cache / "maps").rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files if p.suffix != ".lock")
    found = cost.stored_bytes("maps", explained, 48)
    assert found == size / len(explained)
    assert 500 < found < 48 * 48 * 4  # float32 values, compressed
    # Other images and other sizes do not count.
    with pytest.raises(ValueError, match="no maps of the 1 images"):
        cost.stored_bytes("maps", explained.subset([0]), 48)
    with pytest.raises(ValueError, match="evaluate them first"):
        cost.stored_bytes("maps", explained, 49)


def test_costs_are_measured_with_the_slowest_segmenter_of_the_image(explained, monkeypatch):
    monkeypatch.setattr(cost, "ARCH", "squeezenet1_1")
    monkeypatch.setattr(cost, "IMAGE_SIZE", 96)
    segmenters = [segmentation.load(name) for name in ("grid", "felzenszwalb", "none")]
    found = cost.measure(explained, 48, segmenters)
    assert found.segmenter == "felzenszwalb"
    assert 0 < found.segmentation < 5
    # Twice the side, four times the pixels.
    assert found.map_bytes == 4 * cost.stored_bytes("maps", explained, 48)
    with pytest.raises(ValueError, match="reads nothing but the image"):
        cost.measure(explained, 48, [segmentation.load("none")])


def test_peak_memory_is_what_is_held_at_once():
    def run() -> None:
        one = torch.zeros(1_000_000)
        two = torch.cat([one, one])  # 4 MB and 8 MB beside them
        del one, two
        torch.zeros(250_000)

    assert cost.peak_memory(run) == pytest.approx(12_000_000, rel=0.01)
    assert cost.peak_memory(lambda: None) == 0
