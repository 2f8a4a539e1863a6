"""Time and number of segments of the segmenters that need no weights.

    python benchmarks/segmentation.py FOLDER            every photograph, at 160 and 224 pixels
    python benchmarks/segmentation.py FOLDER --size 320 --overlays OUT

FOLDER holds .jpg files. With --overlays, one picture per photograph is written to OUT: a row per
segmenter, a column per range of segment areas, as one would check by eye whether segments look
like objects.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from geolib import images, segmentation
from geolib.data.pixels import resize

SEGMENTERS = ("felzenszwalb", "slic", "grid")
AREAS = (0, 0.003, 0.01, 0.03, 0.1, 1)


def read(path: Path, size: int) -> np.ndarray:
    return resize(images.read(path), size)


def overlay(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The image, then one darkened copy per range of areas with its segments in colour."""
    colours = np.random.default_rng(0).uniform(60, 255, (len(masks), 3))
    areas = masks.mean(axis=(1, 2))
    panels = [image]
    for low, high in pairwise(AREAS):
        panel = 0.45 * image
        for i in np.flatnonzero((areas > low) & (areas <= high)):
            panel[masks[i]] = 0.4 * panel[masks[i]] + 0.6 * colours[i]
        panels.append(panel.astype(np.uint8))
    return np.hstack(panels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, nargs="+", default=[160, 224])
    parser.add_argument("--overlays", type=Path)
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.jpg"))
    print(f"{len(paths)} photographs; milliseconds per image (median), segments per image")
    for size in arguments.size:
        images = [read(path, size) for path in paths]
        rows: list[list[np.ndarray]] = [[] for _ in images]
        for name in SEGMENTERS:
            segment = segmentation.load(name)
            seconds, counts = [], []
            for image, row in zip(images, rows, strict=True):
                start = time.perf_counter()
                masks = segment(image).masks
                seconds.append(time.perf_counter() - start)
                counts.append(len(masks))
                if arguments.overlays:
                    row.append(overlay(image, masks))
            print(
                f"{size:5d} px  {name:13s} {1e3 * np.median(seconds):6.1f} ms  "
                f"mean {np.mean(counts):5.1f}  min {min(counts):3d}  max {max(counts):3d}"
            )
        if arguments.overlays:
            arguments.overlays.mkdir(parents=True, exist_ok=True)
            for path, row in zip(paths, rows, strict=True):
                Image.fromarray(np.vstack(row)).save(arguments.overlays / f"{path.stem}-{size}.png")


if __name__ == "__main__":
    main()
