"""Deletion and insertion tests against coverage-matched random boxes (§5 of arXiv 2605.00912)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from torchvision.transforms.functional import gaussian_blur

from geolib.masks import Array, box_region, to_numpy
from geolib.model.classifier import IMAGENET_MEAN, IMAGENET_STD
from geolib.model.device import BatchSize, choose_batch_size, inference_precision
from geolib.scoring import Elements, check_choice

MODES = ("deletion", "insertion")
FILLS = ("mean", "black", "blur", "noise", "road", "donor")
Fill = str | Sequence[float]
Model = Callable[[Tensor], Tensor]
Labels = Sequence[int | None] | Array | None

COLUMNS = {
    **dict.fromkeys(("image_id", "dataset", "attribution", "segmenter"), "str"),
    **dict.fromkeys(("test", "region", "fill"), "str"),
    **dict.fromkeys(("repeat", "element"), "int64"),
    **dict.fromkeys(("coverage", "coverage_gap"), "float64"),
    **dict.fromkeys(("n_elements", "label", "prediction"), "int64"),
    **dict.fromkeys(("correct", "agrees"), "bool"),
    **dict.fromkeys(("probability", "log_probability"), "float64"),
}

# Single-box moves tried before the closest layout found so far is kept.
MAX_MOVES = 2000


def _check_fill(fill: Fill, images: Tensor, donors: Tensor | None) -> None:
    if isinstance(fill, str):
        check_choice("fill", fill, FILLS)
    elif len(fill) != 3 or not all(0 <= value <= 1 for value in fill):
        raise ValueError(f"fill={tuple(fill)}; expected a name or a colour of 3 values in 0…1")
    if fill == "donor" and (donors is None or donors.shape != images.shape):
        came = None if donors is None else f"of shape {tuple(donors.shape)}"
        raise ValueError(f"donors is {came}; expected another image each, {tuple(images.shape)}")


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images is {came}; expected a float tensor [B,3,H,W] in 0…1")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images has shape {tuple(images.shape)}; expected [B,3,H,W]")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"images spans {images.min():.3g}…{images.max():.3g}; expected 0…1, not normalised"
        )


def _noise(image: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise [3,H,W]; drawn on the CPU so that every device sees the same."""
    return torch.randn(image.shape, generator=generator).to(image)


def _fill_values(
    image: Tensor, missing: Tensor, fill: Fill, generator: Generator, donor: Tensor | None
) -> Tensor:
    """The fill φ for one image [3,H,W]; only "road" depends on which pixels are missing."""
    if fill == "donor" and donor is not None:
        return donor
    if fill == "road" and not missing.all():
        return _imputed(image, missing, generator)
    if fill == "blur":
        # A twentieth of the shorter side: lane lines and lettering are gone, light and sky remain.
        side = min(image.shape[-2:])
        sigma, size = side / 20, 2 * math.floor(3 * side / 20) + 1
        # A Gaussian is separable: two narrow passes instead of one square kernel.
        for kernel in ([size, 1], [1, size]):
            image = gaussian_blur(image, kernel, [sigma, sigma])
        return image
    # With nothing left to impute from, "road" is the mean.
    colour = (0, 0, 0) if fill == "black" else IMAGENET_MEAN if isinstance(fill, str) else fill
    values = torch.tensor(colour).to(image)[:, None, None].expand_as(image)
    if fill == "noise":
        std = torch.tensor(IMAGENET_STD).to(image)[:, None, None]
        return (values + std * _noise(image, generator)).clamp(0, 1)
    return values


def _imputed(image: Tensor, missing: Tensor, generator: Generator) -> Tensor:
    """Noisy linear imputation of the missing pixels (ROAD, Rong et al. 2022, arXiv 2202.00449)."""
    from scipy.sparse.linalg import spsolve

    if not missing.any():
        return image
    absent = missing.flatten().cpu().numpy()
    pixels = image.flatten(1).T.cpu().double().numpy()
    rows = _neighbour_system(tuple(missing.shape))[absent]
    known = -rows[:, ~absent] @ pixels[~absent]
    # The order of elimination for symmetric systems takes half the time of the usual one.
    values = spsolve(rows[:, absent].tocsc(), known, permc_spec="MMD_AT_PLUS_A")
    smooth = image.clone()
    smooth[:, missing] = torch.from_numpy(values.T).to(image)
    return (smooth + 0.01 * _noise(image, generator)).clamp(0, 1)


@cache
def _neighbour_system(shape: tuple[int, ...]) -> Any:
    """Sparse [HW,HW], zero on an image whose pixels are each the mean of their eight neighbours.

    Neighbours across an edge weigh twice as much as those across a corner.
    """
    from scipy import sparse

    lines = [sparse.diags_array([1.0, 2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n)) for n in shape]
    weights = sparse.kron(*lines) - 4 * sparse.eye_array(math.prod(shape))
    return (sparse.diags_array(weights.sum(axis=1)) - weights).tocsr()


def ablate(
    images: Tensor,
    regions: Array,
    mode: str,
    fill: Fill = "mean",
    *,
    generator: Generator | None = None,
    donors: Tensor | None = None,
) -> Tensor:
    """Delete a region B from each image or keep nothing else (§5).

    Deletion is x(1−B) + φB, insertion xB + φ(1−B), with φ the fill.

    Parameters
    ----------
    images : float [B,3,H,W] in 0…1, not normalised.
    regions : bool [B,H,W].
    mode : "deletion" or "insertion".
    fill : "mean" (ImageNet's, zero once normalised), "black", "blur" (a Gaussian of a twentieth of
        the shorter side), "noise" (Gaussian, ImageNet's moments), "road" (noisy linear imputation),
        "donor" (the same place of another image), or a colour of three values in 0…1.
    generator : for "noise" and "road", by default seeded with 0; all images share one noise field.
    donors : float [B,3,H,W] in 0…1, for "donor".

    Returns
    -------
    float [B,3,H,W].

    Raises
    ------
    ValueError, TypeError : for another shape, type or range, an unknown mode or fill, or no donors.
    """
    _check_images(images)
    check_choice("mode", mode, MODES)
    _check_fill(fill, images, donors)
    masks = torch.as_tensor(regions, device=images.device)
    if masks.dtype != torch.bool:
        raise TypeError(f"regions has dtype {masks.dtype}; expected bool")
    if list(masks.shape) != (wanted := [len(images), *images.shape[2:]]):
        raise ValueError(f"regions has shape {tuple(masks.shape)}; expected {wanted}")
    generator = generator or Generator().manual_seed(0)
    state = generator.get_state()
    result = torch.empty_like(images)
    sources = [None] * len(images) if donors is None else donors
    for index, (image, mask, donor) in enumerate(zip(images, masks, sources, strict=True)):
        generator.set_state(state)
        missing = mask if mode == "deletion" else ~mask
        values = _fill_values(image, missing, fill, generator, donor)
        result[index] = torch.where(missing, values, image)
    return result


def random_boxes(
    boxes: Array, shape: tuple[int, ...], rng: np.random.Generator, tolerance: float = 0.01
) -> np.ndarray:
    """Random boxes of the same number and sizes whose union covers as much of the image (§5).

    Guided boxes nest, random ones spread: from a uniform draw, one random box at a time moves to a
    new uniform place, and stays where that brings the union's coverage nearer to the guided one's.

    Parameters
    ----------
    boxes, shape : int [M,4], x0 y0 x1 y1, end-exclusive; height and width of the image.
    rng : source of all randomness.
    tolerance : share of the image within which the two coverages count as equal.

    Returns
    -------
    int64 [M,4], in the order of `boxes`; the closest layout found where the tolerance is not met.

    Raises
    ------
    ValueError, TypeError : for boxes that are empty, not whole numbers or not inside the image, a
        negative tolerance, or an `rng` that is not a NumPy generator.
    """
    guided = to_numpy(boxes)
    height, width = shape
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng is {type(rng).__name__}; expected numpy.random.default_rng(seed)")
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}; expected a share of the image, ≥ 0")
    if guided.ndim != 2 or guided.shape[1] != 4 or not np.issubdtype(guided.dtype, np.integer):
        raise ValueError(f"boxes is {guided.dtype} {guided.shape}; expected int [M,4]")
    sizes = guided[:, 2:] - guided[:, :2]
    if (sizes <= 0).any() or (guided[:, :2] < 0).any() or (guided[:, 2:] > (width, height)).any():
        raise ValueError(f"boxes has an empty box or one that leaves the image {tuple(shape)}")
    room = np.array([width, height]) - sizes + 1  # possible places along x and y
    corners = rng.integers(room) if len(guided) else guided[:, :2]
    result = np.concatenate([corners, corners + sizes], axis=1).astype(np.int64)
    if len(guided) < 2:  # one box covers the same everywhere
        return result

    target = int(box_region(guided, shape).sum())
    # How many boxes lie over each pixel.
    depth = np.array([box_region(box[None], shape) for box in result]).sum(axis=0, dtype=np.int32)
    covered = np.count_nonzero(depth)
    movers = rng.integers(len(guided), size=MAX_MOVES)
    places = rng.integers(room[movers])
    for mover, (new_x, new_y) in zip(movers.tolist(), places.tolist(), strict=True):
        if abs(covered - target) <= tolerance * depth.size:
            break
        x0, y0, x1, y1 = result[mover].tolist()
        old = depth[y0:y1, x0:x1]
        new = depth[new_y : new_y + y1 - y0, new_x : new_x + x1 - x0]
        old -= 1
        change = np.count_nonzero(old) - old.size + new.size - np.count_nonzero(new)
        if abs(covered + change - target) < abs(covered - target):
            new += 1
            covered += change
            result[mover] = new_x, new_y, new_x + x1 - x0, new_y + y1 - y0
        else:
            old += 1
    return result


def seed_sequence(seed: int, image_id: str, repeat: int = 0) -> np.random.SeedSequence:
    """The source of one repeat's randomness, the same in whatever company the image is."""
    digest = hashlib.sha256(image_id.encode(errors="surrogateescape")).digest()
    return np.random.SeedSequence([seed, int.from_bytes(digest[:16], "big"), repeat])


def random_regions(
    elements: Elements, image_id: str, seed: int = 0, repeats: int = 10, tolerance: float = 0.01
) -> np.ndarray:
    """The layouts of `random_boxes` for one image's elements, int64 [repeats,M,4] (§5).

    Seeded from (seed, image id, repeat): the same whatever else is evaluated.
    """
    layouts = np.empty((repeats, len(elements), 4), dtype=np.int64)
    for repeat in range(repeats):
        rng = np.random.default_rng(seed_sequence(seed, image_id, repeat))
        layouts[repeat] = random_boxes(elements.boxes, elements.shape, rng, tolerance)
    return layouts


def boxes_up_to(
    boxes: Array, shape: tuple[int, ...], coverage: float, tolerance: float = 0.01
) -> np.ndarray:
    """Which boxes, in their order, make a union that covers a share of the image.

    A box is taken where the union then covers at most `coverage` + `tolerance`, and passed over
    otherwise; none is taken once the union is within the tolerance.

    Parameters
    ----------
    boxes, shape : int [N,4], x0 y0 x1 y1, end-exclusive; height and width of the image.
    coverage, tolerance : shares of the image, 0…1.

    Returns
    -------
    int64 [K], places of the boxes taken; they cover less than is asked for where no other fits.
    """
    region = np.zeros(shape, dtype=bool)
    # 0.3 − 0.01 is less than 0.29.
    least, most = (round((coverage + s * tolerance) * region.size, 6) for s in (-1, 1))
    covered, taken = 0, []
    for index, (x0, y0, x1, y1) in enumerate(to_numpy(boxes).tolist()):
        if covered >= least:
            break
        place = region[y0:y1, x0:x1]
        more = place.size - int(place.sum())
        if covered + more <= most:
            place[:] = True
            covered += more
            taken.append(index)
    return np.array(taken, dtype=np.int64)


@dataclass(frozen=True)
class AblationSettings:
    """How :func:`faithfulness` tests elements (§5).

    Attributes
    ----------
    tests : "deletion", "insertion" or both.
    individual : also ablate each element alone.
    fill : see `ablate`; noise is drawn per image, from the seed and the image's id.
    repeats, tolerance : random layouts per image, and how near their coverage must come.
    seed : of random boxes and noise, ≥ 0.
    batch_size : images per forward pass, by default as the device suggests; halved, with a
        warning, whenever memory runs out.
    precision : "auto", "fp32" or "bf16".
    dataset, attribution, segmenter : names written into the table.
    """

    tests: Sequence[str] = MODES
    fill: Fill = "mean"
    repeats: int = 10
    seed: int = 0
    tolerance: float = 0.01
    individual: bool = True
    batch_size: int | None = None
    precision: str = "auto"
    dataset: str = ""
    attribution: str = ""
    segmenter: str = ""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}; expected at least 1")
        for test in self.tests:
            check_choice("tests", test, MODES)


def faithfulness(
    classifier: Model, images: Tensor, labels: Labels, elements: Sequence[Elements], **options: Any
) -> pd.DataFrame:
    """Deletion and insertion of the elements, of random boxes and of each element alone (§5).

    Equal variants are forwarded once. An image without elements stays in, with an empty region.

    Parameters
    ----------
    classifier : images [B,3,H,W] in 0…1 to logits [B,N].
    images : float [B,3,H,W] in 0…1, not normalised.
    labels : class of each image; None, for all or for one, takes the original prediction.
    elements : `Elements` of each image, at the images' resolution.
    **options : the fields of `AblationSettings`, and
        image_ids, unique names that seed the random boxes and the noise, by default "0", "1", …;
        controls, further baselines by name: for each image a bool [R,H,W];
        donors, float [B,3,H,W] in 0…1, for the fill "donor".

    Returns
    -------
    Outcome table, one row per image × test × region × repeat:
        image_id, dataset, attribution, segmenter, fill, repeat;
        test, "original", "deletion" or "insertion";
        region, "original", "guided", "random", "element" or the name of a control;
        element (index into the image's elements, −1 where it is not one); n_elements;
        coverage of the region, 0…1; coverage_gap (coverage − guided coverage, 0 where the region
        is not a baseline); label; prediction; correct (prediction = label); agrees (prediction =
        original one); probability and log_probability (natural) of the label.

    Raises
    ------
    ValueError, TypeError : for arguments whose lengths, shapes or ranges do not fit, a label
        outside the classes, or a classifier that returns NaN.
    """
    return sweep(classifier, images, labels, [elements], **options)[0]


@torch.inference_mode()
def sweep(
    classifier: Model,
    images: Tensor,
    labels: Labels,
    candidates: Sequence[Sequence[Elements]],
    *,
    image_ids: Sequence[str] | None = None,
    controls: Mapping[str, Sequence[Array]] | None = None,
    donors: Tensor | None = None,
    **settings: Any,
) -> list[pd.DataFrame]:
    """The table of :func:`faithfulness` for each of several choices of the images' elements (§5).

    ``candidates`` holds, for each choice, the `Elements` of each image; other arguments and errors
    are those of `faithfulness`. What two choices have in common is forwarded once.
    """
    chosen = AblationSettings(**settings)
    _check_images(images)
    _check_fill(chosen.fill, images, donors)
    n, shape = len(images), tuple(images.shape[2:])
    ids = [str(index) for index in range(n)] if image_ids is None else list(image_ids)
    targets = [None] * n if labels is None else list(labels)
    further = {name: [to_numpy(r) for r in regions] for name, regions in (controls or {}).items()}
    _check(n, shape, {"labels": targets, "image_ids": ids}, further, candidates)

    tables: list[list[dict[str, Any]]] = [[] for _ in candidates]
    module = classifier if isinstance(classifier, torch.nn.Module) else torch.nn.Identity()
    device = next(module.parameters(), torch.empty(0)).device
    training = module.training
    module.eval()
    try:
        with inference_precision(device, chosen.precision):
            size = chosen.batch_size or choose_batch_size(device)
            forward = _Forward(classifier, (size, 3, *shape), device)
            for index, image_id in enumerate(ids):
                image = images[index].to(device, torch.float32)
                donor = None if donors is None else donors[index].to(image)
                number = _numbering(forward, image, donor, image_id, chosen)
                common = {"image_id": image_id, "given": targets[index]}
                controlled = {name: regions[index] for name, regions in further.items()}
                for rows, elements in zip(tables, candidates, strict=True):
                    found = _rows(elements[index], image_id, controlled, number, chosen)
                    rows.extend(common | row for row in found)
            forward.flush()
    finally:
        module.train(training)
    if not n:
        return [pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS) for _ in candidates]
    log_probabilities = np.concatenate(forward.log_probabilities)
    return [_outcome_table(pd.DataFrame(rows), log_probabilities, chosen) for rows in tables]


def _check(
    n: int,
    shape: tuple[int, ...],
    named: Mapping[str, Sequence[Any]],
    controls: Mapping[str, Sequence[np.ndarray]],
    candidates: Sequence[Sequence[Elements]],
) -> None:
    for name, values in [*named.items(), *controls.items(), *(("elements", e) for e in candidates)]:
        if len(values) != n:
            raise ValueError(f"{name} has {len(values)} entries for {n} images")
    if len(set(named["image_ids"])) < n:
        raise ValueError("image_ids has duplicates; each image needs a name of its own")
    for name, regions in controls.items():
        if name in ("original", "guided", "random", "element"):
            raise ValueError(f"controls has {name!r}, a name the table already uses")
        for index, masks in enumerate(regions):
            if masks.dtype != bool or masks.ndim != 3 or masks.shape[1:] != shape:
                raise ValueError(
                    f"controls[{name!r}][{index}] is {masks.dtype} {masks.shape};"
                    f" expected bool [R,{shape[0]},{shape[1]}]"
                )
    for elements in candidates:
        for image_id, kept in zip(named["image_ids"], elements, strict=True):
            if kept.shape != shape:
                raise ValueError(
                    f"elements of image {image_id!r} were extracted at {kept.shape}, the images"
                    f" are {shape}; attribute and segment at the images' resolution"
                )


class _Forward:
    """Collects variants of any images in one buffer and forwards it whenever it is full."""

    def __init__(self, classifier: Model, shape: Sequence[int], device: torch.device):
        self.classifier = classifier
        # Processors convolve images that are stored channels last in two thirds of the time.
        self.buffer = torch.empty(tuple(shape), device=device, memory_format=torch.channels_last)
        self.fitting = BatchSize(len(self.buffer))
        self.added = 0
        self.waiting = 0
        self.log_probabilities: list[np.ndarray] = []

    def add(self, missing: Tensor, values: Tensor, image: Tensor) -> int:
        """Queue `image` with its missing pixels replaced by `values`; returns its number."""
        torch.where(missing, values, image, out=self.buffer[self.waiting])
        self.added += 1
        self.waiting += 1
        if self.waiting == len(self.buffer):
            self.flush()
        return self.added - 1

    def flush(self) -> None:
        if not self.waiting:
            return
        logits = self.fitting.run(self._logits)
        if not torch.isfinite(logits).all():
            raise ValueError("classifier returned NaN or infinite logits; check its weights")
        self.log_probabilities.append(logits.double().log_softmax(dim=1).numpy())
        self.waiting = 0

    def _logits(self, batch_size: int) -> Tensor:
        parts = self.buffer[: self.waiting].split(batch_size)
        return torch.cat([self.classifier(part).cpu() for part in parts])


def _numbering(
    forward: _Forward,
    image: Tensor,
    donor: Tensor | None,
    image_id: str,
    settings: AblationSettings,
) -> Callable[[np.ndarray, str], int]:
    """A function of region and test to the number of a variant's pass; equal ones share one."""
    state = seed_sequence(settings.seed, image_id).generate_state(1, np.uint64)
    noise = Generator()
    numbers: dict[bytes, int] = {}

    def fill(missing: Tensor) -> Tensor:
        noise.manual_seed(int(state[0] >> 1))
        return _fill_values(image, missing, settings.fill, noise, donor)

    everywhere = fill(torch.ones(image.shape[1:], dtype=torch.bool))

    def number(region: np.ndarray, test: str) -> int:
        absent = region ^ (test == "insertion")
        key = absent.tobytes()
        if key not in numbers:
            missing = torch.from_numpy(absent).to(image.device)
            values = fill(missing) if settings.fill == "road" else everywhere
            numbers[key] = forward.add(missing, values, image)
        return numbers[key]

    return number


def _rows(
    kept: Elements,
    image_id: str,
    controls: Mapping[str, Iterable[np.ndarray]],
    number: Callable[[np.ndarray, str], int],
    settings: AblationSettings,
) -> Iterator[dict[str, Any]]:
    """One row per variant: the original, the regions, the elements one by one."""
    shape, guided, nothing = kept.shape, kept.region(), np.zeros(kept.shape, dtype=bool)
    layouts = random_regions(kept, image_id, settings.seed, settings.repeats, settings.tolerance)
    baselines = {"random": [box_region(boxes, shape) for boxes in layouts], **controls}
    regions = [
        (name, repeat, -1, mask)
        for name, masks in {"original": [nothing], "guided": [guided], **baselines}.items()
        for repeat, mask in enumerate(masks)
    ]
    if settings.individual:
        alone = enumerate(box_region(box[None], shape) for box in kept.boxes)
        regions += [("element", 0, index, mask) for index, mask in alone]
    common = {"n_elements": len(kept), "original": number(nothing, "original")}
    for region, repeat, element, mask in regions:
        gap = mask.mean() - guided.mean() if region in baselines else 0.0
        place = {"region": region, "repeat": repeat, "element": element}
        place |= {"coverage": mask.mean(), "coverage_gap": gap}
        for test in ("original",) if region == "original" else settings.tests:
            yield common | place | {"test": test, "forward": number(mask, test)}


def _outcome_table(
    rows: pd.DataFrame, log_probabilities: np.ndarray, settings: AblationSettings
) -> pd.DataFrame:
    """Join each row with its forward pass and name the columns of the outcome table."""
    predictions = log_probabilities.argmax(axis=1)
    original, prediction = predictions[rows["original"]], predictions[rows["forward"]]
    given, classes = rows["given"].to_numpy(float), log_probabilities.shape[1]
    if (wrong := given[(given < 0) | (given >= classes)]).size:
        raise ValueError(f"labels holds {wrong[0]:g}; the classifier has classes 0…{classes - 1}")
    label = np.where(np.isnan(given), original, given).astype(int)
    log_probability = log_probabilities[rows["forward"], label]
    fill = settings.fill
    table = rows.assign(
        dataset=settings.dataset,
        attribution=settings.attribution,
        segmenter=settings.segmenter,
        fill=fill if isinstance(fill, str) else "#" + bytes(round(255 * v) for v in fill).hex(),
        label=label,
        prediction=prediction,
        correct=prediction == label,
        agrees=prediction == original,
        probability=np.exp(log_probability),
        log_probability=log_probability,
    )
    return table[list(COLUMNS)].astype(COLUMNS)
