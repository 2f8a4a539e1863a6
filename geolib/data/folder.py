"""A folder of photographs as a dataset."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from geolib.data.records import SPLITS, GeoDataset, PhotoRecord, Skipped, check_split
from geolib.data.tables import NO_NAME, clean, positions, read_table, refuse

SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
OTHER = "other"
METADATA = "metadata.csv"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
COLUMNS = ["file", "country", "latitude", "longitude", "licence", "attribution"]
CELL_DEGREES = 0.01
SCARCE_PLACES = (
    "too few places to split by location: {}; split by content instead, so near-duplicates may be "
    "in two splits"
)


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
    have no label. :func:`geolib.data.tables.read_table` says which tables are understood.

    The split keeps places apart: images of one cell of about 1 km × 1 km (0.01° of latitude) stay
    together, as do images with the same bytes; where coordinates are missing, only the latter.
    A class found in fewer than three places is split by content instead, with a warning. Shares
    are 70 % training, 15 % validation, 15 % test, per class and as near as the cells allow. File
    names and the order of files play no role. ``"eval"`` and ``"test"`` are the same images.

    ``classes`` are the countries in the order of the labels; by default all that are found, sorted.
    A class named ``"other"`` takes every country that is not listed: ``classes=("FR", "other")``
    asks whether a photograph is French.

    Raises ValueError if the folder holds no images, ``metadata.csv`` is faulty, or an image's
    country is not among ``classes``.
    """
    check_split(split, (*SPLITS, "all"))
    records, skipped = _find_photos(Path(root).expanduser())
    if classes is None:
        classes = sorted({r.country for r in records if r.country is not None})
    classes = tuple(dict.fromkeys(map(clean, classes)))
    folded = Counter(name.casefold() for name in classes)
    if alike := [name for name in classes if folded[name.casefold()] > 1]:
        warnings.warn(f"classes {', '.join(alike)} differ in case alone", stacklevel=3)
    records = [_with_label(record, classes) for record in records]
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
    if table := _metadata(root):
        records, skipped = _from_metadata(table, files)
        listed = {record.path for record in records}
        unlisted = [p for p in files if p not in listed]
        skipped += [Skipped(_id(p, root), f"not listed in {METADATA}") for p in unlisted]
    elif inside := [p for p in files if p.parent != root]:
        records = [
            PhotoRecord(_id(p, root), p, country=clean(p.relative_to(root).parts[0]))
            for p in inside
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
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _metadata(root: Path) -> Path | None:
    """The table of a folder, whose name may be written in capitals."""
    found = sorted(p for p in root.iterdir() if p.name.lower() == METADATA and p.is_file())
    if len(found) > 1:
        raise ValueError(f"{root} holds {found[0].name} and {found[1].name}; keep one of them")
    return found[0] if found else None


def _from_metadata(path: Path, files: Sequence[Path]) -> tuple[list[PhotoRecord], list[Skipped]]:
    # As text: NA, Namibia's code, is no missing value.
    table = read_table(path, COLUMNS, required=["file"])
    refuse(table.file == "", path, "the file's name is empty")
    country = table.country.map(clean)
    table["country"] = country.where(~country.str.lower().isin(NO_NAME), "")
    degrees = positions(table, path)
    one_only = degrees.latitude.isna() != degrees.longitude.isna()
    refuse(one_only, path, "latitude and longitude must both be given, or neither")
    for name, absent in (("country", table.country == ""), ("position", degrees.latitude.isna())):
        if 0 < (n := absent.sum()) < len(table):
            first = f"the first in line {absent.idxmax()}"
            warnings.warn(f"{path}: {n} of {len(table)} rows have no {name}, {first}", stacklevel=5)
    table[["latitude", "longitude"]] = degrees
    paths = pd.Series(_on_disk(path.parent, files, table.file), table.index, dtype=object)
    if len(repeated := table.file[paths.duplicated()]):
        line, name = repeated.index[0], repeated.iloc[0]
        raise ValueError(f"{path} lists {name!r} more than once, the second time in line {line}")
    there = paths.map(os.path.isfile).astype(bool)
    if not there.any() and len(table):
        example = f"for example {table.file.iloc[0]!r}; expected paths as seen from {path.parent}"
        raise ValueError(f"{path} lists {len(table)} files that are not there, {example}")
    skipped = [Skipped(name, f"listed in {METADATA} but missing") for name in table.file[~there]]
    known = table.astype(object).where(table.notna() & (table != ""), None)
    records = [
        PhotoRecord(_id(file, path.parent), file, **dict(zip(COLUMNS[1:], row, strict=True)))
        for file, (_, *row) in zip(paths[there], known[there].values, strict=True)
    ]
    return records, skipped


def _on_disk(root: Path, files: Sequence[Path], names: Iterable[str]) -> list[Path]:
    """Paths of files that a table may name with backslashes, in other case or composed otherwise.

    A name that fits several files, and is that of none, is left as it is.
    """
    alike = defaultdict(list)
    for path in files:
        alike[clean(_id(path, root)).casefold()].append(path)

    def path_of(name: str) -> Path:
        for path in (root / name, root / name.replace("\\", "/")):
            same = alike[clean(_id(path, root)).casefold()]
            if path in same or len(same) == 1:
                return path if path in same else same[0]
        return path

    return [path_of(name) for name in names]


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
    table = pd.DataFrame([vars(record) for record in records])
    table = table.fillna({"country": "unlabelled", "label": -1})
    table["content"] = [record.content_key() for record in records]
    table["cell"] = [_cell(record) for record in records]
    # Identical files are in one place, wherever they say that they were taken.
    cell = table.sort_values(["latitude", "longitude"]).groupby("content").cell.first()
    table["place"] = table.content.map(cell).fillna(table.content)
    scarce = table.groupby("label").place.transform("nunique") < len(SHARES)
    table.loc[scarce, "place"] = table.content
    absent = scarce & (table.groupby("label").place.transform("nunique") < len(SHARES))
    for which, warning in (
        (scarce & table.latitude.notna(), SCARCE_PLACES),
        (absent, "too few images to be in every split: {}"),
    ):
        if which.any():
            countries = table[which].groupby("label").country.last()
            warnings.warn(warning.format(", ".join(sorted(countries))), stacklevel=3)

    members = {str(place): list(labels) for place, labels in table.groupby("place").label}
    received: dict[int, Counter[str]] = defaultdict(Counter)
    split_of = {}
    for place in sorted(members, key=lambda p: (-len(members[p]), _seeded_hash(seed, p))):
        counts = received[Counter(members[place]).most_common(1)[0][0]]
        split = min(SHARES, key=lambda name: counts[name] / SHARES[name])
        counts[split] += len(members[place])
        split_of[place] = split
    return table.place.map(split_of).tolist()


def _cell(record: PhotoRecord) -> str | None:
    """Cell of 0.01° of latitude, and as many degrees of longitude as make it about square."""
    if record.latitude is None or record.longitude is None:
        return None
    row = math.floor(record.latitude / CELL_DEGREES)
    if abs(record.latitude) > 90 - CELL_DEGREES:
        return f"pole {record.latitude > 0}"  # where longitudes say little
    width = CELL_DEGREES / math.cos(math.radians((row + 0.5) * CELL_DEGREES))
    column = math.floor(record.longitude / width)
    if column == math.floor(-180 / width):  # one cell on both sides of the date line
        column = math.floor(180 / width)
    return f"cell {row} {column}"


def _seeded_hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()
