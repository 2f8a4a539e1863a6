"""Chapter 10: influences over a dataset, what chance gives, their tables, figures and findings."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from toys import write_photographs

from geolib import data, figures
from geolib.chapters import concept_influence as room
from geolib.concepts import concept_influence
from geoscenes import semantic

pytestmark = pytest.mark.usefixtures("own_cache")


NAMES = ("sky", "road", "tree")
SIDE = 20


def scenes(n, seed=0):
    """Sky over road, a tree in some; explanations on the sky, elsewhere without reason."""
    rng = np.random.default_rng(seed)
    shown = np.zeros((n, SIDE, SIDE), np.int16)
    shown[:, 10:] = 1
    shown[: n // 2, 5:15, 5:10] = 2
    return rng.random((n, SIDE, SIDE)), shown, [f"image-{i}" for i in range(n)]


def influences(values, shown, ids, groups=None, n_shifts=99, **options):
    return room.influences(values, shown, NAMES, ids, groups, k=40, n_shifts=n_shifts, **options)


def test_dataset_finds_where_explanations_lie():
    values, shown, ids = scenes(12)
    values += (shown == 0) * 0.3
    groups = ["within"] * 8 + ["beyond"] * 4
    found = influences(values, shown, ids, groups, 1999)
    table = room.summarise(found, min_images=4).set_index(["dilation", "group", "concept"])
    assert [table.loc[(0, "within", name), "images"] for name in ("sky", "tree")] == [8, 6]
    for group in ("within", "beyond"):
        sky, road = table.loc[(0, group, "sky")], table.loc[(0, group, "road")]
        assert sky["low"] > 1 > road["high"]
        assert sky["p_holm"] < 0.02 and road["p_holm"] < 0.02
        assert sky["low"] <= sky["median"] <= sky["high"]
    rows = found.rows
    sky = rows[(rows.concept == "sky") & (rows.group == "within") & (rows.dilation == 3)]
    expected = [concept_influence(values[i], shown[i] == 0, k=40, dilation=3) for i in range(8)]
    np.testing.assert_allclose(sky["influence"], expected)
    assert table.loc[(3, "within", "sky"), "median"] == pytest.approx(np.median(expected))
    assert table.loc[(3, "within", "sky"), "mean"] == pytest.approx(np.mean(expected))


def test_order_of_images_and_other_images_play_no_part():
    values, shown, ids = scenes(8)
    chosen = slice(None), slice(None, None, -1), slice(1)
    one, other, alone = (influences(values[some], shown[some], ids[some]) for some in chosen)
    pd.testing.assert_frame_equal(one.rows, other.rows)
    for key, shifted in one.shifted.items():
        np.testing.assert_array_equal(shifted, other.shifted[key])
    pd.testing.assert_frame_equal(*(room.summarise(f, 4) for f in (one, other)))
    shared = one.rows[one.rows.image_id == ids[0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.rows, shared)


def test_random_shifts_of_one_image_are_shared_by_its_concepts():
    """Sky and road fill the image, so at every shift their sizes weigh up their influences to 1."""
    found = influences(*scenes(1), n_shifts=50, dilations=(0,))
    sky, road = (found.shifted[(0, "all", name)] for name in ("sky", "road"))
    np.testing.assert_allclose((sky + road) / 2, 1)
    assert np.ptp(sky) > 0.2


def test_explanations_at_random_are_seldom_called_significant():
    """Of 60 explanations without reason, p < 0.05 for about three."""
    p_values = []
    for trial in range(60):
        rng = np.random.default_rng(trial)
        smooth = ndimage.gaussian_filter(rng.normal(size=(6, SIDE, SIDE)), (0, 3, 3), mode="wrap")
        _, shown, ids = scenes(6)
        found = influences(smooth, shown, ids, n_shifts=199, dilations=(0,), seed=trial)
        mean = found.rows.loc[found.rows.concept == "sky", "influence"].mean()
        p_values.append(room.shift_p_value(mean, found.shifted[(0, "all", "sky")]))
    assert (np.array(p_values) < 0.05).sum() <= 8
    assert 0.3 < np.mean(p_values) < 0.7


def test_rare_concepts_stay_in_the_table_untested():
    values, shown, ids = scenes(5)
    found = influences(values, shown, ids)
    table = room.summarise(found, min_images=3).set_index(["dilation", "concept"])
    tree = table.loc[(0, "tree")]
    assert tree["images"] == 2 and tree["rare"] and np.isnan(tree["p_value"])
    assert not table.loc[(0, "sky"), "rare"]
    # Holm over the two that are left: the smaller p doubles.
    tested = table.loc[0][~table.loc[0]["rare"].astype(bool)].sort_values("p_value")
    assert tested["p_holm"].iloc[0] == pytest.approx(min(1, 2 * tested["p_value"].iloc[0]))
    assert room.summarise(influences(values, shown - 9, ids)).empty


def test_right_and_wrong_images_the_first_of_each():
    images = data.load("geoscenes", "eval", n=6, size=64)
    km = pd.Series([10.0, 900.0, 20.0, 30.0, 800.0], images.ids[:5])  # nothing is known of the last
    explained, group = room.right_and_wrong(images, km, 750, 2)
    assert explained.ids == [images.ids[i] for i in (0, 2, 1, 4)]
    assert group == ["within", "within", "beyond", "beyond"]
    assert len(room.right_and_wrong(images, km, 750, None)[1]) == 5


def test_colour_alone_needs_no_network():
    """Images of the baseline's colour but for a bright sky: colour finds the sky in all of them."""
    values, shown, ids = scenes(6)
    batch = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].repeat(6, 1, SIDE, SIDE)
    batch[:, 1, :10] = torch.linspace(0.9, 1, 10 * SIDE).reshape(10, SIDE)
    found = influences(values, shown, ids, min_size=0.05)
    seen = room.Explained(SimpleNamespace(ids=ids), ["all"] * 6, None, batch, values, shown, NAMES)
    table, alike = room.colour_alone(found, seen, 3, 40, 0.05)
    assert sorted(table.index) == ["road", "sky", "tree"]
    assert table.loc["sky", "colour alone"] > 1 and table.loc["road", "colour alone"] == 0
    assert table["network"].is_monotonic_decreasing and -1 <= alike <= 1
    few, alike = room.colour_alone(found, seen, 4, 40, 0.05)
    assert list(few.columns) == ["network", "colour alone"] and len(few) == 2 and np.isnan(alike)


def test_cues_of_scenes_beside_the_influence():
    images = data.load("geoscenes", "eval", n=4, size=64)
    shown, names = room.semantic_maps(images, 64)
    cues = np.stack([semantic.cue_map(images[i].scene) for i in range(4)])
    found = room.influences(cues.astype(float), shown, names, images.ids, ["within"] * 4, k=80)
    known, group = room.summarise(found, 1), ["within"] * 3 + ["beyond"]
    seen = room.Explained(images, group, None, None, cues * 1.0, shown, names)
    table, _, on_cues = room.of_cues(known, seen, 20)
    name = table.index[0]
    where = shown[:3] == names.index(name)
    assert table.iloc[0, 0] == pytest.approx(cues[:3][where].mean())
    np.testing.assert_allclose(on_cues, [1 / one.mean() for one in cues[:3]])
    nothing, rank, on_cues = room.of_cues(known, seen._replace(group=["beyond"] * 4), 20)
    assert nothing.empty and np.isnan(rank) and not len(on_cues)


def test_the_ledger_gets_the_first_size_that_enough_images_reach():
    cells = [
        ("within", "sky", 0, 0.2, 1.0, 5),
        ("within", "sky", 3, 0.2, 1.5, 5),
        ("within", "road", 0, 0.2, 0.1, 2),
        ("within", "car", 0, 0.2, 2.0, 4),
        ("beyond", "car", 0, 0.2, 5.0, 3),
        ("within", "road", 0, 0.05, 0.5, 3),
    ]
    rows = [
        (f"{group}{i}{size}", beta, group, concept, size, value + i * (size > 0.1), 1.0)
        for group, concept, beta, size, value, n in cells
        for i in range(n)
    ]
    small = room.Influences(pd.DataFrame(rows, columns=room.COLUMNS), {})
    large = room.Influences(small.rows.query("size >= 0.1"), {})
    measured = room.findings({0.1: large, 0.02: small}, 3, "GeoScenes", 0)
    found = {claim: (one.value, one.n, one.data) for claim, one in measured.items()}
    tenth = "at least 10% in size"
    assert found == {
        "influence-sky": (3.0, 5, f"GeoScenes, 5 images, {tenth}"),
        "influence-road": (0.5, 5, "GeoScenes, 5 images, at least 2% in size"),
        "influence-wrong-car": (6 - 3.5, 3, f"GeoScenes, 3 images, the smaller group, {tenth}"),
        "influence-dilation-sky": (0.5, 5, f"GeoScenes, 5 images, {tenth}"),
    }


def test_p_values_medians_and_their_differences_by_hand():
    shifted = np.array([0.5, 0.8, 1.0, 1.2, 1.5, 1.0, 1.0, 1.0, 1.0])
    found = [room.shift_p_value(observed, shifted) for observed in (1.5, 9.0, 0.0, 1.0)]
    assert found == pytest.approx([0.4, 0.2, 0.2, 1])
    one, other = np.arange(1.0, 42), np.arange(11.0, 52)
    value, low, high = room.median_interval(one)
    assert value == 21 and 11 < low < 21 < high < 31
    value, low, high = room.median_interval(one, other)
    assert value == -10 and low < -10 < high < 2
    assert np.isnan([room.median_interval(np.array(few))[1] for few in ([2.0], [])]).all()
    assert np.isnan(room.median_interval(np.array([]))[0])


def test_maps_of_a_dataset_of_scenes_are_kept():
    dataset = data.load("geoscenes", "eval", n=3, size=64)
    found, names = room.semantic_maps(dataset, 64)
    assert names == semantic.CONCEPTS
    np.testing.assert_array_equal(found[2], semantic.semantic_map(dataset[2].scene))
    dataset_again = data.load("geoscenes", "eval", n=3, size=64)
    for record in dataset_again.records:
        object.__setattr__(record, "read", None)  # nothing is rendered again
    again, _ = room.semantic_maps(dataset_again, 64)
    np.testing.assert_array_equal(found, again)
    half, _ = room.semantic_maps(dataset, 32)
    np.testing.assert_array_equal(half[0], found[0, ::2, ::2])


class Network:
    """Tells light from dark."""

    key, names = "toy", ("dark", "light")

    def __call__(self, image, size):
        return np.resize(image.mean(-1) > 128, size).astype(int)


def test_maps_of_photographs(tmp_path):
    write_photographs(tmp_path, 5)
    photographs = data.load("folder", "train", root=tmp_path)
    found, names = room.semantic_maps(photographs, 40, Network())
    assert names == Network.names
    np.testing.assert_array_equal(found[0], Network()(photographs[0].image, (40, 40)))
    with pytest.raises(ValueError, match=r"photograph.*geolib fetch ade20k-upernet"):
        room.semantic_maps(photographs, 40)


# --- Tables and figures ---------------------------------------------------------------------------

GROUPS = {"within": "within 750 km", "beyond": "beyond 750 km"}


def summary():
    """Road above sky where right; trees only where wrong; a car too rare for a test."""
    rows = [
        (0, "within", "road", 9, 1.2, False),
        (0, "within", "sky", 8, 0.9, False),
        (0, "within", "car", 2, 3.0, True),
        (0, "beyond", "sky", 7, 1.4, False),
        (0, "beyond", "tree", 5, 0.3, False),
        (3, "within", "sky", 8, 1.1, False),
    ]
    table = pd.DataFrame(rows, columns=[*room.CELL, "images", "median", "rare"])
    table = table.assign(by_chance=0.8, p_value=0.01, p_holm=0.02)
    for column, beside in (("low", -0.1), ("high", 0.2), ("mean", 0.5)):
        table[column] = table["median"] + beside
    return table


def test_the_answer_names_the_ends_of_the_first_group():
    told = room.answer(summary(), GROUPS)
    assert "within 750 km" in told and "most on road (median influence 1.20)" in told
    assert "least on sky (median influence 0.90)" in told and "2 of 2 concepts" in told
    assert room.answer(summary()[:0], GROUPS).startswith("Too few images")


def test_table_has_a_row_per_concept_and_a_block_per_group():
    styled = room.influence_table(summary(), 0, GROUPS)
    table = styled.data
    assert list(table.index) == ["road", "sky", "tree"]  # largest median of the first group first
    assert table.loc["sky", ("within 750 km", "images")] == 8
    assert table.loc["sky", ("beyond 750 km", "mean")] == 1.9
    assert table.loc["road", ("within 750 km", "median (95 %)")] == "1.20 (1.10\u00a0to 1.40)"
    assert np.isnan(table.loc["road", ("beyond 750 km", "mean")])
    assert "nan" not in styled.to_html()
    assert list(room.influence_table(summary(), 3, GROUPS).data.index) == ["sky"]


def test_figure_shows_each_influence_as_a_bar():
    shown = np.zeros((2, 8, 8), int)
    shown[:, 4:] = 1
    images = data.load("geoscenes", "eval", n=2, size=64)
    values = [(0, 0, "sky", 0.5), (0, 0, "road", 1.5), (1, 0, "sky", 2.0), (1, 3, "road", 3.0)]
    rows = [(images.ids[i], beta, "within", name, 0.5, one, 1) for i, beta, name, one in values]
    found = room.Influences(pd.DataFrame(rows, columns=room.COLUMNS), {})
    km = pd.Series([12.0, 3400.0], images.ids)
    pictures = torch.zeros(2, 3, 8, 8), [np.eye(8)] * 2
    seen = room.Explained(images, ["within"] * 2, km, *pictures, shown, NAMES)
    figure = room.influence_images(seen, found, [0, 1])
    assert [axis.get_ylabel() for axis in figure.axes[::4]] == ["12 km off", "3,400 km off"]
    bars = [axis for axis in figure.axes if axis.patches]
    assert [[bar.get_width() for bar in axis.patches] for axis in bars] == [[0.5, 1.5], [2.0]]
    assert [label.get_text() for label in bars[0].get_yticklabels()] == ["sky", "road"]
    panels = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    sky = bars[0].patches[0].get_facecolor()[:3]
    np.testing.assert_allclose(panels[2][0, 0], sky)  # the map has the bars' colours
    np.testing.assert_allclose(panels[5][7, 7], figures.to_rgb("#9aa4ae"))


def test_figure_of_medians_keeps_the_order_of_the_table():
    table = summary().query("dilation == 0")
    axis = room.concept_medians(table, GROUPS).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["road", "sky", "car", "tree"]
    labelled = {line.get_label(): line.get_xdata() for line in axis.get_lines()}
    np.testing.assert_allclose(labelled["within 750 km"], [1.2, 0.9, 3.0])
    np.testing.assert_allclose(labelled["beyond 750 km"], [1.4, 0.3])
