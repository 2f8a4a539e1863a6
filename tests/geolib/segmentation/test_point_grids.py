"""SAM and SAM 2 asked by a grid of points: what is found, by which thresholds, in what memory.

The networks are planted: they answer a point with what has its colour. What the real ones answer is
tested in `test_sam` and `test_sam2`.
"""

import json
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from torch import nn
from toys import SIDE, classifier, one_of_each, peak_memory, picture, save_sam2
from transformers import Sam2Model

from geolib import pipeline, segmentation
from geolib.masks import decode, iou
from geolib.pipeline import EvaluationConfig, shards
from geolib.segmentation import Segments
from geolib.segmentation.networks.sam import SamSegmenter

pytestmark = pytest.mark.usefixtures("own_cache")


def answer(pixels, points):
    """Masks [B,3,S,S] and scores [B,3] of points [B,2]: what has their colour, thrice.

    The first of the three is best, and the score grows downwards from 0.9 to 0.95.
    """
    x, y = points.long().T
    near = (pixels - pixels[0, :, y, x].T[:, :, None, None]).abs().amax(1) < 0.5
    scores = (0.9 + 0.05 * y / pixels.shape[-2])[:, None] - torch.tensor([0, 0.01, 0.02])
    return torch.where(near, 100.0, -100.0)[:, None].repeat(1, 3, 1, 1), scores


@pytest.fixture
def sam(tmp_path, monkeypatch):
    """Name and checkpoint; preparation of images and masks are SAM's own, at 128 pixels."""
    encoder, prompts, decoder = nn.Identity(), nn.Module(), nn.Module()
    encoder.img_size = 128
    prompts.forward = lambda points, boxes, masks: (points[0], None)
    prompts.get_dense_pe = lambda: None
    decoder.forward = lambda image_embeddings, sparse_prompt_embeddings, **_: answer(
        image_embeddings, sparse_prompt_embeddings[:, 0]
    )
    network = Sam(encoder, prompts, decoder)
    monkeypatch.setattr(SamSegmenter, "build", lambda self, state: network)
    torch.save({"weight": torch.ones(1)}, tmp_path / "sam.pth")
    return "sam", str(tmp_path / "sam.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture
def sam2(folder, monkeypatch):
    """Name and checkpoint."""

    def forward(self, input_points, image_embeddings, **_):
        masks, scores = answer(*image_embeddings, input_points[0, :, 0])
        return {"pred_masks": masks[None], "iou_scores": scores[None]}

    monkeypatch.setattr(Sam2Model, "forward", forward)
    monkeypatch.setattr(Sam2Model, "get_image_embeddings", lambda self, pixels: [pixels])
    return "sam2", str(folder)


@pytest.fixture(params=["sam", "sam2"])
def load(request):
    """`segmentation.load` of either, but for further options."""
    name, checkpoint = request.getfixturevalue(request.param)
    return partial(segmentation.load, name, checkpoint=checkpoint, device="cpu")


def squares(height, width, n):
    """A photograph of n × n squares on black, each of its own colour, and their masks.

    A grid of n × n points asks for each of them once, and for nothing else.
    """
    image, masks = np.zeros((height, width, 3), np.uint8), []
    for row in range(n):
        for column in range(n):
            mask = np.zeros((height, width), dtype=bool)
            rows = slice(*(round((row + edge) / n * height) for edge in (0.2, 0.8)))
            columns = slice(*(round((column + edge) / n * width) for edge in (0.2, 0.8)))
            mask[rows, columns] = True
            image[mask] = 255, 255 * (row + 1) / n, 255 * (column + 1) / n
            masks.append(mask)
    return image, np.stack(masks)


@pytest.mark.parametrize("shape", [(128, 128), (90, 160), (300, 100)])
@pytest.mark.parametrize("size", [None, (48, 48)])
def test_every_square_is_found_once_wherever_it_lies(load, shape, size):
    image, masks = squares(*shape, 4)
    segments = load(points_per_side=4)(image, size=size)
    wanted = Segments(masks).resize(size or shape).masks
    assert segments.masks.shape == wanted.shape
    overlaps = iou(segments.masks, wanted)
    found = overlaps.argmax(axis=1).tolist()
    assert sorted(found) == list(range(16))
    assert overlaps.max(axis=1).min() > 0.55
    # The planted score grows downwards: the best ones are those of the last row.
    assert [i // 4 for i in found] == sorted((i // 4 for i in found), reverse=True)
    assert (np.diff(segments.scores) <= 0).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"points_per_side": 1}, [4]),
        ({"points_per_side": 3}, range(9)),
        ({"points_per_side": 3, "pred_iou_thresh": 0.91}, range(3, 9)),
        ({"points_per_side": 3, "pred_iou_thresh": 1.1}, []),
        ({"points_per_side": 3, "stability_score_thresh": 1.1}, []),
    ],
)
def test_thresholds_and_grid_reach_the_generator(load, options, expected):
    image, masks = squares(60, 90, 3)
    found = load(**options)(image)
    assert found.masks.shape == (len(expected), 60, 90)
    assert found.scores.shape == (len(expected),)
    assert sorted(np.argwhere(iou(found.masks, masks) > 0.7)[:, 1]) == list(expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (300, 2)])
def test_extreme_images_give_masks_of_their_size(load, shape):
    assert load(points_per_side=2)(picture(*shape)).masks.shape[1:] == shape


def test_sam_is_shown_a_reduced_photograph_unless_it_would_vanish(sam):
    segment = segmentation.load("sam", checkpoint=sam[1], points_per_side=2, device="cpu")
    generate = SamAutomaticMaskGenerator.generate
    with mock.patch.object(
        SamAutomaticMaskGenerator, "generate", autospec=True, side_effect=generate
    ) as generated:
        assert segment(picture(400, 2000)).masks.shape[1:] == (400, 2000)
    assert generated.call_args.args[1].shape == (26, 128, 3)
    with pytest.raises(ValueError, match="1 x 300 pixels is too narrow"):
        segment(picture(300, 1))


def test_the_pipeline_keeps_run_lengths(load, tmp_path, own_cache):
    image, _ = squares(120, 200, 4)
    dataset = one_of_each(tmp_path / "photos", {"blue": image, "red": image})
    segment = load(points_per_side=4)
    config = EvaluationConfig(
        segmenter=segment.name,
        segmenter_options={**load.keywords, "points_per_side": 4},
        repeats=2,
        precision="fp32",
        s_min=0.0,
    )
    table = pipeline.evaluate(dataset, classifier(), config, progress=False)
    assert set(table["segmenter"]) == {segment.name}
    assert np.isfinite(table["log_probability"]).all()

    (shard,) = shards.shards(dataset, classifier(), config.shard_size)
    (stored,) = (own_cache / "segments").rglob("segments.json")
    records = json.loads(stored.read_text())
    expected = segment(image, size=(SIDE, SIDE))
    for kept, record in zip(shards.segments(shard, classifier(), config), records, strict=True):
        np.testing.assert_array_equal(kept.masks, expected.masks)
        np.testing.assert_allclose(kept.scores, expected.scores)
        np.testing.assert_array_equal([decode(m) for m in record["masks"]], expected.masks)

    elements = pipeline.elements(dataset, classifier(), config, progress=False)
    explained = pipeline.explain(classifier(), dataset[0], config).elements
    own = elements[elements["image_id"] == dataset.ids[0]]
    assert set(explained["mask"]) == set(own["mask"]) != set()


def test_memory_does_not_grow_with_the_photograph(load):
    segment = load(points_per_side=6)
    photograph = squares(300, 400, 6)[0].repeat(10, axis=0).repeat(10, axis=1)
    found, used = peak_memory(lambda: segment(photograph, size=(224, 224)))
    assert len(found) == 36  # 432 MB, were they held at the photograph's own size
    assert used < 150
