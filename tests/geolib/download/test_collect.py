"""Collecting images: what fails is listed and tried again, and a kill costs nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Answer, jpeg, jpegs, serve

from geolib.download import http
from geolib.download.collect import Summary, collect, failures

NAMES = [f"{n:04d}" for n in range(40)]


def gather(folder, fetch, names=NAMES, workers=8) -> Summary:
    return collect(names, folder, fetch, workers)


def kept(folder) -> dict[str, bytes]:
    """What lies in the folder, apart from the table and the lock."""
    files = [p for p in Path(folder).iterdir() if p.name not in ("failures.parquet", ".lock")]
    assert all(p.suffix == ".jpg" for p in files), files
    return {p.stem: p.read_bytes() for p in files}


def fails(error: http.RemoteError):
    def fetch(name: str) -> bytes:
        raise error

    return fetch


# Troubles of the line are those of test_http; here they arrive as its errors.
OUTCOMES = {
    "fine": (jpeg, None),
    "gone": (fails(http.Absent("nothing there")), "Absent"),
    "page": (fails(http.Broken("sent text/html")), "Broken"),
    "host": (fails(http.Unreachable("nobody there")), "Unreachable"),
    "junk": (lambda name: b"\xff\xd8 this is no photograph", "UnreadableImage"),
    "half": (lambda name: jpeg(name)[:300], "UnreadableImage"),
}
absent, unreachable = OUTCOMES["gone"][0], OUTCOMES["host"][0]


def test_what_fails_is_listed_with_its_reason(tmp_path):
    summary = gather(tmp_path, lambda name: OUTCOMES[name][0](name), OUTCOMES)
    assert not summary.complete
    assert str(summary) == (
        "6 images wanted: 0 were there, 1 fetched, 5 failed (1 Absent, 1 Broken, 1 Unreachable, "
        "2 UnreadableImage)"
    )
    table = failures(tmp_path).set_index("id")
    assert table.kind.to_dict() == {name: kind for name, (_, kind) in OUTCOMES.items() if kind}
    assert "text/html" in table.reason["page"]
    assert table.tried_at.str.endswith("+00:00").all()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(list(OUTCOMES)), min_size=6, max_size=6), max_size=3),
    st.integers(1, 3),
)
def test_after_any_number_of_calls_each_image_is_there_or_listed(calls, workers):
    names, there = set(NAMES[:6]), set()
    with tempfile.TemporaryDirectory() as folder:
        for outcomes in calls:
            plan, asked = dict(zip(NAMES, outcomes, strict=False)), []

            def fetch(name, plan=plan, asked=asked):
                asked.append(name)
                return OUTCOMES[plan[name]][0](name)

            summary = gather(folder, fetch, NAMES[:6], workers)
            missing = names - there
            new = {name for name in missing if plan[name] == "fine"}
            failed = Counter(OUTCOMES[plan[name]][1] for name in missing - new)
            assert summary == Summary(6, len(there), len(new), failed, 0)
            assert Counter(asked) == Counter(missing)
            there |= new
            assert kept(folder) == jpegs(there)
            assert set(failures(folder).id) == names - there


def test_an_expired_token_stops_early_and_keeps_what_came(tmp_path):
    names, asked, expired = [f"{n:03d}" for n in range(100)], [], threading.Event()

    def refused(name):
        asked.append(name)
        if name == "030":
            expired.set()
        if expired.is_set():
            raise http.Refused("the token that was sent is not accepted")
        return jpeg(name)

    with pytest.raises(http.Refused, match=r"100 images wanted: 0 were there, \d+ fetched"):
        gather(tmp_path, refused, names, workers=4)
    got = kept(tmp_path)
    assert got == jpegs(got)
    assert 25 <= len(got) <= 34
    assert len(asked) <= 50, "went on asking with a token that is refused"
    assert set(failures(tmp_path).kind) == {"Refused"}
    only_the_rest(tmp_path, names)


def only_the_rest(folder, names) -> None:
    """Another run, on a good line, asks for what is missing, and for nothing else."""
    got, asked = {path.stem for path in folder.glob("*.jpg")}, []
    summary = gather(folder, lambda name: asked.append(name) or jpeg(name), names)
    assert summary == Summary(len(names), len(got), len(names) - len(got), {}, 0)
    assert summary.complete
    assert Counter(asked) == Counter(set(names) - got)
    assert kept(folder) == jpegs(names)
    assert failures(folder).empty


SCRIPT = """
import sys
from geolib.download import http
from geolib.download.collect import collect
url, folder = sys.argv[1:]
session, names = http.session(), [f"{n:04d}" for n in range(40)]
collect(names, folder, lambda name: http.read(session, f"{url}/{name}"), workers=4)
"""


def test_a_run_killed_half_way_loses_and_repeats_nothing(tmp_path):
    folder, half_way = tmp_path / "images", threading.Event()

    def answer(request):
        photo = Answer(jpeg(request.path.strip("/")), kind="image/jpeg")
        if len(server.requests) < 20:
            return photo
        half_way.set()
        return replace(photo, drip=0.2)

    with serve({"/*": answer}) as server:
        client = subprocess.Popen([sys.executable, "-c", SCRIPT, server.url, str(folder)])
        assert half_way.wait(300)
        client.send_signal(signal.SIGKILL)
        assert client.wait() == -signal.SIGKILL
    (folder / "0039.jpg.part").write_bytes(b"half an image")  # as if killed while writing
    got = {path.stem for path in folder.glob("*.jpg")}
    assert 10 <= len(got) < 40
    only_the_rest(folder, NAMES)


def test_a_host_that_is_gone_is_given_up(tmp_path):
    asked = []
    names = [str(n) for n in range(1000)]
    summary = gather(tmp_path, lambda n: asked.append(n) or unreachable(n), names, workers=4)
    assert 50 <= len(asked) <= 50 + 2 * 4
    assert summary == Summary(1000, 0, 0, {"Unreachable": len(asked)}, 1000 - len(asked))
    assert str(summary).endswith(f"{1000 - len(asked)} not tried")


def test_hosts_that_are_gone_now_and_then_are_not(tmp_path):
    def fetch(name):
        return unreachable(name) if int(name) % 10 else jpeg(name)

    summary = gather(tmp_path, fetch, [str(n) for n in range(200)], workers=2)
    assert summary == Summary(200, 0, 20, {"Unreachable": 180}, 0)


def test_images_come_at_the_same_time(tmp_path):
    together = threading.Barrier(4, timeout=10)

    def fetch(name):
        together.wait()
        return jpeg(name)

    assert gather(tmp_path, fetch, NAMES[:8], workers=4).complete


def test_an_image_kept_just_before_the_kill_is_not_listed_as_failed(tmp_path):
    gather(tmp_path, absent, ["a", "b"])
    (tmp_path / "a.jpg").write_bytes(jpeg("a"))  # kept by a run that could not save its table
    assert gather(tmp_path, absent, ["a", "b"]) == Summary(2, 1, 0, {"Absent": 1}, 0)
    assert list(failures(tmp_path).id) == ["b"]


def test_a_mistake_in_the_program_is_not_taken_for_a_missing_image(tmp_path):
    with pytest.raises(KeyError):
        gather(tmp_path, lambda name: absent(name) if name == "0000" else {}[name], workers=1)
    assert list(failures(tmp_path).id) == ["0000"]


def test_wanted_twice_is_fetched_once(tmp_path):
    asked = []
    summary = gather(tmp_path, lambda n: asked.append(n) or jpeg(n), ["a", "b", "a"])
    assert summary == Summary(2, 0, 2, {}, 0)
    assert sorted(asked) == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "workers", "complaint"),
    [
        *((["good", bad], 1, "wanted holds") for bad in ("", ".", "..", "a/b", "../a", ".a", "/a")),
        (["good"], 0, "workers=0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, names, workers, complaint):
    with pytest.raises(ValueError, match=complaint):
        gather(tmp_path, jpeg, names, workers=workers)
    assert not list(tmp_path.glob("*"))
