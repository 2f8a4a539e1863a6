"""Which files of a folder are photographs, and why the others cannot be."""

from __future__ import annotations

import os
import posixpath
import stat
import warnings
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from PIL import Image

from geolib.data.records import Skipped
from geolib.images import NOT_DECODED
from geolib.runtime.here import printable

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
UNREAD = {suffix: NOT_DECODED.format(kind) for suffix, kind in KINDS.items()}
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


def reasons(skipped: Iterable[Skipped], most: int = 3) -> str:
    """How many are skipped for which reason, the commonest first."""
    counts = Counter(entry.reason.partition(":")[0].partition(";")[0] for entry in skipped)
    named = [f"{n} × {reason}" for reason, n in counts.most_common(most)]
    return "; ".join(named) + ("; …" if len(counts) > most else "")
