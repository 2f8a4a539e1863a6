"""The built book that the tests of this folder open."""

import os
from pathlib import Path

import pytest
from html_checks import pages

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def html():
    """Folder of the built pages: ``GEOLIB_BOOK``, or those of the smoke profile."""
    folder = Path(os.environ.get("GEOLIB_BOOK", ROOT / "_build" / "smoke" / "html")).resolve()
    if not (folder / "index.html").is_file():
        pytest.skip(f"no built book at {folder}; run `geolib book --profile smoke` first")
    return folder


@pytest.fixture(scope="session")
def book(html):
    """Pages of the book by path."""
    return {page.path: page for page in pages(html)}
