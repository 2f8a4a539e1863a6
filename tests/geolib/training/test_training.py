"""Training: the paper's values, learning, repeatability, and survival of a kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as T

from geolib import data, model
from geolib.images import UnreadableImage
from geolib.model.device import BatchSize
from geolib.training import batches, recipe
from geolib.training.augmentation import augment

MOBILENET = Path(__file__).parents[4] / "shared" / "weights" / "mobilenet_v2-imagenet1k.safetensors"
SMALL = model.TrainConfig(
    arch="timm/resnet10t",
    weights="random",
    image_size=32,
    batch_size=16,
    max_epochs=4,
    learning_rate=1e-3,
    precision="fp32",
)
DROPOUT = {"arch": "mobilenet_v3_small", "schedule": "one_cycle"}


class Patch:
    """Noise with a patch, at a random place, whose colour tells the class."""

    def __init__(self, number: int, n_classes: int, label: int | None = None) -> None:
        self.id = f"{number}"
        self.number, self.n_classes = number, n_classes
        self.label = number % n_classes if label is None else label

    def content_key(self) -> str:
        return f"{self.number} of {self.n_classes}"

    def read(self) -> data.GeoImage:
        rng = np.random.default_rng(self.number)
        image = rng.integers(96, 160, (32, 32, 3), np.uint8)
        hue = 2 * np.pi * (self.number % self.n_classes) / self.n_classes
        color = 128 + 120 * np.cos(hue + np.array([0, 2, 4]) * np.pi / 3)
        y, x = rng.integers(0, 16, 2)
        image[y : y + 16, x : x + 16] = color
        return data.GeoImage(self.id, image, None, self.label, None, None)


class Unlabelled(Patch):
    label = property(lambda self: None, lambda self, value: None)


class Broken(Patch):
    def read(self) -> data.GeoImage:
        raise UnreadableImage(self.id, "broken on purpose")


def patches(n: int, n_classes: int = 3, first: int = 0, split: str = "train") -> data.GeoDataset:
    classes = tuple("ABCDEFGHIJ"[:n_classes])
    return data.GeoDataset(
        "folder", classes, split, [Patch(first + i, n_classes) for i in range(n)]
    )


def small_run(options: dict | None = None, **arguments) -> model.Classifier:
    """A training with :data:`SMALL`, but for the options."""
    validation = patches(12, first=1000, split="validation")
    config = SMALL.model_copy(update=options or {})
    return model.train(patches(48), validation, config, progress=False, **arguments)


@pytest.fixture(scope="module")
def trained() -> model.Classifier:
    return small_run()


def running_means(classifier: model.Classifier) -> list[torch.Tensor]:
    buffers = classifier.named_buffers()
    return [buffer for name, buffer in buffers if name.endswith("running_mean")]


# The recipe --------------------------------------------------------------------------------------


def test_paper_values():
    """§4 of arXiv 2605.00912; the figures are typed in here once more on purpose."""
    paper = model.PAPER
    assert (paper.arch, paper.weights, paper.image_size) == ("resnet50", "imagenet", 224)
    assert (paper.learning_rate, paper.weight_decay) == (3e-4, 0.02)
    assert paper.label_smoothing == 0.1
    assert (paper.max_epochs, paper.patience) == (300, 30)
    assert paper.horizontal_flip
    assert paper.color_jitter > 0
    assert paper.schedule == "constant"


def test_settings_are_checked_and_frozen():
    with pytest.raises(pydantic.ValidationError, match=r"learning_rat\n.*Extra inputs"):
        model.TrainConfig(learning_rat=1)
    with pytest.raises(pydantic.ValidationError, match="label_smoothing"):
        model.TrainConfig(label_smoothing=1)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        model.PAPER.seed = 1


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_optimiser_and_schedule(schedule, monkeypatch):
    rates = []

    def note(self, optimizer):
        (group,) = optimizer.param_groups
        assert type(optimizer) is torch.optim.AdamW and group["weight_decay"] == 0.02
        rates.append(group["lr"])

    monkeypatch.setattr(recipe.Recipe, "on_before_optimizer_step", note)
    small_run({"schedule": schedule, "max_epochs": 3})
    rates = np.array(rates)
    assert len(rates) == 9
    if schedule == "constant":
        assert set(rates) == {1e-3}
    else:
        assert rates.max() == pytest.approx(1e-3, rel=0.05)
        assert 0 < rates.argmax() < 5
        assert rates[-1] < 1e-6


def test_loss_is_smoothed_cross_entropy_of_the_kept_weights(trained):
    """The classifier returned is that of the epoch with the lowest validation loss."""
    validation = patches(12, first=1000)
    images = data.to_batch([validation[i] for i in range(12)], 32)
    with torch.inference_mode():
        log_p = F.log_softmax(trained(images), 1)
    labels = torch.tensor(validation.labels)
    true = -log_p[torch.arange(12), labels]
    expected = (0.9 * true - 0.1 * log_p.mean(1)).mean()
    assert trained.history["validation_loss"].min() == pytest.approx(float(expected), abs=1e-5)
    assert not trained.training


def test_history_has_a_row_per_epoch(trained):
    assert trained.history["epoch"].tolist() == [0, 1, 2, 3]
    losses = {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy"}
    assert set(trained.history) == {"epoch", *losses}
    assert trained.trained_on == "folder"
    assert model.TrainConfig(**trained.training_config) == SMALL


# Learning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_it_learns_any_number_of_classes(n_classes, tmp_path):
    classifier = model.train(
        patches(12 * n_classes, n_classes),
        patches(2 * n_classes, n_classes, first=10_000, split="validation"),
        SMALL.model_copy(update={"max_epochs": 6, "schedule": "one_cycle"}),
        progress=False,
    )
    unseen = patches(10 * n_classes, n_classes, first=20_000)
    predictions = model.predict(classifier, unseen, progress=False)
    assert classifier(torch.zeros(1, 3, 32, 32)).shape == (1, n_classes)
    assert model.accuracy(predictions) > 0.85
    # The checkpoint answers alike.
    classifier.save(tmp_path / "c.safetensors")
    again = model.predict(model.load(tmp_path / "c.safetensors"), unseen, progress=False)
    np.testing.assert_array_equal(again["prediction"], predictions["prediction"])


def test_bfloat16_training_and_inference_agree_with_float32():
    classifier = small_run({"precision": "bf16", "max_epochs": 6})
    unseen = patches(60, first=20_000)
    exact = model.predict(classifier, unseen, precision="fp32", progress=False)
    rough = model.predict(classifier, unseen, precision="bf16", progress=False)
    assert model.accuracy(exact) > 0.85
    assert (exact["prediction"] == rough["prediction"]).mean() > 0.95
    np.testing.assert_allclose(exact["probability"], rough["probability"], atol=0.05)


@pytest.mark.skipif(not MOBILENET.is_file(), reason=f"no weights at {MOBILENET}")
def test_folded_batch_norm_stays_frozen_when_fine_tuning():
    options = {"arch": "mobilenet_v2", "weights": str(MOBILENET), "max_epochs": 2}
    classifier = small_run(options)
    means = running_means(classifier)
    assert len(means) == 52
    assert all((mean == 0).all() for mean in means)
    assert classifier.trained_on == "folder"


def test_batch_norm_of_an_untrained_network_learns_its_statistics(trained):
    assert any((mean != 0).any() for mean in running_means(trained))
    frozen = small_run({"freeze_batch_norm": True, "max_epochs": 1})
    assert all((mean == 0).all() for mean in running_means(frozen))


def test_early_stopping(tmp_path):
    # Weights that do not move: the first validation loss is never undercut.
    still = {"learning_rate": 1e-30, "freeze_batch_norm": True}
    config = {**still, "patience": 2, "max_epochs": 9}
    classifier = small_run(config, checkpoints=tmp_path)
    assert len(classifier.history) == 3
    again = small_run(config, checkpoints=tmp_path)
    assert len(again.history) == 3
    assert again.weights_sha256 == classifier.weights_sha256


# Repeatability -----------------------------------------------------------------------------------


def test_the_seed_alone_decides(trained):
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    again = small_run()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.weights_sha256 == trained.weights_sha256
    assert again.history.equals(trained.history)
    other = small_run({"seed": 1})
    assert other.weights_sha256 != trained.weights_sha256


def test_streaming_from_disk_gives_the_same(trained, monkeypatch):
    monkeypatch.setattr(batches, "MEMORY_SHARE", 0)
    assert small_run().weights_sha256 == trained.weights_sha256


def noted_steps(monkeypatch) -> list[tuple[int, int]]:
    """Epoch and batch of the steps that are made from now on."""
    made = []
    step = recipe.Recipe.training_step

    def note(self, batch, batch_idx):
        made.append((self.current_epoch, batch_idx))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(recipe.Recipe, "training_step", note)
    return made


@contextmanager
def stopped_before(epoch: int, batch: int) -> Iterator[None]:
    """A training in this block breaks off before a step."""
    step = recipe.Recipe.training_step

    def until(self, pixels, batch_idx):
        if (self.current_epoch, batch_idx) == (epoch, batch):
            raise OSError("stopped on purpose")
        step(self, pixels, batch_idx)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="on purpose"):
        patch.setattr(recipe.Recipe, "training_step", until)
        yield


def test_a_training_that_stopped_resumes_to_the_same_weights(trained, tmp_path, monkeypatch):
    with stopped_before(2, 1):
        small_run(checkpoints=tmp_path)
    made = noted_steps(monkeypatch)
    resumed = small_run(checkpoints=tmp_path)
    assert made == [(2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2)]
    assert resumed.history.equals(trained.history)
    assert resumed.weights_sha256 == trained.weights_sha256
    with pytest.raises(ValueError, match="belongs to a training with other config; use an empty"):
        small_run({"seed": 1}, checkpoints=tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_epoch_goes_on_where_its_last_checkpoint_was_made(tmp_path, monkeypatch):
    """With dropout, a learning rate that changes each step, and worker processes that read."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
torch.set_num_threads({torch.get_num_threads()})
from test_training import DROPOUT, small_run
from geolib.training import recipe

recipe.CHECKPOINT_SECONDS = 0
step = recipe.Recipe.training_step
def killed(self, batch, batch_idx):
    if (self.current_epoch, batch_idx) == (2, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, batch, batch_idx)
recipe.Recipe.training_step = killed
small_run(DROPOUT, checkpoints={str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    undisturbed = small_run(DROPOUT)
    made = noted_steps(monkeypatch)
    monkeypatch.setattr(batches, "MEMORY_SHARE", 0)
    monkeypatch.setattr(batches, "default_workers", lambda n_images: 1)
    resumed = small_run(DROPOUT, checkpoints=tmp_path)
    assert made == [(2, 1), (2, 2), (3, 0), (3, 1), (3, 2)]
    assert resumed.history.equals(undisturbed.history)
    assert resumed.weights_sha256 == undisturbed.weights_sha256


# Memory and processes ----------------------------------------------------------------------------


def test_batches_beyond_the_memory_go_through_in_parts(monkeypatch):
    frozen = {"freeze_batch_norm": True, "max_epochs": 2}
    whole = small_run(frozen)
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "BatchSize", lambda images: BatchSize(4))
        in_parts = small_run(frozen)
    forward = model.Classifier.forward

    def small_memory(self, images):
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, images)

    with monkeypatch.context() as patch, pytest.warns(UserWarning) as caught:
        patch.setattr(model.Classifier, "forward", small_memory)
        halved = small_run(frozen)
    assert [str(w.message).split(";")[0] for w in caught if "memory" in str(w.message)] == [
        "out of memory with 16 images at once: going on with 8",
        "out of memory with 8 images at once: going on with 4",
    ]
    assert halved.weights_sha256 == in_parts.weights_sha256
    # The step is that of the whole batch, up to rounding.
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(halved(images), whole(images), atol=2e-3, rtol=0)
    np.testing.assert_allclose(halved.history, whole.history, atol=1e-3)


def shares(n_images: int, world_size: int, seed: int | None = 0, step: int = 0) -> list:
    """Batches of six images as each process sees them: [epoch][batch][rank]."""
    processes = [recipe.Process(rank, rank, world_size, world_size) for rank in range(world_size)]
    parts = [recipe.Batches(n_images, 6, process, seed) for process in processes]
    for part in parts:
        part.resume(step)
    seen = []
    for epoch in range(step // len(parts[0]), 3):
        for part in parts:
            part.epoch = epoch
        seen.append(list(zip(*map(list, parts), strict=True)))
    return seen


@pytest.mark.parametrize("n_images", [4, 12, 19])
@pytest.mark.parametrize("seed", [None, 0])
def test_processes_share_the_batches_of_one(n_images, seed):
    alone, four = shares(n_images, 1, seed), shares(n_images, 4, seed)
    for epochs, shared in zip(alone, four, strict=True):
        assert [sorted(chain(*parts)) for parts in shared] == [sorted(b) for (b,) in epochs]
        assert all(max(map(len, p)) - min(map(len, p)) <= 1 for p in shared)
    images = sorted(chain(*(batch for (batch,) in alone[0])))
    if seed is None:
        assert images == list(range(n_images))
    else:
        assert len(images) == len(set(images)) == {4: 4, 12: 12, 19: 18}[n_images]
        assert alone[0] != alone[1]


def test_batches_go_on_after_any_step():
    whole = [batch for epoch in shares(19, 2) for batch in epoch]
    assert len(whole) == 9
    for step in range(9):
        assert [batch for epoch in shares(19, 2, step=step) for batch in epoch] == whole[step:]


def test_more_processes_than_images_in_a_batch():
    with pytest.raises(ValueError, match=r"batch_size=6 and 3 training images: too few for 4 proc"):
        shares(3, 4)


# Augmentation ------------------------------------------------------------------------------------


def mid_range_images(n: int) -> torch.Tensor:
    """Values that no jitter drives out of 0…1, so that clipping plays no part."""
    return 0.4 + 0.2 * torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def random_draws(n: int) -> torch.Tensor:
    return torch.rand(4, n, generator=torch.Generator().manual_seed(1))


def test_jitter_agrees_with_torchvision():
    images = mid_range_images(5)
    draws = random_draws(5)
    found = augment(images, draws, False, 0.3)
    for i in range(5):
        brightness, contrast, saturation = (1 + 0.3 * (2 * draws[1:, i] - 1)).tolist()
        expected = T.adjust_brightness(images[i], brightness)
        expected = T.adjust_saturation(expected, saturation)
        expected = T.adjust_contrast(expected, contrast)
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=0)


def test_every_second_image_is_mirrored():
    images = mid_range_images(1).expand(400, 3, 8, 8)
    found = augment(images, random_draws(400), True, 0)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    kept = (found == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 160 < mirrored.sum() < 240


def test_augmentation_can_be_off_and_stays_in_range():
    images = torch.rand(6, 3, 8, 8)
    assert torch.equal(augment(images, random_draws(6), False, 0), images)
    found = augment(images, random_draws(6), True, 0.9)
    assert found.min() >= 0
    assert found.max() <= 1


# Bad input ---------------------------------------------------------------------------------------


def test_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(ValueError, match=r"loss is (nan|inf) in epoch \d.*learning_rate"):
        small_run({"learning_rate": 1e30})


@pytest.mark.parametrize(
    ("n_classes", "records", "message"),
    [
        ((3, 2), [Patch(0, 2)], r"validation has the classes \('A', 'B'\)"),
        ((1, 1), [Patch(0, 1)], "at least two"),
        ((2, 2), [Unlabelled(0, 2)], "validation split holds no labelled image"),
        ((2, 2), [Broken(0, 2)], "validation split holds no readable image"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*unreadable")
def test_datasets_that_do_not_go_together(n_classes, records, message):
    validation = data.GeoDataset("folder", tuple("AB"[: n_classes[1]]), "validation", records)
    with pytest.raises(ValueError, match=message):
        model.train(patches(6, n_classes[0]), validation, SMALL, progress=False)


def test_unlabelled_and_unreadable_images_are_left_out(trained):
    mixed = patches(48)
    useless = (Unlabelled(500, 3), Broken(501, 3))
    mixed = data.GeoDataset("folder", mixed.classes, "train", (*mixed.records, *useless))
    validation = patches(12, first=1000, split="validation")
    with pytest.warns(UserWarning) as caught:
        classifier = model.train(mixed, validation, SMALL, progress=False)
    messages = {str(warning.message) for warning in caught}
    assert "1 images without a label are left out" in messages
    assert "1 unreadable images are left out" in messages
    assert mixed.skipped == [("501", "broken on purpose")]
    assert classifier.weights_sha256 == trained.weights_sha256
