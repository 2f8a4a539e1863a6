"""What all tests share: a cache that is not their user's, and a number of generated examples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("geolib", deadline=None, max_examples=60)
settings.load_profile("geolib")


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
