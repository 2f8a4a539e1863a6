"""Randomised weights, permuted labels, similar explanations, variance components, mirrors."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from toys import COLOURS, SIDE, Oracle, explained

from geolib import data, model
from geolib.chapters import sanity
from geolib.model import Classifier
from geolib.model.classifier import Card
from geolib.pipeline.shards import EvaluationConfig
from geoscenes import posterior

SCENES = {"size": 96, "all_cues": True}

pytestmark = pytest.mark.usefixtures("own_cache")


def untrained(name="resnet18"):
    return model.load(name, weights="random", classes=["a", "b"], image_size=64, seed=5)


@pytest.fixture(scope="module")
def resnet():
    return untrained()


@pytest.fixture(scope="module")
def mobilenet():
    return untrained("mobilenet_v2")


# Randomised weights -------------------------------------------------------------------------------


def test_networks_come_apart_into_the_members_of_their_sequences(resnet, mobilenet):
    blocks = [f"layer{stage}.{block}" for stage in (4, 3, 2, 1) for block in (1, 0)]
    assert sanity.parts(resnet) == ["fc", *blocks, "bn1", "conv1"]
    assert sanity.parts(mobilenet)[:3] == ["classifier.1", "features.18.1", "features.18.0"]


@pytest.mark.parametrize(
    ("name", "parts", "changed"),
    [  # untrained batch norm is 1 and 0
        ("resnet", ["fc"], {"fc.weight", "fc.bias"}),
        ("resnet", ["layer4.1"], {"layer4.1.conv1.weight", "layer4.1.conv2.weight"}),
        # A name is not taken for the beginning of another, such as features.18.
        ("mobilenet", ["features.1"], {"features.1.conv.0.0.weight", "features.1.conv.1.weight"}),
    ],
)
def test_only_the_named_modules_are_randomised(name, parts, changed, request):
    network = request.getfixturevalue(name)
    before = {k: v.clone() for k, v in network.network.state_dict().items()}
    copy = sanity.randomised(network, parts, seed=0).network.state_dict()
    assert {k for k in before if not torch.equal(before[k], copy[k])} == changed
    after = network.network.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_the_seed_alone_decides_and_is_not_the_one_of_the_training(resnet):
    asked = (["fc"], 1), (["conv1", "fc"], 1), (["fc"], 2)
    one, same, other = (sanity.randomised(resnet, *each).network.fc.weight for each in asked)
    assert torch.equal(one, same) and not torch.equal(one, other)
    trained = untrained()
    trained.training_config = {"seed": 5}
    with pytest.raises(ValueError, match=r"seed=5 .* began with; choose another"):
        sanity.randomised(trained, ["fc"], seed=5)
    began_with = resnet.network.conv1.weight
    other = sanity.randomised(trained, ["conv1"], seed=6).network.conv1.weight
    assert torch.equal(trained.network.conv1.weight, began_with)
    assert abs(torch.corrcoef(torch.stack([other.flatten(), began_with.flatten()]))[0, 1]) < 0.1


def test_the_cascade_goes_down_from_the_last_layer_to_all(resnet):
    levels = sanity.cascade(resnet, 3, seed=0)
    assert list(levels) == ["fc", "layer2.1", "conv1"]
    trained = resnet.network.state_dict()
    found = [network.network.state_dict() for network in levels.values()]
    kept = [sum(torch.equal(v, trained[k]) for k, v in weights.items()) for weights in found]
    assert kept == sorted(kept, reverse=True)
    assert not torch.equal(found[2]["conv1.weight"], trained["conv1.weight"])
    with pytest.raises(ValueError, match="2 to 11"):
        sanity.cascade(resnet, 12, 0)
    with pytest.raises(ValueError, match=r"layer9.*resnet18.*conv1"):
        sanity.randomised(resnet, ["layer9"], 0)


def test_permuted_labels_keep_images_and_counts():
    images = data.load("geoscenes", "train", 60, size=32)
    permuted = sanity.permuted_labels(images, seed=3)
    assert permuted.ids == images.ids and permuted.content_key(7) == images.content_key(7)
    assert sorted(permuted.labels) == sorted(images.labels)
    agreeing = np.mean(np.equal(permuted.labels, images.labels))
    assert 0.1 < agreeing < 0.6  # a third by chance
    assert permuted.labels == sanity.permuted_labels(images, seed=3).labels
    assert permuted.labels != sanity.permuted_labels(images, seed=4).labels
    assert images.labels == [0, 1, 2] * 20


# Similarity of explanations -----------------------------------------------------------------------


RAMP = np.linspace(0, 1, 256).reshape(16, 16)
CORNER = explained(RAMP, [(0, 0, 4, 4)])


@pytest.mark.parametrize(
    ("one", "other", "boxes", "beyond"),
    [
        (CORNER, CORNER, 1, None),
        # Boxes share 2 × 4 of 16 + 16 - 8 pixels.
        (CORNER, explained(RAMP, [(2, 0, 6, 4)]), 1 / 3, None),
        # Whatever is compared with the whole image overlaps it by its own area, moved or not.
        (CORNER, explained(RAMP, [(0, 0, 16, 16)]), 1 / 16, 0),
        (CORNER, explained(RAMP, []), 0, 0),
        (explained(RAMP, []), CORNER, np.nan, np.nan),  # nothing to agree with
    ],
)
def test_overlap_of_boxes_by_hand(one, other, boxes, beyond):
    row = sanity.similarity([one], [other]).iloc[0]
    assert row["boxes"] == pytest.approx(boxes, nan_ok=True)
    if beyond is not None:
        assert row["beyond"] == pytest.approx(beyond, nan_ok=True)


def test_similarity_of_maps_by_hand():
    """Ranks are correlated, and not values; constant maps have none."""
    others = {"same": RAMP, "turned": 1 - RAMP, "cubed": RAMP**3, "constant": 0 * RAMP}
    pairs = [CORNER] * len(others), [explained(values, []) for values in others.values()]
    table = sanity.similarity(*pairs).set_axis(list(others))
    expected = pytest.approx([1, -1, 1, np.nan], nan_ok=True)
    assert table["correlation"].tolist() == expected
    ssim = table["ssim"]
    assert ssim["same"] == pytest.approx(1) and np.isnan(ssim["constant"])
    assert ssim["turned"] < 0 and 0.3 < ssim["cubed"] < 0.99
    # A box of 16 of the 256 pixels hardly ever meets itself by chance.
    assert 0.7 < sanity.similarity([CORNER], [CORNER])["beyond"][0] <= 1


def test_changes_compare_the_pipeline_of_every_network_with_the_originals(resnet):
    images = data.load("geoscenes", "eval", 3, size=64)
    settings = {"segmenter": "grid", "top_p": 0.2, "s_min": 0.1}
    configs = {m: EvaluationConfig(attribution=m, **settings) for m in ("edges", "gradcam")}
    untrained = sanity.randomised(resnet, sanity.parts(resnet), seed=0)
    others = {"itself": resnet, "untrained": untrained}
    table = sanity.resemblance(images, resnet, others, configs)
    found = table.groupby(["method", "network"])["correlation"].mean()
    assert len(table) == 2 * 4 * 3
    same = [("edges", "itself"), ("gradcam", "itself"), ("edges", "untrained")]
    assert found[same].tolist() == pytest.approx([1, 1, 1])
    assert max(found["gradcam", "untrained"], found["edges", sanity.OTHER_IMAGE]) < 0.9
    assert abs(found["edges", sanity.RANDOM_MAP]) < 0.5


# Variance components ------------------------------------------------------------------------------


def long(values):
    images, models = np.indices(values.shape)
    columns = {"image_id": images.ravel(), "model": models.ravel(), "value": values.ravel()}
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("values", "variance", "share"),
    [
        # Image means 2 and 6, model means 3 and 5, nothing left over: mean squares 16, 4 and 0.
        ([[1, 3], [5, 7]], [8, 2, 0], [0.8, 0.2, 0]),
        # All three mean squares are 4: nothing is left for images and models.
        ([[0, 0], [0, 4]], [0, 0, 4], [0, 0, 1]),
        (np.ones((3, 2)), [0, 0, 0], [np.nan] * 3),
    ],
)
def test_variance_components_by_hand(values, variance, share):
    table = sanity.variance_components(long(np.array(values, float)), "value")
    assert table["variance"].tolist() == pytest.approx(variance)
    assert table["share"].tolist() == pytest.approx(share, nan_ok=True)
    assert table[["low", "high"]].isna().all(axis=None) == (not any(variance))


def test_variance_components_agree_with_the_analysis_of_variance():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 1)) * 2 + rng.normal(size=(1, 4)) + rng.normal(size=(12, 4))
    table = long(values)
    squares = anova_lm(ols("value ~ C(image_id) + C(model)", table).fit())["mean_sq"]
    rest = squares["Residual"]
    expected = [(squares["C(image_id)"] - rest) / 4, (squares["C(model)"] - rest) / 12, rest]
    found = sanity.variance_components(table, "value")
    assert found["variance"].tolist() == pytest.approx(expected)
    assert ((found["low"] <= found["share"]) & (found["share"] <= found["high"])).all()
    shuffled = sanity.variance_components(table.sample(frac=1, random_state=1), "value")
    pd.testing.assert_frame_equal(found, shuffled)
    with pytest.raises(ValueError, match="3 images × 2 models with 1 values missing"):
        sanity.variance_components(long(np.arange(6.0).reshape(3, 2)).iloc[:-1], "value")


# Mirrors ------------------------------------------------------------------------------------------


class LooksLeft(Oracle):
    """Over the left half, and not the planted box."""

    def forward(self, images):
        return self.features(images)[..., : images.shape[-1] // 2].mean((2, 3))


def test_a_classifier_that_only_looks_left_flips_where_the_halves_differ(tmp_path):
    red, blue = (np.full((SIDE, SIDE, 3), COLOURS[name], np.uint8) for name in ("red", "blue"))
    half = SIDE // 2
    pictures = {
        "blue/left.png": np.hstack([blue[:, :half], red[:, half:]]),
        "blue/whole.png": blue,
        "red/left.png": np.hstack([red[:, :half], blue[:, half:]]),
        "red/whole.png": red,
    }
    for name, pixels in pictures.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    images = data.load("folder", "all", root=tmp_path / "photos")
    network = Classifier(LooksLeft(), Card("left", ("blue", "red"), SIDE)).eval()
    probe = sanity.mirror_probe(images, network).set_index("image_id").loc[[*pictures]]
    assert (probe["prediction"] == probe["label"]).all() and probe["label"].tolist() == [0, 0, 1, 1]
    assert (probe["mirrored"] != probe["prediction"]).tolist() == [True, False, True, False]
    assert "group" not in probe
    assert sanity.flips(probe)[["visible", "value", "n"]].to_numpy().tolist() == [["all", 0.5, 4]]
    seen = {"group": ["writing"] * 3 + ["neither"], "other_side": 0, "ideal": 0, "ideal_moved": 1}
    table = sanity.flips(probe.assign(**seen)).query("who == 'mirror image'").set_index("visible")
    assert table["n"].to_dict() == {"writing": 3, "neither": 1, "all": 4}
    assert table["value"].tolist() == pytest.approx([2 / 3, 0, 0.5])


def test_edited_images_are_others_with_the_same_names():
    images = data.load("geoscenes", "eval", 2, **SCENES)
    mirrored = sanity.edited(images, "mirrored")
    assert mirrored.ids == images.ids and mirrored.labels == images.labels
    assert mirrored.content_key(0) not in (images.content_key(0), mirrored.content_key(1))
    assert np.array_equal(mirrored[1].image, images[1].image[:, ::-1])
    assert mirrored[1].scene is None
    moved = sanity.edited(images, "other side")
    assert np.array_equal(moved[1].image, sanity.other_side(images[1].scene).image)
    assert not np.array_equal(moved[1].image, images[1].image)


def test_the_other_side_changes_nothing_but_the_side():
    for item in (data.load("geoscenes", "eval", 3, **SCENES)[i] for i in range(3)):
        before, after = item.scene.cues, sanity.other_side(item.scene).cues
        assert {before["driving_side"], after["driving_side"]} == {"left", "right"}
        assert before | {"driving_side": None} == after | {"driving_side": None}
    empty = item.scene.without("driving_side")
    assert sanity.other_side(empty) is empty


def test_the_best_observer_follows_the_traffic():
    images = data.load("geoscenes", "eval", 45, size=96)
    seen = sanity.observers(images).set_index("image_id")
    for item in (images[i] for i in range(len(images))):
        row, side = seen.loc[item.id], item.scene.cues["driving_side"]
        # France alone keeps right.
        if row["group"] == "driving side":
            assert (row["ideal"] == 0) == (side == "right")
        moved = sanity.other_side(item.scene)
        if side and "driving_side" in moved.visible_cues():
            contradiction = len(set(posterior(moved).values())) == 1
            expected = row["ideal"] == 0 if contradiction else side == "left"
            assert (row["ideal_moved"] == 0) == expected
    assert (seen["ideal"] != seen["ideal_moved"]).sum() >= 2


def test_groups_of_scenes_without_traffic():
    written = data.load("geoscenes", "eval", 1, **SCENES)[0].scene.without("driving_side")
    bare = written
    for kind in sorted(sanity.WRITING):
        bare = bare if bare.cues[kind] is None else bare.without(kind)
    for scene, group in ((written, "writing"), (bare, "neither")):
        observed = sanity._observe(scene, data.COUNTRIES)
        assert observed["group"] == group
        assert observed["ideal"] == observed["ideal_moved"]
