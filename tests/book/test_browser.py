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
  page_document.querySelectorAll("details").forEach((folded) => (folded.open = true));
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
    touching: [...article.querySelectorAll("tr")].flatMap((row) => touching(row, page_document)),
    cut: [...article.querySelectorAll("table")]
      .filter((table) => table.scrollWidth > table.clientWidth + 1)
      .map((table) => table.innerText.slice(0, 60)),
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
function touching(row, page_document) {
  const ends = [...row.cells].map((cell) => {
    const range = page_document.createRange();
    range.selectNodeContents(cell);
    return [range.getBoundingClientRect(), cell.innerText];
  }).filter(([box]) => box.width > 0);
  return ends.slice(1)
    .filter(([box], i) => box.top < ends[i][0].bottom && box.left < ends[i][0].right + 6)
    .map(([, text], i) => `${ends[i][1]} | ${text}`.slice(0, 60));
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


def _measured(chromium, folder, pages):
    probe = folder / "probe.html"
    probe.write_text(PROBE % json.dumps([path.as_uri() for path in pages]), encoding="utf-8")
    options = ["--allow-file-access-from-files", "--virtual-time-budget=120000", "--dump-dom"]
    dom = _run(chromium, folder / "profile", *options, probe.as_uri())
    written = dom.partition('<pre id="report">')[2].partition("</pre>")[0]
    assert written, "the browser measured nothing"
    measured = json.loads(html_module.unescape(written))
    assert len(measured) == 4 * len(pages)
    return measured


@pytest.fixture(scope="session")
def report(chromium, book, tmp_path_factory):
    return _measured(chromium, tmp_path_factory.mktemp("browser"), list(book))


def _where(entries, key):
    return [(Path(e["page"]).name, e["width"], e["theme"], e[key]) for e in entries]


def test_nothing_runs_off_the_page_and_every_image_is_drawn(report):
    assert _where([e for e in report if e["overflow"] > 0 or e["wide"]], "wide") == []
    assert _where([e for e in report if e["unseen"]], "unseen") == []


def test_columns_of_tables_keep_apart_and_a_table_is_cut_on_a_phone_only(report):
    assert _where([e for e in report if e["touching"]], "touching") == []
    assert _where([e for e in report if e["width"] > 400 and e["cut"]], "cut") == []


@pytest.mark.parametrize(("gap", "width", "wrong"), [(0, 5, "touching"), (9, 4000, "cut")])
def test_a_faulty_table_is_found(chromium, tmp_path, gap, width, wrong):
    cells = f'<td style="padding: 0 {gap}px; min-width: {width}px">0.78</td>' * 2
    style = "display: block; max-width: 100%; overflow-x: auto; border-spacing: 0"
    table = f'<table style="{style}"><tr>{cells}</tr></table>'
    page = tmp_path / "page.html"
    page.write_text(f"<body><article><h1>A</h1><p>b</p>{table}</article></body>")
    found = _measured(chromium, tmp_path, [page])
    assert [bool(e[wrong]) for e in found] == [True] * 4
    other = {"touching", "cut"} - {wrong}
    assert [e[name] for e in found for name in other] == [[]] * 4


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
