"""Datasets of geolocated images: the procedural benchmark, and a folder of photographs."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from geolib import images
from geolib.cache import key, sha256
from geolib.geoscenes import COUNTRIES, Scene, render
from geolib.paths import data_file
from geolib.progress import progress_bar

SPLITS = ("train", "validation", "test", "eval")
SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
OTHER = "other"
METADATA = "metadata.csv"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
CELL_DEGREES = 0.01
SCENES_PER_SPLIT = 1_000_000
SCENE_TABLES = ("cues.yaml", "gazetteer.csv")


@dataclass(frozen=True, eq=False)
class GeoImage:
    """One image with what is known about where it was taken.

    ``image`` is ``uint8 [H,W,3]`` at native resolution; ``label`` the index of its class, ``None``
    where unknown; ``latitude`` and ``longitude`` are degrees; ``scene`` is set for GeoScenes only.
    """

    id: str
    image: np.ndarray
    country: str | None
    label: int | None
    latitude: float | None
    longitude: float | None
    licence: str | None = None
    attribution: str | None = None
    scene: Scene | None = None


class Skipped(NamedTuple):
    """An item that cannot be used, and why."""

    id: str
    reason: str


class Record(Protocol):
    """What is known of an item before its pixels are read."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> int | None: ...
    def content_key(self) -> str: ...
    def read(self) -> GeoImage: ...


@dataclass(frozen=True)
class PhotoRecord:
    """A photograph in a folder."""

    id: str
    path: Path
    country: str | None = None
    label: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    licence: str | None = None
    attribution: str | None = None

    def content_key(self) -> str:
        status = self.path.stat()
        return _file_sha256(self.path, status.st_size, status.st_mtime_ns)

    def read(self) -> GeoImage:
        return GeoImage(
            self.id,
            images.read(self.path),
            self.country,
            self.label,
            self.latitude,
            self.longitude,
            self.licence,
            self.attribution,
        )


@dataclass(frozen=True)
class SceneRecord:
    """A scene of the procedural benchmark, rendered when read."""

    id: str
    seed: int
    country: str
    label: int
    options: dict[str, Any]

    def content_key(self) -> str:
        params = {"seed": self.seed, "country": self.country, "tables": _scene_tables()}
        return key("scene", params | self.options, ["geolib.geoscenes"])

    def read(self) -> GeoImage:
        scene = render(self.seed, self.country, **self.options)
        return GeoImage(
            self.id,
            scene.image,
            self.country,
            self.label,
            scene.latitude,
            scene.longitude,
            scene=scene,
        )


class GeoDataset(Dataset[GeoImage]):
    """A sequence of :class:`GeoImage`, read or rendered one by one when asked for.

    Indexing raises :class:`geolib.images.UnreadableImage` for a damaged file. ``skipped`` lists the
    items that turned out to be unusable so far.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        split: str,
        records: Sequence[Record],
        skipped: Iterable[Skipped] = (),
    ) -> None:
        self.name = name
        self.classes = tuple(classes)
        self.split = split
        self.records = tuple(records)
        self.skipped = list(skipped)

    @property
    def ids(self) -> list[str]:
        """Names of the items; no pixels are read."""
        return [record.id for record in self.records]

    @property
    def labels(self) -> list[int | None]:
        """Class indices of the items; no pixels are read."""
        return [record.label for record in self.records]

    def content_key(self, index: int) -> str:
        """Hash of everything the pixels of an item depend on; no pixels are decoded."""
        return self.records[index].content_key()

    def subset(self, indices: Iterable[int]) -> GeoDataset:
        """Dataset of the items at ``indices``, in that order; ``skipped`` is shared."""
        records = [self.records[i] for i in indices]
        part = GeoDataset(self.name, self.classes, self.split, records)
        part.skipped = self.skipped
        return part

    def skip(self, error: images.UnreadableImage, index: int) -> None:
        """Note in ``skipped``, once, that an item cannot be read."""
        entry = Skipped(self.records[index].id, error.reason)
        if entry not in self.skipped:
            self.skipped.append(entry)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> GeoImage:
        try:
            return self.records[index].read()
        except images.UnreadableImage as error:
            self.skip(error, index)
            raise

    def __repr__(self) -> str:
        return f"GeoDataset({self.name!r}, split={self.split!r}, {len(self)} images)"


def load(
    name: str, split: str = "eval", n: int | None = None, seed: int = 0, **options: Any
) -> GeoDataset:
    """Load a dataset by name.

    Parameters
    ----------
    name
        ``"geoscenes"`` or ``"folder"``; see :func:`geoscenes` and :func:`folder` for their options.
    split
        ``"train"``, ``"validation"``, ``"test"``, ``"eval"`` (the images that the pipeline
        explains), or ``"all"`` (``folder`` only).
    n
        Number of images; at most as many as there are, all of them by default.
    seed
        Decides which images (``folder``) or scenes (``geoscenes``) belong to which split. Splits
        of one seed share no image.

    Returns
    -------
    GeoDataset

    Raises
    ------
    ValueError
        If the name, the split or an option's value is not known.
    """
    if name not in DATASETS:
        raise ValueError(f"name={name!r} is not a dataset; known: {', '.join(sorted(DATASETS))}")
    if n is not None and n < 1:
        raise ValueError(f"n={n} images were asked for; expected at least 1, or None for all")
    return DATASETS[name](split, n, seed, **options)


def geoscenes(
    split: str,
    n: int | None = None,
    seed: int = 0,
    *,
    size: int = 224,
    countries: Sequence[str] = COUNTRIES,
    **options: Any,
) -> GeoDataset:
    """The procedural benchmark: scenes in equal numbers per country, rendered when read.

    Every split of every seed is a range of scene numbers of its own, so no scene is in two of
    them, and the first ``n`` scenes of a split do not depend on ``n``.

    Parameters
    ----------
    split, n, seed
        As for :func:`load`; ``n`` defaults to 3000 for training, 300 for testing and validation,
        100 for ``"eval"``.
    size
        Side of the square image in pixels.
    countries
        The classes.
    options
        ``shortcut`` and other options of :func:`geolib.geoscenes.render`.
    """
    _check_split(split, SPLITS)
    amount = n or {"train": 3000, "eval": 100}.get(split, 300)
    if amount > SCENES_PER_SPLIT:
        raise ValueError(f"n={n} exceeds the {SCENES_PER_SPLIT} scenes of a split")
    classes = tuple(countries)
    first = (seed * len(SPLITS) + SPLITS.index(split)) * SCENES_PER_SPLIT
    rendering = {"size": size, "countries": classes, **options}
    records = [
        SceneRecord(f"scene-{number}", number, classes[label], label, rendering)
        for number, label in ((first + i, i % len(classes)) for i in range(amount))
    ]
    return GeoDataset("geoscenes", classes, split, records)


def folder(
    split: str,
    n: int | None = None,
    seed: int = 0,
    *,
    root: str | Path,
    classes: Sequence[str] | None = None,
) -> GeoDataset:
    """A folder of one's own photographs.

    ``root`` holds either one folder per country (``ROOT/COUNTRY/*.jpg``), or photographs and a
    ``metadata.csv`` with the columns ``file``, ``country``, ``latitude``, ``longitude`` and, if
    wished, ``licence`` and ``attribution`` (cells may be empty), or photographs alone, which then
    have no label.

    The split keeps places apart: images of one cell of about 1 km × 1 km (0.01° of latitude) stay
    together, as do images with the same bytes; where coordinates are missing, only the latter.
    A class found in fewer than three places is split by content instead, with a warning. Shares
    are 70 % training, 15 % validation, 15 % test, per class and as near as the cells allow. File
    names and the order of files play no role. ``"eval"`` and ``"test"`` are the same images.

    Parameters
    ----------
    split, n, seed
        As for :func:`load`.
    root
        The folder.
    classes
        Countries in the order of the labels; by default all that are found, sorted. A class named
        ``"other"`` takes every country that is not listed: ``classes=("FR", "other")`` asks
        whether a photograph is French.

    Raises
    ------
    ValueError
        If the folder holds no images, ``metadata.csv`` is faulty, or an image's country is not
        among ``classes``.
    """
    _check_split(split, (*SPLITS, "all"))
    records, skipped = _find_photos(Path(root).expanduser())
    if classes is None:
        classes = sorted({r.country for r in records if r.country is not None})
    records = [_with_label(record, tuple(classes)) for record in records]
    records.sort(key=lambda record: (_seeded_hash(seed, record.content_key()), record.id))
    if split != "all":
        assigned = _assign_splits(records, seed)
        wanted = "test" if split == "eval" else split
        records = [r for r, name in zip(records, assigned, strict=True) if name == wanted]
    return GeoDataset("folder", classes, split, records[:n], skipped)


DATASETS: dict[str, Callable[..., GeoDataset]] = {"geoscenes": geoscenes, "folder": folder}


def _check_split(split: str, known: Sequence[str]) -> None:
    if split not in known:
        raise ValueError(f"split={split!r} is not known; expected one of {', '.join(known)}")


# Folders ------------------------------------------------------------------------------------------


def _find_photos(root: Path) -> tuple[list[PhotoRecord], list[Skipped]]:
    if not root.is_dir():
        raise ValueError(f"root={str(root)!r} is not a folder")
    files = sorted(p for p in root.rglob("*") if _is_photo(p.relative_to(root)))
    if (root / METADATA).is_file():
        records, skipped = _from_metadata(root)
        listed = {record.path for record in records}
        unlisted = [p for p in files if p not in listed]
        skipped += [Skipped(_id(p, root), f"not listed in {METADATA}") for p in unlisted]
    elif any(p.parent != root for p in files):
        inside = [p for p in files if p.parent != root]
        records = [
            PhotoRecord(_id(p, root), p, country=p.relative_to(root).parts[0]) for p in inside
        ]
        outside = [p for p in files if p.parent == root]
        skipped = [Skipped(_id(p, root), "lies outside the folders of countries") for p in outside]
    else:
        records, skipped = [PhotoRecord(_id(p, root), p) for p in files], []
    if not records:
        raise ValueError(
            f"root={str(root)!r} holds no images ({', '.join(SUFFIXES)}); expected "
            f"ROOT/COUNTRY/*.jpg, or images with a {METADATA}, or images alone"
        )
    return records, skipped


def _is_photo(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _id(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _from_metadata(root: Path) -> tuple[list[PhotoRecord], list[Skipped]]:
    # As text: pandas would take NA, Namibia's code, for a missing value.
    table = pd.read_csv(root / METADATA, dtype=str, keep_default_na=False)
    table.columns = table.columns.str.strip()
    if "file" not in table:
        raise ValueError(f"{root / METADATA} lacks the column 'file'; it has {list(table.columns)}")
    if repeated := sorted(table.file[table.file.duplicated()].unique()):
        raise ValueError(f"{root / METADATA} lists {repeated[0]!r} more than once")
    rows = [
        {str(column): cell.strip() or None for column, cell in row.items()}
        for row in table.to_dict("records")
    ]
    records = [_from_row(row, root, line) for row, line in zip(rows, count(2))]
    skipped = [
        Skipped(r.id, f"listed in {METADATA} but missing") for r in records if not r.path.is_file()
    ]
    return [r for r in records if r.path.is_file()], skipped


def _from_row(row: dict[str, str | None], root: Path, line: int) -> PhotoRecord:
    place = f"{root / METADATA}, line {line}"
    if row["file"] is None:
        raise ValueError(f"{place}: the file's name is empty")
    latitude = _degrees(row.get("latitude"), "latitude", 90, place)
    longitude = _degrees(row.get("longitude"), "longitude", 180, place)
    if (latitude is None) != (longitude is None):
        raise ValueError(f"{place}: latitude and longitude must both be given, or neither")
    return PhotoRecord(
        row["file"],
        root / row["file"],
        row.get("country"),
        None,
        latitude,
        longitude,
        row.get("licence"),
        row.get("attribution"),
    )


def _degrees(text: str | None, column: str, limit: float, place: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -limit <= value <= limit:
        raise ValueError(
            f"{place}: {column}={text!r}; expected degrees between -{limit} and {limit}"
        )
    return value


def _with_label(record: PhotoRecord, classes: tuple[str, ...]) -> PhotoRecord:
    if record.country is None:
        return record
    if record.country in classes:
        return replace(record, label=classes.index(record.country))
    if OTHER in classes:
        return replace(record, label=classes.index(OTHER))
    raise ValueError(
        f"classes={classes} do not hold {record.country!r}, the country of {record.id}; add it, or "
        f"add the class {OTHER!r}, which takes every country that is not listed"
    )


@cache
def _scene_tables() -> tuple[str, ...]:
    """Hashes of the tables that scenes are drawn from."""
    return tuple(sha256(data_file(name)) for name in SCENE_TABLES)


@cache
def _file_sha256(path: Path, size: int, modified: int) -> str:
    """Hash of a file, remembered for as long as its size and time stay the same."""
    return sha256(path)


# Splits -------------------------------------------------------------------------------------------


def _assign_splits(records: Sequence[PhotoRecord], seed: int) -> list[str]:
    """Name of the split of each record; see :func:`folder` for the rules.

    scikit-learn's group splitters either ignore classes or leave small classes out of a split, so
    the groups are dealt here: class by class, largest group first, each to the split that has
    received the smallest part of its share.
    """
    groups = _places(records)
    found_in = defaultdict(set)
    for record, group in zip(records, groups, strict=True):
        found_in[record.label].add(group)
    scarce = {label for label, places in found_in.items() if len(places) < len(SHARES)}
    located = {r.label for r in records if r.label in scarce and r.latitude is not None}
    groups = [
        r.content_key() if r.label in scarce else group
        for r, group in zip(records, groups, strict=True)
    ]
    _warn_of_scarce_classes(records, groups, scarce, located)

    members = defaultdict(list)
    for record, group in zip(records, groups, strict=True):
        members[group].append(record.label)
    stratum = {g: Counter(labels).most_common(1)[0][0] for g, labels in members.items()}
    order = sorted(members, key=lambda g: (-len(members[g]), _seeded_hash(seed, g)))
    received: dict[int | None, Counter[str]] = defaultdict(Counter)
    split_of = {}
    for group in order:
        counts = received[stratum[group]]
        split = min(SHARES, key=lambda name: counts[name] / SHARES[name])
        counts[split] += len(members[group])
        split_of[group] = split
    return [split_of[group] for group in groups]


def _places(records: Sequence[PhotoRecord]) -> list[str]:
    """Group of each record: its cell, or its content; identical files share one group."""
    group_of: dict[str, str] = {}
    for record in sorted(records, key=lambda r: (r.latitude or 0.0, r.longitude or 0.0)):
        group_of.setdefault(record.content_key(), _cell(record) or record.content_key())
    return [group_of[record.content_key()] for record in records]


def _cell(record: PhotoRecord) -> str | None:
    """Cell of 0.01° of latitude, and as many degrees of longitude as make it about square."""
    if record.latitude is None or record.longitude is None:
        return None
    row = math.floor(record.latitude / CELL_DEGREES)
    width = CELL_DEGREES / max(math.cos(math.radians((row + 0.5) * CELL_DEGREES)), 1e-6)
    return f"cell {row} {math.floor(record.longitude / width)}"


def _warn_of_scarce_classes(
    records: Sequence[PhotoRecord],
    groups: Sequence[str],
    scarce: set[int | None],
    located: set[int | None],
) -> None:
    name = {r.label: r.country for r in records}
    if located:
        warnings.warn(
            f"too few places to split by location: {_listed(name[i] for i in located)}; split by "
            "content instead, so near-duplicates may be in two splits",
            stacklevel=4,
        )
    contents = defaultdict(set)
    for record, group in zip(records, groups, strict=True):
        contents[record.label].add(group)
    if absent := {label for label in scarce if len(contents[label]) < len(SHARES)}:
        warnings.warn(
            f"too few images to be in every split: {_listed(name[i] for i in absent)}", stacklevel=4
        )


def _listed(names: Iterable[str | None]) -> str:
    return ", ".join(sorted(name or "unlabelled" for name in names))


def _seeded_hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()


# Pixels -------------------------------------------------------------------------------------------


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize ``uint8 [H,W,3]`` to ``[size,size,3]``: bilinear, anti-aliased, no crop."""
    if image.shape[:2] == (size, size):
        return image
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def to_batch(items: Sequence[GeoImage | np.ndarray], image_size: int) -> torch.Tensor:
    """Image batch of a classifier's input size ("all images are resized", §4 of arXiv 2605.00912).

    Parameters
    ----------
    items
        Dataset items, or arrays ``uint8 [H,W,3]``.
    image_size
        Side S in pixels.

    Returns
    -------
    torch.Tensor
        ``float32 [B,3,S,S]``, RGB, 0…1, not normalised.
    """
    arrays = [item.image if isinstance(item, GeoImage) else item for item in items]
    pixels = np.stack([resize(array, image_size) for array in arrays])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)


class PixelBatch(NamedTuple):
    """Items of a dataset that could be read, and those that could not."""

    indices: list[int]
    pixels: torch.Tensor
    unreadable: list[tuple[int, images.UnreadableImage]]


class ResizedPixels(Dataset[tuple[int, torch.Tensor | images.UnreadableImage]]):
    """Items as ``(index, uint8 [S,S,3])``; an unreadable one as ``(index, error)``."""

    def __init__(self, dataset: GeoDataset, image_size: int) -> None:
        self.dataset = dataset
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | images.UnreadableImage]:
        try:
            return index, torch.from_numpy(resize(self.dataset[index].image, self.image_size))
        except images.UnreadableImage as error:
            return index, error


def collate(items: Sequence[tuple[int, torch.Tensor | images.UnreadableImage]]) -> PixelBatch:
    """Gather items of :class:`ResizedPixels` into a batch ``uint8 [B,S,S,3]``."""
    readable = [(i, pixels) for i, pixels in items if isinstance(pixels, torch.Tensor)]
    unreadable = [(i, error) for i, error in items if isinstance(error, images.UnreadableImage)]
    pixels = [pixels for _, pixels in readable]
    stacked = torch.stack(pixels) if pixels else torch.empty(0, 1, 1, 3, dtype=torch.uint8)
    return PixelBatch([i for i, _ in readable], stacked, unreadable)


def pixel_batches(
    dataset: GeoDataset,
    image_size: int,
    batch_size: int,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Iterator[PixelBatch]:
    """Read or render a dataset in batches, in parallel and in order, with bounded memory.

    Parameters
    ----------
    dataset
        Unreadable items are left out, and noted in ``dataset.skipped``.
    image_size
        Side S in pixels.
    batch_size
        Largest number of images in a batch.
    workers
        Processes; by default one per core for more than 100 images, else none.
    progress
        Whether to show a progress bar.

    Yields
    ------
    PixelBatch
        ``indices`` of the items, ``pixels`` of type ``uint8 [B,S,S,3]``.
    """
    loader = DataLoader(
        ResizedPixels(dataset, image_size),
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=default_workers(len(dataset)) if workers is None else workers,
        worker_init_fn=single_threaded,
    )
    description = f"{dataset.name} {dataset.split}"
    with progress_bar(description, len(dataset), "image", progress) as bar:
        for batch in loader:
            for index, error in batch.unreadable:
                dataset.skip(error, index)
            bar.update(len(batch.indices) + len(batch.unreadable))
            if batch.indices:
                yield batch


def default_workers(n_images: int) -> int:
    """Number of processes that read images: none for few, else one per core."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return cores if n_images > 100 else 0


def single_threaded(worker: int) -> None:
    """Start of a worker process: OpenCV's own threads do not survive a fork."""
    cv2.setNumThreads(0)
