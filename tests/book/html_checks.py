"""What can be wrong with a built page, each as a function from pages to a list of problems."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

GENERATED = {"genindex.html", "py-modindex.html", "search.html", "index.html"}
# As Python and pandas print them: "none" is also the name of a segmenter.
NO_NUMBER = re.compile(r"\b(nan|NaN|NaT|None|inf)\b")
HASH = re.compile(r"[0-9a-f]{12,}")


@dataclass(frozen=True)
class Page:
    """One built page."""

    path: Path
    root: Path

    @cached_property
    def soup(self):
        return BeautifulSoup(self.path.read_text(encoding="utf-8"), "html.parser")

    @cached_property
    def article(self):
        return self.soup.find("article") or self.soup

    @cached_property
    def anchors(self):
        return {
            str(tag[key]) for key in ("id", "name") for tag in self.soup.find_all(attrs={key: True})
        }

    @property
    def name(self):
        return self.path.relative_to(self.root).as_posix()


def pages(root):
    """Pages that people wrote, in order of their names."""
    found = sorted(p for p in root.rglob("*.html") if "_static" not in p.parts)
    return [Page(p, root) for p in found if p.relative_to(root).as_posix() not in GENERATED]


def missing_images(page, book):
    """Images whose file is absent or empty, or that the network would have to bring."""
    problems = []
    for image in page.soup.find_all("img"):
        source = str(image.get("src", ""))
        if source.startswith("data:"):
            continue
        file = page.path.parent / unquote(urlsplit(source).path)
        if urlsplit(source).scheme or not source or not file.is_file() or not file.stat().st_size:
            problems.append(f"{page.name}: image {source!r} is missing")
    return problems


def poor_alternative_texts(page, book):
    """Images without a text in words: none, a file's name or path, or a hash."""
    problems = []
    for image in page.article.find_all("img"):
        alt = str(image.get("alt", "")).strip()
        if " " not in alt or HASH.search(alt) or re.search(r"\.(png|svg|jpe?g)\b", alt):
            problems.append(f"{page.name}: image {image.get('src')!r} has the alt text {alt!r}")
    return problems


def empty_numbers(page, book):
    """Quoted results, cells of tables and printed lines that hold no value."""
    problems = []
    for span in page.soup.select("span.result"):
        text = span.get_text().strip()
        if not text or text == "?" or NO_NUMBER.search(text):
            problems.append(f"{page.name}: quoted result {text!r} in {_around(span)!r}")
    cells = [cell.get_text().strip() for cell in page.soup.select(".cell_output td")]
    problems += [f"{page.name}: a table shows {c!r}" for c in cells if NO_NUMBER.fullmatch(c)]
    printed = [block.get_text().strip() for block in page.soup.select(".cell_output pre")]
    problems += [f"{page.name}: a cell printed {p!r}" for p in printed if NO_NUMBER.search(p)]
    return problems


def broken_links(page, book):
    """Links to a file or a place of the book that is not there."""
    problems = []
    for link in page.soup.find_all("a", href=True):
        href = urlsplit(str(link["href"]))
        if href.scheme or href.netloc:
            continue
        target = (page.path.parent / unquote(href.path)).resolve() if href.path else page.path
        place = unquote(href.fragment)
        if not target.is_file():
            problems.append(f"{page.name}: link to {link['href']!r}, which does not exist")
        elif place and target in book and place not in book[target].anchors:
            problems.append(f"{page.name}: link to {link['href']!r}, which has no such place")
    return problems


def tracebacks(page, book):
    """Cells that failed."""
    outputs = page.soup.select(".cell_output")
    return [
        f"{page.name}: a cell shows a traceback"
        for output in outputs
        if output.select(".traceback") or "Traceback (most recent call last)" in output.get_text()
    ]


def bars(page, book):
    """Tables of Markdown that stand on the page as text."""
    lines = [line.strip() for p in page.article.find_all("p") for line in p.get_text().splitlines()]
    return [
        f"{page.name}: {line!r} is no table" for line in lines if re.fullmatch(r"\|.+\|.+\|", line)
    ]


def network_resources(page, book):
    """Scripts and style sheets that a reader's browser would fetch from elsewhere."""
    sources = [tag["src"] for tag in page.soup.find_all("script", src=True)]
    sources += [tag["href"] for tag in page.soup.find_all("link", rel="stylesheet", href=True)]
    return [f"{page.name}: loads {s}" for s in sources if urlsplit(str(s)).netloc]


def _around(tag):
    return " ".join((tag.parent or tag).get_text().split())[:80]


CHECKS = {
    "images": missing_images,
    "alt": poor_alternative_texts,
    "numbers": empty_numbers,
    "links": broken_links,
    "tracebacks": tracebacks,
    "bars": bars,
    "network": network_resources,
}
