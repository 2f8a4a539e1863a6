"""Reading from servers that refuse, lie, break off and dawdle."""

import errno
import gzip
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Answer, Request, busy, serve
from tenacity import wait_none

from geolib.download import http

PHOTO = Answer(bytes(range(256)) * 40, kind="image/jpeg")  # 10,240 bytes
LARGE = bytes(range(251)) * 1200  # 301,200 bytes, no two aligned pieces alike


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(http.read.retry, "wait", wait_none())
    monkeypatch.setattr(http._complete.retry, "wait", wait_none())


@pytest.fixture
def session():
    with http.session() as made:
        yield made


def anything(path):
    """Every file is the right one."""


def ranges(server):
    return [request.headers.get("range") for request in server.requests]


@pytest.mark.parametrize(
    ("troubles", "seconds"),
    [
        ([busy(1)], 0.95),  # it waits as long as it is told
        ([Answer(status=500), Answer(status=503)], 0),
        *(([replace(PHOTO, cut=cut)], 0) for cut in (0, 1, 5000, 10239)),
        ([Answer(b"<html>sorry", kind="text/html")], 0),
        ([replace(PHOTO, drip=0.05)], 0.2),  # 8 seconds in all
    ],
)
def test_a_server_that_recovers_is_asked_again(session, troubles, seconds):
    with serve({"/a": [*troubles, PHOTO]}) as server:
        started = time.monotonic()
        assert http.read(session, f"{server.url}/a", kind="image/", deadline=0.2) == PHOTO.body
        assert seconds <= time.monotonic() - started < 6
        assert len(server.requests) == len(troubles) + 1


@pytest.mark.parametrize(
    ("answer", "error", "words", "n_asked"),
    [
        (Answer(status=400), http.Failed, "400", 1),
        (Answer(status=403), http.Refused, "403: a valid token is needed", 1),
        (replace(PHOTO, token="right"), http.Refused, "401: a valid token is needed", 1),
        *((Answer(status=gone), http.Absent, "has nothing at /a", 1) for gone in (404, 410)),
        # The attempts of the session are not multiplied.
        (Answer(status=502), http.Failed, r"127\.0\.0\.1:\d+ answered 502 Bad Gateway", 2),
        (replace(PHOTO, cut=5000), http.Broken, "broke off", 3),
        (Answer(b"<html>", kind="text/html"), http.Broken, "sent text/html instead of image/", 3),
        (replace(PHOTO, drip=0.05), http.Broken, r"too slow: only \d+ bytes came in 0\.2 sec", 3),
        (None, http.Unreachable, "cannot be reached", 0),
    ],
)
def test_a_server_that_does_not_recover_is_given_up_in_words_without_the_query(
    monkeypatch, answer, error, words, n_asked
):
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    with serve({"/a": answer}) as server, http.session() as session:
        if answer is None:
            server.kill()
        started = time.monotonic()
        with pytest.raises(error, match=words) as caught:
            http.read(session, f"{server.url}/a?token=secret", kind="image/", deadline=0.2)
        assert time.monotonic() - started < 6
        assert len(server.requests) == n_asked
        assert server.url.removeprefix("http://") in str(caught.value)
        assert "secret" not in str(caught.value)


def test_a_token_that_is_sent_is_accepted_or_not(session):
    with serve({"/a": replace(PHOTO, token="right")}) as server:
        url = f"{server.url}/a"
        with pytest.raises(http.Refused, match="403: the token that was sent is not accepted"):
            http.read(session, url, headers={"Authorization": "Bearer expired"})
        with http.session(headers={"Authorization": "Bearer right"}) as trusted:
            assert http.read(trusted, url) == PHOTO.body
        assert len(server.requests) == 2  # asking again would not help


def test_the_rate_of_requests_is_limited_for_all_threads_together():
    with serve({"/a": PHOTO}) as server, http.session(per_second=5) as session:
        started = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: http.read(session, f"{server.url}/a"), range(7)))
        assert time.monotonic() - started > 0.9


def test_bodies_are_decompressed_and_may_be_empty(session):
    squeezed = Answer(gzip.compress(PHOTO.body), headers={"Content-Encoding": "gzip"})
    with serve({"/a": squeezed, "/b": b""}) as server:
        assert http.read(session, f"{server.url}/a") == PHOTO.body
        assert http.read(session, f"{server.url}/b") == b""


def test_threads_share_a_session_without_mixing_bodies(session):
    def page(request: Request) -> Answer:
        return replace(PHOTO, body=request.path.encode() * 5000)

    with serve({"/*": page}) as server, ThreadPoolExecutor(8) as pool:
        urls = [f"{server.url}/{i}" for i in range(40)]
        bodies = list(pool.map(lambda url: http.read(session, url), urls))
    assert bodies == [f"/{i}".encode() * 5000 for i in range(40)]


def test_a_server_that_dies_is_noticed_and_its_return_too(session):
    with serve({"/a": PHOTO, "/b": PHOTO}) as server:
        server.die_at(1, "/a")
        with pytest.raises(http.Unreachable):
            http.read(session, f"{server.url}/a")
        server.revive()
        assert http.read(session, f"{server.url}/b") == PHOTO.body


def test_headers_are_read_without_following_a_redirection(session):
    moved = Answer(status=302, headers={"Location": "/b", "X-Size": "7"})
    with serve({"/a": moved, "/c": Answer(status=401)}) as server:
        assert http.head(session, f"{server.url}/a")["x-size"] == "7"
        with pytest.raises(http.Refused):
            http.head(session, f"{server.url}/c")
        assert [request.method for request in server.requests] == ["HEAD", "HEAD"]


# --- files ---


@pytest.fixture
def get(session, tmp_path):
    """What a download of /a leaves in a folder."""

    def get(server, verify=anything, **options):
        path = tmp_path / "d" / "a"
        http.download(session, f"{server.url}/a", path, verify=verify, **options)
        assert list(path.parent.iterdir()) == [path]
        return path.read_bytes()

    return get


@pytest.fixture
def part(tmp_path):
    """Where a download stands that is not whole yet."""
    (tmp_path / "d").mkdir()
    return tmp_path / "d" / "a.part"


def has_come(part, content):
    part.write_bytes(content)
    part.with_name("a.part.from").write_text('"v"')


def helpful(request: Request) -> Answer:
    """Compresses what may be compressed."""
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Answer(gzip.compress(LARGE), headers={"Content-Encoding": "gzip"}, cut=500)
    return Answer(LARGE, cut=200_000)


@pytest.mark.parametrize(
    ("come", "route", "whole", "asked"),
    [
        (b"", [Answer(LARGE, cut=100_000), LARGE], LARGE, [None, "bytes=100000-"]),
        (b"", [Answer(LARGE, cut=100_000), LARGE[::-1]], LARGE[::-1], [None, "bytes=100000-"]),
        (bytes(400_000), Answer(LARGE, etag='"v"'), LARGE, ["bytes=400000-", None]),
        (b"", helpful, LARGE, [None, "bytes=200000-"]),
    ],
    ids=["goes on", "another version", "more than there is", "compressed"],
)
def test_a_download_goes_on_where_it_broke_off_and_joins_no_two_versions(
    get, part, come, route, whole, asked
):
    if come:
        has_come(part, come)
    with serve({"/a": route}) as server:
        assert get(server) == whole
        assert ranges(server) == asked


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.integers(0, 3000), max_size=6),
    ranged=st.booleans(),
    etag=st.sampled_from([None, "", 'W/"weak"']),
)
def test_whatever_breaks_off_a_file_is_whole_or_not_there(session, tmp_path, cuts, ranged, etag):
    sound = Answer(LARGE[:4000], ranges=ranged, etag=etag)
    path = tmp_path / "file"
    path.unlink(missing_ok=True)
    with serve({"/a": [*(replace(sound, cut=cut) for cut in cuts), sound]}) as server:
        for _ in range(3):
            with suppress(http.Broken):
                http.download(session, f"{server.url}/a", path, verify=anything)
                break
            assert not path.exists()
    assert path.read_bytes() == sound.body
    assert list(tmp_path.iterdir()) == [path]


def test_a_whole_file_is_not_sent_twice(get):
    def interrupted(part):
        raise KeyboardInterrupt

    with serve({"/a": LARGE}) as server:
        with pytest.raises(KeyboardInterrupt):
            get(server, interrupted)
        assert get(server) == LARGE
        assert ranges(server) == [None, "bytes=301200-"]


LATER = Answer(LARGE[:9], 206, headers={"Content-Range": "bytes 0-8/301200"})
PAGE = Answer(b"<html>log in", kind="text/html; charset=utf-8")


def wrong(part):
    assert part.read_bytes() == LARGE
    raise http.Broken("not this one")


@pytest.mark.parametrize(
    ("route", "options", "words", "left", "n_asked"),
    [
        (Answer(LARGE, cut=60_000), {}, "broke off", [180_000], 3),
        ([Answer(LARGE, cut=100), LATER], {}, "0-8/301200, not from byte 100 on", [100], 3),
        (PAGE, {}, "sent a web page instead of a file", [0], 3),
        (Answer(LARGE, drip=0.05), {"stall": 0.2}, "too slow", range(1, 3000), 3),
        (LARGE, {"verify": wrong}, "not this one", [0], 1),
    ],
)
def test_what_has_come_of_the_file_and_nothing_else_is_kept_for_the_next_call(
    get, part, route, options, words, left, n_asked
):
    with serve({"/a": route}) as server:
        with pytest.raises(http.Broken, match=words):
            get(server, **options)
        assert len(server.requests) == n_asked
        come = part.read_bytes() if part.exists() else b""
        assert len(come) in left
        assert LARGE.startswith(come)
        assert not part.with_suffix("").exists()
        server.routes["/a"] = LARGE
        assert get(server) == LARGE
        assert ranges(server)[n_asked:] == [f"bytes={len(come)}-" if come else None]


def test_a_disk_that_would_be_full_is_told_beforehand(get, part, monkeypatch):
    has_come(part, LARGE[:1000])
    usage = shutil.disk_usage(part.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=300_199))
    with serve({"/a": Answer(LARGE, etag='"v"')}) as server:
        with pytest.raises(OSError, match=r"0\.3 MB are needed") as caught:
            get(server)
        assert caught.value.errno == errno.ENOSPC
        assert part.read_bytes() == LARGE[:1000]
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=300_200))
        assert get(server) == LARGE


def test_a_disk_that_fills_up_meanwhile_is_no_fault_of_the_server(get, part):
    part.symlink_to("/dev/full")
    with serve({"/a": LARGE}) as server:
        with pytest.raises(OSError) as caught:
            get(server)
        assert caught.value.errno == errno.ENOSPC
        assert len(server.requests) == 1
