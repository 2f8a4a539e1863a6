"""Every figure of the book, in one style.

Each function takes arrays or tables and returns a matplotlib figure. Backgrounds are transparent
and text is mid-slate, so a figure reads on a light page and on a dark one.
"""

from __future__ import annotations

import logging
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from typing import Any, ParamSpec

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.text import Text

P = ParamSpec("P")
_log = logging.getLogger(__name__)

INK = "#728090"
GUIDED = "#d1495b"
RANDOM = "#3a86b7"
ACCENT = "#e0a030"
WIDTH = 7.0
OUTLINE_SIDE = 480
PLAIN = "normal", 400
FONT, LAST_RESORT = "DejaVu Sans", "Last Resort High-Efficiency"
CLASS_COLOURS = ("#4878cf", "#e08214", "#c2407e", "#3a9a6b", "#8c6bb1", "#a6761d", "#5ab4ac")

_INKED = ("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "grid.color", "text.color")
_EMPTY = ("axes.facecolor", "figure.facecolor", "savefig.facecolor")
_SIZES = {"axes.titlesize": 11, "figure.dpi": 144, "font.size": 10.5, "grid.alpha": 0.3}
STYLE: Any = {
    **dict.fromkeys((*_INKED, "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(_EMPTY, "none"),
    **dict.fromkeys(("axes.grid", "axes.spines.right", "axes.spines.top", "legend.frameon"), False),
    **_SIZES,
    "figure.constrained_layout.use": True,
    "font.family": FONT,
    "text.parse_math": False,  # a country may be called A$B$C
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the book's style, and leave the caller's settings and open figures alone.

    Text is drawn as it stands, without mathematics. What DejaVu Sans lacks comes from the first
    installed font that has it; where none has, a box shows the script, and the log says so once.
    """

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # which are yet to be found
            figure = draw(*args, **kwargs)
            _find_glyphs(figure)
        plt.close(figure)
        return figure

    return wrapper


def _find_glyphs(figure: Figure) -> None:
    """Let each text of a figure fall back on the fonts that have what it needs."""
    for axis in figure.findobj(Axis):
        axis.get_ticklabels()  # which writes them
    for text in figure.findobj(Text):
        needed = set(filter(str.isprintable, text.get_text()))
        if missing := frozenset(map(ord, needed)) - _glyphs(FONT):
            text.set_fontfamily([FONT, *_fallbacks(missing)])


@cache
def _fallbacks(missing: frozenset[int]) -> list[str]:
    """Installed fonts that have the characters, as few as it takes in their alphabet's order."""
    names = {font.name for font in fontManager.ttflist if (font.style, font.weight) == PLAIN}
    found = []
    for name in sorted(names - {FONT, LAST_RESORT}):
        if had := missing & _glyphs(name):
            found.append(name)
            missing -= had
    if missing:
        shown = "".join(map(chr, sorted(missing)))
        _log.warning("no installed font has %s: boxes stand in figures for these characters", shown)
    return [*found, *names & {LAST_RESORT}]


@cache
def _glyphs(font: str) -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=[font]))).get_charmap())


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """Colour of each class, the same in every figure."""
    return {name: CLASS_COLOURS[i % len(CLASS_COLOURS)] for i, name in enumerate(classes)}


def overlay(image: Any, attribution: Any) -> np.ndarray:
    """A map ``[H, W]`` in 0..1 over a grey, dimmed photograph, brighter where it matters more.

    The image is any that :func:`as_image` takes; returned is float ``[H, W, 3]`` in 0..1.
    """
    grey = 0.15 + 0.6 * as_image(image).mean(-1, keepdims=True)
    attribution = np.asarray(attribution)
    # A square root, so that maps whose weight sits on a few pixels can be seen at all.
    weight = np.sqrt(attribution)[..., None]
    colour = plt.get_cmap("inferno")(0.25 + 0.7 * attribution)[..., :3]
    return np.clip(grey * (1 - 0.85 * weight) + colour * 0.85 * weight, 0, 1)


def outline(image: Any, masks: np.ndarray) -> np.ndarray:
    """Tint each mask of bool ``[N, H, W]`` with a colour of its own and draw its border.

    Larger ones are drawn first, so nested details stay visible. Returned is float ``[s·H, s·W, 3]``
    in 0..1, enlarged by a whole number s so that borders stay thin.
    """
    import seaborn as sns  # takes a second, which not every page needs

    picture = as_image(image)
    scale = max(1, round(OUTLINE_SIDE / picture.shape[0]))
    canvas = _enlarge(picture.astype(np.float32), scale)
    palette = np.array(sns.color_palette("husl", max(len(masks), 1)))
    palette = np.random.default_rng(0).permutation(palette)
    order = np.argsort(-masks.reshape(len(masks), -1).sum(1), kind="stable")
    for colour, index in zip(palette, order, strict=False):
        mask = _enlarge(masks[index].astype(np.uint8), scale)
        inside = mask.astype(bool)
        canvas[inside] = 0.78 * canvas[inside] + 0.22 * colour
        border = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((2, 2)))
        canvas[border.astype(bool)] = colour
    return np.clip(canvas, 0, 1)


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)


def as_image(image: Any) -> np.ndarray:
    """Any image of the package (tensor ``[3, H, W]`` or uint8 array) as float ``[H, W, 3]``."""
    if hasattr(image, "permute"):
        return image.permute(1, 2, 0).float().cpu().numpy()
    return np.asarray(image, np.float32) / 255 if image.dtype == np.uint8 else np.asarray(image)


def images(
    pictures: Sequence[Any],
    titles: Sequence[str] | None = None,
    *,
    columns: int = 6,
    title_colours: Sequence[str] | None = None,
) -> Figure:
    """Contact sheet of images, in reading order, each with its title and the title's colour."""

    def lines(values: Sequence[Any]) -> list[Sequence[Any]]:
        return [values[i : i + columns] for i in range(0, max(1, len(pictures)), columns)]

    names = lines(titles) if titles else None
    colours = lines(title_colours or [INK] * len(pictures))
    return image_table(lines(pictures), [""] * columns, titles=names, title_colours=colours)


@styled
def image_table(
    pictures: Sequence[Sequence[Any]],
    columns: Sequence[str],
    rows: Sequence[str] | None = None,
    titles: Sequence[Sequence[str]] | None = None,
    title_colours: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Images in a table with a heading per column, or titles per image, and perhaps per row.

    Lines may be shorter than the table is wide.
    """
    header = 0.25 if titles else 0.04
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    shape = len(pictures), len(columns)
    size = (WIDTH, shape[0] * (WIDTH / shape[1] + header) + (0.3 if any(columns) else 0.1))
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout=layout)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for r, line in enumerate(pictures):
        for c, picture in enumerate(line):
            axes[r, c].imshow(as_image(picture), interpolation="lanczos")
            if titles:
                colour = title_colours[r][c] if title_colours else INK
                axes[r, c].set_title(titles[r][c], fontsize=9.5, color=colour, pad=3)
        if rows is not None:
            axes[r, 0].set_ylabel(rows[r], fontsize=10)
    longest = max(map(len, columns), default=0) or 1
    size_of_heading = min(10, 105 * WIDTH / (len(columns) * longest))  # none reaches the next one
    for axis, heading in zip(axes[0], columns, strict=True) if not titles else ():
        axis.set_title(heading, fontsize=size_of_heading)
    return figure


@styled
def heatmap(
    table: pd.DataFrame, *, label: str, percent: bool = True, text: pd.DataFrame | None = None
) -> Figure:
    """Table of shares as annotated cells, or of correlations, coloured evenly about zero.

    ``text`` stands in the cells in place of the values; names of index and columns name the axes.
    """
    import seaborn as sns

    figure, axis = plt.subplots(figsize=(WIDTH, 0.34 * len(table) + 0.9))
    farthest = 1 if percent else table.abs().max().max()
    scale: Any = {"cmap": "crest" if percent else "vlag", "vmax": farthest}
    scale["vmin"] = 0 if percent else -farthest
    look: Any = {"linewidths": 1.5, "linecolor": "none", "annot_kws": {"fontsize": 9.5}}
    form = "d" if text is not None else ".0%" if percent else ".2f"
    shown: Any = {"annot": True if text is None else text, "fmt": form}
    sns.heatmap(table, ax=axis, cbar_kws={"label": label}, **shown, **scale, **look)
    axis.set(xlabel=table.columns.name or "", ylabel=table.index.name or "")
    axis.tick_params(length=0)
    axis.tick_params(axis="y", rotation=0)
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    if max(len(str(name)) for name in table.columns) * len(table.columns) > 48:
        axis.tick_params(axis="x", rotation=30)
        plt.setp(axis.get_xticklabels(), ha="left", rotation_mode="anchor")
    return figure


def draw_boxes(axis: Axes, boxes: np.ndarray, colour: str, labels: Sequence[str] = ()) -> None:
    """Draw end-exclusive boxes ``x0 y0 x1 y1`` on an image axis, with optional labels."""
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        corner, size = (x0 - 0.5, y0 - 0.5), (x1 - x0, y1 - y0)
        axis.add_patch(Rectangle(corner, *size, fill=False, ec="white", lw=2.6))
        axis.add_patch(Rectangle(corner, *size, fill=False, ec=colour, lw=1.5))
        if i < len(labels):
            patch = {"facecolor": colour, "edgecolor": "none", "pad": 1}
            place = x0 + 1, y0 + 1
            axis.text(*place, labels[i], va="top", fontsize=9, color="white", bbox=patch)


@styled
def explanation(
    image: Any,
    attribution: np.ndarray,
    boxes: np.ndarray,
    effects: Sequence[float],
    probabilities: Mapping[str, float],
    note: str = "",
    n_elements: int | None = None,
) -> Figure:
    """One photograph explained: map, ranked elements, each element's own effect.

    ``n_elements`` is how many there are, if not all of them are shown.
    """
    picture = as_image(image)
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH * 1.25, 3.4), width_ratios=(1, 1, 0.9))
    for axis, shown in zip(axes, (overlay(picture, attribution), picture), strict=False):
        axis.imshow(shown, interpolation="lanczos")
        axis.axis("off")
    names = [str(i + 1) for i in range(len(boxes))]
    draw_boxes(axes[1], boxes, GUIDED, names)
    predicted = max(probabilities, key=lambda name: probabilities[name])
    axes[0].set_title(f"{predicted}, {probabilities[predicted]:.0%}", loc="left")
    of = "" if n_elements in (None, len(boxes)) else f" of {n_elements}"
    axes[1].set_title(f"{len(boxes)}{of} elements", loc="left")
    places = np.arange(len(effects))[::-1]
    axes[2].barh(places, effects, color=[GUIDED if e > 0 else RANDOM for e in effects], height=0.7)
    axes[2].axvline(0, color=INK, lw=1)
    axes[2].set_yticks(places, names)
    axes[2].set(xlabel="log-probability lost without it", ylabel="element")
    axes[2].grid(axis="x")
    if note:
        figure.supxlabel(textwrap.fill(note, 110), fontsize=9.5, color=ACCENT)
    return figure


@styled
def distributions(table: pd.DataFrame, *, value: str, by: str, label: str) -> Figure:
    """Distribution of a quantity per group: box and points."""
    import seaborn as sns

    figure, axis = plt.subplots(figsize=(WIDTH, 0.5 * table[by].nunique() + 1.0))
    which: Any = {"data": table, "x": value, "y": by, "ax": axis}
    faint = {"alpha": 0.45}
    sns.boxplot(**which, color=to_rgb(RANDOM), fliersize=0, linecolor=INK, boxprops=faint)
    sns.stripplot(**which, color=INK, size=2.5, alpha=0.5, jitter=0.25)
    axis.set(xlabel=label, ylabel="")
    axis.grid(axis="x")
    return figure


@styled
def trends(
    panels: Mapping[str, pd.DataFrame],
    *,
    x: str,
    by: str,
    label: str,
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """How measures change along a few steps, with intervals: a panel per measure, a line per name.

    ``panels`` are tables by their headings, with columns ``x`` (steps, drawn evenly in their order;
    ``label`` names them), ``by`` (names of lines), ``value``, perhaps ``low`` and ``high``;
    ``references`` are names and values of horizontal lines by heading.
    """
    names = list(dict.fromkeys(name for table in panels.values() for name in table[by]))
    colours = class_colours(names)
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 3.6), squeeze=False)
    for axis, (title, table) in zip(axes.flat, panels.items(), strict=True):
        steps = list(dict.fromkeys(table[x]))
        for name, rows in table.groupby(by, sort=False):
            places, colour = rows[x].map(steps.index), colours[str(name)]
            axis.plot(places, rows["value"], "o-", color=colour, lw=2, ms=5, label=name)
            if "low" in rows:
                axis.fill_between(places, rows["low"], rows["high"], color=colour, alpha=0.15, lw=0)
        lines = (references or {}).get(title, {})
        for dash, (name, value) in zip(("--", ":", "-."), lines.items(), strict=False):
            axis.axhline(value, color=INK, ls=dash, lw=1.5, label=name)
        axis.set_xticks(range(len(steps)), steps)
        if max(len(str(step)) for step in steps) > 5:
            axis.tick_params(axis="x", rotation=40)
            plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
        axis.set(title=title, xlabel=label)
        axis.grid(axis="y")
    _legend(figure)
    return figure


@styled
def dots(
    table: pd.DataFrame,
    rows: str,
    *,
    label: str,
    by: str | None = None,
    panels: str | None = None,
    colours: Mapping[str, str] | None = None,
    lines: Mapping[str, float] | None = None,
    marks: Mapping[str, str] | None = None,
    limits: tuple[float | None, float | None] = (None, None),
    form: str = "",
) -> Figure:
    """Values with their intervals as dots in rows, coloured by group, in one or more panels.

    Rows, groups and panels stand in the table's order, the first row on top; a panel whose order
    differs from the others' has names of its own.

    Parameters
    ----------
    table : columns ``rows``, ``value``, ``low``, ``high``, and those named below.
    rows, by, panels : columns of the rows, of the groups (legend) and of the panels (titles).
    label : name of the quantity.
    colours : colour of each group, in place of the palette's.
    lines : name and value of vertical lines: dashed, or solid and unnamed where the name is empty.
    marks : columns of further values, drawn as hollow diamonds, and their names in the legend.
    limits : range of the axes; None is left to the data.
    form : format of the value that is written above each dot; empty writes none.
    """
    table = table.reset_index(drop=True)
    of_group = table[by] if by else pd.Series("_", table.index)
    of_panel = table[panels] if panels else pd.Series("", table.index)
    groups, shown = of_group.unique(), dict(list(table.groupby(of_panel, sort=False)))
    orders = [list(part[rows].unique()) for part in shown.values()]
    crowd = max(part[rows].value_counts().max() for part in shown.values())
    height = 0.17 * max(map(len, orders)) * (crowd + 1 + bool(form)) + 1.1 + 0.1 * len(groups)
    figure, axes = plt.subplots(1, len(shown), figsize=(WIDTH, height), squeeze=False)
    palette = dict(zip(groups, (GUIDED, RANDOM, ACCENT, INK, *CLASS_COLOURS), strict=False))
    palette.update(colours or {})
    for axis, (title, part), order in zip(axes.flat, shown.items(), orders, strict=True):
        same_row = part.groupby(rows, sort=False)
        shift = same_row.cumcount() - (same_row[rows].transform("size") - 1) / 2
        places = part[rows].map(order.index) + shift * 0.75 / crowd
        for group, chosen in part.groupby(of_group, sort=False):
            here, colour = places[chosen.index], palette[group]
            axis.hlines(here, chosen["low"], chosen["high"], color=colour, lw=3, alpha=0.5)
            axis.plot(chosen["value"], here, "o", color=colour, ms=6.5, label=group)
        for column, name in (marks or {}).items():
            axis.plot(part[column], places, "D", mfc="none", mec=INK, ms=7, mew=1.6, label=name)
        for name, value in (lines or {}).items():
            style: Any = {"color": ACCENT, "ls": "--"} if name else {"color": INK, "lw": 1}
            axis.axvline(value, **style, label=name or "_", zorder=0)
        for place, value in zip(places, part["value"], strict=True) if form else ():
            above: Any = {"textcoords": "offset points", "ha": "center", "fontsize": 9.5}
            axis.annotate(f"{value:{form}}", (value, place), (0, 7), **above)
        axis.set(yticks=range(len(order)), yticklabels=order, xlabel=label, xlim=limits)
        axis.set(ylim=(len(order) - 0.5, -0.6), title=title)
        axis.grid(axis="x")
    if all(order == orders[0] for order in orders):
        for axis in axes.flat[1:]:
            axis.set_yticklabels([])
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    """One legend below all panels, each name once; none without names."""
    found: dict[str, Any] = {}
    for line in (line for axis in figure.axes for line in axis.lines):
        name = str(line.get_label())
        if name != "_" and not name.startswith("_child"):  # others may begin with it
            found[name] = line
    if found:
        figure.legend(found.values(), found, loc="outside lower center", ncols=3, fontsize=9.5)
