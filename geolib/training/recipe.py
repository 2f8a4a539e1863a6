"""Training by the paper's recipe (§4 of arXiv 2605.00912), with Lightning.

Started by torchrun, as in ``torchrun --nproc-per-node 2 train.py`` for a script that calls
:func:`train`, the processes share every batch: ``batch_size`` counts the images of all of them
together, and one process alone learns the same, up to rounding, where batch norm is frozen.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import nn
from torch.nn import functional as F

from geolib.data import GeoDataset, PixelBatch
from geolib.model.classifier import Classifier, HeadReplaced, check_size, load, with_classes
from geolib.model.device import BatchSize, choose_device, uses_bf16
from geolib.model.prediction import as_images
from geolib.model.settings import PAPER, TrainConfig
from geolib.runtime.here import check_folder, parsed_file
from geolib.training.augmentation import MASK_DRAWS, augment, mask_boxes
from geolib.training.batches import Batches, Examples, Process, loader, read
from geolib.training.crops import mix

CHECKPOINT_SECONDS = 300
BEST, LAST, IDENTITY = "best.ckpt", "last.ckpt", "training.json"
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def train(
    train: GeoDataset,
    validation: GeoDataset,
    config: TrainConfig = PAPER,
    *,
    initial: Classifier | None = None,
    checkpoints: str | Path | None = None,
    device: str | torch.device = "auto",
) -> Classifier:
    """Train a classifier, and keep the weights of the epoch with the lowest validation loss.

    The seed alone decides weights, order and augmentation; the global random state is left as it
    was. Images without a label, and unreadable ones, are left out with a warning. Where a batch
    does not fit the memory it goes through in parts, with a warning: gradients are those of the
    whole batch, batch norm's statistics those of its parts.

    Under torchrun every process calls this with the same arguments and gets the same classifier.
    Batch norm's statistics, unless frozen, are the first process's, and dropout draws anew in each.

    Parameters
    ----------
    train, validation : labelled datasets with the same classes.
    config : settings, by default the paper's.
    initial : network to start from, with a new last layer, in place of ``config.arch`` and
        ``config.weights``. It is left as it is.
    checkpoints : folder of the state after each epoch, and within an epoch every five minutes. A
        training that was killed goes on from there when called again with the same arguments, to
        the same weights. Several machines need a folder that they share.
    device : where to train; by default a GPU if there is one.

    Returns
    -------
    Classifier in evaluation mode on the CPU; ``history`` holds losses and accuracies per epoch.

    Raises
    ------
    ValueError
        If the datasets cannot be trained on, the loss is not finite, ``checkpoints`` belongs to
        another training, or there are more processes than images in a batch.
    torch.OutOfMemoryError
        If a single image does not fit the memory, or a batch does not under torchrun.
    """
    if train.classes != validation.classes:
        raise ValueError(
            f"validation has the classes {validation.classes}, train has {train.classes}; load "
            "both with the same classes="
        )
    if len(train.classes) < 2:
        raise ValueError(f"train has the classes {train.classes}; a classifier needs at least two")
    examples = _labelled(train), _labelled(validation)
    return fit(*examples, [train.classes], config, initial, checkpoints, device)


def _labelled(dataset: GeoDataset) -> Examples:
    """The labelled images of a dataset, for a single head."""
    indices = [i for i, label in enumerate(dataset.labels) if label is not None]
    if not indices:
        raise ValueError(f"the {dataset.split} split holds no labelled image")
    if len(indices) < len(dataset):
        left_out = len(dataset) - len(indices)
        warnings.warn(f"{left_out} images without a label are left out", stacklevel=3)
    labelled = dataset.subset(indices)
    return Examples(labelled, torch.tensor(labelled.labels)[:, None])


def fit(
    train: Examples,
    validation: Examples,
    heads: Sequence[Sequence[str]],
    config: TrainConfig,
    initial: Classifier | None = None,
    checkpoints: str | Path | None = None,
    device: str | torch.device = "auto",
) -> Classifier:
    """Train a network with several last layers beside each other, the loss being their sum.

    ``heads`` names the classes of each; the accuracies of ``history`` are the first one's. Layers
    on the same features are blocks of one layer, so the result is a classifier whose classes are
    those of the heads, one head after the other. The rest is as for :func:`train`.
    """
    place, process = choose_device(device), Process.this()
    index = process.local_rank if process.world_size > 1 else place.index or 0
    with (
        tempfile.TemporaryDirectory() as temporary,
        torch.random.fork_rng(devices=[index] if place.type == "cuda" else []),
        _quiet(),
    ):
        folder = Path(checkpoints or temporary)
        if checkpoints is not None:
            _claim(folder, train, validation, heads, config, initial)
        classifier = _untrained(initial, [name for head in heads for name in head], config)
        n_bytes = sum(tensor.nbytes for tensor in classifier.state_dict().values())
        # The best and the last, this one with both moments, and room.
        check_folder(folder, 5 * n_bytes)
        torch.manual_seed(config.seed)
        pixels = read(train.images, config, process, random=True)
        unseen = read(validation.images, config, process)
        batches = Batches(len(pixels), config.batch_size, process, config.seed, config.crops)
        recipe = Recipe(
            classifier.to(memory_format=torch.channels_last),
            config,
            batches,
            {"train": train.targets, "validation": validation.targets},
            [len(head) for head in heads],
        )
        last = folder / LAST
        trainer = lightning.Trainer(
            **_devices(place, process),
            precision="bf16-mixed" if uses_bf16(place, config.precision) else "32-true",
            max_epochs=config.max_epochs,
            callbacks=[
                EarlyStopping("validation_loss", patience=config.patience, check_finite=False),
                _checkpoint(folder / BEST, monitor="validation_loss", save_weights_only=True),
                _checkpoint(last),
                WithinEpoch(last),
                *([EpochBar()] if process.rank == 0 else []),
            ],
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=process.rank == 0,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        trainer.fit(
            recipe,
            loader(pixels, batches),
            loader(unseen, Batches(len(unseen), config.batch_size, process)),
            ckpt_path=last if last.exists() else None,
        )
        options: Any = {"map_location": "cpu", "weights_only": True}
        best = torch.load(folder / BEST, **options)["state_dict"] if process.rank == 0 else {}
        best = trainer.strategy.broadcast(best)
    recipe.cpu().load_state_dict(best)
    classifier.trained_on = train.images.name
    # A checkpoint that is passed on names no folder of this machine.
    weights = config.weights and Path(config.weights).name
    classifier.training_config = config.model_dump(mode="json") | {"weights": weights}
    classifier.history = pd.DataFrame(recipe.history)
    return classifier.eval()


def _claim(
    folder: Path,
    train: Examples,
    validation: Examples,
    heads: Sequence[Sequence[str]],
    config: TrainConfig,
    initial: Classifier | None,
) -> None:
    """Write into the folder which training it belongs to, or compare with what is written."""
    images = train.images, validation.images
    content = [dataset.content_key(i) for dataset in images for i in range(len(dataset))]
    identity = {
        "config": config.model_dump(mode="json"),
        "initial weights": None if initial is None else initial.weights_sha256,
        "classes": [list(head) for head in heads],
        "labels": [train.targets.tolist(), validation.targets.tolist()],
        "images": hashlib.sha256(" ".join(content).encode()).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / IDENTITY
    if place.exists():
        found = parsed_file(place)
        if differing := [key for key in identity if identity[key] != found.get(key)]:
            raise ValueError(
                f"checkpoints={str(folder)!r} belongs to a training with other "
                f"{', '.join(differing)}; use an empty folder"
            )
    else:
        # Whole at once: several processes may start together.
        part = place.with_suffix(f".part-{Process.this().rank}")
        part.write_text(json.dumps(identity), encoding="utf-8")
        part.replace(place)


def _untrained(
    initial: Classifier | None, classes: Sequence[str], config: TrainConfig
) -> Classifier:
    """The network that a training starts from."""
    size, seed = config.image_size, config.seed
    if initial is not None:
        check_size(initial.network, initial.name, size, initial.image_size)
        classifier = with_classes(initial, classes, seed)
        classifier.image_size = size
        return classifier
    options: Any = {"weights": config.weights, "classes": classes, "image_size": size, "seed": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadReplaced)
        return load(config.arch, **options)


def _devices(device: torch.device, process: Process) -> dict[str, Any]:
    """Where Lightning is to run, and with how many processes."""
    place = {"accelerator": "gpu" if device.type == "cuda" else device.type}
    if process.world_size == 1:
        return place | {"devices": [device.index or 0] if device.type == "cuda" else 1}
    return place | {
        "devices": process.local_world_size,
        "num_nodes": process.world_size // process.local_world_size,
        "strategy": "ddp",
        "plugins": [TorchElasticEnvironment()],
    }


class Recipe(lightning.LightningModule):
    """Loss, augmentation, optimiser and history of the training."""

    def __init__(
        self,
        classifier: Classifier,
        config: TrainConfig,
        batches: Batches,
        labels: dict[str, torch.Tensor],
        heads: Sequence[int],
    ) -> None:
        super().__init__()
        # A step of its own: it may take several passes, where memory is short.
        self.automatic_optimization = False
        self.classifier, self.config = classifier, config
        self.batches, self.labels, self.heads = batches, labels, list(heads)
        self.fitting = BatchSize(config.batch_size)
        self.history: list[dict[str, float]] = []
        # Loss, hits and number of images so far, of this process.
        self.sums = {"train": np.zeros(3), "validation": np.zeros(3)}
        frozen = config.freeze_batch_norm
        self.frozen = _is_folded(classifier, config.weights) if frozen is None else frozen

    def on_train_start(self) -> None:
        self.classifier.train()
        for module in self.classifier.modules():
            if self.frozen and isinstance(module, BATCH_NORM):
                module.eval()
        # A training that had stopped early is not to go on when it is called again.
        stopping = self.trainer.early_stopping_callback
        if isinstance(stopping, EarlyStopping) and stopping.wait_count >= stopping.patience:
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        self.batches.epoch = self.current_epoch

    def training_step(self, batch: PixelBatch, batch_idx: int) -> None:
        config, process = self.config, self.batches.process
        seeds = config.seed, self.current_epoch, batch_idx
        generator = torch.Generator().manual_seed(mix(*seeds))
        # Drawn for the whole batch: an image's draws do not depend on who has it.
        draws = torch.rand(4 + MASK_DRAWS, self.batches.batch_size, generator=generator)
        draws = draws[:, process.rank :: process.world_size]
        images, labels = self._inputs("train", batch)
        images = augment(images, draws[:4], config.horizontal_flip, config.color_jitter)
        if config.box_masks:
            images = mask_boxes(images, draws[4:], config.box_masks, self.classifier.mean)
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()

        def gradients(size: int) -> np.ndarray:
            # Dropout draws from the global state: started anew, a step does not depend on the past.
            torch.manual_seed(mix(*seeds, process.rank))
            optimizer.zero_grad()
            return self._passes("train", images, labels, size)

        alone = process.world_size == 1
        self.sums["train"] += self.fitting.run(gradients) if alone else gradients(len(labels))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()

    def on_validation_epoch_start(self) -> None:
        self.sums["validation"] = np.zeros(3)

    def validation_step(self, batch: PixelBatch, batch_idx: int) -> None:
        if not batch.indices:  # of a last batch with fewer images than processes
            return
        images, labels = self._inputs("validation", batch)
        self.sums["validation"] += self.fitting.run(
            lambda size: self._passes("validation", images, labels, size)
        )

    def _inputs(self, split: str, batch: PixelBatch) -> tuple[torch.Tensor, torch.Tensor]:
        for _, error in batch.unreadable:
            raise error  # it could be read when the training began
        return as_images(batch.pixels, self.device), self.labels[split][batch.indices]

    def _passes(
        self, split: str, images: torch.Tensor, labels: torch.Tensor, size: int
    ) -> np.ndarray:
        """Loss and hits summed over a batch, and its length; in training, the gradients too.

        The batch goes through in parts of at most ``size`` images.
        """
        sums = np.zeros(3)
        labels = labels.to(self.device)
        for part, wanted in zip(images.split(size), labels.split(size), strict=True):
            logits = self.classifier(part).split(self.heads, dim=1)
            loss = summed_cross_entropy(logits, wanted, self.config.label_smoothing)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"the {split} loss is {loss.item()} in epoch {self.current_epoch}: the weights "
                    "or images are not finite, or learning_rate is too high"
                )
            if split == "train":
                # Lightning averages gradients over the processes, whose parts may differ in length.
                share = len(part) * self.batches.process.world_size / self.batches.batch_size
                self.manual_backward(loss * share)
            hits = (logits[0].argmax(1) == wanted[:, 0]).sum()
            sums += [loss.item() * len(part), hits.item(), len(part)]
        return sums

    def _means(self, split: str) -> dict[str, float]:
        loss, hits, n_images = self._total(split)
        return {f"{split}_loss": loss / n_images, f"{split}_accuracy": hits / n_images}

    def _total(self, split: str) -> list[float]:
        """Loss, hits and number of images of all processes."""
        sums = torch.tensor(self.sums[split])
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum")
        return sums.tolist()

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self._means("validation"), prog_bar=True)

    def on_train_epoch_end(self) -> None:
        metrics = self._means("train")
        self.log_dict(metrics, prog_bar=True)
        self.history.append({"epoch": self.current_epoch, **metrics, **self._means("validation")})
        self.sums["train"] = np.zeros(3)

    def configure_optimizers(self) -> Any:
        config = self.config
        rate, decay = config.learning_rate, config.weight_decay
        optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(self.parameters(), rate, config.momentum, weight_decay=decay)
            if config.optimizer == "sgd"
            else torch.optim.AdamW(self.parameters(), rate, weight_decay=decay, fused=True)
        )
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = _scheduler(optimizer, config, len(self.batches), total)
        return optimizer if scheduler is None else ([optimizer], [scheduler])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["sums"] = self._total("train")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
        # The sums are those of all processes; the first one carries them on.
        if self.batches.process.rank == 0:
            self.sums["train"] = np.array(checkpoint["sums"])
        self.batches.resume(checkpoint["global_step"])


def summed_cross_entropy(
    logits: Sequence[torch.Tensor], targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of every head, summed (L_CE^multi in §3.1.3 of Theiner et al., WACV 2022).

    Of logits ``[B,C]`` per head and targets ``int64 [B,heads]``: an image without a class under a
    head (-1) adds nothing to its loss. The mean is over all B images, so that a batch's loss is
    the mean of its parts'.
    """
    options: Any = {"ignore_index": -1, "reduction": "sum", "label_smoothing": label_smoothing}
    heads = zip(logits, targets.T, strict=True)
    losses = [F.cross_entropy(scores, wanted, **options) for scores, wanted in heads]
    return torch.stack(losses).sum() / len(targets)


def _scheduler(
    optimizer: torch.optim.Optimizer, config: TrainConfig, epoch_steps: int, total_steps: int
) -> Any:
    """Learning rate per step; None where it stays the same."""
    schedulers = torch.optim.lr_scheduler
    if config.schedule == "one_cycle":
        return schedulers.OneCycleLR(optimizer, config.learning_rate, total_steps=total_steps)
    if config.schedule == "halving":
        epochs = [e for e in range(1, config.max_epochs) if e % 3 == 0 or e > 12]
        return schedulers.MultiStepLR(optimizer, [e * epoch_steps for e in epochs], gamma=0.5)
    if config.schedule == "warm_restarts":
        return schedulers.CosineAnnealingWarmRestarts(optimizer, max(1, epoch_steps // 3))
    return None


class WithinEpoch(Callback):
    """Saves the state every few minutes of an epoch; Lightning's own does so at an epoch's end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, recipe: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The last batch's state would be taken for that of a whole epoch, validation included.
        last = batch_idx + 1 == trainer.num_training_batches
        due = time.monotonic() - self.saved >= CHECKPOINT_SECONDS
        if not last and trainer.strategy.broadcast(due):
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


class EpochBar(TQDMProgressBar):
    """Lightning's bar per epoch, without one more for each validation."""

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)


def _is_folded(classifier: Classifier, weights: str | None) -> bool:
    """Whether trained weights come with batch norm folded into the convolutions.

    Its statistics are then the identity, and would be ruined by the first batches.
    """
    buffers = dict(classifier.named_buffers())
    means = [b for name, b in buffers.items() if name.endswith("running_mean")]
    variances = [b for name, b in buffers.items() if name.endswith("running_var")]
    # Folded variances are 1 − ε, so that √(variance + ε) is 1.
    identity = all((b == 0).all() for b in means) and all(
        torch.allclose(b, torch.ones_like(b), atol=1e-3) for b in variances
    )
    return bool(means) and weights != "random" and identity


def _checkpoint(path: Path, **options: Any) -> ModelCheckpoint:
    options |= {"save_on_train_epoch_end": True, "enable_version_counter": False}
    return ModelCheckpoint(path.parent, path.stem, **options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's remarks on devices and data loaders, which call for no action here."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
