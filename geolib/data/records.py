"""What a dataset is made of: images, what is known of each, and where it is read from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import Dataset

from geolib import images
from geolib.runtime.cache import sha256
from geoscenes import Scene

SPLITS = ("train", "validation", "test", "eval")


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

    @property
    def credit(self) -> str:
        """Author and licence, to be printed with a photograph; empty where neither is known."""
        return ", ".join(part for part in (self.attribution, self.licence) if part)


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
        known = vars(self).copy()
        return GeoImage(image=images.read(known.pop("path")), **known)


class GeoDataset(Dataset[GeoImage]):
    """A sequence of :class:`GeoImage`, read or rendered one by one when asked for.

    Indexing raises :class:`geolib.images.UnreadableImage` for a damaged file. ``skipped`` lists the
    items that turned out to be unusable so far. No other property reads or decodes pixels.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        split: str,
        records: Sequence[Record],
        skipped: Iterable[Skipped] = (),
    ) -> None:
        self.name, self.classes, self.split = name, tuple(classes), split
        self.records, self.skipped = tuple(records), list(skipped)

    @property
    def ids(self) -> list[str]:
        """Names of the items."""
        return [record.id for record in self.records]

    @property
    def labels(self) -> list[int | None]:
        """Class indices of the items."""
        return [record.label for record in self.records]

    def content_key(self, index: int) -> str:
        """Hash of everything the pixels of an item depend on."""
        return self.records[index].content_key()

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its images and labels from any others."""
        images = [(record.id, record.label, record.content_key()) for record in self.records]
        return {"name": self.name, "classes": list(self.classes), "images": images}

    def subset(self, indices: Iterable[int]) -> GeoDataset:
        """Dataset of the items at ``indices``, in that order; ``skipped`` is shared."""
        part = GeoDataset(self.name, self.classes, self.split, [self.records[i] for i in indices])
        part.skipped = self.skipped
        return part

    def skip(self, error: images.UnreadableImage, index: int) -> None:
        """Note in ``skipped``, once, that an item cannot be read."""
        self.note([Skipped(self.records[index].id, error.reason)])

    def note(self, entries: Iterable[Iterable[str]]) -> None:
        """Add pairs of identity and reason to ``skipped``, each once."""
        for entry in (Skipped(*pair) for pair in entries):
            if entry not in self.skipped:
                self.skipped.append(entry)

    @property
    def unreadable(self) -> list[Skipped]:
        """Those of ``skipped`` that are its own items."""
        own = set(self.ids)
        return [entry for entry in self.skipped if entry.id in own]

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


def check_split(split: str, known: Sequence[str]) -> None:
    if split not in known:
        raise ValueError(f"split={split!r} is not known; expected one of {', '.join(known)}")


@cache
def _file_sha256(path: Path, size: int, modified: int) -> str:
    """Hash of a file, remembered for as long as its size and time stay the same."""
    return sha256(path)
