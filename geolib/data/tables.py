"""Tables that people write: CSV as Excel, R, cameras and other programs save it."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

LIMITS = {"latitude": 90, "longitude": 180}
SEPARATORS = (",", ";", "\t", "|", " ")
# What R, Excel, SQL and Python write in a cell without a number, and in one without a name: NA is
# Namibia.
NO_NUMBER = ("na", "n/a", "#n/a", "null")
NO_NAME = ("n/a", "#n/a", "null", "nan", "none")
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
# Windows-1252 has five holes. Words of Western languages hold no three letters beyond ASCII in a
# row, no sign or capital within, and none of them looks like UTF-8.
NOT_WESTERN = (
    rb"[\x81\x8d\x8f\x90\x9d]|[\x80-\xff]{3}|\xc3[\x80-\xbf]"
    rb"|[A-Za-z][\x80-\x91\x93-\x99\x9b\x9d\x9f][a-z]"
)
INVISIBLE = "[\u200b\u200e\u200f\u202a-\u202e\ufeff]"
UNMEANT = rf'{INVISIBLE}|^="(.*)"$'  # ="0012", so that Excel keeps it a text

# Names of columns, as `_key` writes them, best first.
_BEFORE = "(?:exif|xmp|composite|gps|geo|location|coord(?:inate)?s?|position|wgs84|decimal)*"
_AFTER = "(?:wgs84|decimal|dec|degrees?|deg|dd)*"
_LATITUDE = f"{_BEFORE}(?:lat|latitude|latitud|latitudine|breitengrad|緯度|纬度){_AFTER}"
_LONGITUDE = (
    f"{_BEFORE}(?:lon|lng|long|longitude|longitud|longitudine|längengrad|経度|经度){_AFTER}"
)
_SIDE = "(?:ref|dir|direction|hemi|hemisphere|ns|ew)"
NAMES = {
    "file": (
        *("file", "sourcefile", "(?:file|image|img|photo)path|path"),
        *("(?:file|image|img|photo)name", "image|img|imgid|photo|photograph"),
    ),
    "country": ("country", "countryname", "countrycode"),
    "licence": ("licence", "license"),
    "latitude": ("latitude", "compositegpslatitude", _LATITUDE),
    "longitude": ("longitude", "compositegpslongitude", _LONGITUDE),
    "latitude's sign": (f"{_LATITUDE}{_SIDE}", "ns|northsouth"),
    "longitude's sign": (f"{_LONGITUDE}{_SIDE}", "ew|eastwest"),
}
# Columns that hold both numbers, or other ones.
POSITIONS = (
    "(?:gps|geo)?(?:position|location|coord(?:inate)?s?|point|hash)|gps|wkt|geom(?:etry)?"
    "|lat(?:itude)?lo?n?g?(?:itude)?|lo?ng?(?:itude)?lat(?:itude)?|(?:east|north)ing|utm|mgrs"
    "|(?:point|pos|coord)[xy]|[xy](?:pos|coord)"
)
MARKS = str.maketrans("º˚′’´″”−\xa0", "°°'''\"\"- ")
_NUMBER = r"(\d+(?:\.\d+)?)\s*"
ANGLE = re.compile(rf"([+-]?)\s*{_NUMBER}(?:°\s*(?:{_NUMBER}'\s*(?:{_NUMBER}\"\s*)?)?)?")


def read_table(path: Path, columns: Sequence[str], required: Sequence[str] = ()) -> pd.DataFrame:
    """Some columns of a table as text; the index is the line in which a row begins.

    Understood are UTF-8, UTF-16 and, with a warning, Windows-1252; commas, semicolons, tabs, bars
    and spaces, as the header or a first line ``sep=;`` has them; separators at the end of lines and
    R's numbers of rows. Names of columns are compared without case, signs and units, and
    :data:`NAMES` are understood. Empty rows are left out; a column that is not there is empty.

    Raises ValueError, with file and line, if the meaning is not certain: no text, too many cells,
    a quotation mark too many, two columns of one name, or one that only resembles ``country``,
    ``latitude`` or ``longitude``.
    """
    raw = path.read_bytes()
    encoding = _encoding(raw, path)
    separator, has_separator_line = _separator(_lines(raw, encoding), columns)
    records = _records(_lines(raw, encoding), separator, path)
    if has_separator_line:
        next(records)
    _, header = next(records, (0, []))
    header = header[: max((i + 1 for i, name in enumerate(header) if name), default=0)]
    place = _places(header, columns, path)
    if lacking := [name for name in required if name not in place]:
        missing = " and ".join(map(repr, lacking))
        raise ValueError(f"{path} lacks the column {missing}; it has {header}")
    lines: list[int] = []
    rows: list[list[str]] = []
    row_names = False
    for line, cells in records:
        if cells == header:
            continue
        if not rows:
            row_names = len(cells) > len(header) and bool(cells[-1]) and cells[0] == "1"
        if row_names and cells[0] == str(len(rows) + 1):
            cells = cells[1:]
        if any(cells[len(header) :]):
            raise ValueError(
                f"{path}, line {line} has {len(cells)} cells, the header {len(header)}; put a "
                f"cell that holds {separator!r} in quotation marks"
            )
        if len(cells) == 1 < len(header) and re.search("[,;\t|]", cells[0]):
            raise ValueError(f"{path}, line {line}: {cells[0]!r} holds no {separator!r}")
        lines.append(line)
        rows.append([cells[i] if i < len(cells) else "" for i in place.values()])
    table = pd.DataFrame(rows, index=lines, columns=list(place), dtype=str)
    table = table.apply(lambda cells: cells.str.replace(UNMEANT, r"\1", regex=True).str.strip())
    for axis in LIMITS:
        if f"{axis}'s sign" in table:
            signed = table[axis] + " " + table.pop(f"{axis}'s sign")
            table[axis] = signed.where(table[axis] != "", "")
    return table.reindex(columns=list(columns), fill_value="")


def positions(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Columns ``latitude`` and ``longitude`` of :func:`read_table` in degrees, NaN where empty.

    Also understood are decimal commas, ``48°51'24"N`` and ``48 deg 51' 24" N``. Raises ValueError,
    with file and line, for anything else, and for angles out of range.
    """
    found = {}
    for axis, limit in LIMITS.items():
        cells = table[axis].where(~table[axis].str.lower().isin(NO_NUMBER), "").str.strip()
        degrees = pd.to_numeric(cells, errors="coerce").astype(float)
        odd = degrees.isna() & (cells != "")
        directions = "NS" if axis == "latitude" else "EW"
        degrees[odd] = np.array([_degrees(cell, directions) for cell in cells[odd]])
        wrong = (cells != "") & ~degrees.between(-limit, limit)
        given = next(iter(cells[wrong]), "")
        refuse(wrong, path, f"{axis}={given!r}; expected degrees between -{limit} and {limit}")
        found[axis] = degrees
    return pd.DataFrame(found)


def refuse(wrong: pd.Series[bool], path: Path, why: str) -> None:
    """Raise ValueError for the first row of a table that is wrong, if any is."""
    if wrong.any():
        raise ValueError(f"{path}, line {wrong.idxmax()}: {why}")


def clean(name: str) -> str:
    """A name with composed letters, and one space where several, or odd ones, stand."""
    return " ".join(unicodedata.normalize("NFC", re.sub(INVISIBLE, "", name)).split())


# Bytes, separators, rows --------------------------------------------------------------------------


def _encoding(raw: bytes, path: Path) -> str:
    if raw.startswith(WORKBOOKS):
        raise ValueError(f"{path} is a workbook, not a CSV file; save it as CSV UTF-8")
    encoding = "utf-8-sig"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in raw[:2]:  # UTF-16 without its mark
        encoding = "utf-16-be" if raw[0] == 0 else "utf-16-le"
    try:
        raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        if encoding != "utf-8-sig" or re.search(NOT_WESTERN, raw):
            raise ValueError(
                f"{path}, line {line}: neither UTF-8, UTF-16 nor Windows-1252; save it as CSV UTF-8"
            ) from error
        shown = raw.split(b"\n", line)[line - 1].strip().decode("cp1252")
        told = f"{path} is not UTF-8; read as Windows-1252, line {line}: {shown}"
        warnings.warn(told, stacklevel=3)
        return "cp1252"
    return encoding


def _lines(raw: bytes, encoding: str) -> Iterator[str]:
    return io.TextIOWrapper(io.BytesIO(raw), encoding)


def _separator(lines: Iterator[str], columns: Sequence[str]) -> tuple[str, bool]:
    """What separates cells, and whether a line of its own says so."""
    head = list(islice(lines, 50))
    if said := re.match(r'"?sep=(\\t|[,;|\t ])', "".join(head[:1]), re.IGNORECASE):
        return said[1].replace("\\t", "\t"), True

    def known(separator: str) -> int:
        header = next((row for row in csv.reader(head, delimiter=separator) if any(row)), [])
        return sum(bool(_matches(header, pattern)) for pattern in _patterns(columns))

    return max(SEPARATORS, key=known), False


def _records(lines: Iterator[str], separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, and the lines in which they begin."""
    spaced = separator != " "
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=spaced, strict=True)
    line = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {line}: {error}; close or double the quotation mark"
        ) from error


# Names --------------------------------------------------------------------------------------------


def _key(name: str) -> str:
    """A column's name without case, signs and units in brackets."""
    name = unicodedata.normalize("NFKC", re.sub(r"[(\[].*", "", name)).casefold()
    return re.sub(r"[\W_]", "", name)


def _patterns(columns: Sequence[str]) -> list[str]:
    return ["|".join(NAMES.get(name, (_key(name),))) for name in columns]


def _matches(header: Sequence[str], pattern: str) -> list[int]:
    return [i for i, name in enumerate(header) if re.fullmatch(pattern, _key(name))]


def _places(header: Sequence[str], columns: Sequence[str], path: Path) -> dict[str, int]:
    """Where in a row the columns are."""
    axes = [axis for axis in LIMITS if axis in columns]
    place: dict[str, int] = {}
    for name in (*columns, *(f"{axis}'s sign" for axis in axes)):
        for pattern in NAMES.get(name, (_key(name),)):
            at = _matches(header, pattern)
            if len(at) > 1:
                several = " and ".join(repr(header[i]) for i in at)
                raise ValueError(f"{path} has {several}; keep one column for {name!r}")
            if at:
                place[name] = at[0]
                break
    for wanted in [name for name in ("country", *axes) if name in columns and name not in place]:
        for name in header:
            if _resembles(name, wanted):
                raise ValueError(f"{path} has the column {name!r}; call it {wanted!r} or remove it")
    given = [axis for axis in axes if axis in place]
    if len(given) == 1:
        (absent,) = set(axes) - set(given)
        raise ValueError(f"{path} lacks the column {absent!r}; it has {list(header)}")
    both = {"x", "y"} if {"x", "y"} <= set(map(_key, header)) else set()
    unread = [n for n in header if _key(n) in both or re.fullmatch(POSITIONS, _key(n))]
    if axes and unread and not given:
        warnings.warn(
            f"{path}: {', '.join(map(repr, unread))} not read; a position is read from the columns "
            "latitude and longitude",
            stacklevel=4,
        )
    return {name: i for name, i in place.items() if not name.endswith("sign") or given}


def _resembles(name: str, wanted: str) -> bool:
    """Whether a column's name is nearly that of a country, or of an axis."""
    key = _key(name)
    if wanted == "country" or re.search("(^|[^l])a[lt]titude", key):
        return wanted[:6] in key
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    short = "lats?" if wanted == "latitude" else "lons?|lngs?"
    return (
        wanted[:5] in key
        or (len(key) > 2 and wanted.startswith(key))
        or any(re.fullmatch(short, word.lower()) for word in words)
        or bool(difflib.get_close_matches(wanted, [key], cutoff=0.8))
    )


# Angles -------------------------------------------------------------------------------------------


def _degrees(text: str, directions: str) -> float:
    """Degrees of an angle as people and cameras write it, NaN for anything else.

    ``directions`` are the letters of the positive and of the negative half of the axis.
    """
    text = text.translate(MARKS).replace("''", '"').upper().replace("DEG", "°")
    text = re.sub(r"\b(NORTH|SOUTH|EAST|WEST)\b", lambda word: word[0][0], text)
    if text.count(",") == 1 and "." not in text:
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    letters = set(re.findall("[A-Z]", text))
    angle = ANGLE.fullmatch(re.sub("[A-Z]", "", text).strip())
    if angle is None or len(letters) > 1 or not letters <= set(directions):
        return math.nan
    sign, *parts = angle.groups(default="0")
    degrees, minutes, seconds = map(float, parts)
    if minutes >= 60 or seconds >= 60 or (sign == "-" and directions[0] in letters):
        return math.nan
    size = degrees + minutes / 60 + seconds / 3600
    return -size if sign == "-" or directions[1] in letters else size
