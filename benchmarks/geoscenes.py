"""Speed of GeoScenes on one core, its Bayes ceiling, and how often each kind of cue is seen.

Run ``python benchmarks/geoscenes.py`` from the repository's root; ``--scenes 2000`` sets how many
scenes the ceiling and the visibility are measured on.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable

import cv2
import numpy as np

from geolib.geoscenes import COUNTRIES, Scene, posterior, render, table


def rate(use: Callable[[Scene], object], n: int, size: int) -> tuple[float, float]:
    """Scenes per second of wall time and of processor time."""
    for seed in range(10):
        use(render(seed, size=size))
    wall, cpu = time.perf_counter(), time.process_time()
    for seed in range(1000, 1000 + n):
        use(render(seed, size=size))
    return n / (time.perf_counter() - wall), n / (time.process_time() - cpu)


def masks(scene: Scene) -> None:
    for o in scene.objects:
        _ = o.mask, o.footprint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300)
    n = parser.parse_args().scenes
    cv2.setNumThreads(1)

    print("one core                       wall/s    cpu/s")
    for size in (112, 160, 224, 448):
        print(
            "picture at {:3d} px           {:8.1f} {:8.1f}".format(size, *rate(_image, 100, size))
        )
    print("masks and footprints at 224 {:8.1f} {:8.1f}".format(*rate(masks, 40, 224)))
    print("Bayes posterior at 224      {:8.1f} {:8.1f}".format(*rate(posterior, 40, 224)))

    seen: Counter[tuple[str, str]] = Counter()
    drawn: Counter[str] = Counter()
    best, blind, right, visible = [], [], [], []
    for seed in range(50_000, 50_000 + n):
        scene = render(seed)
        drawn[scene.country] += 1
        seen.update((kind, scene.country) for kind in scene.visible_cues(min_pixels=64))
        visible.append(len(scene.visible_cues()))
        belief = posterior(scene)
        best.append(max(belief.values()))
        right.append(max(belief, key=belief.__getitem__) == scene.country)
        blind.append(max(posterior(scene, left_right=False).values()))
    error = np.std(best) / np.sqrt(n)
    print(f"\nBayes accuracy on {n} scenes: {np.mean(best):.3f} ± {error:.3f}")
    print(f"  share of right answers: {np.mean(right):.3f}")
    print(f"  without left and right: {np.mean(blind):.3f}")
    print("visible cues per scene, 10/50/90 %:", np.percentile(visible, [10, 50, 90]))
    print("\nshare of scenes in which the kind fills 64 pixels, by country")
    for kind in table():
        shares = "  ".join(f"{c} {seen[kind, c] / drawn[c]:.2f}" for c in COUNTRIES)
        print(f"  {kind:16s} {shares}")


def _image(scene: Scene) -> np.ndarray:
    return scene.image


if __name__ == "__main__":
    main()
