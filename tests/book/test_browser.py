"""The built book in a browser: light and dark, on a desktop and on a phone."""

import html as html_module
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [pytest.mark.book, pytest.mark.timeout(300)]

# Loads every page at every width and in both themes in a frame, and writes what it measured.
PROBE = """
<html><body><pre id="report"></pre><script>
const pages = %s;
const report = [];
function luminance(colour) {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}
async function measure(page, width, theme) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  const loaded = new Promise((done) => (frame.onload = done));
  frame.src = page;
  document.body.appendChild(frame);
  await loaded;
  const page_document = frame.contentDocument;
  const root = page_document.documentElement;
  root.dataset.theme = root.dataset.mode = theme;
  const style = (element) => frame.contentWindow.getComputedStyle(element);
  const article = page_document.querySelector("article");
  const seen = (image) => image.complete && image.naturalWidth > 0;
  const images = [...article.querySelectorAll("img")];
  const wide = [...article.querySelectorAll("*")].filter(
    (e) => e.getBoundingClientRect().right > width + 1 && !scrolls(e, article, style)
  );
  report.push({
    page, width, theme,
    overflow: root.scrollWidth - width,
    wide: wide.slice(0, 3).map((e) => `${e.tagName}.${e.className}`),
    background: luminance(style(page_document.body).backgroundColor),
    text: luminance(style(article.querySelector("h1")).color),
    font: parseFloat(style(article.querySelector("p")).fontSize),
    unseen: images.filter((i) => !seen(i)).map((i) => i.getAttribute("src")),
    boxed: images
      .filter((i) => !/rgba\\(\\d+, \\d+, \\d+, 0\\)/.test(style(i).backgroundColor))
      .map((i) => i.getAttribute("src")),
  });
  frame.remove();
}
function scrolls(element, article, style) {
  for (let e = element.parentElement; e && e !== article; e = e.parentElement) {
    if (["auto", "scroll", "hidden"].includes(style(e).overflowX)) return true;
  }
  return false;
}
(async () => {
  for (const page of pages)
    for (const width of [390, 1280])
      for (const theme of ["light", "dark"]) await measure(page, width, theme);
  document.getElementById("report").textContent = JSON.stringify(report);
})();
</script></body></html>
"""


@pytest.fixture(scope="session")
def chromium():
    for name in ("chromium", "google-chrome", "chromium-browser"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium: none of chromium, google-chrome, chromium-browser is installed")


def _run(chromium, profile, *arguments):
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    command += arguments
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


@pytest.fixture(scope="session")
def report(chromium, book, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    probe = folder / "probe.html"
    probe.write_text(PROBE % json.dumps([path.as_uri() for path in book]), encoding="utf-8")
    options = ["--allow-file-access-from-files", "--virtual-time-budget=120000", "--dump-dom"]
    dom = _run(chromium, folder / "profile", *options, probe.as_uri())
    written = dom.partition('<pre id="report">')[2].partition("</pre>")[0]
    assert written, "the browser measured nothing"
    measured = json.loads(html_module.unescape(written))
    assert len(measured) == 4 * len(book)
    return measured


def _where(entries, key):
    return [(Path(e["page"]).name, e["width"], e["theme"], e[key]) for e in entries]


def test_nothing_runs_off_the_page_and_every_image_is_drawn(report):
    assert _where([e for e in report if e["overflow"] > 0 or e["wide"]], "wide") == []
    assert _where([e for e in report if e["unseen"]], "unseen") == []


def test_themes_differ_and_are_legible(report):
    for entry in report:
        dark = entry["theme"] == "dark"
        assert (entry["background"] < 0.2) == dark, entry
        assert abs(entry["text"] - entry["background"]) > 0.5, entry
        assert entry["font"] >= 14, entry


def test_figures_have_no_light_box_in_the_dark(report):
    assert _where([e for e in report if e["theme"] == "dark" and e["boxed"]], "boxed") == []


def test_the_first_page_can_be_photographed(chromium, html, tmp_path):
    shot = tmp_path / "home.png"
    options = ["--window-size=1280,900", "--virtual-time-budget=10000", f"--screenshot={shot}"]
    _run(chromium, tmp_path / "profile", *options, (html / "index.html").as_uri())
    with Image.open(shot) as image:
        assert image.size == (1280, 900)
        assert len(image.convert("L").getcolors(256) or ()) > 50, "the page is blank"
