"""HTTP that outlives bad servers: retries, waits as told, a rate limit, whole bodies only."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter
from requests_ratelimiter import LimiterAdapter
from urllib3.util.retry import Retry

from geolib.runtime.here import progress_bar

PASSING = (429, 500, 502, 503, 504)
ATTEMPTS = 5
TIMEOUT = (10.0, 30.0)
DEADLINE = 300.0
STALL = 60.0
CHUNK = 1 << 16
PART = ".part"
_ALL_HOSTS = "all hosts"


class RemoteError(ConnectionError):
    """What came back, or did not, in words that say what to do."""


class Unreachable(RemoteError):
    """The host did not answer."""


class Refused(RemoteError):
    """The server asks for a token, or does not accept the one it got."""


class Absent(RemoteError):
    """There is nothing at that address."""


class Broken(RemoteError):
    """An answer that is not what was asked for: truncated, too slow, of another type."""


class Failed(Broken):
    """An error status, for one that may pass after as many attempts as it deserves."""


def session(
    per_second: float | None = None, headers: Mapping[str, str] | None = None
) -> requests.Session:
    """A session that waits and tries again where a server is busy or fails.

    ``per_second`` limits the requests, repeated ones included; ``headers`` go with every request.
    """
    adapter, again = HTTPAdapter(), Retry
    if per_second:
        adapter = paced = LimiterAdapter(
            per_second=per_second, per_host=False, bucket_name=_ALL_HOSTS
        )

        class Paced(Retry):
            """Repeats keep to the rate as well: the adapter holds back first attempts only."""

            def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
                super().sleep(response)
                paced.limiter.try_acquire(_ALL_HOSTS)

        again = Paced
    adapter.max_retries = again(
        total=ATTEMPTS,
        connect=2,
        backoff_factor=0.5,
        backoff_jitter=0.2,
        status_forcelist=PASSING,
        raise_on_status=False,
    )
    made = requests.Session()
    made.headers.update({"User-Agent": "geolib (research code)", **(headers or {})})
    made.mount("http://", adapter)
    made.mount("https://", adapter)
    return made


# The session itself has repeated what failed with a status; here bodies are asked for again.
_again = tenacity.retry(
    retry=tenacity.retry_if_exception_type(Broken) & tenacity.retry_if_not_exception_type(Failed),
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_random_exponential(multiplier=0.3, max=5),
    reraise=True,
)


@_again
def read(
    session: requests.Session,
    url: str,
    *,
    kind: str = "",
    headers: Mapping[str, str] | None = None,
    deadline: float = DEADLINE,
) -> bytes:
    """The whole body at an address.

    ``kind`` is what the content type must begin with, for example ``"image/"``; after ``deadline``
    seconds a body that only trickles in is given up. Unreachable, Refused, Absent or Broken, raised
    after all attempts, names the host, not the full address, which may hold a token.
    """
    with _answer(session, url, headers) as response:
        check(response)
        found = response.headers.get("Content-Type", "")
        if not found.startswith(kind):
            raise Broken(f"{_host(url)} sent {found or 'an unnamed type'} instead of {kind}")
        return b"".join(_pieces(response, deadline, inf))


def download(
    session: requests.Session,
    url: str,
    path: Path,
    *,
    verify: Callable[[Path], None],
    stall: float = STALL,
    shown: bool = False,
) -> None:
    """Write the body at an address to a file, going on where an earlier attempt stopped.

    What has come stands in ``NAME.part``, and in ``NAME.part.from`` which version it is of: if the
    server has another one by now, or cannot send parts, everything is written anew. The file
    itself appears when it is whole and verified. A web page in its place is refused: it is a
    login, a portal or an excuse.

    ``verify`` raises :class:`Broken` for a file that is not the right one; it is thrown away then.
    ``stall`` are the seconds within which another 64 KiB must come; ``shown`` asks for a progress
    bar. Unreachable, Refused, Absent or Broken is raised after all attempts, and a later call goes
    on; OSError with ``errno.ENOSPC`` if the disk is full, or will be: what has come is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        note = path.with_name(f"{part.name}.from")
        _complete(session, url, part, note, stall, shown)
        try:
            verify(part)
        except Broken:
            part.unlink()
            raise
    note.unlink()


@_again
def _complete(
    session: requests.Session, url: str, part: Path, note: Path, stall: float, shown: bool
) -> None:
    begun = part.exists() and note.exists()
    done, version = (part.stat().st_size, note.read_text(encoding="utf-8")) if begun else (0, "")
    # Were the body compressed on its way, its length and its parts would not be the file's.
    asked = {"Accept-Encoding": "identity"}
    if done and version:
        asked |= {"Range": f"bytes={done}-", "If-Range": version}
    with _answer(session, url, asked) as response:
        span = response.headers.get("Content-Range", "")
        if response.status_code == 416:
            if span == f"bytes */{done}":
                return
            part.unlink()
            raise Broken(f"{_host(url)} has fewer bytes than the {done} it sent before")
        check(response)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise Broken(f"{_host(url)} sent a web page instead of a file")
        if response.status_code != 206:
            done = 0
        elif not span.startswith(f"bytes {done}-"):
            raise Broken(f"{_host(url)} sent {span or 'an unnamed part'}, not from byte {done} on")
        length = int(response.headers.get("Content-Length", 0))
        _make_room(part, length)
        with (
            part.open("ab" if done else "wb") as file,
            progress_bar(part.stem, done + length, "B", shown) as bar,
        ):
            note.write_text(_version(response), encoding="utf-8")
            bar.unit_scale = True
            bar.update(done)
            for piece in _pieces(response, stall, CHUNK):
                file.write(piece)
                bar.update(len(piece))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that appears under its name only when the block has ended well."""
    part = path.with_name(f"{path.name}{PART}")
    yield part
    part.replace(path)


def head(session: requests.Session, url: str) -> Mapping[str, str]:
    """What a server says of a file without sending it; a redirection is not followed."""
    with _answer(session, url, method="HEAD") as response:
        check(response)
        return response.headers


def check(response: requests.Response) -> None:
    """Raise what the status of an answer means: Refused, Absent or Broken."""
    host = _host(response.url)
    if response.status_code in (401, 403):
        sent = "authorization" in response.request.headers
        wanted = "the token that was sent is not accepted" if sent else "a valid token is needed"
        raise Refused(f"{host} answered {response.status_code}: {wanted}")
    if response.status_code in (404, 410):
        raise Absent(f"{host} has nothing at {urlsplit(response.url).path}")
    if not response.ok:
        raise Failed(f"{host} answered {response.status_code} {response.reason}")


def _host(url: str) -> str:
    return urlsplit(url).netloc


@contextmanager
def _answer(
    session: requests.Session,
    url: str,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
) -> Iterator[requests.Response]:
    """An open answer; what goes wrong while it is read is told in this module's errors."""
    follow = method == "GET"
    try:
        with session.request(
            method, url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=follow
        ) as response:
            yield response
    except urllib3.exceptions.HTTPError as error:
        raise Broken(f"{_host(url)} broke off in the middle of a file") from error
    except requests.exceptions.RequestException as error:
        raise Unreachable(f"{_host(url)} cannot be reached ({type(error).__name__})") from error


def _pieces(response: requests.Response, seconds: float, enough: float) -> Iterator[bytes]:
    """Pieces of a body as they come in; at least ``enough`` bytes in so many seconds.

    ``requests`` hands out full chunks only: a server that trickles would never be noticed.
    """
    since, count = time.monotonic(), 0
    while piece := response.raw.read1(CHUNK, decode_content=True):
        yield piece
        now, count = time.monotonic(), count + len(piece)
        if count >= enough:
            since, count = now, 0
        elif now - since > seconds:
            host = _host(response.url)
            raise Broken(f"{host} is too slow: only {count} bytes came in {seconds:g} seconds")


def _version(response: requests.Response) -> str:
    """What names a version of a file well enough to ask for the rest of it, or nothing."""
    etag = response.headers.get("ETag", "")
    strong = etag and not etag.startswith("W/")
    return etag if strong else response.headers.get("Last-Modified", "")


def _make_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        text = f"{needed / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free"
        raise OSError(errno.ENOSPC, text, str(path))
