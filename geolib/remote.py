"""HTTP that outlives bad servers: retries, waits as told, a rate limit, whole bodies only."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests_ratelimiter import LimiterAdapter
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from urllib3.util.retry import Retry

PASSING = (429, 500, 502, 503, 504)
ATTEMPTS = 5
TIMEOUT = (10.0, 30.0)
DEADLINE = 300.0
CHUNK = 1 << 16


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


def session(
    per_second: float | None = None, headers: Mapping[str, str] | None = None
) -> requests.Session:
    """A session that waits and tries again where a server is busy or fails.

    Parameters
    ----------
    per_second
        Largest rate of requests to one host; None for no limit.
    headers
        Sent with every request, for example a token.
    """
    policy = Retry(
        total=ATTEMPTS,
        connect=2,
        backoff_factor=0.5,
        backoff_jitter=0.2,
        status_forcelist=PASSING,
        respect_retry_after_header=True,
        raise_on_status=False,
    )
    adapter = (
        LimiterAdapter(per_second=per_second, max_retries=policy)
        if per_second
        else HTTPAdapter(max_retries=policy)
    )
    made = requests.Session()
    made.headers.update({"User-Agent": "geolib (research code)", **(headers or {})})
    made.mount("http://", adapter)
    made.mount("https://", adapter)
    return made


@retry(
    retry=retry_if_exception_type(Broken),
    stop=stop_after_attempt(3),
    wait=wait_exponential_jitter(0.2, 5),
    reraise=True,
)
def read(
    session: requests.Session,
    url: str,
    *,
    kind: str = "",
    headers: Mapping[str, str] | None = None,
    deadline: float = DEADLINE,
) -> bytes:
    """The whole body at an address.

    Parameters
    ----------
    session
        See :func:`session`.
    url
        Address.
    kind
        What the content type must begin with, for example ``"image/"``.
    headers
        Sent with this request.
    deadline
        Seconds after which a body that only trickles in is given up.

    Raises
    ------
    Unreachable, Refused, Absent, Broken
        After all attempts; each names the host, not the full address, which may hold a token.
    """
    host = urlsplit(url).netloc
    started = time.monotonic()
    parts = []
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            check(response)
            found = response.headers.get("Content-Type", "")
            if not found.startswith(kind):
                raise Broken(f"{host} sent {found or 'an unnamed type'} instead of {kind}")
            for part in response.iter_content(CHUNK):
                parts.append(part)
                if time.monotonic() - started > deadline:
                    raise Broken(f"{host} took more than {deadline:g} seconds for one file")
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ReadTimeout) as error:
        raise Broken(f"{host} broke off in the middle of a file") from error
    except requests.exceptions.RequestException as error:
        raise Unreachable(f"{host} cannot be reached ({type(error).__name__})") from error
    return b"".join(parts)


def check(response: requests.Response) -> None:
    """Raise what the status of an answer means.

    Raises
    ------
    Refused, Absent, Broken
    """
    host = urlsplit(response.url).netloc
    if response.status_code in (401, 403):
        raise Refused(f"{host} answered {response.status_code}: a valid token is needed")
    if response.status_code in (404, 410):
        raise Absent(f"{host} has nothing at {urlsplit(response.url).path}")
    if not response.ok:
        raise Broken(f"{host} answered {response.status_code} {response.reason}")
