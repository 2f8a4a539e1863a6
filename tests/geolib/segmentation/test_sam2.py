"""SAM 2.1: the point grid against the network asked directly, thresholds, loading."""

from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from toys import SAM_SIDE as SIDE
from toys import changed, picture, save_sam2

from geolib import segmentation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sam2(tmp_path_factory.mktemp("sam2"))


@torch.no_grad()
def asked_directly(network, image, n):
    """Logits [3n², S, S] and predicted IoUs of an n × n grid, one point at a time."""
    small = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    pixels = (small / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    logits, quality = [], []
    for row in range(n):
        for column in range(n):
            point = torch.tensor([[[[(column + 0.5) / n * SIDE, (row + 0.5) / n * SIDE]]]])
            out = network(pixel_values=pixels, input_points=point)
            logits.append(F.interpolate(out.pred_masks[0], (SIDE, SIDE), mode="bilinear")[0])
            quality.append(out.iou_scores[0, 0])
    return torch.cat(logits).numpy(), torch.cat(quality).numpy()


def filtered(segment, image):
    """What the processor is given to filter, call by call."""
    processor = segment.function.processor
    with mock.patch.object(processor, "filter_masks", wraps=processor.filter_masks) as filter_masks:
        segment(image)
    return [call.args for call in filter_masks.call_args_list]


@pytest.mark.parametrize("shape", [(60, 90), (120, 40)])  # wide and tall, enlarged and reduced
def test_the_network_is_asked_at_a_grid_over_the_whole_picture(folder, shape):
    """Batched points over an embedding computed once, against one whole pass for each point."""
    segment = segmentation.load("sam2", checkpoint=folder, points_per_side=5)
    given = filtered(segment, picture(*shape))
    assert len(given) == 2  # 25 points, 16 at a time
    logits, quality = asked_directly(segment.model, picture(*shape), 5)
    assert logits.std(axis=0).mean() > 1  # the point matters
    masks, scores = (torch.cat([call[i] for call in given]).flatten(0, 1) for i in (0, 1))
    np.testing.assert_allclose(masks, logits, atol=1e-3)
    np.testing.assert_allclose(scores, quality, atol=1e-5)


def test_its_own_thresholds_are_passed_on(folder):
    """0.80 and 0.95 are the defaults of the authors' generator; transformers has 0.88 for all."""
    segment = segmentation.load("sam2", checkpoint=folder, points_per_side=2)
    assert [call[4:] for call in filtered(segment, picture(50, 50))] == [(0.80, 0.95, 0, 1)]
    assert segment.options["pred_iou_thresh"] == 0.80


def test_the_published_folders_hold_the_video_network(folder, tmp_path):
    """The parts that follow objects through a film are left out, and nothing else is."""
    parts = "memory_encoder.projection.weight", "no_object_pointer"
    extra = {part: torch.ones(1) for part in parts}
    video = changed(
        *(folder, tmp_path / "video", lambda s: s | extra),
        config={"model_type": "sam2_video"},
        processor_config={"processor_class": "Sam2VideoProcessor"},
        preprocessor_config={"image_processor_type": "Sam2ImageProcessorFast"},
    )
    options = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    one, other = (
        segmentation.load("sam2", checkpoint=path, **options)(picture(60, 90))
        for path in (folder, video)
    )
    assert len(one) > 0
    np.testing.assert_array_equal(one.masks, other.masks)


KEY = "mask_decoder.iou_token.weight"


@pytest.mark.parametrize(
    ("weights", "config", "words"),
    [
        (lambda s: {k: v for k, v in s.items() if k != KEY}, {}, f"does not fit.*missing: {KEY}"),
        (lambda s: s | {"extra": torch.ones(1)}, {}, "unexpected: extra"),
        (lambda s: s | {KEY: torch.ones(3, 3)}, {}, f"of another shape: {KEY}"),
        (lambda s: s | {KEY: s[KEY] * torch.nan}, {}, f"not finite: {KEY}"),
        (None, {"model_type": "bert"}, "'bert', expected sam2 or sam2_video; expected SAM 2.1"),
    ],
)
def test_a_folder_that_does_not_fit_says_why(folder, tmp_path, weights, config, words):
    place = changed(folder, tmp_path / "other", weights, config=config)
    with pytest.raises(ValueError, match=words):
        segmentation.load("sam2", checkpoint=place)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_folder_that_is_broken_or_not_whole_says_what_belongs_there(folder, tmp_path, name):
    place = changed(folder, tmp_path / "other")
    (place / name).write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read: .*expected SAM 2.1 in transformers'"):
        segmentation.load("sam2", checkpoint=place)
    (place / name).unlink()
    with pytest.raises(ValueError, match=r"model.safetensors, preprocessor_config.json"):
        segmentation.load("sam2", checkpoint=place)


def test_the_key_is_that_of_the_files(folder, tmp_path):
    def key(path, **options):
        return segmentation.load("sam2", checkpoint=path, **options).key

    moved = changed(folder, tmp_path / "moved")
    (moved / "README.md").write_text("belongs to the hub's page")
    assert key(moved) == key(folder, device="cpu")
    assert key(moved, pred_iou_thresh=0.88) != key(folder)
    other = changed(folder, tmp_path / "other", lambda s: s | {KEY: s[KEY] + 1})
    assert key(other) != key(folder)
