"""Files as people's disks hold them: what is read, what is skipped and why, what is ignored."""

import errno
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import classifier

from geolib import data, images, pipeline
from geolib.data import files, records
from geolib.images import UnreadableImage
from geolib.runtime import here

CONVERT = "cannot be decoded here; convert it to JPEG, as with ImageMagick"
HEIC = b"\0\0\0\x18ftypheic" + bytes(64)


def photo(path, content=0, **options):
    """A picture of its own for each content; its pixels."""
    pixels = np.random.default_rng(content).integers(0, 256, (20, 24, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def everything(root, **options):
    return data.load("folder", "all", root=root, **options)


@pytest.fixture
def root(tmp_path):
    """One photograph of France and one of India."""
    photo(tmp_path / "photos" / "FR" / "a.png", 1)
    photo(tmp_path / "photos" / "IN" / "b.png", 2)
    return tmp_path / "photos"


WHOLE = {"FR/a.png", "IN/b.png"}


# Formats ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix",
    [
        *(".jpg", ".JPG", ".jpeg", ".jpe", ".jfif", ".JFIF", ".mpo", ".avif", ".avifs", ".webp"),
        *(".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".jpf"),
        *(".ppm", ".pnm", ".pcx", ".tga", ".qoi", ".sgi", ".rgb", ".dds", ".icns"),
    ],
)
def test_every_picture_that_pillow_reads_is_taken(root, suffix):
    if suffix == ".avifs":
        photo(root / "FR" / "c.avif")
        (root / "FR" / "c.avif").rename(root / "FR" / "c.avifs")
    else:
        photo(root / "FR" / f"c{suffix}")
    dataset = everything(root)
    assert (set(dataset.ids), dataset.skipped) == (WHOLE | {f"FR/c{suffix}"}, [])
    assert dataset[dataset.ids.index(f"FR/c{suffix}")].image.ndim == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.heic", f"HEIC {CONVERT}"),
        ("a.HEIF", f"HEIC {CONVERT}"),
        ("a.hif", f"HEIC {CONVERT}"),
        ("a.dng", f"camera raw {CONVERT}"),
        ("a.CR2", f"camera raw {CONVERT}"),
        ("a.cr3", f"camera raw {CONVERT}"),
        ("a.nef", f"camera raw {CONVERT}"),
        ("a.ARW", f"camera raw {CONVERT}"),
        ("a.rw2", f"camera raw {CONVERT}"),
        ("a.jxl", f"JPEG XL {CONVERT}"),
        ("a.xcf", f".xcf {CONVERT}"),
        (".a.jpg.icloud", "it is in iCloud only; download it"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_cure(root, name, reason):
    (root / "FR" / name).write_bytes(HEIC)
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE
    assert dataset.skipped == [(f"FR/{name}", reason)]
    # Listed in a table, it is no less unreadable.
    (root / "metadata.csv").write_text(f"file,country\nFR/a.png,FR\nIN/b.png,IN\nFR/{name},FR\n")
    assert everything(root).skipped == dataset.skipped


def test_a_photograph_under_another_suffix_is_read_or_named(root):
    for name in ("c.heic", "d", "e.jpg_large", "f.thm"):
        photo(root / "FR" / "x.jpg", ord(name[0]))
        (root / "FR" / "x.jpg").rename(root / "FR" / name)
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE | {"FR/c.heic"}
    renamed = "JPEG by its content, not by its suffix; rename it"
    assert dataset.skipped == [("FR/d", renamed), ("FR/e.jpg_large", renamed)]


NO_PHOTOGRAPHS = "mp4 mov mpg pdf eps ps wmf svg h5 hdf txt xmp aae json thm lrv db ini gpx"


def test_other_files_are_no_photographs(root):
    for suffix in NO_PHOTOGRAPHS.split():
        (root / "FR" / f"a.{suffix}").write_bytes(b"anything")
    dataset = everything(root)
    assert (set(dataset.ids), dataset.skipped) == (WHOLE, [])


# Links --------------------------------------------------------------------------------------------


def test_links_are_followed(root, tmp_path):
    elsewhere = tmp_path / "disk"
    pixels = photo(elsewhere / "jp" / "sub" / "c.png", 3)
    photo(elsewhere / "d.png", 4)
    (root / "JP").symlink_to(elsewhere / "jp")
    (root / "FR" / "d.png").symlink_to(elsewhere / "d.png")
    (root / "IN" / "up").symlink_to(root / "IN")
    (root / "IN" / "top").symlink_to("..")
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE | {"JP/sub/c.png", "FR/d.png"}
    item = dataset[dataset.ids.index("JP/sub/c.png")]
    assert item.country == "JP" and np.array_equal(item.image, pixels)
    assert dataset.skipped == [
        ("IN/top", "reached twice: the same as ."),
        ("IN/up", "reached twice: the same as IN"),
    ]


def test_what_is_reached_twice_counts_once_where_it_lies(root):
    """A link does not make a photograph of France one of Albania, though Albania comes first."""
    (root / "AL").mkdir()
    (root / "AL" / "a.png").symlink_to(root / "FR" / "a.png")
    (root / "AL" / "folder").symlink_to(root / "IN")
    os.link(root / "FR" / "a.png", root / "FR" / "hard.png")
    (root / "AL" / "hard.png").symlink_to(root / "FR" / "hard.png")
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE and dataset.classes == ("FR", "IN")
    assert dataset.skipped == [
        ("AL/a.png", "reached twice: the same as FR/a.png"),
        ("AL/folder", "reached twice: the same as IN"),
        ("AL/hard.png", "reached twice: the same as FR/a.png"),
        ("FR/hard.png", "reached twice: the same as FR/a.png"),
    ]


def test_a_table_may_name_files_by_links(root):
    (root / "link").symlink_to(root / "FR")
    rows = "link/a.png,FR\nIN/b.png,IN\nFR/a.png,FR\n"
    (root / "metadata.csv").write_text(f"file,country\n{rows}")
    dataset = everything(root)
    assert set(dataset.ids) == {"link/a.png", "IN/b.png"}
    assert ("FR/a.png", "reached twice: the same as link/a.png") in dataset.skipped
    assert not any("not listed" in reason for _, reason in dataset.skipped)


# One bad entry ------------------------------------------------------------------------------------


def _socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to("nowhere.jpg"), "a link to nothing"),
        (lambda path: path.symlink_to(path), "too many levels of symbolic links"),
        (Path.mkdir, "a folder, not a photograph"),
        (os.mkfifo, "a pipe, socket or device, not a file"),
        (_socket, "a pipe, socket or device, not a file"),
        (Path.touch, "the file is empty"),
    ],
)
def test_one_bad_entry_is_skipped_and_named(root, monkeypatch, make, reason):
    monkeypatch.chdir(root / "FR")  # names of sockets are short
    make(Path("x.jpg"))
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE
    assert dataset.skipped == [("FR/x.jpg", reason)]
    assert len(dataset.identity["images"]) == 2


def test_photographs_in_a_folder_named_like_one_are_read(root):
    photo(root / "FR" / "x.jpg" / "c.png", 3)
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE | {"FR/x.jpg/c.png"}


def test_without_permission(root, monkeypatch):
    """Tests may run as root, to whom everything is open."""
    photo(root / "FR" / "shut.png", 3)
    photo(root / "JP" / "c.png", 4)
    scandir, hashed = os.scandir, records.sha256

    def deny(of, *names):
        def denying(path):
            if Path(path).name in names:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return of(path)

        return denying

    monkeypatch.setattr(os, "scandir", deny(scandir, "JP"))
    monkeypatch.setattr(records, "sha256", deny(hashed, "shut.png"))
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE
    denied = "permission denied"
    assert set(dataset.skipped) == {("FR/shut.png", denied), ("JP", denied)}


def test_names_that_are_no_text_or_long(root):
    latin = os.fsencode(root / "FR") + b"/caf\xe9.jpg"
    photo(root / "FR" / f"{'l' * 251}.png", 3)
    photo(root / "FR" / "two\nlines.png", 4)
    Path(os.fsdecode(latin)).write_bytes((root / "FR" / "a.png").read_bytes())
    curacao = Path(os.fsdecode(os.fsencode(root) + b"/Cura\xe7ao"))
    photo(curacao / "d.png", 5)
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE | {f"FR/{'l' * 251}.png", "FR/two\nlines.png"}
    rename = "its name is not UTF-8; rename it"
    assert dataset.skipped == [(r"Cura\xe7ao/d.png", rename), (r"FR/caf\xe9.jpg", rename)]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("日本 é [red]$A$ 😀\u202fAM.jpg", "日本 é [red]$A$ 😀\u202fAM.jpg"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        ("a\nb\x1b[31m.jpg", r"a\nb\x1b[31m.jpg"),
    ],
)
def test_names_are_printable(name, shown):
    assert here.printable(name) == shown


def test_what_is_said_of_any_file_can_be_written(tmp_path):
    place = tmp_path / os.fsdecode(b"caf\xe9.png")
    with pytest.raises(UnreadableImage, match=r"caf\\xe9\.png: no such file") as error:
        images.read(place)
    assert str(error.value).encode()
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage, match=r"pipe\.jpg: a pipe, socket or device, not a file"):
        images.read(tmp_path / "pipe.jpg")
    photo(place, 1)
    explained = pipeline.explain(classifier(), place).to_dict()
    assert explained["image"] == r"caf\xe9.png"
    assert json.dumps(explained, ensure_ascii=False).encode()


# What systems, tools and cameras keep -------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@__thumb", "__MACOSX", ".thumbnails"),
        *("$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER", "System Volume Information", "lost+found"),
        *(".Trash-1000", ".Trashes", ".stversions", ".dropbox.cache", ".AppleDouble", "~snapshot"),
        *("MISC", "PRIVATE", "THMBNL", "CANONMSC", "AVF_INFO", "LOST.DIR", "FOUND.000"),
    ],
)
def test_service_folders_are_neither_photographs_nor_countries(root, name):
    photo(root / name / "0.jpg" / "SYNOPHOTO_THUMB_M.jpg", 3)
    photo(root / name / "c.jpg", 4)
    photo(root / "FR" / name / "d.jpg", 5)
    dataset = everything(root)
    assert (set(dataset.ids), dataset.classes, dataset.skipped) == (WHOLE, ("FR", "IN"), [])


def test_service_files_are_ignored(root):
    for name in ("._a.jpg", ".DS_Store", ".a.jpg.Xy12Za", "Thumbs.db", "desktop.ini"):
        (root / "FR" / name).write_bytes(b"\0\5\x16\7anything")
    (root / "FR" / ".#a.jpg").symlink_to("nobody@nowhere.123")
    assert everything(root).skipped == []


@pytest.mark.parametrize("place", ["DCIM/100CANON", "DCIM", "101MSDCF", "102_PANA", "100APPLE"])
def test_a_cameras_card_has_no_countries(tmp_path, place):
    photo(tmp_path / place / "IMG_0001.JPG", 1)
    photo(tmp_path / "PRIVATE" / "M4ROOT" / "THMBNL" / "C0001T01.JPG", 2)
    dataset = everything(tmp_path)
    assert (dataset.ids, dataset.classes) == ([f"{place}/IMG_0001.JPG"], ())
    photo(tmp_path / "FR" / "DCIM" / "100CANON" / "a.jpg", 3)
    dataset = everything(tmp_path)
    assert (dataset.ids, dataset.classes) == (["FR/DCIM/100CANON/a.jpg"], ("FR",))
    outside = "lies outside the folders of countries"
    assert dataset.skipped == [(f"{place}/IMG_0001.JPG", outside)]


# Countries and splits -----------------------------------------------------------------------------


def test_one_country_however_its_name_is_written(tmp_path):
    names = ("R\u00e9union", "Re\u0301union", "France", "France ", "France\u00a0")
    for content, name in enumerate(names):
        photo(tmp_path / name / "a.png", content)
    dataset = everything(tmp_path)
    assert dataset.classes == ("France", "R\u00e9union")
    assert set(dataset.ids) == {f"{name}/a.png" for name in names}
    one = everything(tmp_path, classes=["Re\u0301union ", "other"])
    assert one.classes == ("R\u00e9union", "other") and sorted(one.labels) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("photos", "found"),
    [
        (["train/FR/a.png", "val/FR/b.png"], "(train, val)"),
        (["Train/FR/a.png", "VALID/FR/b.png", "Test/FR/c.png"], "(Test, Train, VALID)"),
        (["training/FR/a.png", "validation/a.png", "testing/FR/a.png"], "(testing, tra"),
        (["train/a.png", "val/b.png"], "(train, val)"),
        (["FR/a.png", "IN/b.png", "test/FR/c.png"], "(test)"),
        (["images/train/a.png", "images/val/b.png"], "(images/train, images/val)"),
        (["train2017/a.png", "FR/b.png"], "(train2017)"),
        (["training_set/a.png", "Test Images/b.png"], "(Test Images, training_set)"),
    ],
)
def test_folders_of_splits_are_not_learnt_as_classes(tmp_path, photos, found):
    for content, name in enumerate(photos):
        photo(tmp_path / name, content)
    with pytest.raises(ValueError, match="holds folders of splits") as refusal:
        everything(tmp_path)
    assert found in str(refusal.value) and "give one split as root=" in str(refusal.value)


def test_splits_within_a_country_and_below_a_table_are_its_folders(tmp_path):
    photo(tmp_path / "FR" / "train" / "a.png", 1)
    photo(tmp_path / "IN" / "val" / "b.png", 2)
    assert everything(tmp_path).classes == ("FR", "IN")
    photo(tmp_path / "test" / "c.png", 3)
    (tmp_path / "metadata.csv").write_text("file,country\ntest/c.png,FR\n")
    assert everything(tmp_path).classes == ("FR",)


# Nothing to read ----------------------------------------------------------------------------------


def test_a_country_without_photographs_is_named(root):
    (root / "JP" / "empty").mkdir(parents=True)
    (root / "KE").mkdir()
    (root / "KE" / "a.heic").write_bytes(HEIC)
    dataset = everything(root)
    assert dataset.classes == ("FR", "IN")
    assert [entry.id for entry in dataset.skipped] == ["KE/a.heic", "JP"]
    assert dataset.skipped[1].reason == "a folder without photographs"


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([], "no file in it is a picture"),
        (["FR/notes.txt", ".hidden.jpg"], "no file in it is a picture"),
        (["FR/a.heic", "FR/b.heic", "c.nef"], "2 × HEIC cannot be decoded here; 1 × camera raw"),
    ],
)
def test_a_folder_without_photographs_says_why(tmp_path, names, why):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(HEIC)
    with pytest.raises(ValueError, match="holds no images that can be read") as refusal:
        everything(tmp_path)
    assert why in str(refusal.value) and str(tmp_path) in str(refusal.value)


def test_reasons_are_counted_without_their_details():
    skipped = [("a", "cannot be opened: x"), ("b", "cannot be opened: y"), ("c", "empty")]
    skipped += [("d", "one"), ("e", "two; mend it")]
    entries = [data.Skipped(*entry) for entry in skipped]
    assert files.reasons(entries[:3]) == "2 × cannot be opened; 1 × empty"
    assert files.reasons(entries) == "2 × cannot be opened; 1 × empty; 1 × one; …"
