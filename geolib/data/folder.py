"""A folder of photographs as a dataset."""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from geolib.data import files
from geolib.data.records import SPLITS, GeoDataset, PhotoRecord, Skipped, check_split
from geolib.data.tables import NO_NAME, clean, positions, read_table, refuse
from geolib.runtime.here import printable

SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
OTHER = "other"
METADATA = "metadata.csv"
TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".ods")
# What other tools call the folders of a split.
SPLIT_FOLDERS = {
    *("train", "training", "trainval", "val", "valid", "validation", "dev", "eval", "evaluation"),
    *("test", "testing"),
}
# As all cameras name the folders of photographs: DCIM/100CANON.
CAMERA_FOLDER = re.compile(r"DCIM|[1-9]\d\d[0-9A-Z_]{5}", re.IGNORECASE)
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

    Every format that Pillow reads is taken, and links are followed; a file that is reached twice
    counts once. What cannot be read (HEIC, raw files of cameras, broken links, names that are not
    UTF-8), is missing, or lies outside any country is in ``skipped`` with the reason. What systems,
    sync tools and cameras keep beside photographs (``@eaDir``, ``THMBNL``, ``.thumbnails``) is not.

    Raises ValueError if the folder holds no images that can be read, ``metadata.csv`` is faulty, an
    image's country is not among ``classes``, or ``root`` holds folders of splits (``train``).
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
    photos, skipped = files.find({"": root})
    if table := _metadata(root):
        records, skipped = _listed(table, photos, skipped)
    elif any(map(_country, photos)):
        records, outside = _by_country(root, photos, skipped)
        skipped += outside
    else:
        records = [PhotoRecord(name, path) for name, path in photos.items()]
    opened = []
    for record in records:
        try:
            record.content_key()
            opened.append(record)
        except OSError as error:
            skipped.append(Skipped(record.id, files.why(error, record.path)))
    if not opened:
        why = f"skipped were {files.reasons(skipped)}" if skipped else "no file in it is a picture"
        raise ValueError(
            f"root={str(root)!r} holds no images that can be read: {why}; expected "
            f"ROOT/COUNTRY/*.jpg, or images with a {METADATA}, or images alone"
        )
    return opened, skipped


def _listed(
    table: Path, photos: Mapping[str, Path], skipped: Sequence[Skipped]
) -> tuple[list[PhotoRecord], list[Skipped]]:
    """What a table lists, and what is skipped of that and of the files in its folder."""
    root = table.parent
    known = [*photos.values(), *(root / entry.id for entry in skipped)]
    records, left_out = _from_metadata(table, known)
    there, refused = files.find({record.id: record.path for record in records})
    left_out += refused
    # A table may name a file by another way.
    listed = {os.path.realpath(record.path) for record in records}
    unlisted = [name for name, path in photos.items() if os.path.realpath(path) not in listed]
    left_out += [Skipped(name, f"not listed in {METADATA}") for name in unlisted]
    told = {*there, *(entry.id for entry in left_out)}
    left_out += [entry for entry in skipped if entry.id not in told]
    return [record for record in records if record.id in there], left_out


def _by_country(
    root: Path, photos: Mapping[str, Path], skipped: Sequence[Skipped]
) -> tuple[list[PhotoRecord], list[Skipped]]:
    """Photographs in the folders of countries, what lies outside, and folders without any."""
    inside = {name: country for name in photos if (country := _country(name))}
    _refuse_splits(root, inside)
    records = [PhotoRecord(name, photos[name], country) for name, country in inside.items()]
    outside = "lies outside the folders of countries"
    left_out = [Skipped(name, outside) for name in photos if name not in inside]
    folders = {p.name: p for p in sorted(root.iterdir()) if not files.is_service(p.name, True)}
    left_out += files.empty(folders, [*photos, *(entry.id for entry in skipped)])
    return records, left_out


def _country(name: str) -> str:
    """Country of a photograph by its folder, which is no camera's; empty where there is none."""
    top, inside, _ = name.partition("/")
    return clean(top) if inside and not CAMERA_FOLDER.fullmatch(top) else ""


def _id(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _refuse_splits(root: Path, names: Iterable[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    if len(tops) == 1:  # ROOT/images/train
        below = {"/".join(name.split("/")[:2]) for name in names}
        tops = below if all(map(_is_split, below)) else tops
    if found := sorted(filter(_is_split, tops)):
        raise ValueError(
            f"root={str(root)!r} holds folders of splits ({', '.join(found)}), expected folders of "
            "countries; splits are made here, so that no place is in two: move the countries' "
            f"folders up into one, or give one split as root={str(root / found[0])!r}"
        )


def _is_split(folder: str) -> bool:
    words = re.split(r"[\W_\d]+", clean(folder.rpartition("/")[2]).casefold())
    words = [re.sub("(set|data|images?|imgs?|photos?|splits?)$", "", word) for word in words]
    return "".join(words) in SPLIT_FOLDERS


def _metadata(root: Path) -> Path | None:
    """The table of a folder, whose name may be written in capitals."""
    found = sorted(p for p in root.iterdir() if p.name.lower() == METADATA and p.is_file())
    if len(found) > 1:
        raise ValueError(f"{root} holds {found[0].name} and {found[1].name}; keep one of them")
    others = sorted(p.name for p in root.iterdir() if p.suffix.lower() in TABLES)
    if others and not found:
        unread = f"{', '.join(map(printable, others))} not read"
        warnings.warn(f"{root}: {unread}; a table is called {METADATA}", stacklevel=4)
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
