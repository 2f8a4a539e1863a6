"""A web server on loopback that answers as the test tells it, also badly.

Usage::

    routes = {
        "/photo.jpg": [busy(1), Answer(status=500), photo],  # one per request, the last for ever
        "/cut.jpg": [replace(photo, cut=100), photo],        # breaks off after 100 bytes
        "/tiles/*": lambda request: Answer(tile(request.path, request.query)),
        "/plain.txt": b"bytes alone are an answer, too",
    }
    with serve(routes) as server:
        session.get(f"{server.url}/photo.jpg")
        assert [request.path for request in server.requests] == ["/photo.jpg"]
        server.kill()      # connections break, further ones are refused
        server.revive()    # same address, same routes, the scripts where they stood

A path without a route is answered with 404. Bodies carry an ETag (a hash of their bytes unless the
answer names one) and a length; ranges and If-Range are honoured unless ``ranges=False``. Routes may
be changed while the server runs. :func:`hub` makes the routes of a repository of the hub, and
:func:`use_hub` has them asked in its place.
"""

from __future__ import annotations

import hashlib
import io
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from PIL import Image

DRIP_BYTES = 64
COMMIT = "c0ffee" + "0" * 34


@dataclass(frozen=True)
class Answer:
    """What to send, and how badly."""

    body: bytes = b""
    status: int = 200
    kind: str = "application/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None  # so many bytes of the announced body are sent, then the line breaks
    drip: float = 0.0  # seconds before each 64 bytes
    ranges: bool = True  # honours Range
    etag: str | None = None  # with its quotes; a hash of the body by default, "" for none
    token: str | None = None  # 401 without this bearer token, 403 with another


@dataclass(frozen=True)
class Request:
    """What was asked for. Names of headers are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


Route = bytes | Answer | Sequence["bytes | Answer"] | Callable[[Request], "bytes | Answer"]


def busy(seconds: int, status: int = 429) -> Answer:
    """Asks to come back after so many seconds."""
    return Answer(b"later", status, "text/plain", {"Retry-After": str(seconds)})


def jpeg(name: str) -> bytes:
    """A photograph of its own for each name."""
    pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def jpegs(names: Iterable[str]) -> dict[str, bytes]:
    return {name: jpeg(name) for name in names}


def hub(
    repository: str, files: Mapping[str, bytes], *, kind: str = "models", token: str | None = None
) -> dict[str, Route]:
    """Routes of a repository of the hub; with a token, of a gated one.

    As there, the file's own address tells commit, size and sha256 and sends on to the storage.
    """
    prefix = "" if kind == "models" else f"{kind}/"
    routes: dict[str, Route] = {}
    for name, body in files.items():
        sha256 = hashlib.sha256(body).hexdigest()
        known = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(body))}
        known |= {"Location": f"/storage/{sha256}", "X-Repo-Commit": COMMIT}
        address = f"/{prefix}{repository}/resolve/{COMMIT}/{name}"
        routes[address] = Answer(status=302, headers=known, token=token)
        routes[f"/storage/{sha256}"] = body
    return routes


def use_hub(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """Files of the hub are asked of this server."""
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


class Server:
    """A running server: ``url``, ``requests`` so far, ``routes``, ``kill`` and ``revive``."""

    def __init__(self, routes: dict[str, Route]) -> None:
        self.routes = routes
        self.requests: list[Request] = []
        self._asked: Counter[str] = Counter()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._port = 0
        self.revive()

    @property
    def url(self) -> str:
        """Address without a trailing slash."""
        return f"http://127.0.0.1:{self._port}"

    def revive(self) -> None:
        """Listen, at the old address if there was one."""
        self._stopped = threading.Event()
        self._http = _Http(("127.0.0.1", self._port), _handler(self))
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """Break every connection and refuse new ones; from a route, too."""
        self._stopped.set()
        self._http.shutdown()
        self._http.server_close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def die_at(self, turn: int, prefix: str) -> None:
        """Be killed by the request of this number for paths that begin with a prefix."""
        routes = {path: route for path, route in self.routes.items() if path.startswith(prefix)}
        asked: list[Request] = []

        def until_killed(request: Request) -> bytes | Answer:
            asked.append(request)
            if len(asked) == turn:
                self.kill()
            return routes[request.path]

        self.routes |= dict.fromkeys(routes, until_killed)

    def answer(self, request: Request) -> Answer:
        """The next answer of the request's route."""
        with self._lock:
            self.requests.append(request)
            turn = self._asked[request.path]
            self._asked[request.path] += 1
            matches = [name for name in self.routes if fnmatch(request.path, name)]
        if not matches:
            return Answer(b"nothing here", 404, "text/plain")
        route = self.routes[request.path if request.path in matches else matches[0]]
        if callable(route):
            route = route(request)
        elif not isinstance(route, bytes | Answer):
            route = route[min(turn, len(route) - 1)]
        answer = Answer(route) if isinstance(route, bytes) else route
        if answer.token and request.headers.get("authorization") != f"Bearer {answer.token}":
            return Answer(status=403 if "authorization" in request.headers else 401)
        return _ranged(answer, request)


@contextmanager
def serve(routes: dict[str, Route]) -> Iterator[Server]:
    """A server for the length of a block."""
    server = Server(routes)
    try:
        yield server
    finally:
        if not server._stopped.is_set():
            server.kill()


class _Http(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are part of the tests."""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def setup(self) -> None:
            super().setup()
            with server._lock:
                server._open.add(self.connection)

        def finish(self) -> None:
            with server._lock:
                server._open.discard(self.connection)
            super().finish()

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def reply(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), headers)
            stopped = server._stopped
            answer = server.answer(request)
            if stopped.is_set():
                self.close_connection = True
                return
            self.send_response(answer.status)
            described = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
            for name, value in {**described, **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if request.method == "HEAD":
                return
            body = answer.body[: answer.cut]
            step = DRIP_BYTES if answer.drip else max(len(body), 1)
            for start in range(0, len(body), step):
                if answer.drip and stopped.wait(answer.drip):
                    break
                self.wfile.write(body[start : start + step])
            if len(body) < len(answer.body) or stopped.is_set():
                self.close_connection = True

        do_GET = do_HEAD = reply

    return Handler


def _ranged(answer: Answer, request: Request) -> Answer:
    """The part of a body that was asked for, with the headers that say so."""
    if answer.status != 200:
        return answer
    etag = f'"{hashlib.md5(answer.body).hexdigest()}"' if answer.etag is None else answer.etag
    headers = {**({"ETag": etag} if etag else {}), **answer.headers}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not answer.ranges or not asked or request.headers.get("if-range", etag) != etag:
        return replace(answer, headers=headers)
    size, start = len(answer.body), int(asked[1])
    stop = min(int(asked[2]) + 1, size) if asked[2] else size
    status, span = (206, f"{start}-{stop - 1}") if start < stop else (416, "*")
    headers["Content-Range"] = f"bytes {span}/{size}"
    return replace(answer, body=answer.body[start:stop], status=status, headers=headers)
