"""SAM 3 and its text prompts: against the network asked directly, prompt by prompt."""

import json
from unittest import mock

import numpy as np
import pytest
import torch
import toys
from PIL import Image
from torch.nn import functional as F
from toys import SAM_SIDE, changed, classifier, one_of_each, peak_memory, picture, save_sam3
from transformers import CLIPTokenizer, Sam3Model
from transformers.models.sam3 import modeling_sam3

from geolib import pipeline, segmentation
from geolib.masks import iou
from geolib.pipeline import EvaluationConfig, shards
from geolib.segmentation import Segments
from geolib.segmentation.networks.sam3 import concept_names

PROMPTS = ["red car", "utility pole", "road", "white kilometre stone", "snow pole"]
ALL = {"concepts": PROMPTS, "threshold": 0.0}

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sam3(tmp_path_factory.mktemp("sam3"), [*concept_names(), *PROMPTS])


@torch.no_grad()
def asked_directly(segment, image, prompt, masked=True):
    """Mask probabilities [Q, S, S] and scores [Q] of one prompt: one whole pass for it alone."""
    size = (SAM_SIDE, SAM_SIDE)
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(small / 127.5 - 1).permute(2, 0, 1)[None].float()
    words = segment.function.processor.tokenizer(prompt, padding="max_length", max_length=32)
    out = segment.model(
        pixel_values=pixels,
        input_ids=torch.tensor([words["input_ids"]]),
        attention_mask=torch.tensor([words["attention_mask"]]) if masked else None,
    )
    scores = out.pred_logits.sigmoid() * out.presence_logits.sigmoid()
    return out.pred_masks[0].sigmoid(), scores[0]


def instances(segments):
    """Label, score and mask of every segment, in an order that depends on nothing else."""
    parts = zip(segments.labels, segments.scores, segments.masks, strict=True)
    return sorted(parts, key=lambda part: (part[0], part[1]))


def assert_same(one, other):
    """Equal but for pixels whose probability is one half up to rounding."""
    assert len(one) == len(other)
    for (label, score, mask), (label_, score_, mask_) in zip(one, other, strict=True):
        assert label == label_
        assert score == pytest.approx(score_, abs=1e-5)
        assert (mask != mask_).mean() < 2e-3


@pytest.mark.parametrize("shape", [(60, 64), (40, 20)])  # masks of photographs that are not reduced
def test_instances_are_those_of_each_prompt_alone(folder, shape):
    image = picture(*shape)
    segment = segmentation.load("sam3", checkpoint=folder, prompts_per_batch=3, **ALL)
    expected = []
    for prompt in PROMPTS:
        probability, scores = asked_directly(segment, image, prompt)
        masks = F.interpolate(probability[None], shape, mode="bilinear")[0] > 0.5
        expected += [(prompt, s, m) for s, m in zip(scores.numpy(), masks.numpy(), strict=True)]
        _, unmasked = asked_directly(segment, image, prompt, masked=False)
        assert (scores - unmasked).abs().max() > 1e-3  # padding taken for words would be seen
    expected = sorted(((p, s, m) for p, s, m in expected if m.any()), key=lambda e: (e[0], e[1]))
    assert len(expected) > 2 * len(PROMPTS)
    segments = segment(image)
    assert_same(instances(segments), expected)
    assert (np.diff(segments.scores) <= 0).all()


@pytest.mark.parametrize("size", [None, (48, 48)])
def test_the_result_depends_neither_on_batches_nor_on_the_order_of_prompts(folder, size):
    image = picture(60, 90)

    def segments(prompts, n):
        options = {"concepts": prompts, "threshold": 0.0, "prompts_per_batch": n}
        return segmentation.load("sam3", checkpoint=folder, **options)(image, size=size)

    reference = instances(segments(PROMPTS, 1))
    assert {label for label, _, _ in reference} == set(PROMPTS)
    for prompts, n in ((PROMPTS, 2), (PROMPTS, 50), (PROMPTS[::-1], 4)):
        assert_same(instances(segments(prompts, n)), reference)
    alone = instances(segments([PROMPTS[2]], 4))
    assert_same(alone, [one for one in reference if one[0] == PROMPTS[2]])


def test_the_picture_is_encoded_once(folder):
    segment = segmentation.load("sam3", checkpoint=folder, prompts_per_batch=1, **ALL)
    encoder = segment.model.vision_encoder
    with mock.patch.object(encoder, "forward", wraps=encoder.forward) as encode:
        segment(picture(60, 90))
    encode.assert_called_once()


def test_its_own_threshold_is_the_default(folder):
    image = picture(60, 90)
    by_default = segmentation.load("sam3", checkpoint=folder, concepts=PROMPTS)(image)
    found = segmentation.load("sam3", checkpoint=folder, **ALL)(image)
    assert 0 < (found.scores > 0.5).sum() < (found.scores > 0.3).sum() < len(found)
    assert by_default.scores.tolist() == found.scores[found.scores > 0.5].tolist()


def test_by_default_it_is_asked_for_every_concept_of_the_list(folder):
    segment = segmentation.load("sam3", checkpoint=folder)
    assert segment.options["concepts"] == concept_names()
    assert len(set(concept_names())) == len(concept_names()) > 150
    few = segmentation.load("sam3", checkpoint=folder, concepts=PROMPTS)
    assert few.key != segment.key
    same = segmentation.load("sam3", checkpoint=folder, concepts=PROMPTS, prompts_per_batch=9)
    assert same.key == few.key


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concepts": []}, r"concepts must be distinct, non-empty text prompts, got \[\]"),
        ({"concepts": ["road", "road"]}, "distinct"),
        ({"concepts": ["road", " "]}, "non-empty"),
        ({"concepts": ["road " * 40]}, "tokens, SAM 3 reads 32: shorten it"),
        ({"prompts_per_batch": 0}, "prompts_per_batch must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(folder, options, words):
    with pytest.raises(ValueError, match=words):
        segmentation.load("sam3", checkpoint=folder, **options)


def test_the_published_folder_holds_the_video_network(folder, tmp_path):
    """Its image network is one part, named detector_model; the tracker is left out."""

    def weights(state):
        extra = {"tracker_model.memory": torch.ones(2), "tracker_neck.conv": torch.ones(2)}
        return extra | {f"detector_model.{key}": value for key, value in state.items()}

    video = changed(
        *(folder, tmp_path / "video", weights),
        processor_config={"processor_class": "Sam3VideoProcessor", "video_processor": {"size": 1}},
    )
    config = {"detector_config": json.loads((folder / "config.json").read_text())}
    (video / "config.json").write_text(json.dumps({"model_type": "sam3_video", **config}))
    one, other = (
        segmentation.load("sam3", checkpoint=path, **ALL)(picture(60, 90))
        for path in (folder, video)
    )
    assert_same(instances(one), instances(other))

    gone = "detector_model.text_projection.weight"
    part = changed(video, tmp_path / "part", lambda s: {k: s[k] for k in s if k != gone})
    with pytest.raises(ValueError, match=r"missing: text_projection.weight"):
        segmentation.load("sam3", checkpoint=part, **ALL)


def test_a_folder_that_is_not_whole_says_what_belongs_there(folder, tmp_path):
    part = changed(folder, tmp_path / "part")
    (part / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=r"SAM 3 in transformers'.*licence is accepted"):
        segmentation.load("sam3", checkpoint=part, **ALL)


@pytest.fixture
def planted(folder, monkeypatch):
    """A network that knows three words and answers with the pixels of that colour."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    words = [tokenizer(colour)["input_ids"][1] for colour in ("red", "green", "blue")]

    def forward(self, vision_embeds, input_ids, attention_mask):
        (pixels,) = vision_embeds.fpn_hidden_states
        asked = torch.tensor([words.index(ids[1]) for ids in input_ids])
        others = pixels.masked_fill(F.one_hot(asked, 3).bool()[:, :, None, None], -9).amax(1)
        masks = torch.where(pixels[range(len(asked)), asked] > others + 0.5, 10.0, -10.0)
        return modeling_sam3.Sam3ImageSegmentationOutput(
            pred_masks=masks[:, None].repeat(1, 2, 1, 1),
            pred_boxes=torch.zeros(len(masks), 2, 4),
            pred_logits=torch.tensor([[-4.0, 4.0]]).repeat(len(masks), 1),
            presence_logits=masks.amax((1, 2))[:, None],
        )

    def get_vision_features(self, pixels):
        levels = {"fpn_hidden_states": (pixels,), "fpn_position_encoding": (pixels,)}
        return modeling_sam3.Sam3VisionEncoderOutput(**levels)

    monkeypatch.setattr(Sam3Model, "forward", forward)
    monkeypatch.setattr(Sam3Model, "get_vision_features", get_vision_features)


def painted(height, width):
    """A red and a blue rectangle on grey, and their masks."""
    image, masks = np.full((height, width, 3), 120, np.uint8), {}
    for colour, left in (("red", 0.1), ("blue", 0.6)):
        masks[colour] = mask = np.zeros((height, width), dtype=bool)
        columns = slice(round(left * width), round((left + 0.3) * width))
        mask[round(0.5 * height) : round(0.9 * height), columns] = True
        image[mask] = toys.COLOURS[colour]
    return image, masks


@pytest.mark.parametrize("shape", [(64, 64), (90, 160), (300, 100)])
@pytest.mark.parametrize("size", [None, (48, 48)])
def test_each_word_finds_its_thing_and_an_absent_one_nothing(folder, planted, shape, size):
    image, masks = painted(*shape)
    prompts = ["green sign", "blue sign", "red sign"]
    segment = segmentation.load("sam3", checkpoint=folder, concepts=prompts, prompts_per_batch=2)
    segments = segment(image, size=size)
    assert sorted(segments.labels) == ["blue sign", "red sign"]
    for label, mask in zip(segments.labels, segments.masks, strict=True):
        wanted = Segments(masks[label.split()[0]][None]).resize(size or shape).masks
        assert iou(mask[None], wanted) > 0.8


def test_the_planted_cause_is_named_and_its_effect_is_exact(folder, planted, tmp_path):
    """Photographs of 144 × 96 pixels whose class is the colour of one square."""
    pixels = {colour: toys.photograph(colour, seed=1) for colour in toys.CLASSES}
    images = {colour: image.repeat(3, 0).repeat(2, 1) for colour, image in pixels.items()}
    dataset = one_of_each(tmp_path / "photos", images)
    options = {"checkpoint": str(folder), "concepts": ["red plate", "blue plate"]}
    config = EvaluationConfig(
        segmenter="sam3", segmenter_options=options, repeats=2, shard_size=1, precision="fp32"
    )
    table = pipeline.evaluate(dataset, classifier(), config, progress=False)
    deleted = table[(table["region"] == "guided") & (table["test"] == "deletion")]
    assert deleted["probability"].to_numpy() == pytest.approx(0.5, abs=1e-6)

    x0, y0, x1, y1 = toys.BOX
    for shard in shards.shards(dataset, classifier(), config.shard_size):
        (found,) = shards.segments(shard, classifier(), config)
        assert list(found.labels) == [f"{shard.items[0].country} plate"]
        assert found.scores[0] == pytest.approx(torch.tensor(4.0).sigmoid().item(), abs=1e-3)
        square = np.zeros((1, toys.SIDE, toys.SIDE), dtype=bool)
        square[:, y0:y1, x0:x1] = True
        assert iou(found.masks, square) > 0.8
    assert len(pipeline.explain(classifier(), dataset[0], config).elements) == 1


def test_memory_does_not_grow_with_the_photograph(folder, planted):
    prompts = [f"red {name}" for name in concept_names()[:36]]
    segment = segmentation.load("sam3", checkpoint=folder, concepts=prompts)
    photograph = painted(300, 400)[0].repeat(10, axis=0).repeat(10, axis=1)
    found, used = peak_memory(lambda: segment(photograph, size=(224, 224)))
    assert len(found) == 36  # 432 MB, were they held at the photograph's own size
    assert used < 150
