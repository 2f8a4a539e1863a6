"""Controls: fills, nulls and changes by hand, a known cause, twins, true removal."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from toys import SIDE, write_photographs
from toys import classifier as oracle

from geolib import data, model, statistics
from geolib.ablation import ablate
from geolib.chapters.causes.effects import scene_of
from geolib.chapters.controls import removal, specifications
from geolib.chapters.controls.twin import masked_table
from geolib.chapters.controls.twin import twin as twin_of
from geolib.chapters.experiment import Experiment
from geolib.chapters.tables import UNDEFINED
from geolib.masks import box_region
from geolib.model.prediction import log_probabilities
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig
from geolib.scoring import Elements
from geolib.training.augmentation import BOXES, MASK_DRAWS, mask_boxes
from geoscenes import render

# grad-cam's imputer hands a tensor to NumPy.
pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
]


def elements(*boxes, size=12):
    """Elements whose masks are their boxes without the last column."""
    boxes = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    masks = [box_region([box - [0, 0, 1, 0]], (size, size)) for box in boxes]
    stacked = np.stack(masks) if masks else np.zeros((0, size, size), bool)
    return Elements(stacked, boxes, pd.DataFrame())


def test_road_fills_a_hole_of_nine_pixels_as_worked_out_by_hand():
    # Around the hole, 1 at the middle of each side and 0 elsewhere. With weights 1/6 for the four
    # neighbours and 1/12 for the diagonals, symmetry leaves three unknowns, centre x, edge y and
    # corner z: x = (2y + z)/3, y = (1 + 2z + x)/6 + y/6, z = y/3 + (2 + x)/12.
    image = torch.zeros(1, 3, 5, 5)
    image[..., [0, 2, 2, 4], [2, 0, 4, 2]] = 1
    filled = ablate(image, box_region([[1, 1, 4, 4]], (5, 5))[None], "deletion", "road")
    noise = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))
    z, y, x = 40 / 119, 49 / 119, 46 / 119
    expected = torch.tensor([[z, y, z], [y, x, y], [z, y, z]])
    smooth = (filled[0] - 0.01 * noise)[:, 1:4, 1:4]
    torch.testing.assert_close(smooth, expected.expand(3, 3, 3), atol=1e-5, rtol=0)


def test_null_regions_keep_coverage_or_are_another_images_layout():
    found = [elements((0, 0, 4, 3), (2, 2, 6, 6)), elements((5, 5, 9, 12)), elements()]
    nulls = specifications.null_regions(found, ["a", "b", "c"], repeats=2, seed=1)
    assert set(nulls) == {"donor", "torus", "masks", "masks torus"}
    for index, one in enumerate(found):
        for name, region in (("torus", one.region()), ("masks torus", one.mask_region())):
            assert nulls[name][index].sum(axis=(1, 2)).tolist() == [region.sum()] * 2
        np.testing.assert_array_equal(nulls["masks"][index], one.mask_region()[None])
        others = [other.region() for other in found if other is not one]
        for donor in nulls["donor"][index]:
            assert any((donor == other).all() for other in others)


def drawn(masked, inverted, *boxes):
    """Draws of one image; a box is centre x, centre y, width, height, all 0…1."""
    values = np.array([*boxes, *[(0.5, 0.5, 0, 0)] * (BOXES - len(boxes))]).T.ravel()
    return torch.tensor([masked, inverted, *values], dtype=torch.float32)[:, None]


def test_boxes_hide_what_they_should():
    image = torch.full((1, 3, 10, 10), 0.9)
    fill = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    # Widest: half of the side. The two boxes not given are a tenth wide, about the middle, and
    # cover no pixel's middle.
    draws = drawn(0.3, 0.9, (0.25, 0.5, 1, 1))
    hidden = mask_boxes(image, draws, 0.5, fill)
    # |row − 0.5| < 0.25 and |column − 0.25| < 0.25, at pixels' middles
    expected = torch.from_numpy(box_region([[0, 3, 5, 7]], (10, 10)))
    assert torch.equal(hidden[0, 0] != 0.9, expected)
    assert torch.equal(hidden[0, :, 5, 0], fill.flatten())
    inside_out = mask_boxes(image, drawn(0.3, 0.1, (0.25, 0.5, 1, 1)), 0.5, fill)
    assert torch.equal(inside_out[0, 0] == 0.9, expected)
    assert torch.equal(mask_boxes(image, draws, 0.2, fill), image)  # drawn 0.3: not masked


def test_masks_come_as_often_as_asked_and_leave_the_other_draws_alone():
    many = torch.rand(MASK_DRAWS, 2000, generator=torch.Generator().manual_seed(0))
    masked = mask_boxes(torch.ones(2000, 3, 8, 8), many, 0.25, torch.zeros(1, 3, 1, 1))
    assert 0.21 < (masked == 0).flatten(1).any(1).float().mean() < 0.28
    both, alone = (
        torch.rand(n, 32, generator=torch.Generator().manual_seed(7)) for n in (4 + MASK_DRAWS, 4)
    )
    assert torch.equal(both[:4], alone)


def test_the_twin_goes_on_from_the_classifier_with_masked_boxes(tmp_path):
    write_photographs(tmp_path / "photos", 14)
    folder = {"dataset": "folder", "root": str(tmp_path / "photos"), "image_size": SIDE}
    training = {"max_epochs": 1, "batch_size": 8, "arch": "squeezenet1_1"}
    experiment = Experiment(**folder, **training)
    twin = twin_of(experiment, 8, 2, {"box_masks": 0.4})
    first, second = experiment.classifier, twin.classifier
    learnt = {name: second.training_config[name] for name in ("box_masks", "max_epochs")}
    assert learnt == {"box_masks": 0.4, "max_epochs": 2}
    assert len(second.history) == 2
    assert second.classes == first.classes
    assert second.weights_sha256 != first.weights_sha256
    # One pass at a small rate moves the last layer, and does not start it anew.
    before, after = (one.state_dict()["network.classifier.1.bias"] for one in (first, second))
    assert (after - before).abs().max() < 0.01
    again = twin_of(experiment, 8, 2, {"box_masks": 0.4})
    assert again.checkpoint == twin.checkpoint
    with pytest.raises(ValueError, match="box_mask"):
        twin_of(experiment, 8, 2, {"box_mask": 0.4})


def test_sweeps_change_one_choice_each():
    base = EvaluationConfig(attribution="smoothgrad", attribution_options={"n_samples": 3})
    tried = {"padding": [0.0, 0.05], "sigma": [0.3], "segmenter_options": [{"contrast": 4.0}]}
    found = specifications.sweeps(base, tried)  # a padding of 0.05 is the default
    assert list(found) == [
        ("padding", "0.0"),
        ("sigma", "0.3"),
        ("segmenter_options", "contrast 4.0"),
    ]
    padding, sigma, _ = found.values()
    assert padding == base.model_copy(update={"padding": 0.0})
    options = {"n_samples": 3, "sigma": 0.3}
    assert sigma == base.model_copy(update={"attribution_options": options})
    with pytest.raises(ValueError, match="candidates"):
        specifications.sweeps(base, {"candidates": ["some"]})


def test_the_best_elements_are_kept_as_many_as_by_default():
    one = elements((0, 0, 4, 3), (2, 2, 6, 6), (5, 5, 9, 12))
    one = Elements(one.masks, one.boxes, pd.DataFrame({"score": [0.9, 0.5, 0.1]}))
    item = data.GeoImage("a", np.zeros((12, 12, 3), np.uint8), None, None, None, None)
    (found,) = specifications.as_many([shards.Extracted(item, None, None, None, one)], {"a": 2})
    assert found.boxes.tolist() == [[0, 0, 4, 3], [2, 2, 6, 6]]
    assert found.table["score"].tolist() == [0.9, 0.5]
    np.testing.assert_array_equal(found.masks, one.masks[:2])


def outcomes_of(advantages):
    """Outcomes of advantages in probability, by (method, choice, setting)."""
    return pd.DataFrame(
        {"method": m, "choice": c, "setting": s, "image_id": str(i), "test": test, "region": region}
        | {"coverage": 0.1, "coverage_gap": 0.0, "n_elements": 2, "repeat": 0}
        | {
            "correct": region == "guided",
            "probability": 0.5 + (region == "guided") * (value if test == "insertion" else -value),
        }
        for (m, c, s), values in advantages.items()
        for test in ("deletion", "insertion")
        for i, value in enumerate(values)
        for region in ("guided", "random")
    )


def test_changes_are_those_of_the_same_images_by_hand():
    wobble = np.linspace(-0.1, 0.1, 12)
    found = specifications.changes(
        outcomes_of(
            {
                ("m", "", ""): 0.2 + wobble,
                ("m", "fill", "black"): 0.1 + 1.1 * wobble,
                ("m", "fill", "blur"): -0.1 + wobble - 0.01 * np.sign(wobble),
                ("m", "padding", "0"): 0.2 + wobble[::-1],
                ("n", "", ""): 0.3 + wobble,
                ("n", "sigma", "1"): 0.31 + wobble + 0.05 * np.resize([1, -1], 12),
            }
        )
    )
    assert found["accuracy"].tolist() == [-1.0, 1.0] * 6
    deletion = found[found["test"] == "deletion"].set_index(["method", "choice", "setting"])
    assert deletion["advantage"].tolist() == pytest.approx([0.2, 0.1, -0.1, 0.2, 0.3, 0.31])
    assert deletion["value"].tolist() == pytest.approx([0, -0.1, -0.3, 0, 0, 0.01])
    blacker = -0.1 + 0.1 * wobble  # image by image
    black = deletion.loc[("m", "fill", "black"), [*statistics.Paired._fields[1:]]]
    assert black.tolist() == pytest.approx(statistics.paired(blacker)[1:])
    # What changes nothing is no test, and does not count in the correction.
    assert deletion["p_holm"].isna().tolist() == [True, False, False, False, True, False]
    assert deletion.loc[("m", "fill", "blur"), "p_holm"] == pytest.approx(8 * 2 / 2**12)
    furthest = specifications.furthest(found)
    assert furthest["name"].drop_duplicates().tolist() == ["fill: blur", "n sigma: 1", "padding: 0"]
    assert furthest["told"].tolist() == [specifications.TOLD] * 2 + [specifications.NOT_TOLD] * 4
    said = "4 values of 3 open choices, each changed by itself, 2 move"
    assert said in specifications.summary(found) and "and 1 turn" in specifications.summary(found)


def test_what_random_boxes_cost_the_twins_by_hand():
    cost = {"": 0.5, "masked boxes": 0.2}
    outcomes = pd.DataFrame(
        {"setting": name, "image_id": str(i), "region": region, "test": test}
        | {"log_probability": -1 - (hidden + i / 50 if region == "random" else 0)}
        for name, hidden in cost.items()
        for i in range(6)
        for region, test in (
            *(("random", "deletion"), ("random", "deletion"), ("original", "original")),
            *(("guided", "deletion"), ("guided", "insertion")),
        )
    )
    table = masked_table(outcomes, {"": 0.8, "masked boxes": 0.7})
    assert table.index.tolist() == ["the classifier", "masked boxes"]
    assert table["accuracy"].tolist() == ["80%", "70%"]
    first, second = table["log-probability that random boxes cost"]
    assert first.startswith("+0.55 (") and second.startswith("+0.25 (")
    assert table["less than before"].iloc[0] == UNDEFINED
    assert table["less than before"].iloc[1].startswith("+0.30 (")
    assert table["detectable"].tolist() == [UNDEFINED] * 2  # it does not vary


def test_agreement_of_shifted_and_of_reversed_effects():
    true = {"a": [0.1, 0.4, 0.2], "b": [0.9, -0.3, 0.0, 0.5]}
    rows = [(i, value) for i, values in true.items() for value in values]
    base = pd.DataFrame(rows, columns=["image_id", "true"]).assign(region="box")
    masked = {"reversed": -base["true"], "flat": 0.3, "shifted": base["true"] + 0.25}
    table = pd.concat(base.assign(fill=fill, masked=each) for fill, each in masked.items())
    found = removal.agreement(table).set_index("fill")
    assert found["value"].to_dict() == pytest.approx({"shifted": 1, "flat": 0, "reversed": -1})
    assert found.index.tolist() == ["shifted", "flat", "reversed"]
    shifted = found.loc["shifted", ["value", "low", "high", "bias", "bias_low", "bias_high"]]
    assert shifted.tolist() == pytest.approx([1] * 3 + [0.25] * 3)
    # Scenes count alike, however many objects they have.
    means = [np.mean(values) for values in true.values()]
    assert found.loc["reversed", "bias"] == pytest.approx(-2 * np.mean(means))


def test_what_sets_scenes_apart_is_no_agreement():
    scenes = {
        "a": [(1, 9), (2, 8), (3, 7)],
        "b": [(11, 19), (12, 18), (13, 17)],
        "few": [(1, 1), (2, 2)],
        "still": [(0, 0), (0, 1), (0, 2), (0, 3)],
    }
    rows = [(name, *effects) for name, objects in scenes.items() for effects in objects]
    table = pd.DataFrame(rows, columns=["image_id", "true", "masked"])
    found = removal.agreement(table.assign(region="box", fill="f")).iloc[0]
    assert found["value"] == pytest.approx(-1)  # over all objects of a and b it is +0.5
    assert found["n"] == 2


@pytest.fixture(scope="module")
def scenes():
    return data.load("geoscenes", "eval", 2, size=64)


@pytest.fixture(scope="module")
def classifier():
    network = model.load("timm/resnet10t", weights="random", classes=["France", "India", "Japan"])
    network.image_size = 64
    return network


def test_regions_of_an_object(scenes):
    scene = scene_of(scenes[0])
    regions = [removal.object_regions(scene, removal.hideable(scene), n) for n in removal.REGIONS]
    for mask, footprint, box in zip(*regions, strict=True):
        assert (mask <= box).all()
        assert (mask <= footprint).all()
        rows, columns = np.nonzero(box)
        assert box.sum() == len(set(rows)) * len(set(columns))


def carrying():
    """A scene, an object in it, and what is fixed to it, all of which is visible."""
    for seed in range(60):
        scene = render(seed, "France", size=128)
        objects = {o.id: o for o in scene.objects if o.mask.any()}
        for item in scene.items:
            if item.host in objects and item.id in objects:
                return scene, objects[item.host], objects[item.id]
    raise AssertionError("no scene with something fixed to a visible object")


def test_what_is_fixed_to_an_object_is_hidden_with_it_and_goes_with_it():
    scene, host, plate = carrying()
    mask = removal.object_regions(scene, [host, plate], "mask")
    np.testing.assert_array_equal(mask[0], host.mask | plate.mask)
    assert (plate.mask & ~host.mask).any()
    np.testing.assert_array_equal(mask[1], plate.mask)
    gone = scene.without(host.id).image
    np.testing.assert_array_equal(removal._without(scene, [host.id, plate.id]), gone)
    np.testing.assert_array_equal(removal._without(scene, [plate.id, host.id]), gone)


def test_removals_agree_with_one_object_hidden_by_hand(scenes, classifier):
    table = removal.removals(scenes, classifier, fills=["black", "donor"])
    item = scenes[0]
    objects = removal.hideable(scene_of(item))
    of_item = table[table["image_id"] == item.id]
    assert len(of_item) == 6 * len(objects)
    one = objects[-1]
    image, other = data.to_batch([item, scenes[1]], 64)
    region = removal.object_regions(scene_of(item), [one], "mask")
    hidden = ablate(image[None], region, "deletion", "donor", donors=other[None])
    gone = data.to_batch([scene_of(item).without(one.id).image], 64)
    values = log_probabilities(classifier, torch.cat([image[None], hidden, gone]), precision="fp32")
    lost = (values[0] - values[1:])[:, item.label]
    row = of_item.query(f"object == '{one.id}' and region == 'mask' and fill == 'donor'")
    np.testing.assert_allclose(row[["masked", "true"]].astype(float), lost[None], atol=1e-5)


def test_sets_of_objects_are_those_of_the_map_and_others_of_like_coverage(scenes):
    scene = scene_of(scenes[0])
    objects = removal.hideable(scene)
    bright = np.logical_or.reduce([objects[i].mask for i in (0, 2)]).astype(float)
    chosen = removal.chosen_sets(scene, {"m": bright}, top=2, repeats=3)["objects"].tolist()
    assert chosen[0] == (0, 2)
    assert len({*chosen}) == 4  # the guided one and three others
    again = removal.chosen_sets(scene, {"x": bright, "m": bright}, top=2, repeats=3)
    assert again[again["attribution"] == "m"]["objects"].tolist() == chosen
    assert set(again[again["attribution"] == "x"]["objects"]) == set(chosen)


def test_random_sets_match_in_coverage_then_share_little():
    # Gaps in coverage: 1 % and 2 % are as good; then fewer shared objects; further out, the gap.
    sets = {(0, 3): 0.01, (3, 4): -0.02, (4, 5): 0.05, (0, 4): 0.03}
    order = sorted(sets, key=lambda s: removal._unlike(s, (0, 1), sets[s]))
    assert order == [(3, 4), (0, 3), (0, 4), (4, 5)]


@pytest.fixture(scope="module")
def alone(scenes):
    """The scene, an object whose own pixels hold its centre, and these pixels."""
    scene = scene_of(scenes[0])
    masks = np.stack([one.mask for one in removal.hideable(scene)])
    for i, mask in enumerate(masks):
        own = mask & ~np.delete(masks, i, axis=0).any(axis=0)
        row, column = np.floor(np.argwhere(mask).mean(0) + 0.5).astype(int)
        if own[row, column]:
            return scene, i, own
    raise AssertionError("every object's centre is shared")


def test_objects_without_a_score_are_not_guided(alone):
    scene, only, own = alone
    maps = {"m": own.astype(float), "nothing": np.zeros(own.shape)}
    chosen = removal.chosen_sets(scene, maps, 2, 2).set_index("attribution")
    assert min(2, len(removal.hideable(scene)) // 2) == 2
    assert chosen.loc["m", "objects"].iloc[0] == (only,)
    # Nothing to delete: guided and random are the scene as it is, and none is better.
    assert chosen.loc["nothing", "objects"].tolist() == [(), ()]
    assert chosen.loc["nothing", "coverage"].tolist() == [0, 0]


def test_outcomes_of_a_set_are_those_of_pictures_made_by_hand(scenes, classifier):
    scene, item = scene_of(scenes[0]), scenes[0]
    maps = {"m": torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))}
    table = removal.object_tests(scenes, maps, classifier, fills=["black"])
    objects = removal.hideable(scene)
    boxes = removal.object_regions(scene, objects, "box")
    rows = table[table["image_id"] == item.id].set_index(["fill", "region", "repeat"])
    image = data.to_batch([item], 64)
    for one in removal.chosen_sets(scene, {"m": maps["m"][0].numpy()}).to_dict("records"):
        gone, chosen = scene, list(one["objects"])
        for i in chosen:
            gone = gone.without(objects[i].id)
        region = boxes[chosen].any(0)
        black = ablate(image, region[None], "deletion", "black")
        pictures = torch.cat([data.to_batch([gone.image], 64), black])
        values = log_probabilities(classifier, pictures, precision="fp32")
        for fill, value in zip((removal.TRUE, "black"), values, strict=True):
            row = rows.loc[(fill, one["region"], one["repeat"])]
            assert row["log_probability"] == pytest.approx(float(value[item.label]), abs=1e-5)
            assert row["correct"] == (value.argmax() == item.label)
            assert row["coverage"] == region.mean()
    compared = statistics.compare(table, ("attribution", "fill"), "log_probability")
    assert compared["n_images"].tolist() == [2, 2]


def masked_and_true():
    """Outcomes in log-probability: under true removal an advantage of 1, and per fill another."""
    wobble = np.linspace(-0.1, 0.1, 8)
    advantages = {removal.TRUE: 1 + wobble, "same": 1 + wobble, "larger": 2 + wobble}
    advantages |= {"none": wobble, "noisy": np.linspace(-6, 7, 8)}
    named = {"attribution": "m", "test": "deletion", "coverage": 0.1, "coverage_gap": 0.0}
    return pd.DataFrame(
        {**named, "fill": fill, "image_id": str(i), "region": region}
        | {"n_elements": 1, "log_probability": value}
        for fill, each in advantages.items()
        for i, advantage in enumerate(each)
        for region, value in (("guided", -advantage), ("random", 0.0))
    )


def test_a_conclusion_changes_only_where_the_difference_is_told():
    table = removal.conclusions(masked_and_true())
    judged = table.set_index("fill")
    assert judged["value"].to_dict() == pytest.approx(
        {removal.TRUE: 1, "same": 1, "larger": 2, "none": 0, "noisy": 0.5}
    )
    by_hand = {"same": 0, "larger": 1, "none": -1, "noisy": -0.5}
    assert judged["difference"].drop(removal.TRUE).to_dict() == pytest.approx(by_hand)
    # Of four tests, the first three with p = 2 / 2⁸ or more.
    assert judged.loc[["larger", "none"], "p_difference"].tolist() == pytest.approx(
        [4 * 2 / 2**8] * 2
    )
    assert "**2 of 4 advantages differ**" in removal.conclusions_note(table)
    shown = removal.conclusions_table(table)["m"]
    assert shown.index[shown.str.endswith("≠")].tolist() == ["larger", "none"]
    order = [fill for fill in shown.index if fill != "larger"]
    assert order == [removal.TRUE, "same", "noisy", "none"]


@pytest.fixture
def photographs(tmp_path):
    write_photographs(tmp_path / "photos", 2)
    return data.load("folder", "all", root=tmp_path / "photos")


FINDS = EvaluationConfig(
    attribution="gradcam", segmenter="felzenszwalb", top_p=0.12, s_min=0.3, repeats=2, fill="mean"
)


def test_a_screen_of_a_network_whose_cause_is_known(photographs):
    choices = {"padding": [0.2], "combine": ["mean"], "target_layer": ["network.features"]}
    choices |= {"baseline": ["donor layout", "torus shift"], "region": ["outlines"]}
    table = specifications.screen(photographs, oracle(), FINDS, choices)
    assert set(table["method"]) == {"gradcam"}
    assert set(table["region"]) == {"original", "guided", "random"}
    keys = ["choice", "setting", "test", "region"]
    found = table.groupby(keys)["probability"].mean()
    whole = found["", "", "original", "original"]
    # The box is the cause and all of it: hidden, nothing speaks for either class; alone, all does.
    for choice in (("", ""), ("combine", "mean"), ("target_layer", "network.features")):
        assert found[(*choice, "deletion", "guided")] == pytest.approx(0.5)
        assert found[(*choice, "insertion", "guided")] == pytest.approx(whole)
    assert found["baseline", "torus shift", "deletion", "random"] > 0.5
    # Every photograph has its box at the same place, so another's layout is as good.
    assert found["baseline", "donor layout", "deletion", "random"] == pytest.approx(0.5)
    guided = table[table["region"] == "guided"].set_index("choice")[["coverage", "n_elements"]]
    covered = guided["coverage"].groupby("choice").agg(["min", "max"])
    assert covered.loc["padding", "min"] > covered.loc["", "max"] >= 256 / 48**2
    assert covered.loc["region", "max"] <= covered.loc["", "min"]
    assert [*guided.loc["combine", "n_elements"]] == [*guided.loc["", "n_elements"]]


def test_what_the_page_on_silence_calls_swept_is_swept():
    root = Path(__file__).parents[3]
    page = (root / "book/silent.md").read_text(encoding="utf-8")
    assert "not yet measured" not in page.lower()
    rows = [line.split("Swept: ")[1] for line in page.splitlines() if "Swept: " in line]
    named = {name for row in rows for name in re.findall(r"`(\w[\w ]*)`", row)}
    profile = yaml.safe_load((root / "notebooks/profiles/default.yaml").read_text(encoding="utf-8"))
    ours = profile["notebooks"]["12-controls"]
    tried = {name for choices in ours["choices"].values() for name in choices}
    assert named == tried | {"learnt on"}
    for name in ours["twins"]:
        assert name in page
