"""A folder of photographs as a dataset."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from geolib.data.records import SPLITS, GeoDataset, PhotoRecord, Skipped, check_split

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
    have no label.

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
    elif inside := [p for p in files if p.parent != root]:
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
    table = pd.read_csv(root / METADATA, dtype=str, keep_default_na=False).rename(columns=str.strip)
    if "file" not in table:
        raise ValueError(f"{root / METADATA} lacks the column 'file'; it has {list(table.columns)}")
    table = table.reindex(columns=COLUMNS, fill_value="").apply(lambda column: column.str.strip())
    if repeated := sorted(table.file[table.file.duplicated()].unique()):
        raise ValueError(f"{root / METADATA} lists {repeated[0]!r} more than once")
    _refuse(table.file == "", root, "the file's name is empty")
    for column, limit in (("latitude", 90), ("longitude", 180)):
        degrees = pd.to_numeric(table[column], errors="coerce")
        wrong = (table[column] != "") & ~degrees.between(-limit, limit)
        given = next(iter(table[column][wrong]), "")
        _refuse(wrong, root, f"{column}={given!r}; expected degrees between -{limit} and {limit}")
        table[column] = degrees
    one_only = table.latitude.isna() != table.longitude.isna()
    _refuse(one_only, root, "latitude and longitude must both be given, or neither")
    known = table.rename(columns={"file": "id"}).astype(object)
    rows = known.where(known.notna() & (known != ""), None).to_dict("records")
    records = [PhotoRecord(path=root / row["id"], **row) for row in rows]
    missing = [record for record in records if not record.path.is_file()]
    skipped = [Skipped(record.id, f"listed in {METADATA} but missing") for record in missing]
    return [record for record in records if record.path.is_file()], skipped


def _refuse(wrong: pd.Series[bool], root: Path, why: str) -> None:
    if wrong.any():
        raise ValueError(f"{root / METADATA}, line {wrong.to_numpy().argmax() + 2}: {why}")


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
    width = CELL_DEGREES / max(math.cos(math.radians((row + 0.5) * CELL_DEGREES)), 1e-6)
    return f"cell {row} {math.floor(record.longitude / width)}"


def _seeded_hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()
