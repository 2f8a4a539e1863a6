"""What all tests share: no test reads or fills the cache of whoever runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the session, unless ``GEOLIB_CACHE`` names another: what is trained is kept."""
    with pytest.MonkeyPatch.context() as patch:
        if "GEOLIB_CACHE" not in os.environ:
            patch.setenv("GEOLIB_CACHE", str(tmp_path_factory.mktemp("session") / "cache"))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
