"""Ablation: fills and boxes by hand, oracle models whose outcomes are known in closed form."""

from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy.ndimage import gaussian_filter
from torch import nn

from geolib.ablation import (
    COLUMNS,
    FILLS,
    MODES,
    ablate,
    boxes_up_to,
    faithfulness,
    random_boxes,
    random_regions,
    sweep,
)
from geolib.masks import box_region
from geolib.model.classifier import IMAGENET_MEAN, IMAGENET_STD
from geolib.scoring import Elements

FP32 = {"precision": "fp32"}
KEYS = ["image_id", "test", "region", "repeat", "element"]
TARGET = (4, 6, 12, 10)  # what the oracle looks at
SCATTERED = np.random.default_rng(0).random((3, 16, 16)) < 0.3
SCATTERED[1] = False

# grad-cam's imputer hands a tensor to NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")


def photos(n=3, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def elements(*boxes, size=16):
    """Elements that fill their boxes."""
    masks = [box_region([box], (size, size)) for box in boxes]
    stacked = np.array(masks, dtype=bool).reshape(-1, size, size)
    return Elements(stacked, np.array(boxes, dtype=np.int64).reshape(-1, 4), pd.DataFrame())


KEPT = [elements((1, 1, 6, 7), (2, 2, 9, 5), (8, 8, 15, 12)), elements(), elements(TARGET)]


def convolutional():
    """A small network with seeded weights, whose prediction varies with what is hidden."""
    torch.manual_seed(13)
    first = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()
    second = nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    network = nn.Sequential(*first, *second, nn.Dropout(0.5), nn.Linear(8, 3))
    for layer in (network[0], network[3], network[-1]):
        nn.init.normal_(layer.weight, std=0.5)
    return network.eval()


def oracle(images):
    """Two classes: the first wins where the target rectangle is brighter than 0.7 on average."""
    x0, y0, x1, y1 = TARGET
    brightness = images[:, :, y0:y1, x0:x1].mean(dim=(1, 2, 3))
    logit = 10 * (brightness - 0.7)
    return torch.stack([logit, torch.zeros_like(logit)], dim=1)


def batch_sizes(classify):
    """Sizes of the batches that a mock has been given."""
    return [len(call.args[0]) for call in classify.call_args_list]


def log_sigmoid(logit):
    return -np.log1p(np.exp(-logit))


@pytest.mark.parametrize(
    ("fill", "colour"),
    [("mean", IMAGENET_MEAN), ("black", (0, 0, 0)), ((0.2, 0.4, 0.6), (0.2, 0.4, 0.6))],
)
def test_constant_fills_by_hand(fill, colour):
    image = torch.full((1, 3, 2, 2), 0.9)
    region = np.array([[[True, False], [False, False]]])
    deleted, inserted = (ablate(image, region, mode, fill)[0] for mode in MODES)
    # Exactly: the mean is zero once normalised.
    for channel, value in enumerate(colour):
        assert torch.equal(deleted[channel], torch.tensor([[value, 0.9], [0.9, 0.9]]))
        assert torch.equal(inserted[channel], torch.tensor([[0.9, value], [value, value]]))


@pytest.mark.parametrize("fill", [*FILLS, (0.2, 0.4, 0.6)])
@pytest.mark.parametrize("mode", MODES)
def test_pixels_that_stay_are_untouched_and_the_batch_plays_no_part(fill, mode):
    images, donors = photos(seed=1), photos(seed=2)
    result = ablate(images, SCATTERED, mode, fill, donors=donors)
    stays = torch.from_numpy(~SCATTERED if mode == "deletion" else SCATTERED)
    stays = stays[:, None].expand_as(images)
    assert torch.equal(result[stays], images[stays])
    assert (result[~stays] != images[~stays]).float().mean() > 0.99
    assert result.min() >= 0
    assert result.max() <= 1
    for index in range(3):
        one = slice(index, index + 1)
        alone = ablate(images[one], SCATTERED[one], mode, fill, donors=donors[one])
        assert torch.equal(alone[0], result[index])


def test_deletion_and_insertion_add_up_to_image_plus_fill():
    images, donors = photos(seed=1), photos(seed=2)
    both = sum(ablate(images, SCATTERED, mode, "donor", donors=donors) for mode in MODES)
    torch.testing.assert_close(both, images + donors)


def test_blur_is_a_gaussian_of_a_twentieth_of_the_side():
    image = photos(1, size=40)
    blurred = ablate(image, np.ones((1, 40, 40), bool), "deletion", "blur")
    # SciPy's "mirror" is what torch calls "reflect"; truncate gives the same radius 6.
    expected = gaussian_filter(image.numpy(), (0, 0, 2, 2), mode="mirror", truncate=3.0)
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_noise_has_the_moments_of_imagenet_and_comes_from_the_generator_only():
    def noise(seed):
        generator, everything = torch.Generator().manual_seed(seed), np.ones((1, 96, 96), bool)
        return ablate(photos(1, size=96), everything, "deletion", "noise", generator=generator)

    first = noise(1)
    torch.manual_seed(5)
    assert torch.equal(first, noise(1))
    assert not torch.equal(first, noise(2))
    # Clipping at 0 and 1, two deviations away, costs little.
    np.testing.assert_allclose(first.mean(dim=(0, 2, 3)), IMAGENET_MEAN, atol=0.02)
    np.testing.assert_allclose(first.std(dim=(0, 2, 3)), IMAGENET_STD, atol=0.02)


def test_road_continues_a_ramp_up_to_its_noise():
    # A linear ramp solves the imputer's equations exactly: what is missing must come back.
    ramp = torch.linspace(0.2, 0.8, 24)[None, None, :, None].expand(1, 3, 24, 24).contiguous()
    region = box_region([[6, 8, 18, 20]], (24, 24))
    missing, before = torch.from_numpy(region), torch.get_rng_state()
    error = (ablate(ramp, region[None], "deletion", "road") - ramp)[0, :, missing]
    assert torch.equal(before, torch.get_rng_state())
    assert error.std() == pytest.approx(0.01, rel=0.2)
    assert error.abs().max() < 0.05
    smooth = NoisyLinearImputer(noise=0)(ramp[0] ** 3, (~missing).float())
    error = (ablate(ramp**3, region[None], "deletion", "road")[0] - smooth)[:, missing]
    noise = torch.randn(ramp[0].shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(error, 0.01 * noise[:, missing], atol=1e-6, rtol=0)
    # Nothing left to impute from: the mean colour.
    blank = ablate(ramp, region[None] & False, "insertion", "road")
    np.testing.assert_allclose(blank[0, :, 3, 3], IMAGENET_MEAN, rtol=1e-6)


LAYOUTS = {
    "one": [[3, 5, 60, 44]],
    "spread": [[0, 0, 20, 20], [30, 30, 60, 70], [70, 5, 95, 20], [5, 70, 40, 95]],
    "concentric": [[5 * i, 5 * i, 100 - 5 * i, 100 - 5 * i] for i in range(1, 7)],
    "identical pair": [[10, 10, 60, 60]] * 2,
    "large with details": [[5, 5, 90, 60], *([10 * i, 20, 10 * i + 8, 28] for i in range(2, 8))],
    "tiles": [[12 * x, 12 * y, 12 * x + 12, 12 * y + 12] for x in range(4) for y in range(4)],
    "halves": [[0, 0, 100, 50], [0, 50, 100, 100]],
    "crossing bands": [[0, 10, 100, 25], [0, 60, 100, 70], [10, 0, 30, 100], [15, 0, 35, 100]],
    "whole image": [[0, 0, 100, 100], [10, 10, 40, 40]],
}


def drawn_and_gap(boxes, shape, seed, tolerance=0.01):
    """Random boxes for some, which keep their sizes, and the difference of the two coverages."""
    drawn = random_boxes(boxes, shape, np.random.default_rng(seed), tolerance)
    np.testing.assert_array_equal(drawn[:, 2:] - drawn[:, :2], boxes[:, 2:] - boxes[:, :2])
    return drawn, abs(box_region(drawn, shape).mean() - box_region(boxes, shape).mean())


@pytest.mark.parametrize("boxes", LAYOUTS.values(), ids=LAYOUTS)
def test_random_boxes_match_the_coverage_of_the_union_as_nearly_as_asked(boxes):
    def gap(seed, tolerance=0.01):
        return drawn_and_gap(np.array(boxes), (100, 100), seed, tolerance)[1]

    assert max(gap(seed) for seed in range(20)) <= 0.01 + 1e-9
    # The search goes on from where a wider tolerance stops, and never away from the target.
    for seed in range(5):
        assert gap(seed, 0) <= gap(seed, 0.001) <= gap(seed) <= gap(seed, 1)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 7), st.integers(8, 60), st.integers(8, 60), st.integers(0, 2**32 - 1))
def test_random_boxes_keep_sizes_and_stay_inside(n, height, width, seed):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (width, height), (n, 2))
    boxes = np.hstack([corners, rng.integers(corners, (width, height)) + 1])
    drawn, gap = drawn_and_gap(boxes, (height, width), seed)
    assert (drawn[:, :2] >= 0).all()
    assert (drawn[:, 2:] <= [width, height]).all()
    np.testing.assert_array_equal(drawn, drawn_and_gap(boxes, (height, width), seed)[0])
    # Moves only ever bring the coverage nearer than the uniform draw, which is what an infinite
    # tolerance returns.
    assert gap <= drawn_and_gap(boxes, (height, width), seed, tolerance=1.0)[1]


def test_one_random_box_lies_anywhere_equally_often():
    # A 3 × 2 box has 4 · 5 = 20 places in a 6 × 6 image.
    rng = np.random.default_rng(0)
    drawn = [tuple(random_boxes([[0, 0, 3, 2]], (6, 6), rng)[0]) for _ in range(4000)]
    places, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(places) == 20
    # 200 expected in each; chi-square with 19 degrees of freedom exceeds 43.8 once in 1,000.
    assert ((counts - 200) ** 2 / 200).sum() < 43.8


def test_random_regions_depend_on_seed_image_and_repeat_only():
    kept = elements((1, 1, 6, 7), (2, 2, 9, 5))
    drawn = random_regions(kept, "a", seed=1, repeats=4)
    assert drawn.shape == (4, 2, 4)
    np.testing.assert_array_equal(drawn[:2], random_regions(kept, "a", seed=1, repeats=2))
    different = [drawn[1], random_regions(kept, "b", 1)[0], random_regions(kept, "a", 2)[0]]
    assert all((drawn[0] != other).any() for other in different)
    assert random_regions(elements(), "a", repeats=3).shape == (3, 0, 4)


@given(st.integers(0, 7), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_boxes_are_taken_up_to_a_coverage_as_by_brute_force(n, coverage, seed):
    rng, shape, tolerance = np.random.default_rng(seed), (20, 25), 0.02
    corners = rng.integers(0, (25, 20), (n, 2))
    boxes = np.hstack([corners, rng.integers(corners, (25, 20)) + 1])
    expected = []
    for box in boxes:
        if box_region(expected, shape).mean() >= coverage - tolerance - 1e-8:
            break
        if box_region([*expected, box], shape).mean() <= coverage + tolerance + 1e-8:
            expected.append(box)
    taken = boxes[boxes_up_to(boxes, shape, coverage, tolerance)]
    np.testing.assert_array_equal(taken, np.array(expected, int).reshape(-1, 4))
    reached = box_region(taken, shape).mean()
    assert reached <= coverage + tolerance + 1e-8
    if reached < coverage - tolerance - 1e-8:  # no other box fits
        more = [box_region([*taken, box], shape).mean() for box in boxes]
        assert all(share == reached or share > coverage + tolerance for share in more)


def test_an_oracle_that_reads_one_rectangle():
    target, kept = box_region([TARGET], (16, 16)), elements(TARGET)
    image = torch.full((1, 3, 16, 16), 0.3)
    image[..., torch.from_numpy(target)] = 1.0
    table = faithfulness(oracle, image, [0], [kept], image_ids=["a"], repeats=20, seed=3, **FP32)
    layouts = random_regions(kept, "a", 3, 20)
    shares = np.array([box_region(boxes, (16, 16))[target].mean() for boxes in layouts])
    shown = {  # share of the rectangle that still shows; the fill hides the rest
        ("original", "original"): np.ones(1),
        **{("deletion", region): np.zeros(1) for region in ("guided", "element")},
        **{("insertion", region): np.ones(1) for region in ("guided", "element")},
        ("deletion", "random"): 1 - shares,
        ("insertion", "random"): shares,
    }
    groups = table.sort_values("repeat").groupby(["test", "region"])
    assert groups.ngroups == len(shown)
    for key, share in shown.items():
        rows = groups.get_group(key)
        logits = 10 * (share + (1 - share) * np.mean(IMAGENET_MEAN) - 0.7)
        np.testing.assert_allclose(rows["log_probability"], log_sigmoid(logits), atol=1e-5)
        np.testing.assert_array_equal(rows["correct"], logits > 0)
    right = groups["correct"].mean()
    assert right["insertion", "random"] < 0.5 < right["deletion", "random"]


OUTCOME = ["coverage", "log_probability", "probability", "prediction", "correct", "agrees"]


def naive(classifier, images, labels, fill, donors, seed, repeats):
    """Every row of the table by one call of ablate and one forward pass each."""
    for index, (image_id, label) in enumerate(labels.items()):
        kept, one, donor = KEPT[index], images[[index]], donors[[index]]
        original = classifier(one).argmax().item()
        regions = {("original", 0, -1): kept.region() & False, ("guided", 0, -1): kept.region()}
        for repeat, boxes in enumerate(random_regions(kept, image_id, seed, repeats)):
            regions["random", repeat, -1] = box_region(boxes, kept.shape)
        for number, box in enumerate(kept.boxes):
            regions["element", 0, number] = box_region([box], kept.shape)
        for (region, repeat, number), mask in regions.items():
            for test in ("original",) if region == "original" else MODES:
                mode = "deletion" if test == "original" else test
                variant = ablate(one, mask[None], mode, fill, donors=donor)
                values = classifier(variant).double().log_softmax(dim=1)[0].detach().numpy()
                value, best = values[label], values.argmax()
                outcome = mask.mean(), value, np.exp(value), best, best == label, best == original
                yield image_id, test, region, repeat, number, *outcome


@pytest.mark.parametrize("fill", ["mean", "black", "blur", "donor", (0.2, 0.4, 0.6)])
def test_table_agrees_with_one_forward_pass_at_a_time(fill):
    network, images, donors = convolutional(), photos(), photos(seed=7)
    labels = {"a": 0, "b": 1, "c": 2}
    table = faithfulness(
        *(network, images, list(labels.values()), KEPT),
        **{"image_ids": list(labels), "fill": fill, "donors": donors, "repeats": 3, "seed": 5},
        **FP32,
    )
    rows = naive(network, images, labels, fill, donors, 5, 3)
    expected = pd.DataFrame(rows, columns=[*KEYS, *OUTCOME]).sort_values(KEYS, ignore_index=True)
    found = table[expected.columns].sort_values(KEYS, ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("fill", ["mean", "noise", "road"])
def test_batch_size_and_order_of_images_change_nothing(fill):
    network, images, ids = convolutional(), photos(), np.array(["a", "b", "c"])

    def one_by_one(batch):
        # Convolutions round differently in batches of different sizes; this network does not.
        return torch.cat([network(image[None]) for image in batch])

    def table(order, batch_size):
        result = faithfulness(
            *(one_by_one, images[order], np.array([0, 1, 2])[order], [KEPT[i] for i in order]),
            **{"image_ids": ids[order].tolist(), "fill": fill, "repeats": 2, **FP32},
            batch_size=batch_size,
        )
        return result.sort_values(KEYS, ignore_index=True)

    reference = table([0, 1, 2], 64)
    torch.manual_seed(11)
    for order, batch_size in (([2, 0, 1], 64), ([0, 1, 2], 1), ([1, 2, 0], 5), ([0, 1, 2], 64)):
        pd.testing.assert_frame_equal(table(order, batch_size), reference, check_exact=True)


def test_columns_gaps_and_names():
    table = faithfulness(
        *(oracle, photos(), [0, 1, 1], KEPT),
        **{"dataset": "d", "attribution": "m", "segmenter": "s", "fill": (1, 0, 0.5), **FP32},
    )
    assert list(table.columns) == list(COLUMNS)
    named = table[["dataset", "attribution", "segmenter", "fill"]].drop_duplicates()
    assert named.to_numpy().tolist() == [["d", "m", "s", "#ff0080"]]
    # Three elements: guided 1, random 10, element 3 for each test, and the original once.
    expected = {("original", "original"): 1}
    for test in MODES:
        expected |= {(test, "guided"): 1, (test, "random"): 10, (test, "element"): 3}
    assert table[table["image_id"] == "0"].groupby(["test", "region"]).size().to_dict() == expected
    assert table.groupby("image_id")["n_elements"].unique().explode().tolist() == [3, 0, 1]
    for image_id, rows in table.groupby("image_id"):
        guided = KEPT[int(image_id)].coverage
        random = rows[rows["region"] == "random"]
        np.testing.assert_allclose(random["coverage_gap"], random["coverage"] - guided)
        assert (random["coverage_gap"].abs() <= 0.01 + 1e-9).all()
        assert (rows.loc[rows["region"] == "guided", "coverage"] == guided).all()


def test_an_image_without_elements_stays_in():
    table = faithfulness(oracle, photos(1), [1], [elements()], repeats=2, **FP32)
    expected = {("original", "original"): 1}
    for test in MODES:
        expected |= {(test, "guided"): 1, (test, "random"): 2}
    assert table.groupby(["test", "region"]).size().to_dict() == expected
    values = table.set_index("test")["log_probability"]
    assert (values["deletion"] == values["original"]).all()
    # All fill: the oracle sees the mean colour.
    blank = log_sigmoid(-10 * (np.mean(IMAGENET_MEAN) - 0.7))
    np.testing.assert_allclose(values["insertion"], blank, atol=1e-5)
    assert (table[["coverage", "n_elements"]] == 0).all(axis=None)


def test_forward_passes_are_full_across_images_and_none_is_done_twice():
    # One element: the original, and deletion and insertion of the guided box (the element alone
    # is the same) and of each random box that is new. No element: the original, and all fill.
    kept = [elements(TARGET), elements(), elements((0, 0, 5, 4))]
    classify, expected = Mock(wraps=oracle), 2
    for index in (0, 2):
        layouts = [kept[index].boxes, *random_regions(kept[index], str(index))]
        expected += 1 + 2 * len({boxes.tobytes() for boxes in layouts})
    faithfulness(classify, photos(), [0, 0, 0], kept, batch_size=8, **FP32)
    sizes = batch_sizes(classify)
    assert sum(sizes) == expected
    assert sizes[:-1] == [8] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= 8


def test_what_choices_of_elements_share_is_forwarded_once():
    shared, alone = Mock(wraps=oracle), Mock(wraps=oracle)
    choices = [KEPT, [elements(TARGET), elements(), elements(TARGET)], KEPT]
    more = {"repeats": 2, "seed": 5, **FP32}
    tables = sweep(shared, photos(), [0, 1, 1], choices, **more)
    for kept, table in zip(choices, tables, strict=True):
        expected = faithfulness(alone, photos(), [0, 1, 1], kept, **more)
        pd.testing.assert_frame_equal(table, expected)
    # The third choice is the first again, and the third image has the same elements in all.
    assert sum(batch_sizes(shared)) < sum(batch_sizes(alone)) / 1.5


def test_missing_labels_take_the_original_prediction():
    bright = torch.stack([torch.full((3, 16, 16), value) for value in (1.0, 0.0, 1.0)])
    for labels, taken in ((None, [0, 1, 0]), ([1, None, None], [1, 1, 0])):
        table = faithfulness(oracle, bright, labels, [elements(TARGET)] * 3, repeats=2, **FP32)
        assert table.groupby("image_id")["label"].unique().explode().tolist() == taken
        taken_over = table["label"] == table["image_id"].map({"0": 0, "1": 1, "2": 0})
        assert (table["correct"] == table["agrees"])[taken_over].all()
        original = table[table["test"] == "original"]
        assert (original["correct"] == taken_over[original.index]).all()
        assert original["agrees"].all()


def test_controls_are_further_baselines():
    kept = [elements(TARGET)]
    shifted = np.stack([np.roll(kept[0].region(), step, axis=(0, 1)) for step in (1, 4, 7, 10)])
    more = {"controls": {"torus": [shifted]}, "tests": ["deletion"], **FP32}
    table = faithfulness(oracle, photos(1), [0], kept, **more)
    rows = table[table["region"] == "torus"]
    assert rows["repeat"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(rows["coverage"], kept[0].coverage)
    variants = ablate(photos(1).expand(4, -1, -1, -1), shifted, "deletion")
    expected = oracle(variants).double().log_softmax(dim=1)[:, 0]
    np.testing.assert_allclose(rows["log_probability"], expected, atol=1e-5)
    assert set(table["test"]) == {"original", "deletion"}


def test_a_module_in_training_mode_is_evaluated_and_given_back_as_it_was():
    network, tables = convolutional(), []
    for training in (True, False):
        network.train(training)
        tables.append(faithfulness(network, photos(), [0, 1, 2], KEPT, repeats=2, **FP32))
        assert network.training == training
        assert network[1].num_batches_tracked == 0
    pd.testing.assert_frame_equal(*tables)


def test_no_image_gives_an_empty_table_that_fits_the_others():
    empty = faithfulness(oracle, torch.zeros(0, 3, 16, 16), [], [])
    full = faithfulness(oracle, photos(1), [0], [elements()])
    assert len(empty) == 0
    assert pd.concat([empty, full]).dtypes.equals(full.dtypes)


NONE = np.zeros((3, 16, 16), bool)
GOOD = {
    ablate: {"images": photos(), "regions": NONE, "mode": "deletion"},
    faithfulness: {"classifier": oracle, "images": photos(), "labels": None, "elements": KEPT},
    random_boxes: {"boxes": [[0, 0, 2, 2]], "shape": (4, 4), "rng": np.random.default_rng(0)},
}


@pytest.mark.parametrize(
    ("function", "change", "error", "message"),
    [
        (ablate, {"mode": "delete"}, ValueError, "known: deletion, insertion"),
        (ablate, {"fill": "grey"}, ValueError, "known: mean, black, blur"),
        (ablate, {"fill": (9, 0, 0)}, ValueError, "3 values in 0…1"),
        (ablate, {"fill": "donor"}, ValueError, "donors is None"),
        (ablate, {"images": photos() * 255}, ValueError, "images spans .* not normal"),
        (ablate, {"images": photos() * np.nan}, ValueError, "images spans nan"),
        (ablate, {"images": photos().byte()}, TypeError, "images is torch.uint8"),
        (ablate, {"images": photos()[0]}, ValueError, r"images has shape \(3, 16, 16"),
        (ablate, {"regions": NONE[0]}, ValueError, r"expected \[3, 16, 16\]"),
        (ablate, {"regions": NONE * 1}, TypeError, "regions has dtype torch.int64"),
        (faithfulness, {"labels": [0]}, ValueError, "labels has 1 entries for 3"),
        (faithfulness, {"labels": [0, 2, 1]}, ValueError, "labels holds 2; .* classes 0…1"),
        (faithfulness, {"labels": [0, -3, 1]}, ValueError, "labels holds -3"),
        (faithfulness, {"elements": KEPT[:2]}, ValueError, "elements has 2 entries"),
        (faithfulness, {"elements": [elements(size=8)] * 3}, ValueError, r"extracted at \(8, 8\)"),
        (faithfulness, {"image_ids": ["a", "b", "a"]}, ValueError, "image_ids has duplicates"),
        (faithfulness, {"tests": ["keep"]}, ValueError, "tests='keep' is unknown; known: deletion"),
        (faithfulness, {"classifier": lambda x: oracle(x) * np.nan}, ValueError, "NaN .* weights"),
        (faithfulness, {"precision": "half"}, ValueError, "precision='half'"),
        (faithfulness, {"controls": {"guided": NONE[:, None]}}, ValueError, "has 'guided'"),
        (
            *(faithfulness, {"controls": {"torus": NONE}}, ValueError),
            r"controls\['torus'\]\[0\] is bool \(16, 16\); expected bool \[R,16,16\]",
        ),
        (faithfulness, {"batch_size": 0}, ValueError, "batch_size=0"),
        (random_boxes, {"rng": 0}, TypeError, "rng is int"),
        (random_boxes, {"boxes": [[0, 0, 5, 2]]}, ValueError, "leaves the image"),
        (random_boxes, {"boxes": [[0, 0, 0, 2]]}, ValueError, "empty box"),
        (random_boxes, {"boxes": [[0.5, 0, 2, 2]]}, ValueError, r"expected int \[M,4\]"),
        (random_boxes, {"tolerance": -1}, ValueError, "tolerance=-1"),
    ],
)
def test_wrong_input_is_named(function, change, error, message):
    with pytest.raises(error, match=message):
        function(**{**GOOD[function], **change})
