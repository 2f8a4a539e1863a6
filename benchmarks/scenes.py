"""Speed of GeoScenes on one core, its Bayes ceilings, and how often each kind of cue is seen.

Run ``python benchmarks/scenes.py`` from the repository's root; ``--scenes 2000`` sets how many
scenes the ceilings and the visibility are measured on. Without regional cues the ceiling is that of
the country; with them, that of the zone, and the accuracy within a radius of an observer who names
the middle of the likeliest zone.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable

import cv2
import numpy as np

from geolib.partitioning import geolocation_accuracy, great_circle_distance
from geoscenes import COUNTRIES, Scene, best_guess, posterior, render, table, zone_posterior, zones


def rate(
    use: Callable[[Scene], object], n: int, size: int, *, regional: bool = False
) -> tuple[float, float]:
    """Scenes per second of wall time and of processor time."""
    for seed in range(60):  # plants are painted when first seen
        _ = render(seed, size=size, regional=regional).image
    wall, cpu = time.perf_counter(), time.process_time()
    for seed in range(1000, 1000 + n):
        use(render(seed, size=size, regional=regional))
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
    regional = rate(_image, 100, 224, regional=True)
    print("picture at 224 px, regional {:8.1f} {:8.1f}".format(*regional))
    print("masks and footprints at 224 {:8.1f} {:8.1f}".format(*rate(masks, 40, 224)))
    print("Bayes posterior at 224      {:8.1f} {:8.1f}".format(*rate(posterior, 40, 224)))
    countries(n)
    regions(n)


def countries(n: int) -> None:
    """The ceiling of the country and the visibility of its cues."""
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


def regions(n: int) -> None:
    """The ceiling of the zone, and of the distance to the middle of the likeliest zone."""
    seen: Counter[str] = Counter()
    best, right, country, guesses, places = [], [], [], [], []
    for seed in range(60_000, 60_000 + n):
        scene = render(seed, regional=True)
        seen.update(list(scene.visible_cues(min_pixels=64)))
        belief = zone_posterior(scene)
        best.append(max(belief.values()))
        right.append(max(belief, key=belief.__getitem__) == scene.zone)
        of_country = dict.fromkeys(COUNTRIES, 0.0)
        for zone, p in belief.items():
            of_country[zones()[zone].country] += p
        country.append(max(of_country.values()))
        guesses.append(best_guess(belief))
        places.append((scene.latitude, scene.longitude))
    error = np.std(best) / np.sqrt(n)
    print(f"\nwith regional cues, {len(zones())} zones")
    print(f"Bayes accuracy of the zone on {n} scenes: {np.mean(best):.3f} ± {error:.3f}")
    print(f"  share of right answers: {np.mean(right):.3f}")
    print(f"  of the country: {np.mean(country):.3f}")
    accuracy = geolocation_accuracy(great_circle_distance(guesses, places))
    print("  its share within r km: " + "  ".join(f"{r}: {a:.3f}" for r, a in accuracy.items()))
    print("share of scenes in which the kind fills 64 pixels")
    for kind in table(regional=True):
        print(f"  {kind:16s} {seen[kind] / n:.2f}")


def _image(scene: Scene) -> np.ndarray:
    return scene.image


if __name__ == "__main__":
    main()
