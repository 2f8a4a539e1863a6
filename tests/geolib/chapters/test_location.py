"""Location models: the loss, the paper's recipe, heads, crops, predictions down the hierarchy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as T
from toys import write_photographs

from geolib import attribution, data, model
from geolib.book import run
from geolib.chapters import location, world_map
from geolib.chapters.location import LocationExperiment
from geolib.chapters.world_map import Guess
from geolib.images import UnreadableImage
from geolib.model.classifier import take_classes, with_classes
from geolib.partitioning import great_circle_distance
from geolib.training import crops
from geolib.training import recipe as recipe_
from geolib.training.batches import WithEpoch
from geolib.training.location import (
    THEINER,
    THEINER_COUNTRIES,
    LocationModel,
    Targets,
    down_the_hierarchy,
    load_location,
    probabilities,
    train_location,
)
from geolib.training.recipe import summed_cross_entropy

SIZES = (4, 2)
HEADS = [["a", "b", "c", "d"], ["ab", "cd"]]
SMALL = model.TrainConfig(
    arch="timm/resnet10t",
    weights="random",
    image_size=32,
    batch_size=8,
    max_epochs=3,
    learning_rate=2e-3,
    label_smoothing=0,
    precision="fp32",
)


def small_model(arch: str = "timm/resnet10t", size: int = 32) -> LocationModel:
    names = [name for head in HEADS for name in head]
    classifier = model.load(arch, weights="random", classes=names, image_size=size)
    return LocationModel(classifier, SIZES).eval()


def noise(n: int, size: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


class Tile:
    """A given picture, or one of four colours, as its number says."""

    label = None

    def __init__(self, number: int, picture: Any = None, *, broken: bool = False) -> None:
        self.id, self.number, self.picture, self.broken = f"{number}", number, picture, broken

    def content_key(self) -> str:
        return f"tile {self.number}"

    def read(self) -> data.GeoImage:
        if self.broken:
            raise UnreadableImage(self.id, "broken on purpose")
        image = self.picture
        if image is None:
            colours = np.array([[220, 40, 40], [220, 160, 40], [40, 160, 220], [40, 40, 220]])
            noise = np.random.default_rng(self.number).integers(-30, 30, (40, 48, 3))
            image = (colours[self.number % 4] + noise).astype(np.uint8)
        return data.GeoImage(self.id, image, None, None, None, None)


def tiles(n: int, first: int = 0, split: str = "train") -> data.GeoDataset:
    return data.GeoDataset("folder", (), split, [Tile(first + i) for i in range(n)])


def cells(n: int, first: int = 0) -> np.ndarray:
    fine = (first + np.arange(n)) % 4
    return np.stack([fine, fine // 2], axis=1)


def small_run(config: model.TrainConfig = SMALL, **options) -> LocationModel:
    targets = Targets(HEADS, cells(32), cells(8, 1000))
    unseen = tiles(8, 1000, "validation")
    return train_location(tiles(32), unseen, targets, config, progress=False, **options)


# The loss ----------------------------------------------------------------------------------------


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
    parts = [
        summed_cross_entropy([a[i : i + 1] for a in logits], targets[i : i + 1]) for i in range(3)
    ]
    assert float(sum(parts)) / 3 == pytest.approx(float(expected) / 3)


def test_one_head_is_ordinary_cross_entropy_with_label_smoothing():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0, 1])
    expected = F.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(summed_cross_entropy([logits], targets[:, None], 0.1), expected)


# The paper's recipe ------------------------------------------------------------------------------


def recipe(profile: str = "theiner") -> LocationExperiment:
    parameters = run.resolve(["09-partitioning"], profile)["09-partitioning"]
    return LocationExperiment.from_parameters(parameters)


def test_the_theiner_profile_is_that_papers_recipe():
    """§4.1 and appendix A of Theiner et al.; the figures are typed in here once more on purpose."""
    experiment = recipe()
    assert experiment.location_config == THEINER
    assert experiment.training == THEINER_COUNTRIES
    both = {"image_size": 224, "crops": True, "optimizer": "sgd", "momentum": 0.9}
    both |= {"weight_decay": 1e-4, "horizontal_flip": True, "label_smoothing": 0, "color_jitter": 0}
    places = {"arch": "resnet50", "learning_rate": 0.01, "max_epochs": 15, "batch_size": 200}
    countries = {"weights": "imagenet", "learning_rate": 5e-3, "max_epochs": 10, "batch_size": 128}
    for config, expected in (
        (THEINER, both | places | {"schedule": "halving"}),
        (THEINER_COUNTRIES, both | countries | {"schedule": "warm_restarts"}),
    ):
        assert config.model_dump(include=set(expected)) == expected
    assert (experiment.tau_min, experiment.tau_d) == ((100, 125, 250), 50)
    assert (crops.TRAINING_EDGE, crops.TESTING_EDGE, crops.SIDE) == (320, 256, 224)
    assert crops.AREA == (0.66, 1.0)
    assert crops.ASPECT == (3 / 4, 4 / 3)


def rates(config: model.TrainConfig, steps: int) -> np.ndarray:
    """Learning rate of every step ``[epochs, steps]`` of a training."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=config.learning_rate)
    scheduler = recipe_._scheduler(optimizer, config, steps, steps * config.max_epochs)
    found = []
    for _ in range(steps * config.max_epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(found).reshape(config.max_epochs, steps)


def test_learning_rate_halves_every_third_and_then_every_epoch_or_runs_three_cosine_cycles_in_one():
    found = rates(THEINER, 4)
    assert (found == found[:, :1]).all()
    halvings = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6]
    np.testing.assert_allclose(found[:, 0], 0.01 * 0.5 ** np.array(halvings))
    cycle = 5e-3 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    np.testing.assert_allclose(rates(THEINER_COUNTRIES, 12), np.tile(cycle, (10, 3)))


def test_the_optimiser_is_sgd_with_momentum(monkeypatch):
    seen = []

    def note(self, optimizer):
        group = optimizer.param_groups[0]
        seen.append((type(optimizer).__name__, group["momentum"], group["weight_decay"]))

    monkeypatch.setattr(recipe_.Recipe, "on_before_optimizer_step", note)
    small_run(THEINER.model_copy(update={**small_settings(), "max_epochs": 1}))
    assert set(seen) == {("SGD", 0.9, 1e-4)}


def small_settings() -> dict[str, object]:
    small = {"arch", "weights", "image_size", "batch_size", "precision"}
    return SMALL.model_dump(include=small)


# Crops -------------------------------------------------------------------------------------------


def stripes(height: int, width: int) -> np.ndarray:
    """Brightness rises to the right, redness downwards."""
    down, right = np.mgrid[0:height, 0:width]
    image = np.stack([255 * down / height, 255 * right / width, np.zeros_like(down)], -1)
    return image.astype(np.uint8)


WIDE = data.GeoDataset("folder", (), "test", [Tile(i, stripes(300, 600)) for i in range(2)])


def test_five_crops_are_the_corners_and_the_centre():
    _, found = crops.five_crops(WIDE, 56)[0]
    assert found.shape == (5, 56, 56, 3)
    # The short edge is 64 pixels, the long one 128.
    red, green = found[..., 0].float().mean((1, 2)), found[..., 1].float().mean((1, 2))
    expected = [(28, 28), (28, 100), (36, 28), (36, 100), (32, 64)]
    for i, (row, column) in enumerate(expected):
        assert float(red[i]) == pytest.approx(255 * row / 64, abs=3)
        assert float(green[i]) == pytest.approx(255 * column / 128, abs=3)
    _, centre = crops.centre_crops(WIDE, 56)[0]
    assert torch.equal(centre, found[4])


def test_random_crops_of_a_wide_photograph_repeat():
    random = crops.RandomCrops(WIDE, 56, seed=0)
    spans = []
    for epoch in range(30):
        index, found = random[epoch, 1]
        assert index == 1
        assert found.shape == (56, 56, 3)
        assert torch.equal(random[epoch, 1][1], found)
        red, green = found[..., 0].float(), found[..., 1].float()
        spans.append([float(red.max() - red.min()) / 255, float(green.max() - green.min()) / 255])
    height, width = np.array(spans).T
    # Of a photograph twice as wide as high no part of a permitted shape fills more than two thirds:
    # torchvision then falls back on the largest in the middle.
    assert (height > 0.9).all()
    assert (width <= 0.7).all()


def test_random_crops_of_a_square_keep_the_areas_and_shapes_of_the_recipe():
    records = [Tile(i, stripes(200, 200)) for i in range(2)]
    squares = data.GeoDataset("folder", (), "train", records)
    random = crops.RandomCrops(squares, 56, seed=0)
    areas, shapes = [], []
    for epoch in range(60):
        _, found = random[epoch, epoch % 2]
        # The gradient across the crop tells the share of the edge that it spans.
        high = (found[-1, :, 0].float().mean() - found[0, :, 0].float().mean()) / 255 * 56 / 55
        wide = (found[:, -1, 1].float().mean() - found[:, 0, 1].float().mean()) / 255 * 56 / 55
        areas.append(float(high * wide))
        shapes.append(float(wide / high))
    assert 0.63 < min(areas) < 0.72
    assert 0.92 < max(areas) < 1.03
    assert min(shapes) > 0.72
    assert max(shapes) < 1.38
    assert len(set(areas)) > 50


def test_batches_with_their_epoch():
    batches = recipe_.Batches(6, 3, recipe_.Process(), seed=0)
    pairs = WithEpoch(batches)
    assert len(pairs) == 2
    for epoch in (0, 4):
        batches.epoch = epoch
        together = [pair for batch in pairs for pair in batch]
        assert sorted(together) == [(epoch, position) for position in range(6)]


def test_five_crop_testing_is_the_mean_of_the_softmax():
    network = small_model()
    broken = data.GeoDataset("folder", (), "test", [Tile(0), Tile(7, broken=True), Tile(1)])
    found = probabilities(
        network, broken, crops=True, device="cpu", precision="fp32", progress=False, batch_size=3
    )
    assert found.indices == [0, 2]
    assert [entry.id for entry in broken.skipped] == ["7"]
    for row, index in enumerate(found.indices):
        image = torch.from_numpy(broken[index].image).permute(2, 0, 1)
        views = torch.stack(T.five_crop(T.resize(image, [37], antialias=True), [32, 32]))
        with torch.inference_mode():
            logits = network(views.float() / 255)
        for head, scores in zip(found.probabilities, logits, strict=True):
            expected = scores.softmax(1).mean(0)
            np.testing.assert_allclose(head[row], expected.numpy(), atol=1e-5)


def test_whole_photographs_are_one_view():
    network, images = small_model(), tiles(5)
    found = probabilities(network, images, device="cpu", precision="fp32", progress=False)
    batch = data.to_batch([images[i] for i in range(5)], 32)
    with torch.inference_mode():
        for head, scores in zip(found.probabilities, network(batch), strict=True):
            np.testing.assert_allclose(head, scores.softmax(1).numpy(), atol=1e-5)


# Down the hierarchy ------------------------------------------------------------------------------


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


# The model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["timm/resnet10t", "squeezenet1_1", "mobilenet_v3_small"])
def test_heads_are_views_of_the_same_features(arch):
    network, images = small_model(arch), noise(2)
    with torch.inference_mode():
        logits = network(images)
        assert [tuple(scores.shape) for scores in logits] == [(2, 4), (2, 2)]
        for i, names in enumerate(HEADS):
            head = network.head(i)
            assert head.classes == tuple(names)
            assert head.image_size == 32
            torch.testing.assert_close(head(images), logits[i])
        torch.testing.assert_close(network.head(-1)(images), logits[1])
    with pytest.raises(IndexError):
        network.head(2)


def test_a_head_can_be_explained():
    maps = attribution.attribute(small_model().head(0), noise(2), "gradcam", precision="fp32")
    assert maps.shape == (2, 32, 32)
    assert maps.max() <= 1


def test_saved_and_loaded(tmp_path):
    network, images = small_model(), noise(2)
    network.save(tmp_path / "places.safetensors")
    again = load_location(tmp_path / "places.safetensors")
    assert again.sizes == SIZES
    assert again.weights_sha256 == network.weights_sha256
    with torch.inference_mode():
        for one, other in zip(again(images), network(images), strict=True):
            assert torch.equal(one, other)
    network.head(0).save(tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="holds a classifier, not a location model"):
        load_location(tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match=r"\(4, 3\) do not add up to the 6 classes"):
        LocationModel(network.classifier, (4, 3))


def test_other_classes_keep_the_backbone():
    countries = model.load("timm/resnet10t", weights="random", classes=["A", "B"], image_size=32)
    before = countries.weights_sha256
    renewed = with_classes(countries, ["x", "y", "z"], seed=1)
    kept, now = countries.network.state_dict(), renewed.network.state_dict()
    replaced = {key for key in kept if not torch.equal(now[key], kept[key])}
    assert replaced == {key for key in kept if now[key].shape != kept[key].shape}
    assert len(replaced) == 2
    assert renewed.classes == ("x", "y", "z")
    assert renewed(noise(1)).shape == (1, 3)
    assert countries.weights_sha256 == before
    assert take_classes(renewed, 1, 3).classes == ("y", "z")


# Training ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> LocationModel:
    return small_run()


def test_it_learns_both_heads(trained):
    found = probabilities(trained, tiles(16, 5000), progress=False)
    expected = cells(16, 5000)
    for head, column in zip(found.probabilities, expected.T, strict=True):
        assert (head.argmax(1) == column).mean() > 0.8


def test_history_holds_the_summed_loss_of_the_kept_weights(trained):
    images = tiles(8, 1000)
    batch = data.to_batch([images[i] for i in range(8)], 32)
    targets = torch.from_numpy(cells(8, 1000))
    with torch.inference_mode():
        loss = summed_cross_entropy(trained(batch), targets)
    kept = trained.classifier.history["validation_loss"].min()
    assert kept == pytest.approx(float(loss), abs=1e-4)


def test_it_starts_from_the_country_classifier():
    countries = model.load(
        "timm/resnet10t", weights="random", classes=["A", "B"], image_size=48, seed=5
    )
    still = SMALL.model_copy(
        update={"learning_rate": 1e-30, "freeze_batch_norm": True, "max_epochs": 1}
    )
    network = small_run(still, initial=countries)
    assert network.image_size == 32
    before, after = countries.network.state_dict(), network.classifier.network.state_dict()
    same = [key for key, tensor in before.items() if tensor.shape == after[key].shape]
    assert len(same) == len(before) - 2
    assert all(torch.allclose(before[key], after[key], rtol=0, atol=1e-20) for key in same)


def test_a_training_that_stopped_resumes_to_the_same_weights(tmp_path, monkeypatch):
    config = SMALL.model_copy(
        update={"crops": True, "schedule": "halving", "optimizer": "sgd", "max_epochs": 2}
    )
    undisturbed = small_run(config)
    step = recipe_.Recipe.training_step

    def stopped(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 1):
            raise OSError("stopped on purpose")
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="on purpose"):
        patch.setattr(recipe_.Recipe, "training_step", stopped)
        small_run(config, checkpoints=tmp_path)
    resumed = small_run(config, checkpoints=tmp_path)
    assert resumed.weights_sha256 == undisturbed.weights_sha256
    assert resumed.classifier.history.equals(undisturbed.classifier.history)
    other = small_model().classifier
    with pytest.raises(ValueError, match="belongs to a training with other initial weights"):
        small_run(config, checkpoints=tmp_path, initial=other)


def test_crops_are_trained_on(trained):
    """Unreadable photographs are left out, and the parts differ from the whole."""
    images = data.GeoDataset("folder", (), "train", [*tiles(16).records, Tile(16, broken=True)])
    targets = Targets(HEADS, cells(17), cells(8, 1000))
    weights = []
    for with_crops in (True, False):
        config = SMALL.model_copy(update={"crops": with_crops, "max_epochs": 1})
        with pytest.warns(UserWarning, match="1 unreadable images are left out"):
            given = (images, tiles(8, 1000, "validation"), targets, config)
            weights.append(train_location(*given, progress=False).weights_sha256)
    assert weights[0] != weights[1]


def test_targets_that_do_not_match():
    wrong = Targets(HEADS, cells(32)[:, :1], cells(8, 1000))
    with pytest.raises(ValueError, match=r"train split have shape \(32, 1\); expected \(32, 2\)"):
        train_location(tiles(32), tiles(8), wrong, SMALL)
    with pytest.raises(ValueError, match="outside -1…C-1"):
        train_location(tiles(32), tiles(8), Targets(HEADS, cells(32) + 1, cells(8)), SMALL)


# The study ---------------------------------------------------------------------------------------

TOWNS = {
    "FR": [(44.84, -0.58), (45.76, 4.84)],
    "JP": [(43.06, 141.35), (34.69, 135.50)],
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Four towns, a colour each, twelve photographs per town and one that nobody located."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    rows = []
    number = 0
    for country, towns in TOWNS.items():
        for latitude, longitude in towns:
            for _ in range(14):
                pixels = Tile(rng.integers(1000) * 4 + number % 4).read().image
                Image.fromarray(pixels).save(root / f"{len(rows)}.png")
                place = latitude + rng.normal(0, 0.02), longitude + rng.normal(0, 0.02)
                rows.append((f"{len(rows)}.png", country, *place))
            number += 1
    Image.fromarray(stripes(40, 40)).save(root / "nowhere.png")
    rows.append(("nowhere.png", "JP", None, None))
    columns = ["file", "country", "latitude", "longitude"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "metadata.csv", index=False)
    return root


@pytest.fixture(scope="module")
def experiment(photographs, tmp_path_factory):
    """The paper's recipe, shortened: one epoch each on countries and on places."""
    small = small_settings() | {"max_epochs": 1, "batch_size": 16}
    parameters = run.resolve(["09-partitioning"], "theiner")["09-partitioning"]
    parameters |= {
        "dataset": "folder",
        "root": str(photographs),
        "classes": ["FR", "JP"],
        "image_size": 32,
        "tau_min": [3, 8, 16],
        "tau_d": 2,
        "s2_tau_min": 1,
        "country_training": parameters["country_training"] | small,
        "location_training": parameters["location_training"] | small,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield LocationExperiment.from_parameters(parameters)


def test_the_shortened_recipe_runs(experiment):
    table = experiment.places("semantic", "test")
    assert set(table["variant"]) == {"f", "f*"}
    truth = table[["latitude", "longitude"]].to_numpy()
    found = table[["predicted_latitude", "predicted_longitude"]].to_numpy()
    np.testing.assert_allclose(table["km"], great_circle_distance(truth, found))
    finest = experiment.partitionings("semantic")[0]
    np.testing.assert_array_equal(found, finest.coordinates[table["cell"]])
    assert table["label"].tolist() == [finest.labels[cell] for cell in table["cell"]]
    assert "nowhere.png" not in set(table["image_id"])
    assert len(table) == 2 * len(experiment.images("test"))
    assert table["assigned"].all()


def test_what_was_trained_is_found_again(experiment, monkeypatch):
    first = experiment.location_model("semantic")
    monkeypatch.setattr(location, "train_location", lambda *a, **k: pytest.fail("trained again"))
    again = LocationExperiment(**experiment.model_dump()).location_model("semantic")
    assert again.weights_sha256 == first.weights_sha256


def test_cells_come_from_the_training_images_alone(experiment):
    points = experiment.coordinates("train")
    for kind in location.KINDS:
        finest, *coarser = experiment.partitionings(kind)
        assert finest.cells["n_samples"].sum() + finest.n_unassigned == len(points)
        assert all(finest.n_classes >= other.n_classes for other in coarser)


def test_errors_stand_beside_the_ceiling_and_the_prior(experiment):
    errors = experiment.errors("test")
    truth = experiment.coordinates("test")
    assert {len(km) for km in errors.values()} == {len(truth)}
    for short in ("SemP", "S2"):
        for variant in ("f", "f*"):
            assert (errors[f"{short}, {variant}"] >= errors[f"{short}, ceiling"] - 1e-9).all()
    finest = experiment.partitionings("semantic")[0]
    commonest = finest.cells["n_samples"].idxmax()
    place = finest.coordinates[[commonest]].repeat(len(truth), axis=0)
    np.testing.assert_allclose(errors["training prior"], great_circle_distance(truth, place))


def test_without_coordinates_the_chapter_says_so_and_goes_on_with_scenes(experiment, tmp_path):
    write_photographs(tmp_path, 7)
    settings = experiment.model_dump() | {"root": str(tmp_path), "classes": None}
    instead, note = LocationExperiment(**settings).located()
    assert instead.dataset == "geoscenes"
    assert "none of them has coordinates" in note
    assert experiment.located()[0] is experiment
    assert f"{len(experiment.images('test'))} in test" in experiment.located()[1]


def test_a_guess_holds_what_the_table_says(experiment):
    table = experiment.places("s2", "test").query("variant == 'f'")
    row = table.iloc[0]
    guess = experiment.guess("s2", "test", row["image_id"])
    best = guess.cells.iloc[0]
    assert guess.cells.index[0] == row["cell"]
    assert best["probability"] == pytest.approx(row["probability"])
    assert guess.predicted == (best["latitude"], best["longitude"])
    assert guess.km == row["km"]
    assert guess.cells["probability"].is_monotonic_decreasing
    assert guess.cells.geometry.notna().all()


# Maps --------------------------------------------------------------------------------------------


def guess_of(places: dict[str, tuple[float, float, float]], truth: tuple[float, float]) -> Guess:
    """Round cells by name: latitude, longitude, probability."""
    columns = ["latitude", "longitude", "probability"]
    table = pd.DataFrame.from_dict(places, orient="index", columns=columns).reset_index(
        names="name"
    )
    round_ = geopandas.points_from_xy(table["longitude"], table["latitude"]).buffer(0.3)
    cells = geopandas.GeoDataFrame(table, geometry=round_, crs="EPSG:4326")
    return Guess("SemP", cells, truth, (table["latitude"][0], table["longitude"][0]), 123.4)


NEAR = {
    "Bordeaux, Gironde, France": (44.8, -0.6, 0.6),
    "Pessac, Gironde, France": (44.81, -0.63, 0.2),
    "Toulouse, Haute-Garonne, France": (43.6, 1.4, 0.15),
    "Sapporo, Hokkaido, Japan": (43.1, 141.3, 0.05),
}


def test_the_map_shows_the_true_place_and_the_answer():
    truth = (45.8, 4.8)
    west, south, east, north = world_map._view([guess_of(NEAR, truth)])
    for latitude, longitude in (truth, (44.8, -0.6), (43.6, 1.4)):
        assert west < longitude < east
        assert south < latitude < north
    assert east < 20  # not as far as the unlikely cell in Japan


def test_names_do_not_lie_on_each_other():
    cells = guess_of(NEAR, (45.8, 4.8)).cells
    kept = world_map._apart(cells, (-4, 40, 8, 50))
    assert [name.split(",")[0] for name in kept["name"]] == ["Bordeaux", "Toulouse"]


def test_the_figure_says_what_the_models_say():
    figure = world_map.guesses(
        stripes(40, 60), [guess_of(NEAR, (45.8, 4.8))] * 2, "Photograph: A. Author, CC BY-SA 4.0"
    )
    texts = [text.get_text() for text in figure.findobj(Text)]
    words = " ".join(texts)
    assert "SemP, 123 km off:\nBordeaux, Gironde, France" in words
    assert "A. Author, CC BY-SA 4.0" in words
    assert texts.count("Bordeaux") == 2
    points = [line.get_xydata() for line in figure.findobj(Line2D) if line.get_marker() == "o"]
    drawn = {tuple(point[0].tolist()) for point in points if len(point)}
    assert {(4.8, 45.8), (-0.6, 44.8)} <= drawn


# Tables ------------------------------------------------------------------------------------------


def test_accuracy_table_by_hand():
    table = location.accuracy_table({"a": [0.5, 30.0, 100.0, np.inf]}, radii=(1, 50, 200))
    values = table.set_index("quantity")["value"]
    assert values[["a_1", "a_50", "a_200"]].tolist() == [0.25, 0.5, 0.75]
    points = 5000 * np.exp(-np.array([0.5, 30, 100]) / 1492.7)
    assert values["score"] == pytest.approx(points.sum() / 4)
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_the_table_for_reading_puts_the_best_first():
    near, far = [10.0, 100.0, 100.0, 900.0], [10.0, 400.0, 900.0, np.inf]
    table = location.wide(location.accuracy_table({"far": far, "near": near}))
    assert table.index.tolist() == ["near", "far"]
    assert table.columns.tolist() == ["a_1", "a_25", "a_200", "a_750", "a_2500", "score"]
    assert table.loc["near", "a_200"].startswith("75.0% (30.")
    assert table.loc["far", "a_750"].startswith("50.0% (")


def test_partitionings_in_the_rows_of_table_1():
    rng = np.random.default_rng(0)
    towns = np.array([(44.84, -0.58), (45.76, 4.84), (43.06, 141.35), (34.69, 135.5)])
    points = towns.repeat([80, 40, 40, 40], axis=0) + rng.normal(0, 0.02, (200, 2))
    found = location.configurations(points, (10, 30, 90), 5, 2)
    assert list(found)[:2] == ["SemP {10, 30, 90}", "SemP {10, 12, 15}"]
    assert len(found) == 8
    assert location.scaled_preset("SemP_a {75,100,150}", (10, 30, 90)) == (
        "SemP_a {8, 10, 15}",
        ((8, 10, 15), 5, True),
    )
    own, s2 = found["SemP {10, 30, 90}"], found["S2, as many cells"]
    assert abs(own[0].n_classes - s2[0].n_classes) <= 2
    counted = [p.cells["n_samples"].sum() + p.n_unassigned for p in (own[0], s2[0])]
    assert counted == [200, 200]


def test_coordinates_of_a_file(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text("id,longitude,latitude\na,2,48\nb,,50\nc,-3,40\n")
    np.testing.assert_array_equal(location.read_coordinates(path), [[48, 2], [40, -3]])
    path.write_text("id,lat,longitude\na,48,2\n")
    with pytest.raises(ValueError, match="lacks latitude; it has"):
        location.read_coordinates(path)
    with pytest.raises(ValueError, match=r"coordinates='.*nowhere\.csv' is no file"):
        location.read_coordinates(tmp_path / "nowhere.csv")
    built, tested = location.held_out(np.arange(20).reshape(10, 2))
    assert tested[:, 0].tolist() == [0, 10]
    assert len(built) == 8


def test_difference_is_paired():
    near, far = np.full(20, 10.0), np.full(20, 500.0)
    for n in (20, 1):
        found = location.accuracy_gain(near[:n], far[:n], 200, "x")
        assert (found.value, found.low, found.high, found.n) == (100, 100, 100, n)
    mixed = location.accuracy_gain(np.where(np.arange(20) < 10, 10, 500), far, 200, "x")
    assert mixed.value == 50
    assert 0 < mixed.low < 50 < mixed.high < 100


def test_coordinates_of_scenes_need_no_drawing(monkeypatch, tmp_path):
    scenes = data.load("geoscenes", "train", 6, size=64)
    expected = [(scenes[i].latitude, scenes[i].longitude) for i in range(6)]
    monkeypatch.setattr("geoscenes.Scene.image", property(lambda self: pytest.fail("drawn")))
    np.testing.assert_array_equal(location.coordinates(scenes), expected)
    write_photographs(tmp_path, 2)
    nowhere = location.coordinates(data.load("folder", "all", root=tmp_path))
    np.testing.assert_array_equal(nowhere, np.full((4, 2), np.nan))
