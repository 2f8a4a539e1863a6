"""Which files of a folder are photographs, and why the others cannot be."""

from __future__ import annotations

import os
import posixpath
import stat
import warnings
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import pandas as pd
from PIL import Image

from geolib import images
from geolib.data.records import GeoDataset, Skipped
from geolib.runtime.here import cache_root, printable

# Formats that Pillow opens and that are no pictures: drawings, films, tables of numbers.
NO_PICTURES = {"BUFR", "EPS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# Formats by which a picture is known under any suffix.
COMMON = ("AVIF", "GIF", "JPEG", "PNG", "WEBP")
HEIF = ".avci .avcs .heic .heics .heif .heifs .hif"
RAW = (
    ".3fr .ari .arw .bay .cap .cr2 .cr3 .crw .dcr .dcs .dng .erf .fff .gpr .iiq .k25 .kdc .mdc "
    ".mef .mos .mrw .nef .nrw .orf .ori .pef .ptx .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f"
)
OTHER = ".bpg .exr .flif .hdp .hdr .jxr .kra .psb .wdp .xcf"
KINDS = {
    **dict.fromkeys(HEIF.split(), "HEIC"),
    **dict.fromkeys(RAW.split(), "camera raw"),
    ".jxl": "JPEG XL",
    **{suffix: suffix for suffix in OTHER.split()},
}
UNREAD = {suffix: images.NOT_DECODED.format(kind) for suffix, kind in KINDS.items()}
UNREAD[".icloud"] = "it is in iCloud only; download it"
# What file systems, sync tools and cameras keep beside photographs.
SERVICE = {
    *("#recycle", "#snapshot", "__macosx", "found.000", "lost+found", "lost.dir", "recycled"),
    *("network trash folder", "recycler", "system volume information", "temporary items"),
}
CAMERA = {"AVF_INFO", "CANONMSC", "EOSMISC", "M4ROOT", "MISC", "MP_ROOT", "PRIVATE", "THMBNL"}


def find(places: Mapping[str, Path]) -> tuple[dict[str, Path], list[Skipped]]:
    """Photographs at and below some named places, by name, and what cannot be one.

    A file that is a place itself may have any suffix. Links are followed; what is reached twice
    counts once, under the way to it that goes over no link if there is one.
    """
    suffixes = picture_suffixes()
    photos: dict[str, Path] = {}
    skipped: list[Skipped] = []
    seen: dict[object, str] = {}
    pending, links = deque(places.items()), deque[tuple[str, Path]]()
    while pending or links:
        name, path = (pending or links).popleft()
        given = name in places
        try:
            status = path.stat()
            is_folder = stat.S_ISDIR(status.st_mode)
            if not given and is_service(path.name, is_folder):
                continue
            reason = None if is_folder else _refused(name, path, status, suffixes, given)
            if is_folder and name and path.suffix.lower() in suffixes:
                reason = "a folder, not a photograph"
            # Numbers of files are not to be relied on everywhere; a hard link has nothing else.
            is_shared = not is_folder and status.st_nlink > 1
            key = (status.st_dev, status.st_ino) if is_shared else os.path.realpath(path)
            if reason != "" and seen.setdefault(key, name) != name:
                reason = f"reached twice: the same as {printable(seen[key] or '.')}"
            elif is_folder and not (given and reason):
                with os.scandir(path) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        found = posixpath.join(name, entry.name), path / entry.name
                        (links if entry.is_symlink() else pending).append(found)
            elif reason is None:
                photos[name] = path
        except OSError as error:
            reason = "" if not given and is_service(path.name, False) else why(error, path)
        if reason:
            skipped.append(Skipped(printable(name), reason))
    return dict(sorted(photos.items())), sorted(set(skipped))


def _refused(
    name: str, path: Path, status: os.stat_result, suffixes: Collection[str], given: bool
) -> str | None:
    """Why a file is no photograph; empty where it need not be said, None where it may be one."""
    suffix = path.suffix.lower()
    if not (given or suffix in suffixes or suffix in UNREAD):
        # A film's thumbnail is a JPEG.
        known = _format(path) if stat.S_ISREG(status.st_mode) and suffix != ".thm" else None
        return f"{known} by its content, not by its suffix; rename it" if known else ""
    if not stat.S_ISREG(status.st_mode):
        return "a pipe, socket or device, not a file"
    if name.encode("utf-8", "ignore").decode() != name:
        return "its name is not UTF-8; rename it"
    if status.st_size == 0:
        return "the file is empty"
    if suffix not in suffixes and suffix in UNREAD and not _format(path):
        return UNREAD[suffix]
    return None


def _format(path: Path) -> str | None:
    with suppress(Exception), warnings.catch_warnings():  # a picture, or anything at all
        warnings.simplefilter("ignore")
        with Image.open(path, formats=COMMON) as image:
            return image.format
    return None


def picture_suffixes() -> set[str]:
    """Suffixes, in small letters, of the pictures that Pillow can read."""
    formats = Image.registered_extensions()
    opened = {*Image.OPEN, "MPO"} - NO_PICTURES  # MPO is opened as a JPEG
    return {suffix for suffix, name in formats.items() if name in opened}


def is_service(name: str, is_folder: bool) -> bool:
    """Whether a name is that of something hidden, or of what a system keeps for itself."""
    if not is_folder:
        return name.startswith(".") and not name.endswith(".icloud")
    return name.startswith((".", "@", "$", "~")) or name.lower() in SERVICE or name in CAMERA


def why(error: OSError, path: Path) -> str:
    """Reason to skip what the file system does not open."""
    if isinstance(error, FileNotFoundError):
        return "a link to nothing" if path.is_symlink() else "no such file"
    return (error.strerror or str(error)).lower()


def readable(places: Sequence[Path], output: Path) -> tuple[list[tuple[Path, str]], list[Skipped]]:
    """Photographs at and below some places that decode, and what cannot be one.

    Each comes with a name for its results in the folder ``output``, whose figures of earlier calls
    are no photographs. ValueError where a figure would replace a photograph.
    """
    given = {str(place): place for place in places}
    photos, skipped = find(given)
    for name, photo in tuple(photos.items()):
        try:
            if name in given or not _is_figure(photo, output):
                images.read(photo)
                continue
        except images.UnreadableImage as error:
            skipped.append(Skipped(name, error.reason))
        del photos[name]
    skipped += empty(given, [*photos, *(entry.id for entry in skipped)])
    # A file's name has at most 255 bytes.
    stems = [photo.stem.encode()[:240].decode(errors="ignore") for photo in photos.values()]
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = [f"{i:03d}-{stem}" for i, stem in enumerate(stems, start=1)]
    for photo, stem in zip(photos.values(), stems, strict=True):
        if (output / f"{stem}.png").resolve() == photo.resolve():
            raise ValueError(
                f"--output {output}: a figure would replace {photo}; name another folder"
            )
    return list(zip(photos.values(), stems, strict=True)), skipped


def _is_figure(photo: Path, output: Path) -> bool:
    """Whether it is of an earlier call."""
    here = photo.resolve().parent == output.resolve()
    return here and photo.suffix == ".png" and photo.with_suffix(".json").is_file()


def empty(places: Mapping[str, Path], told: Iterable[str]) -> list[Skipped]:
    """Those of some named places that are folders and hold nothing of what was told."""
    parts = (printable(name).split("/") for name in told)
    there = {name for part in parts for name in accumulate(part, "{}/{}".format)}
    return [
        Skipped(name, "a folder without photographs")
        for name, place in zip(map(printable, places), places.values(), strict=True)
        # Path.is_dir raises where a link leads to what may not be looked at.
        if name not in there and os.path.isdir(place)  # noqa: PTH112
    ]


def read_and_skipped(*parts: GeoDataset) -> str:
    """How many photographs some splits hold and lack, as :func:`counted` says it."""
    read = sum(len(part) - len(part.unreadable) for part in parts)
    skipped = list(dict.fromkeys(entry for part in parts for entry in part.skipped))
    return counted(f"{read} photographs read, {len(skipped)} skipped", skipped)


def counted(line: str, skipped: Sequence[Skipped]) -> str:
    """A line on photographs, with the reasons to skip some, and the file that lists all of these.

    That is ``skipped.csv`` in the cache folder; where it cannot be written, the line says so.
    """
    if not skipped:
        return line
    line += f" ({reasons(skipped)})"
    place = cache_root() / "skipped.csv"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(skipped).to_csv(place, index=False, encoding="utf-8")
    except OSError as error:
        return f"{line}; no list of them: {error}"
    return f"{line}; all of them: {place}"


def reasons(skipped: Iterable[Skipped], most: int = 3) -> str:
    """How many are skipped for which reason, the commonest first."""
    counts = Counter(entry.reason.partition(":")[0].partition(";")[0] for entry in skipped)
    named = [f"{n} × {reason}" for reason, n in counts.most_common(most)]
    return "; ".join(named) + ("; …" if len(counts) > most else "")
