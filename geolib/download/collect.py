"""Fetching many images into a folder, concurrently; a killed run goes on where it stopped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pandas as pd
from filelock import FileLock

from geolib import images
from geolib.download import http
from geolib.runtime.here import progress_bar

FAILURES = "failures.parquet"
COLUMNS = ["id", "kind", "reason", "tried_at"]
LOCK = ".lock"
UNREACHABLE_IN_A_ROW = 50
SECONDS_BETWEEN_SAVES = 5.0


@dataclass(frozen=True)
class Summary:
    """What a call of :func:`collect` found and did; ``str()`` says it in one line.

    ``wanted = present + fetched + sum(failed.values()) + untried``. ``failed`` counts by kind, the
    name of the error: ``Unreachable``, ``Refused``, ``Absent``, ``Broken``, ``UnreadableImage``.
    """

    wanted: int
    present: int
    fetched: int
    failed: dict[str, int]
    untried: int

    @property
    def complete(self) -> bool:
        """Whether every image that is wanted is there."""
        return self.wanted == self.present + self.fetched

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.failed.items()))
        text = f"{self.wanted} images wanted: {self.present} were there, {self.fetched} fetched, "
        text += f"{sum(self.failed.values())} failed" + (f" ({kinds})" if kinds else "")
        return text + (f", {self.untried} not tried" if self.untried else "")


def collect(
    wanted: Iterable[str], folder: str | Path, fetch: Callable[[str], bytes], workers: int
) -> Summary:
    """Fetch images into ``FOLDER/ID.jpg``; those that are there are left alone.

    An image is decoded before it is kept, and appears under its name only when whole, so a run may
    be killed at any moment and called again. What failed is listed in ``FOLDER/failures.parquet``
    (``id``, ``kind``, ``reason``, ``tried_at`` in UTC) until a later call gets it. A second run in
    the same folder waits for the first. After 50 images in a row that could not be reached the
    rest is left untried.

    Parameters
    ----------
    wanted : ids of the images, usable as file names; repetitions count once.
    fetch : gives the bytes of the image with an id, or raises one of the errors of
        ``download.http``; called from so many threads at once as there are ``workers``. Retries
        and the rate limit are those of its session.

    Raises ValueError if an id cannot be a file name, or ``workers`` is less than 1, and
    :class:`geolib.download.http.Refused` as soon as a server refuses the token; what was fetched by
    then is kept.
    """
    names = list(dict.fromkeys(wanted))
    for name in names:
        if not name or name.startswith(".") or Path(name).name != name:
            raise ValueError(f"wanted holds {name!r}; expected ids that can be file names")
    if workers < 1:
        raise ValueError(f"workers={workers}; expected at least 1")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        for abandoned in folder.glob(f"*{http.PART}"):
            abandoned.unlink()
        there = {path.stem for path in folder.glob("*.jpg")}
        missing = [name for name in names if name not in there]
        run = _Run(folder, fetch, there)
        with progress_bar(folder.name, len(missing), "image") as bar:
            run.get_all(missing, workers, bar.update)
    untried = len(missing) - run.fetched - run.failed.total()
    present = len(names) - len(missing)
    summary = Summary(len(names), present, run.fetched, dict(run.failed), untried)
    if run.refused is not None:
        raise http.Refused(f"{run.refused}. What was fetched is kept: {summary}") from run.refused
    return summary


def failures(folder: str | Path) -> pd.DataFrame:
    """Images that could not be fetched: ``id``, ``kind``, ``reason``, ``tried_at``, as strings."""
    path = Path(folder) / FAILURES
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)


class _Run:
    """One pass over what is missing, with its counts and the table of what has failed."""

    def __init__(self, folder: Path, fetch: Callable[[str], bytes], there: set[str]) -> None:
        self.folder = folder
        self.fetch = fetch
        self.fetched = 0
        self.failed: Counter[str] = Counter()
        self.refused: http.Refused | None = None
        self.unreachable_in_a_row = 0
        known = failures(folder).set_index("id")
        self.table = known[~known.index.isin(there)].to_dict("index")
        self.saved = time.monotonic()

    def get_all(self, names: list[str], workers: int, advance: Callable[[int], object]) -> None:
        queue = iter(names)
        try:
            with ThreadPoolExecutor(workers) as executor:
                # A short queue: a future for each of millions of images would fill the memory.
                running = {executor.submit(self.get, n): n for n in islice(queue, 2 * workers)}
                while running:
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        self.note(running.pop(future), future)
                    advance(len(done))
                    if self.refused is None and self.unreachable_in_a_row < UNREACHABLE_IN_A_ROW:
                        following = islice(queue, len(done))
                        running |= {executor.submit(self.get, n): n for n in following}
                    if time.monotonic() - self.saved > SECONDS_BETWEEN_SAVES:
                        self.save()
        finally:
            self.save()

    def get(self, name: str) -> None:
        content = self.fetch(name)
        images.read(content)
        with http.whole(self.folder / f"{name}.jpg") as part:
            part.write_bytes(content)

    def note(self, name: str, future: Future[None]) -> None:
        try:
            future.result()
        except (http.RemoteError, images.UnreadableImage) as error:
            kind = type(error).__name__
            self.failed[kind] += 1
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.table[name] = {"kind": kind, "reason": str(error), "tried_at": now}
            unreachable = isinstance(error, http.Unreachable)
            self.unreachable_in_a_row = self.unreachable_in_a_row + 1 if unreachable else 0
            if isinstance(error, http.Refused):
                self.refused = self.refused or error
        else:
            self.fetched += 1
            self.table.pop(name, None)
            self.unreachable_in_a_row = 0

    def save(self) -> None:
        rows = [{"id": name, **row} for name, row in sorted(self.table.items())]
        with http.whole(self.folder / FAILURES) as part:
            pd.DataFrame(rows, columns=COLUMNS, dtype=str).to_parquet(part, index=False)
        self.saved = time.monotonic()
