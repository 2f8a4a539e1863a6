"""OSV-5M: splits that share no place, and photographs out of archives and from Mapillary."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from functools import partial
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s2sphere import Cell, CellId
from servers import COMMIT, Answer, hub, jpeg, jpegs, serve, use_hub
from typer.testing import CliRunner

from geolib import data, images
from geolib.cli import app
from geolib.data.osv5m import country_name, metadata, prepare, split_table
from geolib.data.records import SPLITS
from geolib.data.splits import CELL_LEVEL, places, splits
from geolib.download import archives, assets, http
from geolib.download.collect import Summary, failures
from geolib.sphere import EARTH_RADIUS_KM, s2_tokens

MODULE = sys.modules["geolib.data.osv5m"]  # the attribute of that name is the function
HEADER = "id,latitude,longitude,country,sequence,captured_at,city,creator_username,creator_id"
SMALL = {"train": 6, "eval": 2, "validation": 1, "test": 1}
EVERY_IMAGE = SMALL | {"train": 10}
FR = [f"3859149887{n:06d}" for n in range(14)]
IN = [f"1592653589{n:06d}" for n in range(14)]
PHOTOS = [*FR, *IN]


# Splits -------------------------------------------------------------------------------------------


def table(rows: list[tuple], country: str | np.ndarray = "FR") -> pd.DataFrame:
    """Rows of id, sequence, latitude and longitude."""
    made = pd.DataFrame(rows, columns=["id", "sequence", "latitude", "longitude"])
    return made.assign(country=country)


def apart(n: int, country: str = "FR", east: float = 0.0) -> pd.DataFrame:
    """Images with a sequence each, about 11 km from each other."""
    return table([(f"{country}{i}", f"{country}{i}", 45 + i / 10, east) for i in range(n)], country)


def test_places_are_what_sequences_and_cells_link():
    # a -s1- b, b =X= c, c -s2- d: one place. e =Y= f: another. g stands alone.
    rows = ["d s2 W", "a s1 V", "f s4 Y", "b s1 X", "g s5 Z", "c s2 X", "e s3 Y"]
    linked = pd.DataFrame([row.split() for row in rows], columns=["id", "sequence", "cell"])
    found = dict(zip(linked.id, places(linked), strict=True))
    assert found == {"a": "a", "b": "a", "c": "a", "d": "a", "e": "e", "f": "e", "g": "g"}


def test_a_cell_is_about_a_kilometre_across():
    rng = np.random.default_rng(0)
    north = np.degrees(np.arcsin(rng.uniform(-1, 1, 200)))
    cells = s2_tokens(np.column_stack((north, rng.uniform(-180, 180, 200))), CELL_LEVEL)
    areas = [Cell(CellId.from_token(token)).exact_area() * EARTH_RADIUS_KM**2 for token in cells]
    assert np.mean(np.sqrt(areas)) == pytest.approx(1.1, abs=0.1)


@st.composite
def worlds(draw) -> pd.DataFrame:
    """Images in two countries that share sequences and spots at random, across borders, too."""
    n = draw(st.integers(16, 60))
    n_sequences, n_spots = draw(st.integers(8, 60)), draw(st.integers(8, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sequences, spots = rng.integers(0, n_sequences, n), rng.integers(0, n_spots, n)
    rows = zip(rng.permutation(n).astype(str), sequences.astype(str), 45 + spots / 10, strict=True)
    return table([(*row, 7.0) for row in rows], np.where(rng.random(n) < 0.5, "FR", "IT"))


@settings(max_examples=25, deadline=None)
@given(worlds(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_splits_are_disjoint_complete_and_independent_of_order(world, seed, random):
    sizes = {name: n // 2 or 1 for name, n in SMALL.items()}
    try:
        made = splits(world, ("FR", "IT"), sizes, seed)
    except ValueError as error:
        assert "places, too few" in str(error)
        return
    wanted = {"train": 3, "eval": 1, "validation": 1, "test": 1}
    for country in ("FR", "IT"):
        assert made.split[made.country == country].value_counts().to_dict() == wanted
    for one, other in combinations(wanted, 2):
        a, b = made[made.split == one], made[made.split == other]
        for column in ("id", "sequence", "cell", "place", "latitude"):
            assert not set(a[column]) & set(b[column]), (one, other, column)
    assert made.place[made.split.isin(["eval", "validation", "test"])].is_unique
    rows = list(range(len(world)))
    random.shuffle(rows)
    pd.testing.assert_frame_equal(splits(world.iloc[rows], ("FR", "IT"), sizes, seed), made)


def draw_fr(world: pd.DataFrame, seed: int = 0, **sizes: int) -> pd.DataFrame:
    return splits(world, ("FR",), SMALL | sizes, seed)


def test_most_worlds_can_be_split():
    """The property above would hold for a function that always refuses."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        world = apart(40).assign(sequence=[f"s{i}" for i in rng.integers(0, 30, 40)])
        assert len(draw_fr(world, seed)) == 40


def test_the_seed_decides_which_images_are_drawn_and_none_are_lumped_together():
    made = [draw_fr(apart(100), seed) for seed in range(5)]
    assert len({frozenset(one.id[one.split == "eval"]) for one in made}) == 5
    world = apart(20).assign(sequence=pd.Series([None] * 20, dtype="str"))
    assert draw_fr(world).place.nunique() == 20  # images without a sequence


JAPAN = pd.concat([apart(10), apart(9, "JP", 140)])


@pytest.mark.parametrize(
    ("world", "countries", "complaint"),
    [
        (JAPAN, ("FR", "JP"), "'JP' has 9 images in 9 places, too few for per_country={'train': 6"),
        (apart(10), ("FR", "IN"), "country 'IN' has 0 images in 0 places, too few"),
        (pd.concat([apart(20), apart(1)]), ("FR",), "metadata lists 'FR0' twice"),
    ],
)
def test_what_cannot_be_split_is_named(world, countries, complaint):
    with pytest.raises(ValueError, match=complaint):
        splits(world, countries, SMALL)
    # Just enough images are enough.
    assert draw_fr(apart(10)).split.notna().all()


def test_a_place_that_training_cannot_do_without_is_left_to_it():
    city = table([(f"city{i}", "drive", 48.0, 2.0) for i in range(30)])
    for seed in range(10):
        made = draw_fr(pd.concat([city, apart(8)]), seed, train=30)
        assert (made.split[made.place == "city0"] == "train").sum() >= 26
        assert set(made.place[made.split == "eval"]) <= set(apart(8).id)


def test_large_places_are_drawn_in_proportion_to_their_size():
    # 30 places of four images and 120 of one: one image in two is in a place of four.
    large = table([(f"l{i}-{j}", f"l{i}", 10 + i / 10, 0.0) for i in range(30) for j in range(4)])
    world = pd.concat([large, apart(120)])
    sizes = {"train": 100, "eval": 15}
    made = [draw_fr(world, seed, **sizes) for seed in range(20)]
    shares = [one.id[one.split == "eval"].str.startswith("l").mean() for one in made]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)  # 300 draws: standard error 0.03


def line(name: str, country: str, north: float, sequence: str, author: str = "ann") -> str:
    return f'{name},{north},1.5,{country},{sequence},1500000000000,"Town, the",{author},11.0'


def test_metadata_are_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "CHUNK_ROWS", 2)
    rows = [line("385914988746550123456", "NA", 1.25, "s1"), line("007", "FR", 2, "s1")]
    rows += [line("8", "DE", 3, "s2"), line("9", "FR", 4, "", ""), line("10", "NA", 5, "NA")]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([HEADER, *rows]))
    found = metadata(path, ("FR", "NA"))
    assert found.drop(columns="longitude").fillna("none").to_numpy().tolist() == [
        ["385914988746550123456", 1.25, "NA", "s1", "ann"],
        ["007", 2, "FR", "s1", "ann"],
        ["9", 4, "FR", "none", "an unnamed author"],
        ["10", 5, "NA", "NA", "ann"],
    ]
    path.write_text("id,latitude,country\n1,2,FR\n")
    with pytest.raises(ValueError, match=r"a\.csv lacks the columns .*longitude, sequence"):
        metadata(path, ("FR",))


def test_countries_are_iso_codes():
    assert [country_name(c) for c in ("FR", "IN", "JP")] == ["France", "India", "Japan"]
    for code in ("XX", "France", "fr", "001", ""):
        with pytest.raises(ValueError, match="expected ISO 3166"):
            country_name(code)


# Photographs --------------------------------------------------------------------------------------


def archive(names: list[str], method: int) -> bytes:
    """As on the hub: photographs in a folder, among them larger ones that nobody asks for."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        made.mkdir("00")
        for name, photo in jpegs(names).items():
            # The local header of such a member is longer than its entry in the directory says.
            with made.open(f"00/{name}.jpg", "w", force_zip64=True) as member:
                member.write(photo)
            made.writestr(f"00/9{name}.jpg", np.random.default_rng(1).bytes(20_000))
    return file.getvalue()


ARCHIVES = [f"images/train/{i:02d}.zip" for i in range(3)]
LINES = [line(name, "FR", 43 + i / 10, f"f{i}", f"marie{i}") for i, name in enumerate(FR)]
LINES += [line(name, "IN", 20 + i / 10, f"i{i}", f"ravi{i}") for i, name in enumerate(IN)]
FILES = {
    "train.csv": "\n".join([HEADER, *LINES]).encode(),
    ARCHIVES[0]: archive(PHOTOS[::3], zipfile.ZIP_STORED),
    ARCHIVES[1]: archive(PHOTOS[1::3], zipfile.ZIP_DEFLATED),
    ARCHIVES[2]: archive(PHOTOS[2::3], zipfile.ZIP_STORED),
}
CODES = ("FR", "IN")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Where photographs of a repository with three archives go; nothing is kept from elsewhere."""
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MAPILLARY_TOKEN", raising=False)
    made = {}
    for name, files in {"osv5m-metadata": ["train.csv"], "osv5m-train-images": ARCHIVES}.items():
        known = {"files": dict.fromkeys(files, assets.File()), "revision": COMMIT}
        made[name] = assets.manifest()[name].model_copy(update=known)
    monkeypatch.setattr(assets, "manifest", lambda: made)
    monkeypatch.setattr(archives, "PER_SECOND", 200.0)
    monkeypatch.setattr(MODULE, "MAPILLARY_PER_SECOND", 200.0)
    return tmp_path / "osv5m"


@pytest.fixture
def server(root, monkeypatch):
    with serve(hub("osv5m/osv5m", FILES, kind="datasets")) as running:
        use_hub(monkeypatch, running)
        yield running


def fetched(root, **options) -> Summary:
    return prepare(root, **{"per_country": SMALL, "countries": CODES} | options)


def kept(root, source="hub") -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (root / "images" / source).glob("*.jpg")}


def drawn(root, *which: str) -> set[str]:
    made = split_table(root, countries=CODES)
    return set(made.id[made.split.isin(which) if which else made.split.notna()])


def listed(root, source="hub") -> pd.DataFrame:
    return failures(root / "images" / source).set_index("id")


def parts(server) -> int:
    """Requests for parts of archives, other than for their directories, as the storage got them."""
    stored = (r for r in server.requests if r.path.startswith("/storage/"))
    ranges = (r.headers["range"].removeprefix("bytes=") for r in stored if "range" in r.headers)
    spans = (map(int, span.split("-")) for span in ranges)
    return sum(last - first < 15_000 for first, last in spans)


def stored(server, file: str) -> str:
    """Path of a file in the storage."""
    return next(path for path, known in server.routes.items() if known == FILES[file])


def resolve(file: str) -> str:
    """Path at which the hub tells where a file is."""
    return f"/datasets/osv5m/osv5m/resolve/{COMMIT}/{file}"


def test_photographs_are_read_out_of_archives(server, root):
    assert fetched(root) == Summary(20, 0, 20, {}, 0)
    assert len(drawn(root)) == parts(server) == 20
    assert kept(root) == jpegs(drawn(root))
    storage = [r for r in server.requests if r.path.startswith("/storage/")]
    whole = [r for r in storage if "range" not in r.headers]
    assert len(whole) == 1, "only the metadata are downloaded whole"
    server.requests.clear()
    assert fetched(root) == Summary(20, 20, 0, {}, 0)
    assert server.requests == []


def test_splits_can_be_fetched_one_by_one_and_are_drawn_anew_when_sizes_change(server, root):
    assert fetched(root, which=["eval"]) == Summary(4, 0, 4, {}, 0)
    assert set(kept(root)) == drawn(root, "eval")
    assert fetched(root, which=["test", "eval"]) == Summary(6, 4, 2, {}, 0)
    assert set(kept(root)) == drawn(root, "eval", "test")
    fetched(root, per_country=SMALL | {"train": 8})
    assert len(drawn(root, "train")) == 16
    with pytest.raises(ValueError, match="split='dev'"):
        fetched(root, which=["dev"])
    with pytest.raises(ValueError, match="country 'FR' has 14 images"):
        fetched(root, per_country=SMALL | {"train": 11})


def test_a_hub_that_dies_half_way_loses_and_repeats_nothing(server, root):
    fetched(root, which=[])  # metadata and directories
    server.requests.clear()
    server.die_at(5, "/storage/")
    which = ["eval", "test"]
    first = fetched(root, which=which)
    assert first.fetched == len(kept(root)) < 6
    assert first.fetched + sum(first.failed.values()) == 6
    assert set(listed(root).index) == drawn(root, *which) - set(kept(root))
    server.revive()
    server.requests.clear()
    assert fetched(root, which=which) == Summary(6, first.fetched, 6 - first.fetched, {}, 0)
    assert parts(server) == 6 - first.fetched
    assert kept(root) == jpegs(drawn(root, *which))


def test_a_hub_without_ranges_is_not_read_whole(server, root):
    for file in ARCHIVES:
        server.routes[stored(server, file)] = Answer(FILES[file], ranges=False)
    with pytest.raises(http.Broken, match=r"3 of 3 archives .* a whole archive"):
        fetched(root)


def test_directories_that_were_read_are_kept(server, root):
    path = resolve(ARCHIVES[1])
    missing = server.routes.pop(path)
    with pytest.raises(http.Absent, match="1 of 3 archives could not be listed"):
        fetched(root)
    assert len(list((root / "index").glob("*.parquet"))) == 2
    server.routes[path] = missing
    server.requests.clear()
    assert fetched(root).complete
    assert [request.path for request in server.requests if request.method == "HEAD"] == [path]


def test_an_archive_that_is_damaged_gives_no_photograph(server, root):
    fetched(root, which=[])
    name = min(drawn(root) & set(PHOTOS[::3]))
    body = FILES[ARCHIVES[0]]
    at = body.index(jpeg(name)) + 400
    server.routes[stored(server, ARCHIVES[0])] = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
    assert fetched(root) == Summary(20, 0, 19, {"Broken": 1}, 0)
    assert list(listed(root).index) == [name]
    assert "checksum differs" in listed(root).reason[name]


def test_a_photograph_in_no_archive_is_listed(server, root):
    rest = [name for name in PHOTOS[::3] if name != FR[0]]
    path = stored(server, ARCHIVES[0])
    server.routes[path] = other = archive(rest, zipfile.ZIP_STORED)
    moved = {"Location": path, "X-Linked-Size": str(len(other))}
    server.routes[resolve(ARCHIVES[0])] = Answer(status=302, headers=moved)
    assert fetched(root, per_country=EVERY_IMAGE) == Summary(28, 0, 27, {"Absent": 1}, 0)
    assert list(listed(root).index) == [FR[0]]


def test_archives_that_were_fetched_whole_need_no_network(server, root):
    for name in ("osv5m-train-images", "osv5m-metadata"):
        assets.fetch(name, shown=False)
    server.requests.clear()
    assert fetched(root).complete
    assert [r for r in server.requests if "range" in r.headers] == []
    assert kept(root) == jpegs(drawn(root))


# Mapillary ----------------------------------------------------------------------------------------


def refusal(status: int, code: int, message: str = "no") -> Answer:
    body = {"error": {"message": message, "type": "OAuthException", "code": code}}
    return Answer(json.dumps(body).encode(), status, "application/json")


@pytest.fixture
def mapillary(server, monkeypatch):
    """Its API on one host, its photographs on another; ``answers`` of either come before these."""
    made = SimpleNamespace(token="MLY|1|secret", answers={})

    def tell(request):
        name = request.path.strip("/")
        if request.headers.get("authorization") != f"OAuth {made.token}":
            return refusal(400, 190, f"Malformed token {request.headers['authorization']}")
        assert request.query == {"fields": "thumb_original_url"}
        address = {"thumb_original_url": f"{made.storage.url}/{name}.jpg?signature=s", "id": name}
        fine = Answer(json.dumps(address).encode(), kind="text/javascript; charset=UTF-8")
        return made.answers.get(name, fine)

    def show(request):
        name = request.path.strip("/")
        return made.answers.get(name, Answer(jpeg(name.removesuffix(".jpg")), kind="image/jpeg"))

    with serve({"/*": tell}) as made.api, serve({"/*": show}) as made.storage:
        monkeypatch.setenv("MAPILLARY_TOKEN", made.token)
        monkeypatch.setattr(MODULE, "MAPILLARY", made.api.url)
        yield made


originals = partial(fetched, source="mapillary")


def test_originals_come_from_mapillary_and_the_token_stays_with_its_api(mapillary, root):
    assert originals(root) == Summary(20, 0, 20, {}, 0)
    assert kept(root, "mapillary") == jpegs(drawn(root))
    assert len(mapillary.api.requests) == len(mapillary.storage.requests) == 20
    assert not any("secret" in str(request) for request in mapillary.storage.requests)
    assert not any("access_token" in request.query for request in mapillary.api.requests)


def test_what_mapillary_no_longer_has_is_listed(mapillary, root):
    gone, blank, wrong, stale = FR[:4]
    mapillary.answers = {
        gone: refusal(400, 100),
        blank: Answer(b'{"id": "1"}', kind="application/json"),
        wrong: Answer(b"<html>", kind="text/html"),
        f"{stale}.jpg": Answer(b"URL signature expired", 403, "text/plain"),
    }
    summary = originals(root, per_country=EVERY_IMAGE)
    assert summary == Summary(28, 0, 24, {"Absent": 1, "Broken": 3}, 0)
    found = listed(root, "mapillary")
    assert set(found.index) == {gone, blank, wrong, stale}
    assert found.kind[gone] == "Absent"
    assert "address" in found.reason[stale]


def test_a_token_that_has_expired_is_named_but_not_repeated(mapillary, root, monkeypatch):
    mapillary.token = "MLY|1|renewed"
    with pytest.raises(http.Refused, match="the token in MAPILLARY_TOKEN") as caught:
        originals(root)
    assert "secret" not in str(caught.value)
    assert "20 images wanted" in str(caught.value)
    assert not listed(root, "mapillary").reason.str.contains("secret").any()
    monkeypatch.setenv("MAPILLARY_TOKEN", "MLY|1|renewed")
    assert originals(root) == Summary(20, 0, 20, {}, 0)
    assert len(mapillary.storage.requests) == 20, "an image was fetched twice"


def test_mapillarys_request_limit_is_named(mapillary, root):
    mapillary.answers = dict.fromkeys(PHOTOS, refusal(403, 4))
    with pytest.raises(http.Refused, match="request limit is reached"):
        originals(root)


def test_load_gives_what_was_prepared(server, root):
    fetched(root)
    assert data.load("osv5m", root=root, countries=("IN", "FR")).classes == ("India", "France")
    load = partial(data.load, "osv5m", root=root, countries=CODES)
    train = load("train")
    assert train.classes == ("France", "India")
    assert train.labels == [0, 1] * 6
    assert set(train.ids) == drawn(root, "train")
    assert load("train", n=5).ids == train.ids[:5]
    france, india = ("France", FR, 43, "marie"), ("India", IN, 20, "ravi")
    for item, (country, names, south, author) in zip(train, (france, india), strict=False):
        number = names.index(item.id)
        assert (item.country, item.longitude, item.licence) == (country, 1.5, "CC-BY-SA-4.0")
        assert item.latitude == pytest.approx(south + number / 10)
        assert item.attribution == f"{author}{number} via Mapillary"
        assert np.array_equal(item.image, images.read(jpeg(item.id)))
    ids = [load(split).ids for split in SPLITS]
    assert sorted(map(len, ids)) == [2, 2, 4, 12]
    assert len(set().union(*ids)) == 20


def test_load_says_what_is_missing(server, root):
    load = partial(data.load, "osv5m", root=root, countries=CODES)
    with pytest.raises(ValueError, match=r"fetch it with geolib osv5m --countries FR,IN --seed 0"):
        load()
    fetched(root, which=["eval"])
    with pytest.raises(ValueError, match="no photograph of split='train'"):
        load("train")
    lost = min(kept(root))
    (root / "images" / "hub" / f"{lost}.jpg").unlink()
    with pytest.warns(UserWarning, match=r"1 of 4 photographs of split='eval' .* geolib osv5m"):
        part = load()
    assert part.skipped == [(lost, "not fetched yet")]
    assert lost not in part.ids
    with pytest.raises(ValueError, match="source='web'"):
        load(source="web")
    with pytest.raises(ValueError, match="split='dev'"):
        load("dev")


def test_the_command_asks_for_a_token_first_fetches_and_says_what_came(server, root, monkeypatch):
    monkeypatch.setattr(MODULE, "prepare", partial(prepare, per_country=SMALL))
    arguments = ["osv5m", "--countries", "FR,IN", "--root", str(root), "--split", "eval"]
    result = CliRunner().invoke(app, [*arguments, "--source", "mapillary"])
    assert result.exit_code == 1
    assert "MAPILLARY_TOKEN" in result.output
    assert server.requests == []
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == "4 images wanted: 0 were there, 4 fetched, 0 failed\n"
    assert set(kept(root)) == drawn(root, "eval")
