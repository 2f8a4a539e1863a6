"""The parts of the advantage: oracles that have one part alone, sums, coverages, and wordings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from toys import SIDE, write_photographs

from geolib import data, model, segmentation, statistics
from geolib.ablation import faithfulness
from geolib.chapters import decomposition
from geolib.chapters import faithfulness as chapter
from geolib.chapters.decomposition import BEYOND, PARTS, WHOLE
from geolib.chapters.experiment import Experiment
from geolib.masks import box_region
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.scoring import extract_elements
from geolib.segmentation import Segments

CONFIG = EvaluationConfig(padding=0, repeats=10)
# An image of 8 × 8 cells of 4 × 4 pixels.
CELLS = np.array([(4 * x, 4 * y, 4 * x + 4, 4 * y + 4) for y in range(8) for x in range(8)])
TILES = np.stack([box_region([cell], (32, 32)) for cell in CELLS])
N = 30


class Bright(torch.nn.Module):
    """Class 1 while at least half of so many bright cells shows, within ``where`` [32, 32]."""

    def __init__(self, where, n_cells):
        super().__init__()
        self.where, self.n_cells = torch.from_numpy(where), n_cells

    def forward(self, images):
        bright = (images.mean(1) > 0.9) & self.where
        share = bright.sum((1, 2)) / (16 * self.n_cells)
        return torch.stack([torch.full_like(share, 0.5), share], 1) * 20


def planted(masks, bright, marked, n_kept):
    """Images with some ``bright`` cells and a map of noise that is largest at the ``marked``."""
    rng, found = np.random.default_rng(0), []
    for i in range(N):
        weights = 0.1 + 0.2 * rng.random(64) * masks.any((1, 2))
        weights[marked[i]] = 1
        values = np.tensordot(weights, TILES, 1)
        image = torch.zeros(3, 32, 32) + torch.from_numpy(TILES[bright[i]].any(0)) * 1.0
        kept = extract_elements(
            values, masks[masks.any((1, 2))], 0.2, 0, max_elements=n_kept, padding=0
        )
        one = SimpleNamespace(id=str(i))
        segments = Segments(masks[masks.any((1, 2))])
        found.append(Extracted(one, image, torch.from_numpy(values), segments, kept))
    return found


def decomposed(extracted, network):
    """Mean parts of what a network does, by test and part."""
    untrained = np.random.default_rng(1).random((N, 32, 32))
    further = decomposition.selections(extracted, np.ones(N), untrained, CONFIG)
    table = faithfulness(
        *(network, torch.stack([one.image for one in extracted]), np.ones(N, int)),
        [one.elements for one in extracted],
        image_ids=[one.item.id for one in extracted],
        controls=further,
        individual=False,
        precision="fp32",
    )
    return decomposition.parts(table).groupby(["test", "part"])["value"].mean()


def oracle(kind):
    """Images, and a network that reads a fixed place, what all segments show, or one cell that
    only the map knows."""
    rng, everywhere = np.random.default_rng(2), np.ones((32, 32), bool)
    if kind == "position":
        return planted(TILES, [range(64)] * N, [27] * N, 8), Bright(TILES[27], 1)
    if kind == "map":
        places = rng.integers(64, size=(N, 1))
        return planted(TILES, places, places, 8), Bright(everywhere, 1)
    # Sixteen segments apart from each other; the rest of the image is dark and in no segment.
    things = np.array([y * 8 + x for y in range(0, 8, 2) for x in range(0, 8, 2)])
    masks = TILES & np.isin(np.arange(64), things)[:, None, None]
    return planted(masks, [things] * N, [[]] * N, 10), Bright(everywhere, 16)


@pytest.mark.parametrize("kind", PARTS)
def test_a_network_that_needs_one_thing_gives_that_part_everything(kind):
    both = decomposed(*oracle(kind))
    for test in ("deletion", "insertion"):
        found = both[test]
        assert found[kind] > 0.75
        assert all(abs(found[part]) < 0.15 for part in PARTS if part != kind)
        assert found[WHOLE] == pytest.approx(sum(found[part] for part in PARTS))
        assert found[BEYOND] == pytest.approx(found["position"] + found["map"])


def test_selections_depend_on_no_order_and_blind_ones_on_no_company():
    extracted, _ = oracle("map")
    classes, untrained = np.arange(N) % 2, np.random.default_rng(1).random((N, 32, 32))
    found = decomposition.selections(extracted, classes, untrained, CONFIG)
    back = decomposition.selections(extracted[::-1], classes[::-1], untrained[::-1], CONFIG)
    some = decomposition.selections(extracted[:3], classes[:3], untrained[:3], CONFIG)
    for name, regions in found.items():
        assert [len(one) for one in regions] == [10 if name == "segments" else 1] * N
        for i, region in enumerate(regions):
            np.testing.assert_array_equal(region, back[name][N - 1 - i])
            if i < 3 and name != "prior":
                np.testing.assert_array_equal(region, some[name][i])
    other = CONFIG.model_copy(update={"seed": 1})
    again = decomposition.selections(extracted, classes, untrained, other)["segments"]
    assert all((a != b).any() for a, b in zip(found["segments"], again, strict=True))


def test_blind_draws_take_every_box_equally_often_and_depend_on_their_seed_only():
    def draws(n, coverage=0.25, image_id="a", seed=0):
        several = [
            decomposition.blind(CELLS, (32, 32), coverage, image_id, seed, i) for i in range(n)
        ]
        return np.stack(several)

    drawn = draws(400)
    assert (drawn.mean((1, 2)) == 0.25).all()
    # Each with probability 1/4: 100 in 400, with a standard deviation of 8.7.
    assert (np.abs(drawn[:, ::4, ::4].sum(axis=0) - 100) < 5 * 8.7).all()
    assert (draws(3) == drawn[:3]).all()
    assert all((other != drawn[:3]).any() for other in (draws(3, seed=1), draws(3, image_id="b")))
    assert not draws(2, coverage=0.0).any()


# Of 20, 12 and 10 pixels the last two come nearest to 24.
APART_BOXES = np.array([(0, 0, 5, 4), (6, 0, 10, 3), (0, 6, 5, 8)])


def test_the_nearest_of_several_choices_is_kept():
    drawn = [decomposition.blind(APART_BOXES, (12, 12), 24 / 144, "a", 0, i) for i in range(20)]
    assert sum(region.sum() == 22 for region in drawn) >= 18
    # By rank the first alone would be taken; of larger boxes none.
    assert decomposition.ranked(APART_BOXES, (12, 12), 24 / 144).sum() == 22
    assert decomposition.ranked(APART_BOXES, (12, 12), 31 / 144).sum() == 32
    assert decomposition.ranked(APART_BOXES[:2], (12, 12), 8 / 144).sum() == 0


def test_the_prior_is_the_class_without_the_image_by_hand():
    maps = np.array([1.0, 2, 4, 8])[:, None, None] * np.ones((4, 2, 3))
    for classes, expected in (
        ([0, 0, 0, 1], [3, 2.5, 1.5, 7 / 3]),
        ([0, 1, 0, 1], [14 / 3, 13 / 3, 11 / 3, 7 / 3]),
    ):
        prior = decomposition.prior_maps(maps, np.array(classes))
        np.testing.assert_allclose(prior, np.array(expected)[:, None, None] * np.ones((4, 2, 3)))
    assert not decomposition.prior_maps(maps[:1], np.array([0])).any()  # no other image to learn of


def test_coverage_is_matched_to_a_point_on_scenes():
    scenes, segment = data.load("geoscenes", "eval", 8, size=96), segmentation.load("felzenszwalb")
    rng, extracted = np.random.default_rng(0), []
    for i in range(8):
        item = scenes[i]
        values = np.kron(rng.random((6, 6)), np.ones((16, 16)))
        segments = segment(item.image, item=item)
        kept = extract_elements(values, segments, 0.2, 0.65)
        extracted.append(Extracted(item, None, torch.from_numpy(values), segments, kept))
    config = EvaluationConfig()
    found = decomposition.selections(extracted, np.arange(8) % 3, rng.random((8, 96, 96)), config)
    for regions in found.values():
        gaps = [
            r.mean((1, 2)) - e.elements.coverage for r, e in zip(regions, extracted, strict=True)
        ]
        assert (np.abs(np.concatenate(gaps)) <= 0.01 + 1e-9).mean() >= 0.95


@pytest.mark.usefixtures("own_cache")
def test_parts_of_real_rows_add_up_and_are_found_again(tmp_path, monkeypatch):
    write_photographs(tmp_path, 14)
    network = model.load(
        "timm/resnet10t", weights="random", classes=("blue", "red"), image_size=SIDE, seed=5
    )
    monkeypatch.setattr("geolib.model.load", lambda path: network)
    settings = {"dataset": "folder", "root": str(tmp_path), "image_size": SIDE, "checkpoint": "x"}
    experiment = Experiment(**settings, top_p=0.2, s_min=0.2, repeats=3)
    table = decomposition.outcomes(experiment, "gradcam++", "felzenszwalb")
    rows = table[table["test"] == "insertion"].groupby("region")["image_id"].count()
    n = len(experiment.evaluation)
    assert rows.to_dict() == {r: n * (3 if r in ("random", "segments") else 1) for r in rows.index}
    assert set(rows.index) == {"guided", "random", "segments", "prior", "untrained"}
    assert not table.isna().any(axis=None)
    for metric in ("accuracy", "log_probability"):
        wide = decomposition.parts(table, metric).pivot(
            index=["test", "image_id"], columns="part", values="value"
        )
        advantage = statistics.advantages(table, metric=metric)
        np.testing.assert_allclose(wide[list(PARTS)].sum(axis=1), wide[WHOLE])
        whole = advantage.set_index(["test", "image_id"])["advantage"]
        np.testing.assert_allclose(wide[WHOLE], whole.reindex(wide.index))
    monkeypatch.setattr("geolib.chapters.decomposition.selections", lambda *_: pytest.fail("again"))
    again = decomposition.outcomes(experiment, "gradcam++", "felzenszwalb")
    pd.testing.assert_frame_equal(table, again)
    with pytest.raises(ValueError, match="segmenter='none' makes its segments from the map"):
        decomposition.outcomes(experiment, "gradcam++", "none")


def outcomes(n=80, **shares):
    """Outcomes of a network in which each region does what both tests ask for in a share of the
    images, and of draws in all or none of an image's."""
    rows = []
    for region, share in shares.items():
        for i in range(n):
            for repeat in range(3 if region in ("random", "segments") else 1):
                good = i < round(share * n)
                for test in ("deletion", "insertion"):
                    correct = good == (test == "insertion")
                    rows.append((test, f"{i:03}", region, repeat, correct, -float(not correct)))
    columns = ["test", "image_id", "region", "repeat", "correct", "log_probability"]
    return pd.DataFrame(rows, columns=columns).assign(coverage_gap=0.0, n_elements=1)


SHARES = {"guided": 0.9, "prior": 0.7, "segments": 0.6, "random": 0.25, "untrained": 0.55}
BRING = {"segmenter": 0.35, "position": 0.1, "map": 0.2, WHOLE: 0.65, BEYOND: 0.3}


def test_the_summary_by_hand_over_images_and_over_networks():
    one, other = outcomes(**SHARES), outcomes(**SHARES | {"guided": 0.8})
    alone = decomposition.summary([one]).set_index(["test", "part"])
    both = decomposition.summary([one, other]).set_index(["test", "part"])
    for test in ("deletion", "insertion"):
        assert alone.loc[test]["value"][list(BRING)].to_dict() == pytest.approx(BRING)
        assert both.loc[test, "map"]["value"] == pytest.approx(0.15)
        assert both.loc[test, "segmenter"]["value"] == pytest.approx(0.35)
    assert (alone["low"] < alone["value"]).all() and (alone["value"] < alone["high"]).all()
    # Four images in which the untrained network's choice does worse than all three draws.
    p_values = alone["p_value"].xs(decomposition.UNTRAINED, level="part")
    assert p_values.to_numpy() == pytest.approx(2 / 4**4, abs=0.003)
    values = np.full((80, 4), 0.0)
    values[:72, 0] = 1
    values[:20, 1:] = 1
    found = statistics.against_layouts(values)
    row = alone.loc["insertion", WHOLE]
    assert (row["low"], row["high"], row["p_value"]) == pytest.approx(found[1:4])
    of_networks = np.array(
        [np.repeat([0, 1, 0], [56, 72 - 56, 8]), np.repeat([0, 1, 0], [56, 8, 16])]
    )
    spread, mean = statistics.two_way(of_networks), statistics.paired(of_networks.mean(axis=0))
    widest = min(spread.low, mean.low), max(spread.high, mean.high)
    assert tuple(both.loc["insertion", "map"][["low", "high"]]) == pytest.approx(widest)
    assert (both["networks"] == 2).all() and (both["n"] == 80).all()


def test_the_headline_is_the_whole_of_the_decomposition():
    pair = {"attribution": "gradcam", "segmenter": "grid", "fill": "mean", "coverage": 0.2}
    both = [outcomes(**SHARES | {"guided": share}).assign(**pair) for share in (0.9, 0.8)]
    found = chapter.headline(both, decomposition.summary(both))
    assert found["advantage"].to_dict() == pytest.approx({"deletion": 0.6, "insertion": 0.6})
    assert found.loc["deletion", ["guided", "random"]].tolist() == pytest.approx([0.15, 0.75])
    assert found.loc["insertion", ["guided", "random"]].tolist() == pytest.approx([0.85, 0.25])
    assert (found["ci_low"] < 0.6).all() and (found["n_images"] == 80).all()
    said = chapter.verdict(found, "gradcam", "grid")
    assert "80 images × 2 networks" in said and "over 20% of the image" in said


def test_claims_are_the_whole_and_what_is_beyond_blind_selection():
    table = outcomes(**SHARES)
    found = decomposition.claims([table], "toys")
    assert found["object-deletion"].value == pytest.approx(0.65)
    assert found["object-insertion-blind"].value == pytest.approx(0.3)
    told = "toys, no element in 0% of the images, 80 images × 1 networks"
    assert {one.data for one in found.values()} == {told}


@pytest.mark.parametrize(
    ("guided", "prior", "n", "words"),
    [
        (0.9, 0.7, 80, ["beat random ones by 0.65", "the map +0.20", "which is above zero"]),
        (0.6, 0.9, 80, ["beat random ones by 0.35", "the map -0.30", "which is below zero"]),
        (
            0.25,
            0.25,
            80,
            ["not told from random ones (+0.00", "the map +0.00", "not told from zero"],
        ),
        (
            0.05,
            0.05,
            80,
            ["fall behind random ones by 0.20", "the map +0.00", "not told from zero"],
        ),
        (0.9, 0.7, 10, ["have +0.70 of accuracy over", "which 10 images cannot tell from zero"]),
    ],
)
def test_the_sentence_comes_out_as_the_numbers_do(guided, prior, n, words):
    shares = SHARES | {"guided": guided, "prior": prior, "random": 0.2 if n == 10 else 0.25}
    text = decomposition.sentence(decomposition.summary([outcomes(n, **shares)]))
    assert text.startswith("In deletion guided") and text.count("; in insertion guided") == 1
    assert all(text.count(word) == 2 for word in words), text


def test_bars_of_the_picture_end_where_the_next_begins():
    summary = decomposition.summary([outcomes(**SHARES | {"prior": 0.5})])
    figure = decomposition.picture(summary)
    for axis in figure.axes:
        ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axis.patches]
        assert np.array(ends) == pytest.approx(
            np.array([(0, 0.35), (0.35, 0.25), (0.25, 0.65), (0, 0.65)])
        )
        assert [text.get_text() for text in axis.texts] == ["+0.35", "−0.10", "+0.40", "+0.65"]


def test_images_that_cannot_be_matched_are_left_out_of_a_second_count():
    table = outcomes(**SHARES)
    missed = (table["image_id"] == "003") & (table["region"] == "prior")
    table.loc[missed, "coverage_gap"] = -0.011
    left = decomposition.well_matched(table)
    assert sorted(set(table["image_id"]) - set(left["image_id"])) == ["003"]
    images = decomposition.numbers([table])["images"].groupby("measure").unique()
    assert images.explode().to_dict() == {
        **dict.fromkeys(("accuracy", "log-probability"), "80"),
        "accuracy, coverage within a point": "79",
    }
