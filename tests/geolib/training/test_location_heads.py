"""Location models: the summed loss, crops, heads, predictions down the hierarchy, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toys
from test_training import SGD, stopped_before
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as T
from toys import Item

from geolib import attribution, data, model
from geolib.model.classifier import with_classes
from geolib.training import recipe as recipe_
from geolib.training.batches import Examples
from geolib.training.crops import Crops
from geolib.training.location import (
    LocationModel,
    down_the_hierarchy,
    load_location,
    probabilities,
    train_location,
)
from geolib.training.recipe import summed_cross_entropy

SIZES = (4, 2)
HEADS = [["a", "b", "c", "d"], ["ab", "cd"]]
CHANGES = {"batch_size": 8, "max_epochs": 3, "learning_rate": 2e-3, "label_smoothing": 0}
SMALL = toys.SMALL.model_copy(update=CHANGES)


def network(classes: list[str], arch: str = SMALL.arch) -> model.Classifier:
    return model.load(arch, weights="random", classes=classes, image_size=32)


def small_model(arch: str = SMALL.arch) -> LocationModel:
    return LocationModel(network([*HEADS[0], *HEADS[1]], arch), SIZES)


def noise(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tile(number: int) -> Item:
    """A noisy picture of one of four colours, as its number says."""
    colours = np.array([[220, 40, 40], [220, 160, 40], [40, 160, 220], [40, 40, 220]])
    noise = np.random.default_rng(number).integers(-30, 30, (40, 48, 3))
    return Item(number, (colours[number % 4] + noise).astype(np.uint8))


def dataset(*items: Item, split: str = "train") -> data.GeoDataset:
    return data.GeoDataset("folder", (), split, items)


def tiles(n: int, first: int = 0, split: str = "train") -> data.GeoDataset:
    return dataset(*map(tile, range(first, first + n)), split=split)


def cells(n: int) -> torch.Tensor:
    fine = torch.arange(n) % 4
    return torch.stack([fine, fine // 2], dim=1)


TRAIN, UNSEEN = Examples(tiles(32), cells(32)), Examples(tiles(8, 1000, "validation"), cells(8))


def small_run(config: model.TrainConfig = SMALL, train=TRAIN, **options) -> LocationModel:
    return train_location(train, UNSEEN, HEADS, config, **options)


def varied(**changes) -> model.TrainConfig:
    return SMALL.model_copy(update=changes)


# The loss and the recipe -------------------------------------------------------------------------


def test_the_loss_is_the_sum_over_the_heads():
    logits = [torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]] * 2)]
    targets = torch.tensor([[0, 1], [1, 2]])
    fine = [np.log(1 + np.exp(-2)), np.log(2)]
    coarse = [np.log(2 + np.e) - 1, np.log(2 + np.e)]
    found = summed_cross_entropy(logits, targets)
    assert float(found) == pytest.approx((sum(fine) + sum(coarse)) / 2)


def test_an_image_in_no_cell_of_a_head_adds_nothing_to_its_loss():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(3, 4, generator=generator), torch.randn(3, 2, generator=generator)]
    targets = torch.tensor([[1, 0], [-1, 1], [-1, -1]])
    expected = F.cross_entropy(logits[0][:1], targets[:1, 0], reduction="sum")
    expected = expected + F.cross_entropy(logits[1][:2], targets[:2, 1], reduction="sum")
    assert float(summed_cross_entropy(logits, targets)) == pytest.approx(float(expected) / 3)
    # Nothing is learnt where no image of a batch has a cell, and nothing is NaN.
    assert float(summed_cross_entropy(logits, torch.full((3, 2), -1))) == 0
    # A batch's loss is the mean of its parts', however it is cut.
    images = zip(*(head.split(1) for head in logits), strict=True)
    parts = map(summed_cross_entropy, images, targets.split(1))
    assert float(sum(parts)) / 3 == pytest.approx(float(expected) / 3)


def test_one_head_is_ordinary_cross_entropy_with_label_smoothing():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0, 1])
    expected = F.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(summed_cross_entropy([logits], targets[:, None], 0.1), expected)


HALVINGS = 0.5 ** np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6])[:, None]
CYCLE = (1 + np.cos(np.pi * np.arange(4) / 4)) / 2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("halving", HALVINGS.repeat(4, axis=1)), ("warm_restarts", np.tile(CYCLE, (10, 3)))],
)
def test_learning_rates_halve_or_run_three_cosine_cycles_an_epoch(schedule, expected):
    """§4.1, every third epoch and then every one, and appendix A."""
    epochs, steps = expected.shape
    config = varied(schedule=schedule, learning_rate=0.01, max_epochs=epochs)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = recipe_._scheduler(optimizer, config, steps, steps * epochs)
    found = []
    for _ in range(steps * epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(np.reshape(found, expected.shape), 0.01 * expected)


# Crops -------------------------------------------------------------------------------------------


def striped(height: int, width: int) -> data.GeoDataset:
    """Two pictures whose brightness rises to the right, and redness downwards."""
    down, right = np.mgrid[0:height, 0:width]
    image = np.stack([255 * down / height, 255 * right / width, np.zeros_like(down)], -1)
    return dataset(*(Item(i, image.astype(np.uint8)) for i in range(2)))


def test_five_crops_are_the_corners_and_the_centre():
    wide = striped(300, 600)
    _, found = Crops(wide, 56, "five")[0]
    assert found.shape == (5, 56, 56, 3)
    # The short edge is 64 pixels, the long one 128.
    means = found[..., :2].float().mean((1, 2)).numpy()
    expected = [(28, 28), (28, 100), (36, 28), (36, 100), (32, 64)]
    np.testing.assert_allclose(means, 255 * np.array(expected) / (64, 128), atol=3)
    _, centre = Crops(wide, 56, "centre")[0]
    assert torch.equal(centre, found[4])


def test_random_crops_of_a_wide_photograph_repeat():
    random = Crops(striped(300, 600), 56, "random")
    indices, found = zip(*(random[epoch, 1] for epoch in range(30)), strict=True)
    assert set(indices) == {1}
    pixels = torch.stack(found)
    assert torch.equal(torch.stack([random[epoch, 1][1] for epoch in range(30)]), pixels)
    assert pixels.shape == (30, 56, 56, 3)
    height, width, _ = (pixels.amax((1, 2)) - pixels.amin((1, 2))).T / 255
    # Of a photograph twice as wide as high no part of a permitted shape fills more than two thirds:
    # torchvision then falls back on the largest in the middle.
    assert (height > 0.9).all()
    assert (width <= 0.7).all()


def test_random_crops_of_a_square_keep_the_areas_and_shapes_of_the_recipe():
    random = Crops(striped(200, 200), 56, "random")
    found = torch.stack([random[epoch, epoch % 2][1] for epoch in range(60)]).float()
    # The gradient across the crop tells the share of the edge that it spans.
    high = (found[:, -1, :, 0] - found[:, 0, :, 0]).mean(1) / 255 * 56 / 55
    wide = (found[:, :, -1, 1] - found[:, :, 0, 1]).mean(1) / 255 * 56 / 55
    areas, shapes = (high * wide).tolist(), (wide / high).tolist()
    assert 0.63 < min(areas) < 0.72 and 0.92 < max(areas) < 1.03
    assert min(shapes) > 0.72 and max(shapes) < 1.38
    assert len(set(areas)) > 50


def test_batches_with_their_epoch():
    batches = recipe_.Batches(6, 3, recipe_.Process(), seed=0, with_epoch=True)
    assert len(batches) == 2
    for epoch in (0, 4):
        batches.epoch = epoch
        together = [pair for batch in batches for pair in batch]
        assert sorted(together) == [(epoch, position) for position in range(6)]


# The model and what it predicts ------------------------------------------------------------------


@pytest.mark.parametrize("with_crops", [True, False])
def test_testing_is_the_mean_of_the_softmax_over_five_crops_or_that_of_the_whole(with_crops):
    places, images = small_model(), dataset(tile(0), Item(7, None), tile(1))
    found = probabilities(places, images, crops=with_crops, precision="fp32")
    assert found.indices.tolist() == [0, 2]
    assert [entry.id for entry in images.skipped] == ["7"]
    for row, index in enumerate(found.indices.tolist()):
        image = torch.from_numpy(images[index].image).permute(2, 0, 1)
        views = data.to_batch([images[index]], 32)
        if with_crops:
            parts = T.five_crop(T.resize(image, [37], antialias=True), [32, 32])
            views = torch.stack(parts).float() / 255
        with torch.inference_mode():
            logits = places.cpu().eval()(views)
        for head, scores in zip(found.heads(SIZES), logits, strict=True):
            np.testing.assert_allclose(head[row], scores.softmax(1).mean(0), atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "parents", "expected"),
    [
        # Two coarse cells with two fine ones each: the coarse head overrules the fine one.
        ([[0.4, 0.1, 0.3, 0.2], [0.3, 0.7]], [[0, 0, 1, 1]], [0.24, 0.06, 0.42, 0.28]),
        ([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], [[0, 1], [1, 0]], [0.72 / 0.74, 0.02 / 0.74]),
        # A blank head neither helps nor hurts a cell outside the coarser partitioning.
        ([[0.3, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]], [[2, -1, -1]], [0.3, 0.3, 0.4]),
    ],
)
def test_f_star_by_hand(heads, parents, expected):
    found = down_the_hierarchy([np.array([head]) for head in heads], [np.array(p) for p in parents])
    np.testing.assert_allclose(found, [expected])


@pytest.mark.parametrize("arch", [toys.NARROW, "squeezenet1_1", "mobilenet_v3_small"])
def test_heads_are_views_of_the_same_features(arch):
    places, images = small_model(arch).eval(), noise(2)
    with torch.inference_mode():
        logits = places(images)
        assert [tuple(scores.shape) for scores in logits] == [(2, 4), (2, 2)]
        for i, names in enumerate(HEADS):
            head = places.head(i)
            assert head.classes == tuple(names)
            assert head.image_size == 32
            torch.testing.assert_close(head(images), logits[i])
        torch.testing.assert_close(places.head(-1)(images), logits[1])
    with pytest.raises(IndexError):
        places.head(2)
    maps = attribution.attribute(places.head(0), images, "gradcam", precision="fp32")
    assert maps.shape == (2, 32, 32)
    assert maps.max() <= 1


def test_saved_and_loaded(tmp_path):
    places, images = small_model().eval(), noise(2)
    places.save(tmp_path / "places.safetensors")
    again = load_location(tmp_path / "places.safetensors")
    assert again.sizes == SIZES
    assert again.classifier.weights_sha256 == places.classifier.weights_sha256
    with torch.inference_mode():
        assert all(map(torch.equal, again(images), places(images)))
    places.head(0).save(tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="holds a classifier, not a location model"):
        load_location(tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match=r"\(4, 3\) do not add up to the 6 classes"):
        LocationModel(places.classifier, (4, 3))


def test_other_classes_keep_the_backbone():
    countries = network(["A", "B"])
    before = countries.weights_sha256
    renewed = with_classes(countries, ["x", "y", "z"], seed=1)
    kept, now = countries.network.state_dict(), renewed.network.state_dict()
    replaced = {key for key in kept if not torch.equal(now[key], kept[key])}
    assert replaced == {key for key in kept if now[key].shape != kept[key].shape}
    assert len(replaced) == 2
    assert renewed.classes == ("x", "y", "z")
    assert renewed(noise(1)).shape == (1, 3)
    assert countries.weights_sha256 == before
    assert LocationModel(renewed, (1, 2)).head(1).classes == ("y", "z")


# Training ----------------------------------------------------------------------------------------


def test_it_learns_both_heads_and_keeps_the_weights_of_the_least_summed_loss():
    trained = small_run()
    found = probabilities(trained, tiles(16, 5000))
    for head, column in zip(found.heads(SIZES), cells(16).numpy().T, strict=True):
        assert (head.argmax(1) == column).mean() > 0.8
    batch = data.to_batch(list(UNSEEN.images), 32)
    with torch.inference_mode():
        loss = summed_cross_entropy(trained(batch), UNSEEN.targets)
    kept = trained.classifier.history["validation_loss"].min()
    assert kept == pytest.approx(float(loss), abs=1e-4)


def test_it_starts_from_the_country_classifier():
    countries = model.load(SMALL.arch, weights="random", classes=["A", "B"], image_size=48, seed=5)
    still = varied(learning_rate=1e-30, freeze_batch_norm=True, max_epochs=1)
    classifier = small_run(still, initial=countries).classifier
    assert classifier.image_size == 32
    before, after = countries.network.state_dict(), classifier.network.state_dict()
    same = [key for key, tensor in before.items() if tensor.shape == after[key].shape]
    assert len(same) == len(before) - 2
    assert all(torch.allclose(before[key], after[key], rtol=0, atol=1e-20) for key in same)


def test_a_training_on_crops_that_stopped_resumes_to_the_same_weights(tmp_path):
    config = varied(crops=True, schedule="halving", max_epochs=2, **SGD)
    undisturbed = small_run(config).classifier
    with stopped_before(1, 1):
        small_run(config, checkpoints=tmp_path)
    resumed = small_run(config, checkpoints=tmp_path).classifier
    assert resumed.weights_sha256 == undisturbed.weights_sha256
    assert resumed.history.equals(undisturbed.history)
    other = small_model().classifier
    with pytest.raises(ValueError, match="belongs to a training with other initial weights"):
        small_run(config, checkpoints=tmp_path, initial=other)


def test_crops_are_trained_on():
    """Unreadable photographs are left out, and the parts differ from the whole."""
    train = Examples(dataset(*tiles(16).records, Item(16, None)), cells(17))
    weights = set()
    for with_crops in (True, False):
        with pytest.warns(UserWarning, match="1 unreadable images are left out"):
            trained = small_run(varied(crops=with_crops, max_epochs=1), train)
        weights.add(trained.classifier.weights_sha256)
    assert len(weights) == 2


def test_targets_that_do_not_match():
    shape = r"train split have shape \(32, 1\); expected \(32, 2\)"
    for targets, words in ((cells(32)[:, :1], shape), (cells(32) + 1, "outside -1…C-1")):
        with pytest.raises(ValueError, match=words):
            small_run(train=Examples(tiles(32), targets))
