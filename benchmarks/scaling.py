"""What a second worker is worth: the same evaluation by one process, one worker and two.

    python benchmarks/scaling.py [--images 32] [--shard-size 4] [--workers 1 2]

ResNet-18 at 160 px, untrained (its speed is that of a trained one), Grad-CAM++, Felzenszwalb, both
tests with ten random layouts. Every process computes on one thread and starts from an empty cache;
a few other images warm it up. Start-up, warm-up included, is given apart, and speed-ups with and
without it. Meaningful on an idle machine with at least as many cores as workers; the load found
is printed beside each figure.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

import cv2
import pandas as pd
import torch

from geolib import data, model, pipeline
from geolib.pipeline import cluster

SIZE = 160


def measure(workers: int | None, options: argparse.Namespace) -> tuple[float, float, bytes]:
    """Seconds of start-up and of the evaluation, and the table's bytes."""
    classifier = model.load(
        "resnet18", weights="random", classes=data.COUNTRIES, image_size=SIZE
    ).to(memory_format=torch.channels_last)
    config = pipeline.EvaluationConfig(shard_size=options.shard_size, individual=False)
    images = data.load("geoscenes", "eval", options.images, size=SIZE)
    others = data.load("geoscenes", "test", options.shard_size * 2 * (workers or 1), size=SIZE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GEOLIB_CACHE"] = folder
        started = time.perf_counter()
        with cluster.connect(workers) as client:
            pipeline.evaluate(others, classifier, config, client=client, progress=False)
            ready = time.perf_counter()
            table = pipeline.evaluate(images, classifier, config, client=client, progress=False)
            done = time.perf_counter()
    return ready - started, done - ready, table.to_parquet(index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--shard-size", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)

    rows, tables = [], []
    for workers in (None, *options.workers):
        load = os.getloadavg()[0]
        start, seconds, table = measure(workers, options)
        tables.append(table)
        name = "serial" if workers is None else f"{workers} worker{'s' * (workers > 1)}"
        rows.append({"run": name, "load": load, "start-up s": start, "evaluation s": seconds})
    found = pd.DataFrame(rows).set_index("run")
    one = found.iloc[1]
    total = found["start-up s"] + found["evaluation s"]
    found["speed-up"] = one["evaluation s"] / found["evaluation s"]
    found["with start-up"] = (one["start-up s"] + one["evaluation s"]) / total
    print(f"{options.images} images in shards of {options.shard_size}, {os.cpu_count()} cores")
    print(f"speed-ups against {found.index[1]}")
    print(found.round(2).to_string())
    print("tables identical to the byte:", len(set(tables)) == 1)


if __name__ == "__main__":
    main()
