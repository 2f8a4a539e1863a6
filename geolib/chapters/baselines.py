"""What stands in for an image's own regions: moved round its edges, or another image's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geolib.ablation import seed_sequence
from geolib.masks import Array, to_numpy


def torus_shifts(region: Array, image_id: str, seed: int = 0, repeats: int = 10) -> np.ndarray:
    """A region bool [H,W] moved as a whole, wrapping round the edges, by offsets that `seed`, the
    image's name and the repeat decide: bool [repeats,H,W]. Area and layout stay."""
    mask = to_numpy(region)
    shifted = np.empty((repeats, *mask.shape), dtype=bool)
    for repeat in range(repeats):
        rng = np.random.default_rng(seed_sequence(seed, image_id, repeat))
        shifted[repeat] = np.roll(mask, rng.integers(mask.shape), axis=(0, 1))
    return shifted


def donor_indices(image_ids: Sequence[str], seed: int = 0, repeats: int = 10) -> np.ndarray:
    """For each image, places of others in `image_ids`: int64 [B,repeats]. Seeded by `seed` and the
    image's name: the order of the images plays no part. Donors come again only where there are
    fewer other images than repeats. ValueError for fewer than two images, or names not unique."""
    if len(image_ids) < 2 or len(set(image_ids)) < len(image_ids):
        raise ValueError(
            f"image_ids has {len(image_ids)} names; expected at least 2, all different"
        )
    place = {name: index for index, name in enumerate(image_ids)}
    donors = np.empty((len(place), repeats), dtype=np.int64)
    for name, index in place.items():
        others = [place[other] for other in sorted(place) if other != name]
        rng = np.random.default_rng(seed_sequence(seed, name))
        donors[index] = np.resize(rng.permutation(others), repeats)
    return donors
