"""Each check of the built pages finds its fault, and nothing in a sound page."""

import pytest
from html_checks import CHECKS, Page, pages

SOUND = """
<html><head><script src="_static/a.js"></script></head><body><article><h1 id="top">Title</h1>
<p>Accuracy <span class="result">0.91</span>; NaN weights are refused. None of them is used.</p>
<img src="figure.png" alt="Advantage per method"><a href="#top">up</a><a href="two.html#there">2</a>
<a href="https://example.org/x">away</a>
<div class="cell_output"><table><tr><td>France</td><td>0.3</td></tr></table>
<pre>n = 3, segmenter none</pre></div>
</article></body></html>
"""


@pytest.fixture
def page(tmp_path):
    def write(html):
        (tmp_path / "figure.png").write_bytes(b"x")
        (tmp_path / "empty.png").write_bytes(b"")
        (tmp_path / "two.html").write_text('<h1 id="there">Two</h1>')
        (tmp_path / "one.html").write_text(html)
        return Page(tmp_path / "one.html", tmp_path)

    return write


def _problems(check, page):
    return CHECKS[check](page, {p.path: p for p in pages(page.root)})


@pytest.mark.parametrize("check", CHECKS)
def test_a_sound_page_has_no_problem(check, page):
    assert _problems(check, page(SOUND)) == []


@pytest.mark.parametrize(
    ("check", "sound", "broken"),
    [
        ("images", 'src="figure.png"', 'src="gone.png"'),
        ("images", 'src="figure.png"', 'src="empty.png"'),
        ("images", 'src="figure.png"', 'src="https://example.org/figure.png"'),
        ("images", 'src="figure.png"', 'src=""'),
        ("alt", 'alt="Advantage per method"', ""),
        ("alt", 'alt="Advantage per method"', 'alt=""'),
        ("alt", "Advantage per method", "../_images/9178c4cf6aeadcf1d97e.png"),
        ("alt", "Advantage per method", "figure 9178c4cf6aeadcf1d97e"),
        ("alt", "Advantage per method", "the file figure.png"),
        ("numbers", ">0.91<", "><"),
        ("numbers", ">0.91<", ">?<"),
        ("numbers", ">0.91<", ">nan<"),
        ("numbers", ">0.91<", ">nan %<"),
        ("numbers", "<td>0.3</td>", "<td>NaN</td>"),
        ("numbers", "n = 3", "mean nan"),
        ("numbers", ">0.91<", ">None<"),
        ("links", 'href="#top"', 'href="#bottom"'),
        ("links", "two.html#there", "two.html#here"),
        ("links", "two.html#there", "three.html"),
        ("tracebacks", "n = 3", "Traceback (most recent call last): ..."),
        ("tracebacks", "<pre>", '<pre class="traceback">'),
        ("bars", "<p>Accuracy", "<p>| photograph | elements |</p><p>Accuracy"),
        ("network", "_static/a.js", "https://example.org/a.js"),
        ("network", "<head>", '<head><link rel="stylesheet" href="//example.org/a.css">'),
    ],
)
def test_a_broken_page_is_found(check, sound, broken, page):
    assert sound in SOUND
    assert len(_problems(check, page(SOUND.replace(sound, broken)))) == 1


def test_generated_pages_are_left_out(page):
    root = page(SOUND).root
    (root / "genindex.html").write_text("<html>")
    assert [p.name for p in pages(root)] == ["one.html", "two.html"]
