"""The manifest, and fetching what it names from servers that are not to be trusted."""

import hashlib
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest
from pydantic import ValidationError
from servers import COMMIT, Answer, hub, serve, use_hub
from tenacity import wait_none
from typer.testing import CliRunner

from geolib.cli import app
from geolib.download import assets, http

WEIGHTS = bytes(range(251)) * 400
COMMON = {"title": "A toy", "needed_by": "tests", "licence": "CC0-1.0", "revision": "1"}


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A cache of its own, no patience, and no token of whoever runs the tests."""
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(http._complete.retry, "wait", wait_none())
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def declare(monkeypatch):
    """Put assets into an otherwise empty manifest."""

    def declare(**entries):
        made = {name: assets.Asset(**COMMON | entry) for name, entry in entries.items()}
        monkeypatch.setattr(assets, "manifest", lambda: made)

    return declare


# --- the manifest ---


def test_every_remote_thing_of_the_paper_has_an_entry():
    network = ["model.safetensors", "config.json"]
    named = {
        "osv5m-metadata": ["train.csv", "test.csv"],
        "osv5m-train-images": [f"images/train/{i:02d}.zip" for i in range(98)],
        "osv5m-test-images": [f"images/test/{i:02d}.zip" for i in range(5)],
        **{"resnet50-imagenet": ["resnet50-11ad3fa6.pth"], "mobile-sam": ["mobile_sam.pt"]},
        "sam-vit-b": ["sam_vit_b_01ec64.pth"],
        **{"sam2.1-hiera-tiny": network, "sam2.1-hiera-large": network},
        "sam3": [*network, "tokenizer.json"],
        "ade20k-upernet": [*network, "preprocessor_config.json"],
        "mp16": ["mp16_places365.csv", "mp16_urls.csv"],
        "yfcc-val26k": ["yfcc25600_places365.csv", "yfcc25600_urls.csv"],
        **{name: [f"{name}_places365.csv"] for name in ("im2gps", "im2gps3k", "yfcc4k")},
    }
    known = assets.manifest()
    assert set(known) == set(named)
    for name, files in named.items():
        assert set(files) <= set(known[name].files), name
    assert len(known["osv5m-train-images"].files) == 98
    assert {name for name, asset in known.items() if asset.gated} == {"sam3"}


def test_every_entry_is_well_formed():
    for name, asset in assets.manifest().items():
        texts = (asset.title, asset.needed_by, asset.licence, asset.revision)
        assert all(text and text == text.strip() for text in texts), name
        # A branch could change, a commit cannot.
        assert not asset.hub or re.fullmatch("[0-9a-f]{40}", asset.revision), name
        for file in asset.files:
            assert re.fullmatch(f"https://.*/{re.escape(file)}", asset.address(file)), name
        assert "photographs" not in asset.licence or "root=" in asset.by_hand, name
        assert not asset.gated or f"https://huggingface.co/{asset.hub}" in asset.by_hand, name
        sizes = [file.size for file in asset.files.values()]
        assert not (all(sizes) and asset.about), f"the bytes of {name} are known: about says less"


def test_addresses_and_names_agree_with_their_publishers():
    from torchvision.models import ResNet50_Weights

    known = assets.manifest()
    (file,) = known["resnet50-imagenet"].files
    assert known["resnet50-imagenet"].address(file) == ResNet50_Weights.IMAGENET1K_V2.url
    assert known["resnet50-imagenet"].files[file].sha256.startswith("11ad3fa6")
    at = "datasets/osv5m/osv5m/resolve/cff33609b56b54d8743b7ee7a416eb8433e9a681/images/test/04.zip"
    assert known["osv5m-test-images"].address("images/test/04.zip").endswith(f"/{at}")
    at = "facebook/sam3/resolve/3c879f39826c281e95690f02c7821c4de09afae7/config.json"
    assert known["sam3"].address("config.json").endswith(f"/{at}")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"checksum": "abc"}, "Extra inputs are not permitted"),
        ({"hub": "a/b"}, "either hub or url"),
        ({"url": ""}, "either hub or url"),
        ({"files": {}}, "at least 1 item"),
        ({"files": {"a": {"sha256": "11ad3fa6"}}}, "should match pattern"),
        ({"files": {"a": {"size": 0}}}, "greater than 0"),
        ({"files": {"a": {"bytes": 1}}}, "Extra inputs are not permitted"),
        ({"gated": True}, "needs by_hand"),
        ({"kind": "space"}, "'model' or 'dataset'"),
        ({"licence": None}, "valid string"),
    ],
)
def test_a_malformed_entry_is_refused(change, complaint):
    entry = COMMON | {"url": "https://example.org", "files": {"a": {}}}
    assets.Asset(**entry)
    with pytest.raises(ValidationError, match=complaint):
        assets.Asset(**entry | change)


def test_a_name_that_is_not_in_the_manifest_is_answered_with_those_that_are():
    file = r"osv5m-test-images has images/test/00\.zip to images/te"
    for function in (assets.path, assets.fetch):
        with pytest.raises(ValueError, match=r"name='sam4' is not an asset; there are .*sam3"):
            function("sam4")
        with pytest.raises(ValueError, match=file):
            function("osv5m-test-images/images/test/05.zip")


# --- plain addresses ---


@pytest.fixture
def toy(declare):
    """A server with the file of an asset called toy; it may be told more of the file."""
    with serve({"/toy.pt": WEIGHTS}) as server:
        entry = {"url": server.url}
        server.declare = lambda **known: declare(toy={**entry, "files": {"toy.pt": known}})
        server.declare()
        yield server


def test_a_file_is_fetched_once_and_its_checksum_recorded(toy, tmp_path):
    assert assets.path("toy") is None
    target = assets.fetch("toy")
    assert assets.fetch("toy") == assets.path("toy") == assets.path("toy/toy.pt") == target
    assert len(toy.requests) == 1
    assert target == tmp_path / "assets" / "toy" / "toy.pt"
    assert target.read_bytes() == WEIGHTS
    assert sha256(WEIGHTS) in (tmp_path / "assets" / "toy.json").read_text()


def test_a_killed_download_goes_on_in_the_next_run(toy):
    toy.routes["/toy.pt"] = Answer(WEIGHTS, cut=20_000)
    with pytest.raises(http.Broken, match=r"toy, toy\.pt: .* broke off"):
        assets.fetch("toy")
    assert assets.path("toy") is None
    assert assets.fetch("toy").read_bytes() == WEIGHTS
    starts = [int(request.headers["range"][6:-1]) for request in toy.requests[1:]]
    assert starts == list(range(20_000, 100_001, 20_000))


def test_a_file_that_is_not_as_the_manifest_says_is_kept_out(toy):
    checksum = f"sha256 is {sha256(WEIGHTS)}, expected 0000"
    size = "100400 bytes came instead of 7"
    for known, complaint in (({"sha256": "0" * 64}, checksum), ({"size": 7}, size)):
        toy.declare(**known)
        toy.requests.clear()
        with pytest.raises(http.Broken, match=complaint):
            assets.fetch("toy")
        assert len(toy.requests) == 1
        assert assets.path("toy") is None


def test_a_file_that_has_changed_at_its_source_is_refused_until_it_is_allowed(toy, tmp_path):
    assets.fetch("toy").unlink()
    toy.routes["/toy.pt"] = WEIGHTS[::-1]
    with pytest.raises(http.Broken, match=r"expected .*toy\.json.*has changed"):
        assets.fetch("toy")
    assert assets.path("toy") is None
    (tmp_path / "assets" / "toy.json").unlink()
    assert assets.fetch("toy").read_bytes() == WEIGHTS[::-1]


def test_a_damaged_file_is_noticed_and_fetched_again(toy, caplog):
    assets.fetch("toy").write_bytes(WEIGHTS[:-1] + b"x")
    assert assets.fetch("toy").read_bytes() == WEIGHTS
    assert "toy.pt is damaged" in caplog.text
    assert len(toy.requests) == 2


def test_without_a_network_it_says_where_to_put_the_file(toy, tmp_path):
    toy.declare(sha256=sha256(WEIGHTS))
    toy.kill()
    place = tmp_path / "assets" / "toy" / "toy.pt"
    with pytest.raises(http.Unreachable, match=f"cannot be reached .* to {place}"):
        assets.fetch("toy")
    place.write_bytes(WEIGHTS)
    assert assets.fetch("toy") == place
    place.write_bytes(b"something else")
    with pytest.raises(http.Unreachable):
        assets.fetch("toy")


def test_a_full_disk_is_told_with_the_way_out(toy, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1))
    with pytest.raises(OSError, match=r"disk is full \(0\.1 MB are needed.*GEOLIB_CACHE"):
        assets.fetch("toy")


def test_two_runs_at_once_fetch_once(toy):
    toy.routes["/toy.pt"] = Answer(WEIGHTS[:640], drip=0.03)
    with ThreadPoolExecutor(4) as pool:
        targets = list(pool.map(assets.fetch, ["toy"] * 4))
    assert len(toy.requests) == 1
    assert [target.read_bytes() for target in targets] == [WEIGHTS[:640]] * 4


# --- the hub ---

FILES = {"model.safetensors": WEIGHTS, "config.json": b"{}"}


@pytest.fixture
def repository(declare, monkeypatch):
    """A function that declares the asset toy and serves its repository, or what else it is told."""
    with ExitStack() as stack:

        def made(routes=None, token=None, **known):
            entry = {"hub": "team/toy", "revision": COMMIT, "files": {name: {} for name in FILES}}
            declare(toy={**entry, **known})
            whole = hub("team/toy", FILES, token=token)
            server = stack.enter_context(serve(whole if routes is None else routes))
            use_hub(monkeypatch, server)
            return server

        yield made


def test_a_repository_becomes_a_folder(repository, tmp_path):
    server = repository()
    assert assets.fetch("toy/config.json").read_bytes() == b"{}"
    assert assets.path("toy") is None
    assert list(assets.status()["here"]) == ["1 of 2 files"]
    folder = assets.fetch("toy")
    assert folder == assets.path("toy") == tmp_path / "assets" / "toy"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    assert list(assets.status()["here"]) == ["yes"]
    assert [r.path for r in server.requests].count("/storage/" + sha256(b"{}")) == 1


def test_a_gated_repository_says_how_to_get_permission(repository, monkeypatch):
    by_hand = "Ask at the door, then set HF_TOKEN."
    server = repository(token="hf_right", gated=True, by_hand=by_hand)
    with pytest.raises(http.Refused, match=r"401: a valid token is needed\. Ask at the door"):
        assets.fetch("toy")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(http.Refused, match=r"403: .* not accepted\. Ask at the door"):
        assets.fetch("toy")
    assert not any(request.path.startswith("/storage") for request in server.requests)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    folder = assets.fetch("toy")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES


def test_an_old_token_and_a_file_that_has_moved_are_named(repository, monkeypatch):
    repository({}, by_hand="The list is also at the library.")
    with pytest.raises(http.Absent, match=r"has nothing at .* also at the library"):
        assets.fetch("toy")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    server = repository({"/*": Answer(status=401)})
    with pytest.raises(http.Refused, match=r"not accepted\. .*unset or renew HF_TOKEN"):
        assets.fetch("toy")
    assert server.requests[0].headers["authorization"] == "Bearer hf_expired"


def test_the_token_stays_with_the_hub(repository, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    address = f"/team/toy/resolve/{COMMIT}/model.safetensors"
    here = hub("team/toy", FILES, token="hf_right")[address]
    with serve({"/storage/*": WEIGHTS}) as storage:
        there = storage.url + here.headers["Location"]
        elsewhere = replace(here, headers=here.headers | {"Location": there})
        server = repository({address: elsewhere}, files={"model.safetensors": {}})
        assets.fetch("toy")
        assert all("authorization" in request.headers for request in server.requests)
    assert [request.headers.get("authorization") for request in storage.requests] == [None]


def test_the_checksum_of_the_hub_is_held_against_the_file_and_the_manifest(repository):
    routes = hub("team/toy", FILES)
    repository(routes | {"/storage/" + sha256(WEIGHTS): WEIGHTS[::-1]})
    with pytest.raises(http.Broken, match=f"expected {sha256(WEIGHTS)}"):
        assets.fetch("toy")
    assert assets.path("toy/model.safetensors") is None
    server = repository(files={"model.safetensors": {"sha256": "0" * 64}})
    with pytest.raises(http.Broken, match=f"sha256 is {sha256(WEIGHTS)}, expected 0000"):
        assets.fetch("toy")
    assert [request.method for request in server.requests] == ["HEAD"], "nothing is downloaded"


# --- the command ---


def test_fetching_prints_the_place_and_what_is_left_to_do(declare, tmp_path):
    with serve({"/list.csv": b"IMG_ID,LAT,LON\n"}) as server:
        declare(toy={"url": server.url, "files": {"list.csv": {}}, "by_hand": "Bring photographs."})
        place = tmp_path / "assets" / "toy" / "list.csv"
        result = CliRunner().invoke(app, ["fetch", "toy"])
        assert result.exit_code == 0
        assert str(place) in result.stdout
        assert "Bring photographs." in result.stdout
        server.kill()
        place.unlink()
        result = CliRunner().invoke(app, ["fetch", "toy"])
        assert result.exit_code == 1
        assert "cannot be reached" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--list"], 0, r"│ sam3 +│ no +│ 3\.44 GB +│ SAM License [^│]+│ yes +│"),
        ([], 1, "NAME is missing; `geolib fetch --list`"),
        (["sam4"], 1, "'sam4' is not an asset"),
    ],
)
def test_terms_are_listed_and_mistakes_answered_plainly(arguments, exit_code, words):
    result = CliRunner().invoke(app, ["fetch", *arguments])
    assert result.exit_code == exit_code
    assert re.search(words, result.stderr if exit_code else result.stdout)
