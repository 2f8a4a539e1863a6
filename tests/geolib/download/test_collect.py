"""Collecting images from servers that fail in every way, and after being killed in the middle."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from servers import Answer, busy, serve

from geolib.download import http
from geolib.download.collect import Summary, collect, failures

NAMES = [f"{n:04d}" for n in range(40)]


def jpeg(name: str) -> bytes:
    """A photograph of its own for each name."""
    pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def photo(name: str) -> Answer:
    return Answer(jpeg(name), kind="image/jpeg")


def reader(url: str, per_second: float | None = None, **options):
    session = http.session(per_second, options.pop("headers", None))
    return lambda name: http.read(session, f"{url}/{name}", kind="image/", **options)


def gather(folder, fetch, names=NAMES, **options) -> Summary:
    return collect(names, folder, fetch, progress=False, **options)


def kept(folder) -> dict[str, bytes]:
    """What lies in the folder, apart from the table and the lock."""
    files = [p for p in Path(folder).iterdir() if p.name not in ("failures.parquet", ".lock")]
    assert all(p.suffix == ".jpg" for p in files), files
    return {p.stem: p.read_bytes() for p in files}


def whole(names) -> dict[str, bytes]:
    return {name: jpeg(name) for name in names}


def served(server) -> Counter[str]:
    return Counter(request.path.strip("/") for request in server.requests)


def test_every_trouble_is_outlived_or_listed(tmp_path):
    good = [f"good{i}" for i in range(5)]
    routes = {f"/{name}": photo(name) for name in good} | {
        "/busy": [busy(1), photo("busy")],
        "/error": [Answer(status=500), Answer(status=503), photo("error")],
        "/cut": [replace(photo("cut"), cut=100), photo("cut")],
        "/page": Answer(b"<html>please log in</html>", kind="text/html"),
        "/junk": Answer(b"\xff\xd8 this is no photograph", kind="image/jpeg"),
        "/half": Answer(jpeg("half")[:300], kind="image/jpeg"),
        "/slow": replace(photo("slow"), drip=0.2),
    }
    names = [*good, "busy", "error", "cut", "page", "junk", "half", "slow", "gone"]
    with serve(routes) as server:
        fetch = reader(server.url, deadline=0.3)
        started = time.monotonic()
        summary = gather(tmp_path, fetch, names)
        assert time.monotonic() - started >= 1, "Retry-After was not heeded"
        fine = [*good, "busy", "error", "cut"]
        assert kept(tmp_path) == whole(fine)
        failed = {"Absent": 1, "Broken": 2, "UnreadableImage": 2}
        assert summary == Summary(wanted=13, present=0, fetched=8, failed=failed, untried=0)
        assert not summary.complete
        assert str(summary) == (
            "13 images wanted: 0 were there, 8 fetched, 5 failed (1 Absent, 2 Broken, "
            "2 UnreadableImage)"
        )
        table = failures(tmp_path).set_index("id")
        assert table.kind.to_dict() == {
            "gone": "Absent",
            "half": "UnreadableImage",
            "junk": "UnreadableImage",
            "page": "Broken",
            "slow": "Broken",
        }
        assert "text/html" in table.reason["page"]
        assert "slow" in table.reason["slow"]
        assert table.tried_at.str.endswith("+00:00").all()

        server.routes |= {f"/{name}": photo(name) for name in ("page", "junk", "half", "slow")}
        server.requests.clear()
        assert gather(tmp_path, fetch, names) == Summary(13, 8, 4, {"Absent": 1}, 0)
        assert set(served(server)) == {"page", "junk", "half", "slow", "gone"}
        assert list(failures(tmp_path).id) == ["gone"]
        assert kept(tmp_path) == whole(names[:-1])


def test_an_expired_token_stops_early_and_keeps_what_came(tmp_path):
    expired = threading.Event()
    names = [f"{n:03d}" for n in range(100)]

    def answer(request):
        name = request.path.strip("/")
        if name == "030":
            expired.set()
        token = "new" if expired.is_set() else "old"
        return replace(photo(name), token=token)

    with serve({"/*": answer}) as server:
        old = reader(server.url, headers={"Authorization": "Bearer old"})
        with pytest.raises(http.Refused, match=r"100 images wanted: 0 were there, \d+ fetched"):
            gather(tmp_path, old, names, workers=4)
        got = kept(tmp_path)
        assert got == whole(got)
        assert 25 <= len(got) <= 34
        assert len(served(server)) <= 50, "went on asking with a token that is refused"
        assert set(failures(tmp_path).kind) == {"Refused"}

        server.requests.clear()
        new = reader(server.url, headers={"Authorization": "Bearer new"})
        summary = gather(tmp_path, new, names)
        assert summary == Summary(100, len(got), 100 - len(got), {}, 0)
        assert summary.complete
        assert served(server) == Counter(set(names) - set(got))
        assert kept(tmp_path) == whole(names)
        assert failures(tmp_path).empty


def test_a_server_killed_half_way_loses_and_repeats_nothing(tmp_path):
    names = NAMES[:28]

    def answer(request):
        if len(server.requests) == 20:
            server.kill()
        return photo(request.path.strip("/"))

    with serve({"/*": answer}) as server:
        fetch = reader(server.url)
        first = gather(tmp_path, fetch, names)
        got = kept(tmp_path)
        assert got == whole(got)
        assert 12 <= len(got) < 20
        assert first.fetched == len(got)
        assert first.fetched + sum(first.failed.values()) + first.untried == 28
        assert first.failed["Unreachable"] >= 1
        assert set(failures(tmp_path).id) == set(names) - set(got)

        server.revive()
        server.requests.clear()
        server.routes = {"/*": lambda request: photo(request.path.strip("/"))}
        assert gather(tmp_path, fetch, names) == Summary(28, len(got), 28 - len(got), {}, 0)
        assert served(server) == Counter(set(names) - set(got))
        assert kept(tmp_path) == whole(names)


SCRIPT = """
import sys
from geolib.download import http
from geolib.download.collect import collect
url, folder = sys.argv[1:]
session = http.session()
collect([f"{n:04d}" for n in range(40)], folder, lambda name: http.read(session, f"{url}/{name}"),
        workers=4, progress=False)
"""


def test_a_client_killed_half_way_loses_and_repeats_nothing(tmp_path):
    folder = tmp_path / "images"
    half_way = threading.Event()

    def answer(request):
        if len(server.requests) >= 20:
            half_way.set()
            return replace(photo(request.path.strip("/")), drip=0.2)
        return photo(request.path.strip("/"))

    with serve({"/*": answer}) as server:
        client = subprocess.Popen([sys.executable, "-c", SCRIPT, server.url, str(folder)])
        assert half_way.wait(300)
        client.send_signal(signal.SIGKILL)
        assert client.wait() == -signal.SIGKILL
        (folder / "0039.jpg.part").write_bytes(b"half an image")  # as if killed while writing
        got = {path.stem for path in folder.glob("*.jpg")}
        assert 10 <= len(got) < 40

        server.routes = {"/*": lambda request: photo(request.path.strip("/"))}
        server.requests.clear()
        assert gather(folder, reader(server.url)) == Summary(40, len(got), 40 - len(got), {}, 0)
        assert served(server) == Counter(set(NAMES) - got)
        assert kept(folder) == whole(NAMES)


def test_a_host_that_is_gone_is_given_up(tmp_path):
    asked = []

    def fetch(name):
        asked.append(name)
        raise http.Unreachable("nobody there")

    summary = gather(tmp_path, fetch, [str(n) for n in range(1000)], workers=4)
    assert 50 <= len(asked) <= 50 + 2 * 4
    assert summary == Summary(1000, 0, 0, {"Unreachable": len(asked)}, 1000 - len(asked))
    assert str(summary).endswith(f"{1000 - len(asked)} not tried")


def test_hosts_that_are_gone_now_and_then_are_not(tmp_path):
    def fetch(name):
        if int(name) % 10:
            raise http.Unreachable("nobody there")
        return jpeg(name)

    summary = gather(tmp_path, fetch, [str(n) for n in range(200)], workers=2)
    assert summary == Summary(200, 0, 20, {"Unreachable": 180}, 0)


def test_images_come_at_the_same_time(tmp_path):
    together = threading.Barrier(4, timeout=10)

    def fetch(name):
        together.wait()
        return jpeg(name)

    assert gather(tmp_path, fetch, NAMES[:8], workers=4).complete


def test_the_sessions_rate_is_kept_by_all_threads_together(tmp_path):
    times = []

    def answer(request):
        times.append(time.monotonic())
        return photo(request.path.strip("/"))

    with serve({"/*": answer}) as server:
        assert gather(tmp_path, reader(server.url, per_second=10), NAMES[:15]).complete
    first, eleventh = sorted(times)[0], sorted(times)[10]
    assert eleventh - first > 0.9, "more than ten in a second"


def test_an_image_kept_just_before_the_kill_is_not_listed_as_failed(tmp_path):
    def fetch(name):
        raise http.Absent("gone")

    gather(tmp_path, fetch, ["a", "b"])
    (tmp_path / "a.jpg").write_bytes(jpeg("a"))  # kept by a run that could not save its table
    assert gather(tmp_path, fetch, ["a", "b"]) == Summary(2, 1, 0, {"Absent": 1}, 0)
    assert list(failures(tmp_path).id) == ["b"]


def test_a_mistake_in_the_program_is_not_taken_for_a_missing_image(tmp_path):
    def fetch(name):
        if name == "0000":
            raise http.Absent("gone")
        raise KeyError(name)

    with pytest.raises(KeyError):
        gather(tmp_path, fetch, workers=1)
    assert list(failures(tmp_path).id) == ["0000"]


def test_wanted_twice_is_fetched_once(tmp_path):
    asked = []

    def fetch(name):
        asked.append(name)
        return jpeg(name)

    assert gather(tmp_path, fetch, ["a", "b", "a"]) == Summary(2, 0, 2, {}, 0)
    assert sorted(asked) == ["a", "b"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "/a"])
def test_ids_that_could_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="wanted holds"):
        gather(tmp_path, jpeg, ["good", name])
    assert not list(tmp_path.glob("*"))


def test_workers_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="workers=0"):
        gather(tmp_path, jpeg, workers=0)


OUTCOMES = {
    "fine": None,
    "absent": http.Absent("gone"),
    "broken": http.Broken("cut"),
    "unreachable": http.Unreachable("away"),
    "junk": None,
}


def _play(outcome: str, name: str) -> bytes:
    if OUTCOMES[outcome]:
        raise OUTCOMES[outcome]
    return jpeg(name) if outcome == "fine" else b"junk"


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(list(OUTCOMES)), min_size=6, max_size=6), max_size=3),
    st.integers(1, 3),
)
def test_after_any_number_of_calls_each_image_is_there_or_listed(calls, workers):
    names = NAMES[:6]
    with tempfile.TemporaryDirectory() as folder:
        there: set[str] = set()
        for outcomes in calls:
            plan = dict(zip(names, outcomes, strict=True))
            summary = gather(
                folder, partial(lambda plan, name: _play(plan[name], name), plan), names
            )
            new = {n for n in names if plan[n] == "fine"} - there
            assert (summary.present, summary.fetched) == (len(there), len(new))
            there |= new
            assert kept(folder) == whole(there)
            assert set(failures(folder).id) == set(names) - there
            assert sum(summary.failed.values()) == len(names) - len(there)
