"""Outcomes, maps and elements of a dataset in open formats."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from geolib import data
from geolib.model import Classifier
from geolib.pipeline import shards
from geolib.pipeline.evaluate import elements, evaluate
from geolib.pipeline.shards import EvaluationConfig


def export(
    folder: str | Path,
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None = None,
) -> list[Path]:
    """Write outcomes, maps and elements of a dataset in open formats.

    ``folder`` receives ``outcomes.parquet``, ``elements.parquet``, ``maps.parquet`` (a row per
    image, the map as bytes of ``side`` × ``side`` float32 values) and ``elements.coco.json``, whose
    paths are returned; other arguments and errors are those of :func:`evaluate`.
    """
    config = config or EvaluationConfig()
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    table = elements(dataset, classifier, config, progress=False)
    evaluate(dataset, classifier, config, progress=False).to_parquet(target / "outcomes.parquet")
    table.to_parquet(target / "elements.parquet")
    _maps_table(dataset, classifier, config).to_parquet(target / "maps.parquet")
    coco = _coco(dataset.ids, table, classifier.image_size)
    (target / "elements.coco.json").write_text(json.dumps(coco), encoding="utf-8")
    return sorted(target.iterdir())


def _maps_table(
    dataset: data.GeoDataset, classifier: Classifier, config: EvaluationConfig
) -> pd.DataFrame:
    rows = []
    for shard in shards.shards(dataset, classifier, config.shard_size):
        maps = shards.attribution_maps(shard, classifier, config)
        for item, one in zip(shard.items, maps, strict=True):
            rows.append({"image_id": item.id, "side": len(one), "map": one.numpy().tobytes()})
    return pd.DataFrame(rows, columns=["image_id", "side", "map"])


def _coco(ids: Iterable[str], table: pd.DataFrame, size: int) -> dict[str, Any]:
    number = {image_id: i for i, image_id in enumerate(ids, start=1)}
    square = {"width": size, "height": size}
    annotations = [
        {
            "id": i,
            "image_id": number[row["image_id"]],
            "category_id": 1,
            "bbox": [row["x0"], row["y0"], row["x1"] - row["x0"], row["y1"] - row["y0"]],
            "area": round(row["area"] * row["height"] * row["width"]),
            "segmentation": {"size": [row["height"], row["width"]], "counts": row["mask"]},
            "iscrowd": 0,
            "score": row["score"],
        }
        for i, row in enumerate(table.to_dict("records"), start=1)
    ]
    return {
        "images": [{"id": i, "file_name": name, **square} for name, i in number.items()],
        "categories": [{"id": 1, "name": "element"}],
        "annotations": annotations,
    }
