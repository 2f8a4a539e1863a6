"""Files as people's disks hold them: what is read, what is skipped and why, what is ignored."""

import errno
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from toys import classifier, everything, write_photo

from geolib import data, images, pipeline
from geolib.data import files, records
from geolib.images import UnreadableImage
from geolib.runtime import here

CONVERT = "cannot be decoded here; convert it to JPEG, as with ImageMagick"
HEIC = b"\0\0\0\x18ftypheic" + bytes(64)
WHOLE = {"FR/a.png", "IN/b.png"}


@pytest.fixture
def root(tmp_path):
    """One photograph of France and one of India."""
    write_photo(tmp_path / "photos" / "FR" / "a.png", 1)
    write_photo(tmp_path / "photos" / "IN" / "b.png", 2)
    return tmp_path / "photos"


def test_every_picture_that_pillow_reads_is_taken(root):
    suffixes = "jpg JPG jpeg jpe jfif JFIF mpo avif webp png apng gif bmp dib tif tiff jp2 j2k jpx "
    suffixes += "jpf ppm pnm pcx tga qoi sgi rgb dds icns"
    for suffix in suffixes.split():
        write_photo(root / "FR" / f"c.{suffix}", side=20)
    (root / "FR" / "c.avif").rename(root / "FR" / "c.avifs")
    write_photo(root / "FR" / "c.avif")
    names = {f"FR/c.{suffix}" for suffix in [*suffixes.split(), "avifs"]}
    dataset = everything(root)
    assert (set(dataset.ids), dataset.skipped) == (WHOLE | names, [])
    assert {item.image.ndim for item in dataset} == {3}


def test_what_cannot_be_read_is_named_with_its_cure(root):
    kinds = {"HEIC": "a.heic a.HEIF a.hif", "JPEG XL": "a.jxl", ".xcf": "a.xcf"}
    kinds["camera raw"] = "a.dng a.CR2 a.cr3 a.nef a.ARW a.rw2"
    told = {name: f"{kind} {CONVERT}" for kind, names in kinds.items() for name in names.split()}
    told[".a.jpg.icloud"] = "it is in iCloud only; download it"
    for name in told:
        (root / "FR" / name).write_bytes(HEIC)
    expected = sorted((f"FR/{name}", reason) for name, reason in told.items())
    dataset = everything(root)
    assert (set(dataset.ids), dataset.skipped) == (WHOLE, expected)
    # Listed in a table, they are no less unreadable.
    listed = "".join(f"{name},FR\n" for name in (*WHOLE, *(name for name, _ in expected)))
    (root / "metadata.csv").write_text(f"file,country\n{listed}")
    assert everything(root).skipped == expected


def test_a_photograph_under_another_suffix_is_read_or_named(root):
    for name in ("c.heic", "d", "e.jpg_large", "f.thm"):
        write_photo(root / "FR" / "x.jpg", ord(name[0]))
        (root / "FR" / "x.jpg").rename(root / "FR" / name)
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE | {"FR/c.heic"}
    renamed = "JPEG by its content, not by its suffix; rename it"
    assert dataset.skipped == [("FR/d", renamed), ("FR/e.jpg_large", renamed)]


def test_other_files_and_those_of_systems_and_cameras_are_no_photographs(root):
    others = "mp4 mov mpg pdf eps ps wmf svg h5 hdf txt xmp aae json thm lrv db ini gpx"
    service = ("._a.jpg", ".DS_Store", ".a.jpg.Xy12Za", "Thumbs.db", "desktop.ini")
    for name in (*(f"a.{suffix}" for suffix in others.split()), *service):
        (root / "FR" / name).write_bytes(b"\0\5\x16\7anything")
    (root / "FR" / ".#a.jpg").symlink_to("nobody@nowhere.123")
    folders = "@eaDir #recycle #snapshot @Recycle @__thumb __MACOSX .thumbnails $RECYCLE.BIN "
    folders += "$Recycle.Bin RECYCLER lost+found .Trash-1000 .Trashes .stversions .dropbox.cache "
    folders += ".AppleDouble ~snapshot MISC PRIVATE THMBNL CANONMSC AVF_INFO LOST.DIR FOUND.000"
    for name in (*folders.split(), "System Volume Information"):
        write_photo(root / name / "0.jpg" / "SYNOPHOTO_THUMB_M.jpg", 3)
        write_photo(root / name / "c.jpg", 4)
        write_photo(root / "FR" / name / "d.jpg", 5)
    dataset = everything(root)
    assert (set(dataset.ids), dataset.classes, dataset.skipped) == (WHOLE, ("FR", "IN"), [])


# Links --------------------------------------------------------------------------------------------


def test_links_are_followed(root, tmp_path):
    elsewhere = tmp_path / "disk"
    pixels = write_photo(elsewhere / "jp" / "sub" / "c.png", 3)
    write_photo(elsewhere / "d.png", 4)
    (root / "JP").symlink_to(elsewhere / "jp")
    (root / "FR" / "d.png").symlink_to(elsewhere / "d.png")
    (root / "IN" / "up").symlink_to(root / "IN")
    (root / "IN" / "top").symlink_to("..")
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE | {"JP/sub/c.png", "FR/d.png"}
    item = dataset[dataset.ids.index("JP/sub/c.png")]
    assert item.country == "JP" and np.array_equal(item.image, pixels)
    places = {"IN/top": ".", "IN/up": "IN"}
    assert dataset.skipped == [(a, f"reached twice: the same as {b}") for a, b in places.items()]


def test_what_is_reached_twice_counts_once_where_it_lies(root):
    """A link does not make a photograph of France one of Albania, though Albania comes first."""
    (root / "AL").mkdir()
    (root / "AL" / "a.png").symlink_to(root / "FR" / "a.png")
    (root / "AL" / "folder").symlink_to(root / "IN")
    os.link(root / "FR" / "a.png", root / "FR" / "hard.png")
    (root / "AL" / "hard.png").symlink_to(root / "FR" / "hard.png")
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE and dataset.classes == ("FR", "IN")
    places = {"AL/a.png": "FR/a.png", "AL/folder": "IN"}
    places |= dict.fromkeys(("AL/hard.png", "FR/hard.png"), "FR/a.png")
    assert dataset.skipped == [(a, f"reached twice: the same as {b}") for a, b in places.items()]


def test_a_table_may_name_files_by_links(root):
    (root / "link").symlink_to(root / "FR")
    rows = "link/a.png,FR\nIN/b.png,IN\nFR/a.png,FR\n"
    (root / "metadata.csv").write_text(f"file,country\n{rows}")
    dataset = everything(root)
    assert set(dataset.ids) == {"link/a.png", "IN/b.png"}
    assert ("FR/a.png", "reached twice: the same as link/a.png") in dataset.skipped
    assert not any("not listed" in reason for _, reason in dataset.skipped)


# Bad entries and odd names ------------------------------------------------------------------------


def test_bad_entries_are_skipped_and_named(root, monkeypatch):
    monkeypatch.chdir(root / "FR")  # names of sockets are short
    Path("1.jpg").symlink_to("nowhere.jpg")
    Path("2.jpg").symlink_to("2.jpg")
    Path("3.jpg").mkdir()
    os.mkfifo("4.jpg")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("5.jpg")
    Path("6.jpg").touch()
    pipe = "a pipe, socket or device, not a file"
    reasons = ["a link to nothing", "too many levels of symbolic links"]
    reasons += ["a folder, not a photograph", pipe, pipe, "the file is empty"]
    write_photo(root / "FR" / "x.jpg" / "c.png", 3)  # in a folder named like a photograph
    reasons.append("a folder, not a photograph")
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE | {"FR/x.jpg/c.png"}
    names = [f"FR/{name}.jpg" for name in "123456x"]
    assert dataset.skipped == [*zip(names, reasons, strict=True)]
    assert len(dataset.identity["images"]) == 3


def test_without_permission(root, monkeypatch):
    """Tests may run as root, to whom everything is open."""
    write_photo(root / "FR" / "shut.png", 3)
    write_photo(root / "JP" / "c.png", 4)

    def deny(of, name):
        def denying(path):
            if Path(path).name == name:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return of(path)

        return denying

    monkeypatch.setattr(os, "scandir", deny(os.scandir, "JP"))
    monkeypatch.setattr(records, "sha256", deny(records.sha256, "shut.png"))
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE
    denied = "permission denied"
    assert set(dataset.skipped) == {("FR/shut.png", denied), ("JP", denied)}


def test_names_that_are_no_text_or_long(root):
    latin = os.fsencode(root / "FR") + b"/caf\xe9.jpg"
    write_photo(root / "FR" / f"{'l' * 251}.png", 3)
    write_photo(root / "FR" / "two\nlines.png", 4)
    Path(os.fsdecode(latin)).write_bytes((root / "FR" / "a.png").read_bytes())
    write_photo(Path(os.fsdecode(os.fsencode(root) + b"/Cura\xe7ao")) / "d.png", 5)
    dataset = everything(root)
    assert set(dataset.ids) == WHOLE | {f"FR/{'l' * 251}.png", "FR/two\nlines.png"}
    rename = "its name is not UTF-8; rename it"
    assert dataset.skipped == [(r"Cura\xe7ao/d.png", rename), (r"FR/caf\xe9.jpg", rename)]


def test_what_is_said_of_any_file_can_be_written(tmp_path):
    plain = "日本 é [red]$A$ 😀\u202fAM.jpg"
    names = {os.fsdecode(b"caf\xe9.jpg"): r"caf\xe9.jpg", "a\nb\x1b[31m.jpg": r"a\nb\x1b[31m.jpg"}
    assert {name: here.printable(name) for name in (*names, plain)} == names | {plain: plain}
    place = tmp_path / os.fsdecode(b"caf\xe9.png")
    with pytest.raises(UnreadableImage, match=r"caf\\xe9\.png: no such file") as error:
        images.read(place)
    assert str(error.value).encode()
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage, match=r"pipe\.jpg: a pipe, socket or device, not a file"):
        images.read(tmp_path / "pipe.jpg")
    write_photo(place)
    explained = pipeline.explain(classifier(), place).to_dict()
    assert explained["image"] == r"caf\xe9.png"
    assert json.dumps(explained, ensure_ascii=False).encode()


# Countries and splits -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["DCIM/100CANON", "DCIM", "101MSDCF", "102_PANA", "100APPLE"])
def test_a_cameras_card_has_no_countries(tmp_path, place):
    write_photo(tmp_path / place / "IMG_0001.JPG", 1)
    write_photo(tmp_path / "PRIVATE" / "M4ROOT" / "THMBNL" / "C0001T01.JPG", 2)
    dataset = everything(tmp_path)
    assert (dataset.ids, dataset.classes) == ([f"{place}/IMG_0001.JPG"], ())
    write_photo(tmp_path / "FR" / "DCIM" / "100CANON" / "a.jpg", 3)
    dataset = everything(tmp_path)
    assert (dataset.ids, dataset.classes) == (["FR/DCIM/100CANON/a.jpg"], ("FR",))
    outside = "lies outside the folders of countries"
    assert dataset.skipped == [(f"{place}/IMG_0001.JPG", outside)]


@pytest.mark.parametrize(
    ("photos", "found"),
    [
        ("train/FR/a.png val/FR/b.png", "(train, val)"),
        ("Train/FR/a.png VALID/FR/b.png Test/FR/c.png", "(Test, Train, VALID)"),
        ("training/FR/a.png validation/a.png testing/FR/a.png", "(testing, tra"),
        ("train/a.png val/b.png", "(train, val)"),
        ("FR/a.png IN/b.png test/FR/c.png", "(test)"),
        ("images/train/a.png images/val/b.png", "(images/train, images/val)"),
        ("train2017/a.png FR/b.png", "(train2017)"),
        ("training_set/a.png Test-Images/b.png", "(Test-Images, training_set)"),
    ],
)
def test_folders_of_splits_are_not_learnt_as_classes(tmp_path, photos, found):
    for content, name in enumerate(photos.split()):
        write_photo(tmp_path / name, content)
    with pytest.raises(ValueError, match="holds folders of splits") as refusal:
        everything(tmp_path)
    assert found in str(refusal.value) and "give one split as root=" in str(refusal.value)


def test_splits_within_a_country_and_below_a_table_are_its_folders(tmp_path):
    write_photo(tmp_path / "FR" / "train" / "a.png", 1)
    write_photo(tmp_path / "IN" / "val" / "b.png", 2)
    assert everything(tmp_path).classes == ("FR", "IN")
    write_photo(tmp_path / "test" / "c.png", 3)
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
    expected = f"{tmp_path}.* holds no images that can be read: .*{why}.*expected ROOT/COUNTRY"
    with pytest.raises(ValueError, match=expected):
        everything(tmp_path)


def test_reasons_are_counted_without_their_details():
    skipped = [("a", "cannot be opened: x"), ("b", "cannot be opened: y"), ("c", "empty")]
    skipped += [("d", "one"), ("e", "two; mend it")]
    entries = [data.Skipped(*entry) for entry in skipped]
    assert files.reasons(entries[:3]) == "2 × cannot be opened; 1 × empty"
    assert files.reasons(entries) == "2 × cannot be opened; 1 × empty; 1 × one; …"
