"""Segmenters that need no weights.

`felzenszwalb` and `slic` stand in for SAM, whose masks are object-like and nest (a car, its
windscreen, its number plate). One partition into superpixels does not nest, so both merge their
superpixels into a tree, most similar neighbours first, and keep the branches that stand out from
what surrounds them: the idea of selective search (Uijlings et al., IJCV 2013).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage, sparse

from geolib.masks import top_weights
from geolib.segmentation.segments import Segments

# Superpixels are computed at no more than this many pixels on the longer side, so that time does
# not grow with the photograph. Classifiers see 160 to 224.
WORKING_SIDE = 512


def felzenszwalb(
    image: np.ndarray,
    *,
    scale: float = 30.0,
    contrast: float = 12.0,
    min_area: float = 0.001,
    max_area: float = 0.6,
) -> Segments:
    """Nested segments, largest first, from Felzenszwalb and Huttenlocher's superpixels (IJCV 2004).

    `scale` says how different neighbouring superpixels may be; larger gives larger ones. It needs
    no change with the image's size: in a larger image a region has more pixels and neighbouring
    pixels differ less, and the two cancel. For the other options see `merge_regions`.
    """
    from skimage import segmentation as superpixels  # a second to import, as is scikit-learn

    _check_positive(scale=scale)
    small = _working_copy(image)
    # Superpixels may be half as large as the smallest segment, so that small ones have parts too.
    min_size = max(1, round(min_area / 2 * small[..., 0].size))
    labels = superpixels.felzenszwalb(small, scale=scale, sigma=0.5, min_size=min_size)
    return merge_regions(small, labels, image.shape[:2], contrast, min_area, max_area)


def slic(
    image: np.ndarray,
    *,
    n_segments: int = 400,
    compactness: float = 20.0,
    contrast: float = 12.0,
    min_area: float = 0.001,
    max_area: float = 0.6,
) -> Segments:
    """Nested segments, largest first, from about `n_segments` SLIC superpixels (TPAMI 2012).

    `compactness` is the weight of distance against colour; larger gives squarer superpixels. For
    the other options see `merge_regions`.
    """
    from skimage import segmentation as superpixels

    _check_positive(n_segments=n_segments, compactness=compactness)
    small = _working_copy(image)
    labels = superpixels.slic(small, n_segments=n_segments, compactness=compactness, start_label=0)
    return merge_regions(small, labels, image.shape[:2], contrast, min_area, max_area)


def merge_regions(
    image: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, ...],
    contrast: float,
    min_area: float,
    max_area: float,
) -> Segments:
    """Merge superpixels int [h,w] into a tree; keep the branches that stand out, at `shape`.

    Neighbouring superpixels are merged by Ward's criterion on their mean CIELAB colour and the
    spread of their lightness. Every node of the tree is a connected region. It is kept when
    joining it to the rest costs at least `contrast` (CIELAB units, 0 keeps every superpixel) and
    1.2 times what joining its own parts cost, when its area is within `min_area` to `max_area`
    (shares of the image), and when no kept region is nearly the same (IoU of 0.9).
    """
    if not 0 <= min_area < max_area <= 1:
        raise ValueError(
            "min_area and max_area must satisfy 0 <= min_area < max_area <= 1, "
            f"got {min_area} and {max_area}"
        )
    members, merged_at, left_at = _merge_tree(image, labels)
    area = np.bincount(labels.ravel()) / labels.size
    size = members @ area
    stands_out = (left_at >= contrast) & (left_at >= 1.2 * merged_at)
    keep = np.flatnonzero(stands_out & (size >= min_area) & (size <= max_area))
    members = members[keep[np.argsort(-size[keep], kind="stable")]]
    inter = (members * area) @ members.T.astype(float)
    size = np.diag(inter)
    near = inter >= 0.9 * (size[:, None] + size - inter)
    kept: list[int] = []
    for i in range(len(members)):
        if not near[i, kept].any():
            kept.append(i)
    return Segments(members[kept][:, _enlarge(labels, shape)])


def _merge_tree(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Ward's tree over neighbouring superpixels.

    Returns which superpixels each node holds (bool [2n-1, n]), the cost at which the node was
    formed, and the cost at which it was joined to its neighbour (float [2n-1]; the root: inf).
    """
    from skimage import color
    from sklearn.cluster import ward_tree

    n = int(labels.max()) + 1
    members = np.eye(2 * n - 1, n, dtype=bool)
    merged_at, left_at = np.zeros(2 * n - 1), np.full(2 * n - 1, np.inf)
    if n == 1:
        return members, merged_at, left_at
    first = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()])
    second = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()])
    edges = sparse.csr_matrix((np.ones(len(first)), (first, second)), shape=(n, n))
    lab = pd.DataFrame(color.rgb2lab(image).reshape(-1, 3)).groupby(labels.ravel())
    features = np.column_stack([lab.mean(), lab[0].std(ddof=0)])
    children, _, _, _, costs = ward_tree(
        features, connectivity=edges + edges.T, return_distance=True
    )
    for node, (pair, cost) in enumerate(zip(children, costs, strict=True), start=n):
        members[node] = members[pair].any(axis=0)
        merged_at[node] = left_at[pair] = cost
    return members, merged_at, left_at


def reduced(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """(height, width), reduced where the longer one is above `side`."""
    factor = min(1.0, side / max(shape))
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _working_copy(image: np.ndarray) -> np.ndarray:
    height, width = reduced(image.shape[:2], WORKING_SIDE)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _enlarge(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Nearest-neighbour enlargement of a label image to `shape`."""
    at = (np.arange(n) * small // n for n, small in zip(shape, labels.shape, strict=True))
    return labels[np.ix_(*at)]


def grid(image: np.ndarray, *, cells: int = 8) -> Segments:
    """A control that ignores the picture: `cells` × `cells` rectangles that tile the image.

    Cells differ by at most one pixel; an image with fewer pixels than cells gets one per pixel.
    """
    _check_positive(cells=cells)
    cell = _enlarge(np.arange(cells * cells).reshape(cells, cells), image.shape[:2])
    return Segments(np.unique(cell)[:, None, None] == cell)


def truth(image: np.ndarray, item: Any) -> Segments:
    """The masks of the objects that a GeoScenes scene was drawn from, labelled by category.

    The `.scene.objects` of the item carry `.mask` (bool [h, w]) and `.category`; of the image only
    its size is used. ValueError without a scene: the truth about a photograph is not known.
    """
    scene = getattr(item, "scene", None)
    if scene is None:
        raise ValueError(
            f"segmenter 'truth' needs an item with a scene, {getattr(item, 'id', item)!r} has "
            "none: only the geoscenes dataset knows its objects, choose another segmenter"
        )
    masks = (thing.mask for thing in scene.objects)
    labels = [thing.category for thing in scene.objects]
    return Segments.fitted(masks, image.shape[:2], labels=labels)


def none(attribution: np.ndarray, *, top_p: float = 0.2, min_area: float = 0.001) -> Segments:
    """No segmentation: the connected pieces (4 neighbours) of the salient region themselves.

    Pieces below `min_area`, a share of the image, are specks and left out. The note says so when
    the salient region falls short of `top_p`, see `salient_region`.
    """
    region = salient_region(attribution, top_p)
    wanted = round(top_p * region.size)
    missing, note = wanted - int(region.sum()), ""
    if missing > 0:
        note = f"salient region short of {missing} of {wanted} pixels: the map is zero elsewhere"
    pieces, _ = ndimage.label(region)
    sizes = np.bincount(pieces.ravel())[1:]
    large = 1 + np.flatnonzero(sizes >= min_area * region.size)
    return Segments(large[:, None, None] == pieces, note=note)


def salient_region(attribution: np.ndarray, top_p: float = 0.2) -> np.ndarray:
    """The binary salient set T: the k = round(top_p·H·W) highest pixels, bool [H, W].

    Zeros never belong to it, so it may hold fewer than k pixels; pixels tied at the cut all do,
    so it may hold more, and nothing depends on where a pixel lies.
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    weights = top_weights(attribution, round(top_p * attribution.size))
    return (weights > 0) & (attribution > 0)


def _check_positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
