"""The page on which people answer: a folder that works from a disk and sends nothing."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
from babel import Locale
from matplotlib.figure import Figure
from PIL import Image

from geolib import figures
from geolib.chapters.people import material
from geolib.chapters.people.material import CANNOT_TELL, CONDITIONS, OTHER, THINGS, Material
from geolib.chapters.people.responses import COLUMNS, PERSON
from geolib.runtime.here import data_file


def views(study: Material, n_scenes: int) -> Figure:
    """Some scenes in the three ways in which people may see them, with the box asked about."""
    known = zip(study.key.items, study.pictures, strict=True)
    by_view = {(item.scene, item.condition): (item, picture) for item, picture in known}
    scenes = range(min(n_scenes, len(by_view) // len(CONDITIONS)))
    rows = [[by_view[scene, way] for way in CONDITIONS] for scene in scenes]
    pictures = [[picture for _, picture in row] for row in rows]
    figure = figures.image_table(pictures, CONDITIONS, [row[0][0].country for row in rows])
    for axis, (item, _) in zip(figure.axes, chain.from_iterable(rows), strict=False):
        figures.draw_boxes(axis, np.array([item.frame] if item.frame else []), figures.ACCENT)
    return figure


def write(folder: str | Path, study: Material, contact: str | None = None) -> Path:
    """Write a study to a new folder: ``page/``, which people are given, and ``key.json``, which
    they are not. ``contact`` says who runs the study. Gives ``page/index.html``."""
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"folder={str(folder)!r} is not empty; a study needs a folder of its own")
    key, page = study.key, target / "page"
    page.mkdir(parents=True)
    for item, picture in zip(key.items, study.pictures, strict=True):
        Image.fromarray(picture).save(page / item.picture)
    names = Locale("en").territories
    # What the page knows: nothing from which an answer could be marked.
    asked = {"item", "condition", "picture", "frame", "credit"}
    told = {
        **key.model_dump(include={"id", "size", "drawn", "schedule"}),
        "classes": [[name, names.get(name, name)] for name in key.classes],
        "things": list(THINGS),
        "cannot_tell": CANNOT_TELL,
        "other": OTHER,
        "columns": list(COLUMNS),
        "source": PERSON,
        "contact": contact,
        "items": [item.model_dump(include=asked) for item in key.items],
    }
    text = json.dumps(told, indent=1)
    (page / "items.json").write_text(text, encoding="utf-8")
    template = data_file("human-study.html").read_text(encoding="utf-8")
    # A "<" could end the script that holds the data.
    html = template.replace("__STUDY__", text.replace("<", "\\u003c"))
    (page / "index.html").write_text(html, encoding="utf-8")
    (target / material.KEY).write_text(key.model_dump_json(indent=1), encoding="utf-8")
    return page / "index.html"
