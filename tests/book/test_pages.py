"""The built book: every page is whole, and every link leads somewhere."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import html_checks
import nbformat
import pytest
import yaml
from conftest import ROOT

pytestmark = pytest.mark.book


def _chapters(book):
    return [page for page in book.values() if page.name.startswith("notebooks/")]


def _repository():
    """Owner/name of the repository and its branch, as the one setting has them."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    return urlsplit(settings["url"]).path.strip("/"), settings["branch"]


def _links(page):
    return {unquote(str(link["href"])) for link in page.soup.find_all("a", href=True)}


@pytest.mark.parametrize("check", html_checks.CHECKS)
def test_pages_are_whole(check, book):
    problems = html_checks.CHECKS[check]
    assert [problem for page in book.values() for problem in problems(page, book)] == []


def test_every_page_of_the_table_of_contents_is_built(html, book):
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    expected = {html / f"{name}.html" for name in [toc["root"], *chapters]}
    assert set(book) == expected
    assert [page.name for page in book.values() if page.article.find("h1") is None] == []


def test_the_first_page_is_reached_and_says_which_run_it_shows(html, book):
    redirect = (html / "index.html").read_text(encoding="utf-8")
    target = re.search(r"url=([^\"]+)", redirect)
    assert target is not None
    home = book[html / target[1]]
    quoted = {span.get_text() for span in home.soup.select("span.result")}
    executed = nbformat.read(html / "_sources/notebooks/06-faithfulness.ipynb", as_version=4)
    assert executed.metadata["geolib"]["profile"] in quoted
    assert home.article.find("img") is not None, "the first page shows no figure"


def test_chapters_are_fully_executed(html, book):
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))
    assert {page.path.stem for page in _chapters(book)} == {path.stem for path in notebooks}
    for page in _chapters(book):
        executed = nbformat.read(html / "_sources/notebooks" / f"{page.path.stem}.ipynb", 4)
        code = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source]
        assert [cell.source for cell in code if cell.execution_count is None] == [], page.name
        assert page.soup.select(".cell_output"), f"{page.name} shows no output"


def test_every_chapter_links_to_its_own_notebook(html, book):
    repository, branch = _repository()
    for page in _chapters(book):
        path = f"notebooks/{page.path.stem}.ipynb"
        assert {
            f"https://mybinder.org/v2/gh/{repository}/{branch}?urlpath=lab/tree/{path}",
            f"../_sources/{path}",
        } <= _links(page)
        assert (html / "_sources" / path).is_file()
        # There the package is not installed, and no notebook installs it.
        assert not any("colab" in link for link in _links(page))


def test_links_into_the_repository_name_tracked_files(book):
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    listed = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = {Path(line) for line in listed.stdout.splitlines()}
    tracked = files | {folder for file in files for folder in file.parents}
    repository, branch = map(re.escape, _repository())
    into = re.compile(
        rf"{repository}/(?:(?:blob|edit|tree)/{branch}|{branch}\?urlpath=lab/tree)/([^?#]+)"
    )
    linked = [
        (page.name, match[1])
        for page in book.values()
        for href in _links(page)
        if (match := into.search(href))
    ]
    assert len(linked) >= 2 * len(_chapters(book)) > 0
    assert [(page, path) for page, path in linked if Path(path) not in tracked] == []
