"""Training by the paper's recipe (§4 of arXiv 2605.00912), with Lightning."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from geolib.data import (
    GeoDataset,
    PixelBatch,
    ResizedPixels,
    collate,
    default_workers,
    pixel_batches,
    single_threaded,
)
from geolib.model.classifier import Classifier, HeadReplaced, load
from geolib.model.precision import choose_device, uses_bf16
from geolib.model.prediction import as_images

MEMORY_LIMIT = 4e9
BEST, LAST, IDENTITY = "best.ckpt", "last.ckpt", "training.json"
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Saturation is blended towards the luma of ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


class TrainConfig(BaseModel):
    """Settings of a training; the defaults are the paper's, or plain where it is silent.

    The paper gives the network and its start (``arch``, ``weights``), the loss
    (``label_smoothing``), the optimiser AdamW (``learning_rate``, ``weight_decay``), flips and
    colour jitter, ``max_epochs``, early stopping on the validation loss (``patience``) and the
    ``image_size``. It is silent on batch size, learning rate schedule and strength of the jitter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str = Field("resnet50", description="network of torchvision or timm, or a checkpoint")
    weights: str | None = Field("imagenet", description="file, 'imagenet' or 'random'")
    image_size: int = Field(224, ge=16, description="side in pixels")
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(3e-4, gt=0, description="the peak, for one_cycle")
    weight_decay: float = Field(0.02, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    schedule: Literal["constant", "one_cycle"] = "constant"
    max_epochs: int = Field(300, ge=1)
    patience: int = Field(30, ge=1, description="epochs without a lower validation loss")
    horizontal_flip: bool = Field(True, description="mirror every second image, drawn at random")
    color_jitter: float = Field(
        0.2, ge=0, lt=1, description="brightness, contrast and saturation vary by this share"
    )
    freeze_batch_norm: bool | None = Field(
        None, description="keep batch norm's statistics; None: where they are the identity"
    )
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: int = Field(0, ge=0)


PAPER = TrainConfig()


def train(
    train: GeoDataset,
    validation: GeoDataset,
    config: TrainConfig = PAPER,
    *,
    checkpoints: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Classifier:
    """Train a classifier, and keep the weights of the epoch with the lowest validation loss.

    The seed alone decides weights, order and augmentation; the global random state is left as it
    was. Images without a label, and unreadable ones, are left out with a warning.

    Parameters
    ----------
    train, validation
        Labelled datasets with the same classes.
    config
        Settings, by default the paper's.
    checkpoints
        Folder of the state after each epoch. A training that was killed goes on from there when
        called again with the same arguments.
    device
        Where to train; by default a GPU if there is one.
    progress
        Whether to show progress bars.

    Returns
    -------
    Classifier
        In evaluation mode on the CPU; ``history`` holds the losses and accuracies per epoch.

    Raises
    ------
    ValueError
        If the datasets cannot be trained on, the loss is not finite, or ``checkpoints`` belongs to
        another training.
    """
    _check_datasets(train, validation)
    train, validation = _labelled(train), _labelled(validation)
    place = choose_device(device)
    if checkpoints is None:
        with tempfile.TemporaryDirectory() as folder:
            return _fit(train, validation, config, Path(folder), place, progress)
    _claim(Path(checkpoints), train, validation, config)
    return _fit(train, validation, config, Path(checkpoints), place, progress)


def _check_datasets(train: GeoDataset, validation: GeoDataset) -> None:
    if train.classes != validation.classes:
        raise ValueError(
            f"validation has the classes {validation.classes}, train has {train.classes}; load "
            "both with the same classes="
        )
    if len(train.classes) < 2:
        raise ValueError(f"train has the classes {train.classes}; a classifier needs at least two")


def _labelled(dataset: GeoDataset) -> GeoDataset:
    indices = [i for i, label in enumerate(dataset.labels) if label is not None]
    if not indices:
        raise ValueError(f"the {dataset.split} split holds no labelled image")
    if len(indices) < len(dataset):
        left_out = len(dataset) - len(indices)
        warnings.warn(f"{left_out} images without a label are left out", stacklevel=3)
    return dataset.subset(indices)


def _claim(folder: Path, train: GeoDataset, validation: GeoDataset, config: TrainConfig) -> None:
    """Write into the folder which training it belongs to, or compare with what is written."""
    content = [d.content_key(i) for d in (train, validation) for i in range(len(d))]
    identity = {
        "config": config.model_dump(mode="json"),
        "classes": list(train.classes),
        "labels": [train.labels, validation.labels],
        "images": hashlib.sha256(" ".join(content).encode()).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / IDENTITY
    if place.exists():
        found = json.loads(place.read_text())
        if differing := [key for key in identity if identity[key] != found.get(key)]:
            raise ValueError(
                f"checkpoints={str(folder)!r} belongs to a training with other "
                f"{', '.join(differing)}; use an empty folder"
            )
    else:
        place.write_text(json.dumps(identity))


def _fit(
    train: GeoDataset,
    validation: GeoDataset,
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    progress: bool,
) -> Classifier:
    cuda = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), _quiet():
        torch.manual_seed(config.seed)
        classifier = load(
            config.arch,
            weights=config.weights,
            classes=train.classes,
            image_size=config.image_size,
            seed=config.seed,
        ).to(memory_format=torch.channels_last)
        recipe = Recipe(classifier, config, np.array(train.labels), np.array(validation.labels))
        bar = [EpochBar()] if progress else []
        trainer = lightning.Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=1,
            precision="bf16-mixed" if uses_bf16(device, config.precision) else "32-true",
            max_epochs=config.max_epochs,
            callbacks=[
                EarlyStopping("validation_loss", patience=config.patience, check_finite=False),
                _checkpoint(folder, BEST, monitor="validation_loss", save_weights_only=True),
                _checkpoint(folder, LAST, monitor=None, save_weights_only=False),
                *bar,
            ],
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        last = folder / LAST
        trainer.fit(
            recipe,
            _loader(train, config, shuffle=True, progress=progress),
            _loader(validation, config, shuffle=False, progress=progress),
            ckpt_path=last if last.exists() else None,
        )
    best = torch.load(folder / BEST, map_location="cpu", weights_only=True)["state_dict"]
    recipe.cpu().load_state_dict(best)
    classifier.trained_on = train.name
    classifier.training_config = config.model_dump(mode="json")
    classifier.history = pd.DataFrame(recipe.history)
    return classifier.eval()


class Recipe(lightning.LightningModule):
    """Loss, augmentation, optimiser and history of the training."""

    def __init__(
        self, classifier: Classifier, config: TrainConfig, train: np.ndarray, validation: np.ndarray
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.config = config
        self.labels = {"train": torch.tensor(train), "validation": torch.tensor(validation)}
        self.history: list[dict[str, float]] = []
        frozen = config.freeze_batch_norm
        self.frozen = is_folded(classifier, config.weights) if frozen is None else frozen

    def on_train_start(self) -> None:
        # A training that had stopped early is not to go on when it is called again.
        stopping = self.trainer.early_stopping_callback
        if isinstance(stopping, EarlyStopping) and stopping.wait_count >= stopping.patience:
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        # Dropout draws from the global state: started anew, an epoch does not depend on the past.
        torch.manual_seed(_mix(self.config.seed, self.current_epoch))
        self.classifier.train()
        if self.frozen:
            for module in self.classifier.modules():
                if isinstance(module, BATCH_NORM):
                    module.eval()

    def training_step(self, batch: PixelBatch, batch_idx: int) -> torch.Tensor | None:
        images = as_images(batch.pixels, self.device)
        generator = torch.Generator().manual_seed(
            _mix(self.config.seed, self.current_epoch, batch_idx)
        )
        images = augment(images, generator, self.config.horizontal_flip, self.config.color_jitter)
        return self._step("train", images, batch)

    def validation_step(self, batch: PixelBatch, batch_idx: int) -> None:
        self._step("validation", as_images(batch.pixels, self.device), batch)

    def _step(self, split: str, images: torch.Tensor, batch: PixelBatch) -> torch.Tensor:
        labels = self.labels[split][batch.indices].to(self.device)
        logits = self.classifier(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the {split} loss is {loss.item()} in epoch {self.current_epoch}: the weights or "
                "images are not finite, or learning_rate is too high"
            )
        hits = (logits.argmax(1) == labels).float().mean()
        self.log_dict(
            {f"{split}_loss": loss, f"{split}_accuracy": hits},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=len(labels),
        )
        return loss

    def on_train_epoch_end(self) -> None:
        metrics = {name: float(v) for name, v in self.trainer.callback_metrics.items()}
        self.history.append({"epoch": self.current_epoch, **metrics})

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        if self.config.schedule == "constant":
            return optimizer
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.config.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]


class EpochBar(TQDMProgressBar):
    """Lightning's bar per epoch, without one more for each validation."""

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)


def augment(
    images: torch.Tensor, generator: torch.Generator, horizontal_flip: bool, color_jitter: float
) -> torch.Tensor:
    """Mirror and recolour each image of a batch by draws of its own.

    Parameters
    ----------
    images
        ``float32 [B,3,H,W]``, 0…1.
    generator
        On the CPU; the draws do not depend on the device of the images.
    horizontal_flip
        Whether to mirror each image with probability ½.
    color_jitter
        Brightness, contrast and saturation are multiplied by factors between 1 − ``color_jitter``
        and 1 + ``color_jitter``.

    Returns
    -------
    torch.Tensor
        Of the same shape, 0…1.
    """
    # torchvision's transforms draw once per batch.
    draws = torch.rand(4, len(images), 1, 1, 1, generator=generator).to(images.device)
    if horizontal_flip:
        images = torch.where(draws[0] < 0.5, images.flip(3), images)
    if color_jitter:
        brightness, contrast, saturation = 1 + color_jitter * (2 * draws[1:] - 1)
        luma = images.new_tensor(LUMA).view(1, 3, 1, 1)
        images = images * brightness
        grey = (images * luma).sum(1, keepdim=True)
        images = torch.lerp(grey, images, saturation)
        images = torch.lerp(grey.mean((2, 3), keepdim=True), images, contrast).clamp(0, 1)
    return images


def is_folded(classifier: Classifier, weights: str | None) -> bool:
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


class PixelsInMemory(Dataset[tuple[int, torch.Tensor]]):
    """Items as ``(index, uint8 [S,S,3])``, read once."""

    def __init__(self, dataset: GeoDataset, image_size: int, progress: bool) -> None:
        self.pixels = torch.empty(len(dataset), image_size, image_size, 3, dtype=torch.uint8)
        self.indices: list[int] = []
        for batch in pixel_batches(dataset, image_size, 64, progress=progress):
            end = len(self.indices) + len(batch.indices)
            self.pixels[len(self.indices) : end] = batch.pixels
            self.indices += batch.indices
        if not self.indices:
            raise ValueError(f"the {dataset.split} split holds no readable image")
        if unreadable := len(dataset) - len(self.indices):
            warnings.warn(f"{unreadable} unreadable images are left out", stacklevel=2)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return self.indices[index], self.pixels[index]


def _loader(
    dataset: GeoDataset, config: TrainConfig, *, shuffle: bool, progress: bool
) -> DataLoader[PixelBatch]:
    size = config.image_size
    fits = len(dataset) * size * size * 3 < MEMORY_LIMIT
    pixels: Dataset[Any] = (
        PixelsInMemory(dataset, size, progress) if fits else ResizedPixels(dataset, size)
    )
    n_images = len(cast(PixelsInMemory, pixels))
    # Its order depends on the seed and the epoch alone, which a resumed training knows.
    sampler: DistributedSampler[Any] | None = (
        DistributedSampler(pixels, 1, 0, shuffle=True, seed=config.seed) if shuffle else None
    )
    workers = 0 if fits else default_workers(n_images)
    return DataLoader(
        pixels,
        batch_size=config.batch_size,
        sampler=sampler,
        drop_last=shuffle and n_images >= config.batch_size,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=single_threaded,
    )


def _checkpoint(
    folder: Path, name: str, monitor: str | None, save_weights_only: bool
) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder,
        name.removesuffix(".ckpt"),
        monitor=monitor,
        save_weights_only=save_weights_only,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _mix(*numbers: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's remarks on devices and data loaders, which call for no action here."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeadReplaced)
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
