"""Ablation: fills and boxes by hand, oracle models whose outcomes are known in closed form."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy.ndimage import gaussian_filter

from geolib.ablation import (
    COLUMNS,
    FILLS,
    ablate,
    faithfulness,
    random_boxes,
    random_regions,
    sweep,
)
from geolib.masks import box_region
from geolib.model.classifier import IMAGENET_MEAN, IMAGENET_STD
from geolib.scoring import Elements

FP32 = {"precision": "fp32"}

# grad-cam's imputer hands a tensor to NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")


def photos(n=3, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def coverage(boxes, shape):
    return box_region(boxes, shape).mean()


def elements(*boxes, size=16):
    """Elements that fill their boxes."""
    masks = [box_region([box], (size, size)) for box in boxes]
    stacked = np.stack(masks) if masks else np.zeros((0, size, size), bool)
    return Elements(stacked, np.array(boxes, dtype=np.int64).reshape(-1, 4), pd.DataFrame())


class Convolutional(torch.nn.Sequential):
    """A small network with seeded weights, for tests of invariance."""

    def __init__(self, classes=3):
        super().__init__(
            torch.nn.Conv2d(3, 8, 3, stride=2),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(8, classes),
        )
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)


# --- fills -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fill", "colour"),
    [("mean", IMAGENET_MEAN), ("black", (0, 0, 0)), ((0.2, 0.4, 0.6), (0.2, 0.4, 0.6))],
)
def test_constant_fills_by_hand(fill, colour):
    image = torch.full((1, 3, 2, 2), 0.9)
    region = np.array([[[True, False], [False, False]]])
    deleted, inserted = (ablate(image, region, m, fill)[0] for m in ("deletion", "insertion"))
    for channel, value in enumerate(colour):
        expected = torch.tensor([[value, 0.9], [0.9, 0.9]])
        torch.testing.assert_close(deleted[channel], expected)
        expected = torch.tensor([[0.9, value], [value, value]])
        torch.testing.assert_close(inserted[channel], expected)


def test_mean_fill_is_zero_once_normalised():
    filled = ablate(photos(), np.ones((3, 16, 16), bool), "deletion")
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    assert ((filled - mean) / std).abs().max() == 0


@pytest.mark.parametrize("fill", [*FILLS, (0.2, 0.4, 0.6)])
@pytest.mark.parametrize("mode", ["deletion", "insertion"])
def test_pixels_that_stay_are_untouched_and_the_batch_plays_no_part(fill, mode):
    images, donors = photos(seed=1), photos(seed=2)
    regions = np.random.default_rng(0).random((3, 16, 16)) < 0.3
    regions[1] = False
    result = ablate(images, regions, mode, fill, donors=donors)
    stays = torch.from_numpy(~regions if mode == "deletion" else regions)
    stays = stays[:, None].expand_as(images)
    assert torch.equal(result[stays], images[stays])
    assert (result[~stays] != images[~stays]).float().mean() > 0.99
    assert result.min() >= 0
    assert result.max() <= 1
    for index in range(3):
        one = slice(index, index + 1)
        alone = ablate(images[one], regions[one], mode, fill, donors=donors[one])
        assert torch.equal(alone[0], result[index])


def test_deletion_and_insertion_add_up_to_image_plus_fill():
    images, donors = photos(seed=1), photos(seed=2)
    regions = np.random.default_rng(0).random((3, 16, 16)) < 0.3
    both = ablate(images, regions, "deletion", "donor", donors=donors)
    both += ablate(images, regions, "insertion", "donor", donors=donors)
    torch.testing.assert_close(both, images + donors)


def test_blur_is_a_gaussian_of_a_twentieth_of_the_side():
    image = photos(1, size=40)
    blurred = ablate(image, np.ones((1, 40, 40), bool), "deletion", "blur")
    for channel in range(3):
        # SciPy's "mirror" is what torch calls "reflect"; truncate gives the same radius 6.
        expected = gaussian_filter(image[0, channel].numpy(), 2.0, mode="mirror", truncate=3.0)
        np.testing.assert_allclose(blurred[0, channel], expected, atol=1e-5)


def test_noise_has_the_moments_of_imagenet_and_comes_from_the_generator_only():
    image, everything = photos(1, size=96), np.ones((1, 96, 96), bool)

    def noise(seed):
        generator = torch.Generator().manual_seed(seed)
        return ablate(image, everything, "deletion", "noise", generator=generator)

    before = torch.get_rng_state()
    first = noise(1)
    torch.manual_seed(5)
    assert torch.equal(first, noise(1))
    assert not torch.equal(first, noise(2))
    # Clipping at 0 and 1, two deviations away, costs little.
    np.testing.assert_allclose(first.mean(dim=(0, 2, 3)), IMAGENET_MEAN, atol=0.02)
    np.testing.assert_allclose(first.std(dim=(0, 2, 3)), IMAGENET_STD, atol=0.02)
    torch.set_rng_state(before)


def test_road_continues_a_ramp_up_to_its_noise():
    # A linear ramp solves the imputer's equations exactly: what is missing must come back.
    ramp = torch.linspace(0.2, 0.8, 24)[None, None, :, None].expand(1, 3, 24, 24).contiguous()
    region = box_region([[6, 8, 18, 20]], (24, 24))
    before = torch.get_rng_state()
    imputed = ablate(ramp, region[None], "deletion", "road")
    assert torch.equal(before, torch.get_rng_state())
    error = (imputed - ramp)[0, :, torch.from_numpy(region)]
    assert error.std() == pytest.approx(0.01, rel=0.2)
    assert error.abs().max() < 0.05
    smooth = NoisyLinearImputer(noise=0)(ramp[0] ** 3, torch.from_numpy(~region).float())
    imputed = ablate(ramp**3, region[None], "deletion", "road")[0]
    error = (imputed - smooth)[:, torch.from_numpy(region)]
    noise = torch.randn(ramp[0].shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(error, 0.01 * noise[:, torch.from_numpy(region)], atol=1e-6, rtol=0)
    # Nothing left to impute from: the mean colour.
    blank = ablate(ramp, region[None] & False, "insertion", "road")
    np.testing.assert_allclose(blank[0, :, 3, 3], IMAGENET_MEAN, rtol=1e-6)


# --- random boxes ----------------------------------------------------------------------------

LAYOUTS = {
    "one": [[3, 5, 60, 44]],
    "spread": [[0, 0, 20, 20], [30, 30, 60, 70], [70, 5, 95, 20], [5, 70, 40, 95]],
    "concentric": [[5 * i, 5 * i, 100 - 5 * i, 100 - 5 * i] for i in range(1, 7)],
    "identical pair": [[10, 10, 60, 60]] * 2,
    "one large with details": [
        [5, 5, 90, 60],
        *[[10 * i, 20, 10 * i + 8, 28] for i in range(2, 8)],
    ],
    "tiles": [[12 * x, 12 * y, 12 * x + 12, 12 * y + 12] for x in range(4) for y in range(4)],
    "halves": [[0, 0, 100, 50], [0, 50, 100, 100]],
    "crossing bands": [[0, 10, 100, 25], [0, 60, 100, 70], [10, 0, 30, 100], [15, 0, 35, 100]],
    "whole image": [[0, 0, 100, 100], [10, 10, 40, 40]],
}


@pytest.mark.parametrize("boxes", LAYOUTS.values(), ids=LAYOUTS)
def test_random_boxes_match_the_coverage_of_the_union(boxes):
    boxes = np.array(boxes)
    sizes = boxes[:, 2:] - boxes[:, :2]
    for seed in range(20):
        drawn = random_boxes(boxes, (100, 100), np.random.default_rng(seed))
        np.testing.assert_array_equal(drawn[:, 2:] - drawn[:, :2], sizes)
        gap = coverage(drawn, (100, 100)) - coverage(boxes, (100, 100))
        assert abs(gap) <= 0.01 + 1e-9


@pytest.mark.parametrize("boxes", LAYOUTS.values(), ids=LAYOUTS)
def test_a_tolerance_that_cannot_be_met_keeps_the_closest_layout(boxes):
    def gap(seed, tolerance):
        drawn = random_boxes(np.array(boxes), (100, 100), np.random.default_rng(seed), tolerance)
        return abs(coverage(drawn, (100, 100)) - coverage(boxes, (100, 100)))

    # The search goes on from where a wider tolerance stops, and never away from the target.
    for seed in range(5):
        assert gap(seed, 0) <= gap(seed, 0.001) <= gap(seed, 0.01) <= gap(seed, 1)


@st.composite
def layouts(draw):
    height, width = draw(st.integers(8, 60)), draw(st.integers(8, 60))
    boxes = []
    for _ in range(draw(st.integers(0, 7))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
        boxes.append([x0, y0, x1, y1])
    return np.array(boxes, dtype=np.int64).reshape(-1, 4), (height, width)


@settings(deadline=None, max_examples=60)
@given(layouts(), st.integers(0, 1000))
def test_random_boxes_keep_sizes_and_stay_inside(layout, seed):
    boxes, (height, width) = layout
    drawn = random_boxes(boxes, (height, width), np.random.default_rng(seed))
    np.testing.assert_array_equal(drawn[:, 2:] - drawn[:, :2], boxes[:, 2:] - boxes[:, :2])
    assert (drawn[:, :2] >= 0).all()
    assert (drawn[:, 2:] <= [width, height]).all()
    again = random_boxes(boxes, (height, width), np.random.default_rng(seed))
    np.testing.assert_array_equal(drawn, again)
    # Moves only ever bring the coverage nearer than the uniform draw, which is what an infinite
    # tolerance returns.
    first = random_boxes(boxes, (height, width), np.random.default_rng(seed), tolerance=1.0)
    target = coverage(boxes, (height, width))
    gap, first_gap = (abs(coverage(b, (height, width)) - target) for b in (drawn, first))
    assert gap <= first_gap


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


# --- the tests of faithfulness ---------------------------------------------------------------

TARGET = (4, 6, 12, 10)  # what the oracle looks at


def oracle(images):
    """Two classes: the first wins where the target rectangle is brighter than 0.7 on average."""
    x0, y0, x1, y1 = TARGET
    brightness = images[:, :, y0:y1, x0:x1].mean(dim=(1, 2, 3))
    logit = 10 * (brightness - 0.7)
    return torch.stack([logit, torch.zeros_like(logit)], dim=1)


def log_sigmoid(logit):
    return -np.log1p(np.exp(-logit))


def test_an_oracle_that_reads_one_rectangle():
    image = torch.full((1, 3, 16, 16), 0.3)
    x0, y0, x1, y1 = TARGET
    image[:, :, y0:y1, x0:x1] = 1.0
    kept = elements(TARGET)
    table = faithfulness(oracle, image, [0], [kept], image_ids=["a"], repeats=20, seed=3, **FP32)
    fill = np.mean(IMAGENET_MEAN)

    def expected(seen):
        """Logit when a share `seen` of the rectangle still shows and the fill hides the rest."""
        return 10 * (seen * 1.0 + (1 - seen) * fill - 0.7)

    target = box_region([TARGET], (16, 16))
    shares = [
        box_region(boxes, (16, 16))[target].mean() for boxes in random_regions(kept, "a", 3, 20)
    ]
    random = {"deletion": [1 - share for share in shares], "insertion": shares}
    guided = {"deletion": 0.0, "insertion": 1.0}
    for test in ("deletion", "insertion"):
        rows = table[table["test"] == test]
        for region in ("guided", "element"):
            row = rows[rows["region"] == region]
            assert row["log_probability"].item() == pytest.approx(
                log_sigmoid(expected(guided[test])), abs=1e-5
            )
        draws = rows[rows["region"] == "random"].sort_values("repeat")
        logits = expected(np.array(random[test]))
        np.testing.assert_allclose(draws["log_probability"], log_sigmoid(logits), atol=1e-5)
        np.testing.assert_array_equal(draws["correct"], logits > 0)
    by_region = table.set_index(["test", "region"])["correct"]
    assert not by_region["deletion", "guided"].item()
    assert by_region["insertion", "guided"].item()
    assert by_region["deletion", "random"].mean() > 0.5
    assert by_region["insertion", "random"].mean() < 0.5
    assert by_region["original", "original"].item()


def naive(classifier, images, ids, kept, fill, donors, seed, repeats):
    """Every value of the table by one call of ablate and one forward pass each."""
    for index, image_id in enumerate(ids):
        one, shape = images[[index]], kept[index].shape
        donor = None if donors is None else donors[[index]]
        regions = {("guided", 0, -1): kept[index].region()}
        for repeat, boxes in enumerate(random_regions(kept[index], image_id, seed, repeats)):
            regions["random", repeat, -1] = box_region(boxes, shape)
        for number, box in enumerate(kept[index].boxes):
            regions["element", 0, number] = box_region([box], shape)
        for (region, repeat, number), mask in regions.items():
            for test in ("deletion", "insertion"):
                variant = ablate(one, mask[None], test, fill, donors=donor)
                logits = classifier(variant).double().log_softmax(dim=1)[0]
                key = (image_id, test, region, repeat, number)
                yield key, (mask.mean(), logits.detach().numpy())


KEPT = [elements((1, 1, 6, 7), (2, 2, 9, 5), (8, 8, 15, 12)), elements(), elements(TARGET)]


@pytest.mark.parametrize("fill", ["mean", "black", "blur", "donor", (0.2, 0.4, 0.6)])
def test_table_agrees_with_one_forward_pass_at_a_time(fill):
    network, images, donors = Convolutional().eval(), photos(), photos(seed=7)
    ids, labels = ["a", "b", "c"], [0, 1, 2]
    table = faithfulness(
        *(network, images, labels, KEPT),
        **{"image_ids": ids, "fill": fill, "donors": donors, "repeats": 3, "seed": 5, **FP32},
    )
    keys = ["image_id", "test", "region", "repeat", "element"]
    rows = table[table["test"] != "original"].set_index(keys)
    expected = dict(naive(network, images, ids, KEPT, fill, donors, 5, 3))
    assert sorted(rows.index) == sorted(expected)
    for key, (covered, values) in expected.items():
        row = rows.loc[key]
        label = labels[ids.index(key[0])]
        assert row["coverage"] == pytest.approx(covered)
        assert row["log_probability"] == pytest.approx(values[label], abs=1e-5)
        assert row["probability"] == pytest.approx(np.exp(values[label]), abs=1e-5)
        assert row["prediction"] == values.argmax()
        assert row["correct"] == (values.argmax() == label)
    original = table[table["test"] == "original"].set_index("image_id")
    predictions = network(images).argmax(dim=1).tolist()
    assert original.loc[ids, "prediction"].tolist() == predictions
    agrees = (
        rows["prediction"]
        == original["prediction"].reindex(rows.index.get_level_values("image_id")).to_numpy()
    )
    pd.testing.assert_series_equal(rows["agrees"], agrees, check_names=False)


@pytest.mark.parametrize("fill", ["mean", "noise", "road"])
def test_batch_size_and_order_of_images_change_nothing(fill):
    network, images, ids = Convolutional().eval(), photos(), np.array(["a", "b", "c"])

    def one_by_one(batch):
        # Convolutions round differently in batches of different sizes; this network does not.
        return torch.cat([network(image[None]) for image in batch])

    def table(order, batch_size):
        result = faithfulness(
            *(one_by_one, images[order], np.array([0, 1, 2])[order], [KEPT[i] for i in order]),
            **{"image_ids": ids[order].tolist(), "fill": fill, "repeats": 2, **FP32},
            batch_size=batch_size,
        )
        keys = ["image_id", "test", "region", "repeat", "element"]
        return result.sort_values(keys, ignore_index=True)

    reference = table([0, 1, 2], 64)
    for order, batch_size in (([2, 0, 1], 64), ([0, 1, 2], 1), ([1, 2, 0], 5)):
        pd.testing.assert_frame_equal(table(order, batch_size), reference, check_exact=True)
    torch.manual_seed(11)
    pd.testing.assert_frame_equal(table([0, 1, 2], 64), reference, check_exact=True)


def test_columns_gaps_and_names():
    table = faithfulness(
        *(oracle, photos(), [0, 1, 1], KEPT),
        **{"dataset": "d", "attribution": "m", "segmenter": "s", "fill": (1, 0, 0.5), **FP32},
    )
    assert list(table.columns) == list(COLUMNS)
    assert {"d", "m", "s", "#ff0080"} == set(
        table[["dataset", "attribution", "segmenter", "fill"]].iloc[0]
    )
    counts = table.groupby(["image_id", "test", "region"]).size()
    # Three elements: guided 1, random 10, element 3 for each test, and the original once.
    assert counts["0"].to_dict() == {
        **{(test, "guided"): 1 for test in ("deletion", "insertion")},
        **{(test, "random"): 10 for test in ("deletion", "insertion")},
        **{(test, "element"): 3 for test in ("deletion", "insertion")},
        ("original", "original"): 1,
    }
    assert table["n_elements"].groupby(table["image_id"]).first().tolist() == [3, 0, 1]
    for image_id, rows in table.groupby("image_id"):
        guided = KEPT[int(image_id)].coverage
        random = rows[rows["region"] == "random"]
        np.testing.assert_allclose(random["coverage_gap"], random["coverage"] - guided)
        assert (random["coverage_gap"].abs() <= 0.01 + 1e-9).all()
        assert (rows.loc[rows["region"] == "guided", "coverage"] == guided).all()


def test_an_image_without_elements_stays_in():
    table = faithfulness(oracle, photos(1), [1], [elements()], repeats=2, **FP32)
    assert table.groupby(["test", "region"]).size().to_dict() == {
        **{(test, "guided"): 1 for test in ("deletion", "insertion")},
        **{(test, "random"): 2 for test in ("deletion", "insertion")},
        ("original", "original"): 1,
    }
    original = table.loc[table["test"] == "original", "log_probability"].item()
    deletion = table.loc[table["test"] == "deletion", "log_probability"]
    assert (deletion == original).all()
    # All fill: the oracle sees the mean colour.
    blank = log_sigmoid(-10 * (np.mean(IMAGENET_MEAN) - 0.7))
    np.testing.assert_allclose(
        table.loc[table["test"] == "insertion", "log_probability"], blank, atol=1e-5
    )
    assert (table["coverage"] == 0).all()
    assert (table["n_elements"] == 0).all()


def test_forward_passes_are_full_across_images_and_none_is_done_twice():
    sizes = []

    def counting(images):
        sizes.append(len(images))
        return oracle(images)

    # One element: the original, and deletion and insertion of the guided box (the element alone
    # is the same) and of each random box that is new. No element: the original, and all fill.
    kept = [elements(TARGET), elements(), elements((0, 0, 5, 4))]
    expected = 2
    for index in (0, 2):
        layouts = [kept[index].boxes, *random_regions(kept[index], str(index))]
        expected += 1 + 2 * len({boxes.tobytes() for boxes in layouts})
    faithfulness(counting, photos(), [0, 0, 0], kept, batch_size=8, **FP32)
    assert sum(sizes) == expected
    assert sizes[:-1] == [8] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= 8


def test_what_choices_of_elements_share_is_forwarded_once():
    sizes = []

    def counting(images):
        sizes.append(len(images))
        return oracle(images)

    choices = [KEPT, [elements(TARGET), elements(), elements(TARGET)], KEPT]
    settings = {"repeats": 2, "seed": 5, **FP32}
    tables = sweep(counting, photos(), [0, 1, 1], choices, **settings)
    shared = sum(sizes)
    alone = [faithfulness(counting, photos(), [0, 1, 1], kept, **settings) for kept in choices]
    for one, other in zip(tables, alone, strict=True):
        pd.testing.assert_frame_equal(one, other)
    # The third choice is the first again, and the third image has the same elements in all.
    assert shared < (sum(sizes) - shared) / 1.5


def test_missing_labels_take_the_original_prediction():
    bright = torch.stack([torch.full((3, 16, 16), value) for value in (1.0, 0.0, 1.0)])
    kept = [elements(TARGET)] * 3
    table = faithfulness(oracle, bright, None, kept, repeats=2, **FP32)
    assert table.groupby("image_id")["label"].unique().explode().tolist() == [0, 1, 0]
    assert (table["correct"] == table["agrees"]).all()
    table = faithfulness(oracle, bright, [1, None, None], kept, repeats=2, **FP32)
    assert table.groupby("image_id")["label"].unique().explode().tolist() == [1, 1, 0]
    original = table[table["test"] == "original"]
    assert original["correct"].tolist() == [False, True, True]
    assert original["agrees"].all()


def test_controls_are_further_baselines():
    kept = [elements(TARGET)]
    shifted = np.stack([np.roll(kept[0].region(), step, axis=(0, 1)) for step in (1, 4, 7, 10)])
    table = faithfulness(
        oracle, photos(1), [0], kept, controls={"torus": [shifted]}, tests=["deletion"], **FP32
    )
    rows = table[table["region"] == "torus"]
    assert rows["repeat"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(rows["coverage"], kept[0].coverage)
    for mask, value in zip(shifted, rows["log_probability"], strict=True):
        logits = oracle(ablate(photos(1), mask[None], "deletion")).double().log_softmax(dim=1)
        assert value == pytest.approx(logits[0, 0].item(), abs=1e-5)
    assert set(table["test"]) == {"original", "deletion"}


def test_a_module_in_training_mode_is_evaluated_and_given_back_as_it_was():
    network = Convolutional()
    assert network.training
    first = faithfulness(network, photos(), [0, 1, 2], KEPT, repeats=2, **FP32)
    assert network.training
    assert network[1].num_batches_tracked == 0
    network.eval()
    second = faithfulness(network, photos(), [0, 1, 2], KEPT, repeats=2, **FP32)
    assert not network.training
    pd.testing.assert_frame_equal(first, second)


def test_no_image_gives_an_empty_table_that_fits_the_others():
    empty = faithfulness(oracle, torch.zeros(0, 3, 16, 16), [], [])
    full = faithfulness(oracle, photos(1), [0], [elements()])
    assert len(empty) == 0
    assert pd.concat([empty, full]).dtypes.equals(full.dtypes)


# --- wrong input -----------------------------------------------------------------------------

REGIONS = np.zeros((3, 16, 16), bool)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mode": "delete"}, ValueError, "known: deletion, insertion"),
        ({"fill": "grey"}, ValueError, "known: mean, black, blur"),
        ({"fill": (9, 0, 0)}, ValueError, "3 values in 0…1"),
        ({"fill": "donor"}, ValueError, "donors is None"),
        ({"images": photos() * 255}, ValueError, "images spans .* not normal"),
        ({"images": photos() * np.nan}, ValueError, "images spans nan"),
        ({"images": photos().byte()}, TypeError, "images is torch.uint8"),
        ({"images": photos()[0]}, ValueError, r"images has shape \(3, 16, 16"),
        ({"regions": REGIONS[0]}, ValueError, r"expected \[3, 16, 16\]"),
        ({"regions": REGIONS * 1}, TypeError, "regions has dtype torch.int64"),
    ],
)
def test_wrong_input_of_ablate_is_named(change, error, message):
    with pytest.raises(error, match=message):
        ablate(**{"images": photos(), "regions": REGIONS, "mode": "deletion", **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0]}, "labels has 1 entries for 3"),
        ({"labels": [0, 2, 1]}, "labels holds 2; the classifier has classes 0…1"),
        ({"labels": [0, -3, 1]}, "labels holds -3"),
        ({"elements": KEPT[:2]}, "elements has 2 entries"),
        ({"elements": [elements(size=8)] * 3}, r"extracted at \(8, 8\)"),
        ({"image_ids": ["a", "b", "a"]}, "image_ids has duplicates"),
        ({"tests": ["keep"]}, "tests='keep' is unknown; known: deletion, insertion"),
        ({"classifier": lambda x: oracle(x) * np.nan}, "NaN or infinite logits; check its weights"),
        ({"precision": "half"}, "precision='half'"),
        ({"controls": {"guided": REGIONS[:, None]}}, "controls has 'guided'"),
        (
            {"controls": {"torus": REGIONS}},
            r"controls\['torus'\]\[0\] is bool \(16, 16\); expected bool \[R,16,16\]",
        ),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_input_of_faithfulness_is_named(change, message):
    good = {"classifier": oracle, "images": photos(), "labels": None, "elements": KEPT}
    with pytest.raises(ValueError, match=message):
        faithfulness(**{**good, **change})


@pytest.mark.parametrize(
    ("box", "more", "error", "message"),
    [
        ([0, 0, 2, 2], {"rng": 0}, TypeError, "rng is int"),
        ([0, 0, 5, 2], {}, ValueError, "leaves the image"),
        ([0, 0, 0, 2], {}, ValueError, "empty box"),
        ([0.5, 0, 2, 2], {}, ValueError, r"expected int \[M,4\]"),
        ([0, 0, 2, 2], {"tolerance": -1}, ValueError, "tolerance=-1"),
    ],
)
def test_wrong_input_of_random_boxes_is_named(box, more, error, message):
    with pytest.raises(error, match=message):
        random_boxes([box], (4, 4), **{"rng": np.random.default_rng(0), **more})
