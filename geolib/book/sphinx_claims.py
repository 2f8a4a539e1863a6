"""The ledger of claims on the pages of the book, for :mod:`geolib.book.sphinx_results`.

``{claims} summary`` shows how many claims of each paper have which verdict, ``{claims} PAPER`` the
claims of one, which is named by its key in the bibliography. Both read what the run wrote, so a
page has no verdict of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from geolib.book.sphinx_results import load, look_up, table

CLAIMS = "claims.json"
SIGNS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?", "not testable here": "–"}
Row = Mapping[str, Any]


class Claims(SphinxDirective):
    """``summary``, or the claims of one paper as a table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        rows = load(self.env, CLAIMS)["claims"]
        if self.arguments[0] == "summary":
            up = "../" * self.env.docname.count("/")
            link = nodes.reference("", "", nodes.literal("", CLAIMS), refuri=f"{up}{CLAIMS}")
            text = nodes.paragraph("", "", nodes.Text("For other programs: "), link)
            return [nodes.raw("", summary(rows), format="html"), text]
        papers: dict[str, list[nodes.row]] = {}
        for row in rows:
            papers.setdefault(row["paper"], []).append(self._row(row))
        chosen = look_up(self, "paper", papers)
        heads = ("What the paper says", "What was measured", "Verdict")
        header = nodes.row("", *(_entry(nodes.paragraph("", head)) for head in heads))
        return [] if chosen is None else [table(header, chosen, classes=["claims"])]

    def _row(self, row: Row) -> nodes.row:
        said = [nodes.paragraph("", row["claim"]), _note(row["place"])]
        if row["printed"]:
            said.append(_note(f"Printed there: {row['printed']}"))
        measured = [_note(f"{row['measure']}; agrees if {row['rule']}")]
        if row["value"] is not None:
            ends = [row[name] for name in ("value", "low", "high")]
            value, low, high = _numbers(*ends)
            interval = nodes.Text(f" ({low} to {high}) {row['unit']}")
            measured.insert(0, nodes.paragraph("", "", nodes.strong("", value), interval))
            if row["detectable"] is not None:
                least = _numbers(row["detectable"], *ends)[0]
                measured.append(_note(f"A true difference of {least} would have been shown"))
            measured.append(_note(f"{row['data']}, in ", self._chapter(row["chapter"])))
        status = _status(row["verdict"])
        badge = nodes.inline(
            "", f"{SIGNS[status]} {row['verdict']}", classes=["claim-badge", _slug(status)]
        )
        decided = [nodes.paragraph("", "", badge)]
        if status == "not testable here":
            needs = f"Needs {row['needs']}" if row["needs"] else "Not measured in this run"
            decided.append(_note(needs))
        entries = (_entry(*said), _entry(*measured), _entry(*decided))
        return nodes.row("", *entries, ids=[f"claim-{row['name']}"])

    def _chapter(self, name: str) -> nodes.Node:
        link = {"refdomain": "std", "reftype": "doc", "refexplicit": True, "refwarn": True}
        where = {"reftarget": f"/notebooks/{name}", "refdoc": self.env.docname}
        return addnodes.pending_xref("", nodes.inline("", name), **link, **where)


def summary(rows: Sequence[Row]) -> str:
    """How many claims have which verdict, in all and by paper, as HTML."""
    # Rows come sorted by status within a paper; verdicts are shown in the order of the statuses.
    verdicts = sorted({row["verdict"] for row in rows})
    kinds = [(status, v) for status in SIGNS for v in verdicts if _status(v) == status]
    total = Counter(row["verdict"] for row in rows)
    legend = "".join(
        f'<span class="claim-badge {_slug(status)}">{total[verdict]} {escape(verdict)}</span> '
        for status, verdict in kinds
    )
    bars = []
    for paper in dict.fromkeys(row["paper"] for row in rows):
        found = Counter(row["verdict"] for row in rows if row["paper"] == paper)
        parts = [(status, verdict, found[verdict]) for status, verdict in kinds if found[verdict]]
        words = escape(", ".join(f"{count} {verdict}" for _, verdict, count in parts), quote=True)
        pieces = "".join(
            f'<span class="{_slug(s)}" style="flex-grow: {count}">{SIGNS[s]} {count}</span>'
            for s, _, count in parts
        )
        bars.append(
            f'<div class="claims-paper">{escape(_authors(paper))}</div>'
            f'<div class="claims-bar" role="img" aria-label="{words}">{pieces}</div>'
        )
    return f'<div class="claims-summary"><p>{legend}</p>{"".join(bars)}</div>'


def _status(verdict: str) -> str:
    """The verdict without its data."""
    return verdict.partition(" on ")[0]


def _authors(key: str) -> str:
    """Name for a paper: its key begins with the first author and the year."""
    match = re.match(r"([a-z]+)(\d{4})", key)
    return f"{match[1].title()} et al. ({match[2]})" if match else key


def _numbers(*values: float) -> list[str]:
    """Numbers with as many decimals as the largest needs for three digits."""
    size = max(map(abs, values))
    decimals = 3 if size < 1 else 2 if size < 10 else 1
    rounded = (round(value, decimals) + 0.0 for value in values)  # no minus before a zero
    return [f"{value:.{decimals}f}".replace("-", "−") for value in rounded]


def _entry(*content: nodes.Node) -> nodes.entry:
    return nodes.entry("", *content)


def _note(text: str, *more: nodes.Node) -> nodes.paragraph:
    return nodes.paragraph("", "", nodes.Text(text), *more, classes=["claim-note"])


def _slug(status: str) -> str:
    return "claim-" + status.replace(" ", "-")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("claims", Claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
