"""Semantic and S2 partitionings of real coordinates: classes, ceilings, time.

    python benchmarks/partitioning.py                      coordinates in ../shared/coordinates
    python benchmarks/partitioning.py --folder DIRECTORY   in another folder

The folder holds yfcc25600.csv, im2gps3k.csv and im2gps.csv with the columns latitude and longitude.
Partitionings are built on the first and asked about all three. The tables have the form of Table 1
of Theiner et al. (WACV 2022), for the paper's thresholds, which are meant for 4.7 million images,
and for a tenth of them. Below each row stand S2 cells of equal number: τ_min is half of the fine
one of SemP, as in the paper's comparison (50 and 100), and τ_max is chosen for the number of fine
classes.

"best" is the share of points with the coordinate of any cell within r km: no classifier can reach a
higher a_r. "faultless" is the share within r km of their own cell's coordinate: a classifier that
is always right about the cell reaches it, and points in no cell are misses.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from geolib.partitioning import (
    PAPER_PRESETS,
    RADII_KM,
    OfflineGeocoder,
    Partitioning,
    Preset,
    S2Partitioning,
    ceiling_table,
    matching_tau_max,
    semantic_partitionings,
)

FOLDER = Path(__file__).resolve().parents[1].parent / "shared" / "coordinates"
FILES = ("yfcc25600", "im2gps3k", "im2gps")
MP16 = 4_723_695  # images that the paper partitions (§4.1)
JITTER = 0.05  # degrees, about five kilometres


@contextmanager
def timed(what: str, points: int = 0) -> Iterator[None]:
    """Print wall and processor seconds, and from so many points those of MP-16."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    line = f"{what:40s} {wall:6.2f} s   {cpu:6.2f} s of processor"
    if points:
        each = cpu / points
        line += f"   {1e6 * each:5.1f} s per million   {MP16 * each:4.0f} s for MP-16"
    print(line, flush=True)


def read(folder: Path, name: str) -> np.ndarray:
    return pd.read_csv(folder / f"{name}.csv")[["latitude", "longitude"]].to_numpy()


def build(
    presets: Sequence[Preset], coordinates: np.ndarray, geocoder: OfflineGeocoder
) -> dict[str, list[Partitioning]]:
    """Each configuration, and S2 cells at its number of fine classes."""
    configurations: dict[str, list[Partitioning]] = {}
    for preset in presets:
        semantic = semantic_partitionings(coordinates, geocoder, *preset)
        tau_min = min(preset.tau_mins) // 2
        tau_max = matching_tau_max(coordinates, semantic[0].n_classes, tau_min)
        s2 = S2Partitioning.build(coordinates, tau_min, tau_max)
        configurations |= {str(preset): [*semantic], f"S2 {tau_min}…{tau_max}": [s2]}
    return configurations


def show(table: pd.DataFrame) -> None:
    """One block per data set and kind of ceiling."""
    for kind in ("best", "faultless"):
        for data, rows in table.groupby("data", sort=False):
            percent = [f"{kind} {radius}" for radius in RADII_KM]
            block = rows[["configuration", "classes", "fine", "unassigned", *percent]].copy()
            block[["unassigned", *percent]] *= 100
            block = block.rename(
                columns={"classes": "|C|", "unassigned": "unassigned %"}
                | {f"{kind} {radius}": f"{radius} km" for radius in RADII_KM}
            )
            print(f"\n{kind} a_r in %, {data}")
            print(block.to_string(index=False, float_format="{:.1f}".format))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument(
        "--points", type=int, default=200_000, help="points for the time per million"
    )
    arguments = parser.parse_args()
    missing = [name for name in FILES if not (arguments.folder / f"{name}.csv").is_file()]
    if missing:
        print(f"skipped: {arguments.folder} has no {', '.join(f'{name}.csv' for name in missing)}")
        return
    points = {name: read(arguments.folder, name) for name in FILES}
    yfcc = points[FILES[0]]

    geocoder = OfflineGeocoder()
    print(f"{len(yfcc)} points")
    with timed("load the table of places"):
        geocoder.reverse(yfcc[:1])
    preset = Preset((100, 125, 250))
    with timed("geocode"):
        geocoder.reverse(yfcc)
    with timed("geocode, three semantic partitionings"):
        semantic_partitionings(yfcc, geocoder, *preset)
    with timed("one S2 partitioning"):
        S2Partitioning.build(yfcc, 50, 1000)
    for title, presets in (
        ("Thresholds of Table 1, meant for 4.7 million images", PAPER_PRESETS),
        ("A tenth of these thresholds", [one.scaled(10) for one in PAPER_PRESETS]),
    ):
        print(f"\n{title}")
        with timed("build all configurations"):
            configurations = build(presets, yfcc, geocoder)
        with timed("ceilings"):
            table = ceiling_table(configurations, points)
        show(table)

    rng = np.random.default_rng(0)
    n = arguments.points
    many = yfcc[rng.integers(len(yfcc), size=n)] + rng.normal(scale=JITTER, size=(n, 2))
    many = np.clip(many, (-90, -180), (90, 180))
    print(f"\n{n} points drawn from these, moved by {JITTER}°")
    with timed("geocode", n):
        geocoder.reverse(many)
    with timed("geocode, three semantic partitionings", n):
        semantic = semantic_partitionings(many, geocoder, *preset)
    with timed("assign to semantic cells", n):
        semantic[0].assign(many)
    with timed("one S2 partitioning", n):
        s2 = S2Partitioning.build(many, 50, 1000)
    with timed("assign to S2 cells", n):
        s2.assign(many)
    classes = ", ".join(str(partitioning.n_classes) for partitioning in (*semantic, s2))
    print(f"classes: {classes}")
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
