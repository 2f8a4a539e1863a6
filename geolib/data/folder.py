"""A folder of photographs as a dataset."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import pandas as pd

from geolib.data.records import SPLITS, GeoDataset, PhotoRecord, Skipped, check_split

SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
OTHER = "other"
METADATA = "metadata.csv"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
CELL_DEGREES = 0.01


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

    ``classes`` are the countries in the order of the labels; by default all that are found, sorted.
    A class named ``"other"`` takes every country that is not listed: ``classes=("FR", "other")``
    asks whether a photograph is French.

    Raises
    ------
    ValueError
        If the folder holds no images, ``metadata.csv`` is faulty, or an image's country is not
        among ``classes``.
    """
    check_split(split, (*SPLITS, "all"))
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


# Files --------------------------------------------------------------------------------------------


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
