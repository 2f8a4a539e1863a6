"""Sphinx extension of the book: numbers, figures and tables that come from the run, never typed.

Roles: ``{result}`06-faithfulness.advantage:.2f``` quotes a recorded result in a Python format;
``{repository}`data/cues.yaml``` links to a file of the repository. Directives:
``{result-figure} NOTEBOOK.FIGURE`` shows a named figure of an executed notebook, and
``{run-table} notebooks|parameters|versions`` a table about the run; ``{claims}`` is that of
:mod:`geolib.book.sphinx_claims`. Whatever is missing is a warning, which the book's
build turns into an error.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.writers.html5 import HTML5Translator

RESULTS = "results.json"
_logger = logging.getLogger(__name__)


def load(env: BuildEnvironment, file: str = RESULTS) -> dict[str, Any]:
    """What the run wrote; the page being read is read again when it changes."""
    path = Path(env.srcdir) / file
    env.note_dependency(str(path))
    return json.loads(path.read_text(encoding="utf-8"))


def format_result(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Text of ``NOTEBOOK.KEY`` or ``NOTEBOOK.KEY:FORMAT``.

    ValueError if there is no such result (the message names a close one) or the format is wrong.
    """
    address, _, spec = text.partition(":")
    notebook, _, key = address.partition(".")
    known = [f"{name}.{k}" for name, values in results.items() for k in values]
    if address not in known:
        close = difflib.get_close_matches(address, known, n=3, cutoff=0.4)
        raise ValueError(f"no result {address!r}; close ones: {', '.join(close) or 'none'}")
    value = results[notebook][key]
    if isinstance(value, float) and not spec:
        spec = ".3g"
    try:
        return format(value, spec)
    except ValueError as error:
        raise ValueError(f"format {spec!r} does not fit {address} = {value!r}: {error}") from error


class ResultRole(SphinxRole):
    """``{result}`NOTEBOOK.KEY:FORMAT```."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            text = format_result(self.text, load(self.env)["results"])
        except ValueError as error:
            _logger.warning("%s", error, location=self.get_location())
            text = "?"
        return [nodes.inline(self.rawtext, text, classes=["result"])], []


class RepositoryRole(SphinxRole):
    """``{repository}`PATH```: a file or folder of the project."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        options = self.env.config.html_theme_options
        uri = f"{options['repository_url']}/blob/{options['repository_branch']}/{self.text}"
        return [nodes.reference("", "", nodes.literal("", self.text), refuri=uri)], []


class ResultFigure(SphinxDirective):
    """A named figure of an executed notebook; the content of the directive is its caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        shown = look_up(self, "figure", load(self.env)["figures"])
        if shown is None:
            return []
        figure = nodes.figure("", align="default")
        figure += nodes.image(uri=f"/{shown['path']}", alt=shown["alt"])
        caption = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, caption)
        if caption.children:
            figure += nodes.caption("", "", *caption.children[0].children)
            figure += nodes.legend("", *caption.children[1:]) if caption.children[1:] else []
        return [figure]


class RunTable(SphinxDirective):
    """``notebooks``, ``parameters`` or ``versions`` of the run, as a table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        shown = look_up(self, "table", load(self.env)["tables"])
        if shown is None:
            return []
        header, *rows = (_row(cells) for cells in shown)
        return [table(header, rows)]


def _row(cells: Sequence[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", cell)) for cell in cells))


def look_up(directive: SphinxDirective, kind: str, known: Mapping[str, Any]) -> Any:
    """What the argument of a directive names, or a warning that lists the known names, and None."""
    name = directive.arguments[0]
    if name not in known:
        message = f"no {kind} {name!r}; known ones: {', '.join(known) or 'none'}"
        _logger.warning("%s", message, location=directive.get_location())
    return known.get(name)


def table(header: nodes.row, rows: Iterable[nodes.row], **options: Any) -> nodes.table:
    """A table of rows under a header, whose columns are equally wide."""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=1) for _ in header]
    group += [nodes.thead("", header), nodes.tbody("", *rows)]
    return nodes.table("", group, **options)


def _mathml(node: nodes.Element, *, as_block: bool) -> str:
    """MathML of a formula, which browsers show without loading anything."""
    # Two things that TeX knows and the converter does not: \\frac12 is one half, and \\big( a size.
    tex = re.sub(r"(\\[dt]?frac)(\d)(\d)", r"\1{\2}{\3}", node.astext())
    tex = re.sub(r"\\([bB]igg?)(?![a-zA-Z])", r"\\\1l", tex)
    try:
        return tex2mathml(tex, as_block=as_block)
    except (MathError, SyntaxError) as error:
        _logger.warning("%s, in the formula %s", error, tex, location=node)
        return ""


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Formula inside a line."""
    self.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Formula on a line of its own, with its number where it has one."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(_mathml(node, as_block=True))
    if node["number"]:
        self.body.append(f'<span class="eqno">({node["number"]})</span>')
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_role("result", ResultRole())
    app.add_role("repository", RepositoryRole())
    app.add_directive("result-figure", ResultFigure)
    app.add_directive("run-table", RunTable)
    app.setup_extension("geolib.book.sphinx_claims")
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
