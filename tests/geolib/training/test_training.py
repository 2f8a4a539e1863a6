"""Training: the paper's values, learning, repeatability, and survival of a kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydantic
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as T
from toys import SMALL, Item, patch, patches

from geolib import data, model
from geolib.model.device import BatchSize
from geolib.training import batches, recipe
from geolib.training.augmentation import augment

MOBILENET = Path(__file__).parents[4] / "shared" / "weights" / "mobilenet_v2-imagenet1k.safetensors"
DROPOUT = {"arch": "mobilenet_v3_small", "schedule": "one_cycle"}
SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4}
FROZEN = {"freeze_batch_norm": True}


def small_run(options: dict | None = None, **arguments) -> model.Classifier:
    """A training with :data:`SMALL`, but for the options."""
    validation = patches(12, first=1000, split="validation")
    config = SMALL.model_copy(update=options or {})
    return model.train(patches(48), validation, config, **arguments)


@pytest.fixture(scope="module")
def trained() -> model.Classifier:
    return small_run()


def running_means(classifier: model.Classifier) -> list[torch.Tensor]:
    return [b for name, b in classifier.named_buffers() if name.endswith("running_mean")]


# The recipe --------------------------------------------------------------------------------------


def test_paper_values():
    """§4 of arXiv 2605.00912; the figures are typed in here once more on purpose."""
    expected = {"arch": "resnet50", "weights": "imagenet", "image_size": 224, "max_epochs": 300}
    expected |= {"learning_rate": 3e-4, "weight_decay": 0.02, "label_smoothing": 0.1}
    expected |= {"patience": 30, "horizontal_flip": True, "schedule": "constant"}
    assert model.PAPER.model_dump(include=set(expected)) == expected
    assert model.PAPER.color_jitter > 0


def test_settings_are_checked_and_frozen():
    with pytest.raises(pydantic.ValidationError, match=r"learning_rat\n.*Extra inputs"):
        model.TrainConfig(learning_rat=1)
    with pytest.raises(pydantic.ValidationError, match="label_smoothing"):
        model.TrainConfig(label_smoothing=1)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        model.PAPER.seed = 1


@pytest.mark.parametrize("options", [{}, {"schedule": "one_cycle"}, SGD])
def test_optimiser_and_schedule(options, monkeypatch):
    rates = []

    def note(self, optimizer):
        (group,) = optimizer.param_groups
        found = type(optimizer), group["weight_decay"], group.get("momentum")
        adam, sgd = (torch.optim.AdamW, 0.02, None), (torch.optim.SGD, 1e-4, 0.9)
        assert found == (sgd if options == SGD else adam)
        rates.append(group["lr"])

    monkeypatch.setattr(recipe.Recipe, "on_before_optimizer_step", note)
    small_run({**options, "max_epochs": 3})
    rates = np.array(rates)
    assert len(rates) == 9
    if "schedule" not in options:
        assert set(rates) == {1e-3}
    else:
        assert rates.max() == pytest.approx(1e-3, rel=0.05)
        assert 0 < rates.argmax() < 5
        assert rates[-1] < 1e-6


def test_history_holds_the_smoothed_cross_entropy_of_the_kept_weights(trained):
    """The classifier returned is that of the epoch with the lowest validation loss."""
    validation = patches(12, first=1000)
    images = data.to_batch(list(validation), 32)
    with torch.inference_mode():
        log_p = F.log_softmax(trained(images), 1)
    labels = torch.tensor(validation.labels)
    true = -log_p[torch.arange(12), labels]
    expected = (0.9 * true - 0.1 * log_p.mean(1)).mean()
    assert trained.history["validation_loss"].min() == pytest.approx(float(expected), abs=1e-5)
    assert not trained.training
    assert trained.history["epoch"].tolist() == [0, 1, 2, 3]
    losses = {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy"}
    assert set(trained.history) == {"epoch", *losses}
    assert trained.trained_on == "folder"
    assert model.TrainConfig(**trained.training_config) == SMALL


# Learning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_it_learns_any_number_of_classes(n_classes, tmp_path):
    validation = patches(2 * n_classes, n_classes, first=10_000, split="validation")
    changes = {"max_epochs": 6, "schedule": "one_cycle", "learning_rate": 5e-3}
    config = SMALL.model_copy(update=changes)
    classifier = model.train(patches(24 * n_classes, n_classes), validation, config)
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
    classifier = small_run({"arch": "mobilenet_v2", "weights": str(MOBILENET), "max_epochs": 2})
    means = running_means(classifier)
    assert len(means) == 52
    assert all((mean == 0).all() for mean in means)
    assert classifier.trained_on == "folder"


def test_batch_norm_of_an_untrained_network_learns_its_statistics(trained):
    assert any((mean != 0).any() for mean in running_means(trained))
    frozen = small_run({**FROZEN, "max_epochs": 1})
    assert all((mean == 0).all() for mean in running_means(frozen))


def test_early_stopping(tmp_path):
    # Weights that do not move: the first validation loss is never undercut.
    config = {**FROZEN, "learning_rate": 1e-30, "patience": 2, "max_epochs": 9}
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


def before_steps(monkeypatch: pytest.MonkeyPatch, act: Callable[[tuple[int, int]], None]) -> None:
    """From now on `act` is called with the epoch and the batch of each step before it is made."""
    step = recipe.Recipe.training_step

    def training_step(self, batch, batch_idx):
        act((self.current_epoch, batch_idx))
        step(self, batch, batch_idx)

    monkeypatch.setattr(recipe.Recipe, "training_step", training_step)


def noted_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Epoch and batch of the steps that are made from now on."""
    made = []
    before_steps(monkeypatch, made.append)
    return made


@contextmanager
def stopped_before(*last: int) -> Iterator[None]:
    """A training in this block breaks off before a step."""

    def stop(step):
        if step == last:
            raise OSError("stopped on purpose")

    with pytest.MonkeyPatch.context() as context, pytest.raises(OSError, match="on purpose"):
        before_steps(context, stop)
        yield


def killed_before(*last: int) -> None:
    """This process, which saves every step, is killed before a step."""
    recipe.CHECKPOINT_SECONDS = 0

    def kill(step):
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    before_steps(pytest.MonkeyPatch(), kill)


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
import torch
torch.set_num_threads({torch.get_num_threads()})
from test_training import DROPOUT, killed_before, small_run
killed_before(2, 1)
small_run(DROPOUT, checkpoints={str(tmp_path)!r})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
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
    frozen = {**FROZEN, "max_epochs": 2}
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
    with pytest.raises(ValueError, match=r"batch_size=6 and 3 training images: too few for 4 proc"):
        shares(3, 4)


# Augmentation ------------------------------------------------------------------------------------


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_jitter_agrees_with_torchvision():
    # Values that no jitter drives out of 0…1, so that clipping plays no part.
    images, draws = 0.4 + 0.2 * uniform(5, 3, 8, 8), uniform(4, 5)
    found = augment(images, draws, False, 0.3)
    for i in range(5):
        brightness, contrast, saturation = (1 + 0.3 * (2 * draws[1:, i] - 1)).tolist()
        expected = T.adjust_brightness(images[i], brightness)
        expected = T.adjust_saturation(expected, saturation)
        expected = T.adjust_contrast(expected, contrast)
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=0)


def test_every_second_image_is_mirrored():
    images = uniform(1, 3, 8, 8).expand(400, 3, 8, 8)
    found = augment(images, uniform(4, 400), True, 0)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    kept = (found == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 160 < mirrored.sum() < 240


def test_augmentation_can_be_off_and_stays_in_range():
    images, draws = uniform(6, 3, 8, 8), uniform(4, 6)
    assert torch.equal(augment(images, draws, False, 0), images)
    found = augment(images, draws, True, 0.9)
    assert found.min() >= 0 and found.max() <= 1


# Bad input ---------------------------------------------------------------------------------------


def test_a_start_of_a_fixed_size_names_it():
    options = {"weights": "random", "classes": ("a", "b")}
    start = model.load("vit_tiny_patch16_224", **options)
    with pytest.raises(ValueError, match="image_size=32 does not fit vit_tiny_patch16_224, which"):
        small_run(initial=start)


def test_a_training_needs_room_for_its_state(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=5e6))
    with pytest.raises(ValueError, match="5 MB are free there, 6 MB are needed; make room"):
        small_run(checkpoints=tmp_path)


def test_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(ValueError, match=r"loss is (nan|inf) in epoch \d.*learning_rate"):
        small_run({"learning_rate": 1e30})


def test_a_network_of_tokens_is_trained_and_kept(tmp_path):
    """Class activation maps have no layer in it, which training does not need."""
    name = "vit_tiny_patch16_224?img_size=32&patch_size=8&depth=2&embed_dim=16&num_heads=2"
    trained = small_run({"arch": name, "max_epochs": 1})
    trained.save(tmp_path / "mine.safetensors")
    again = model.load(tmp_path / "mine.safetensors")
    assert (again.name, again.target_layer_name) == (name, None)
    assert again.weights_sha256 == trained.weights_sha256


def unfit(item: Item) -> data.GeoDataset:
    return data.GeoDataset("folder", ("A", "B"), "validation", [item])


@pytest.mark.parametrize(
    ("n_classes", "validation", "message"),
    [
        (3, patches(1, 2, split="validation"), r"validation has the classes \('A', 'B'\)"),
        (1, patches(1, 1), "at least two"),
        (2, unfit(Item(0, patch(0))), "validation split holds no labelled image"),
        (2, unfit(Item(0, None, 0)), "validation split holds no readable image"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*unreadable")
def test_datasets_that_do_not_go_together(n_classes, validation, message):
    with pytest.raises(ValueError, match=message):
        model.train(patches(6, n_classes), validation, SMALL)


def test_unlabelled_and_unreadable_images_are_left_out(trained):
    useless = Item(500, patch(500)), Item(501, None, 0)
    mixed = data.GeoDataset("folder", tuple("ABC"), "train", (*patches(48).records, *useless))
    validation = patches(12, first=1000, split="validation")
    with pytest.warns(UserWarning) as caught:
        classifier = model.train(mixed, validation, SMALL)
    messages = {str(warning.message) for warning in caught}
    assert "1 images without a label are left out" in messages
    assert "1 unreadable images are left out" in messages
    assert mixed.skipped == [("501", "broken on purpose")]
    assert classifier.weights_sha256 == trained.weights_sha256
