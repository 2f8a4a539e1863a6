"""Which things an explanation lies on, over a dataset (Theiner et al., §4.2 and Figure 3)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from scipy import stats

from geolib import pipeline, statistics
from geolib.ablation import seed_sequence
from geolib.book.claims import Finding
from geolib.chapters import tables
from geolib.chapters.location import Kind, LocationExperiment
from geolib.concepts import MIN_SIZE, K, concept_influence, concept_influences, shifted_influences
from geolib.data import GeoDataset, GeoImage, to_batch
from geolib.figures import GUIDED, INK, RANDOM, WIDTH, as_image, dots, overlay, styled
from geolib.masks import Array
from geolib.model.classifier import IMAGENET_MEAN
from geolib.pipeline.shards import Shard
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.segmentation.networks.ade20k import SemanticNetwork
from geoscenes import semantic

CHUNK = 16  # images per unit of work
# Concepts whose influence the ledger asks for, in images located rightly, and in wrong ones.
RIGHT = ("sky", "building", "mountain", "road", "grass", "earth", "sand", "water", "animal")
WRONG = ("car", "person", "animal", "floor")
CELL = ["dilation", "group", "concept"]
# Shifts whose mean equals the observed one but for the rounding of a Fourier transform.
ROUNDING = 1e-9
COLUMNS = ["image_id", *CELL, "size", "influence", "by_chance"]
# Concepts that a reader expects in a colour of their own.
NATURAL = {"sky": "#4a90d9", "road": "#4b5259", "grass": "#7fb353", "tree": "#3f7d3a"}


def influence_table(summary: pd.DataFrame, dilation: int, groups: Mapping[str, str]) -> Styler:
    """The frequent concepts of :func:`summarise` at one β, as Tables 3 and 4, a block per group.
    ``groups`` holds each group's heading; the first one's medians sort."""
    rows = frequent(summary, dilation)
    columns = {
        "images": rows["images"],
        "median (95 %)": tables.cells(rows, ".2f", ["median", "low", "high"]),
        "mean": rows["mean"],
        "laid anywhere": rows["by_chance"],
        "p (Holm)": rows["p_holm"],
    }
    values = pd.DataFrame(columns).set_index(rows["concept"])
    blocks = {h: values[(rows["group"] == name).to_numpy()] for name, h in groups.items()}
    table = pd.concat(blocks, axis=1)
    first = rows[rows["group"] == next(iter(groups))].sort_values("median", ascending=False)
    table = table.reindex([*first["concept"], *table.index.difference(first["concept"].tolist())])
    forms: dict[Any, str] = {"images": "{:.0f}", "p (Holm)": "{:.3f}", "median (95 %)": "{}"}
    formats: dict[Any, Any] = {name: forms.get(name[1], "{:.2f}") for name in table.columns}
    return table.rename_axis(index=None).style.format(formats, na_rep="–")


def frequent(summary: pd.DataFrame, dilation: int = 0) -> pd.DataFrame:
    """Rows of the concepts that enough images show."""
    return summary[(summary["dilation"] == dilation) & ~summary["rare"].astype(bool)]


@styled
def influence_images(seen: Explained, found: Influences, examples: Sequence[int]) -> Figure:
    """Some images, their explanation, concepts and influences; grey is what has no influence."""
    plain = found.rows.query("dilation == 0").set_index("concept")
    ids = [seen.images.ids[i] for i in examples]
    known = [plain.query("image_id == @one")["influence"].sort_values() for one in ids]
    shown = sorted({str(name) for values in known for name in values.index})
    colours = dict(zip(shown, sns.color_palette("husl", len(shown)), strict=True)) | NATURAL
    # The widest bar is the same in every row.
    widest = max([1.0, *(values.max() for values in known if len(values))])
    size = (WIDTH, 1.75 * len(ids) + 0.3)
    figure, axes = plt.subplots(len(ids), 4, figsize=size, squeeze=False)
    for row, (i, values) in enumerate(zip(examples, known, strict=True)):
        image, explanation = as_image(seen.batch[i]), np.asarray(seen.maps[i])
        table = np.array([to_rgb(colours[n] if n in values else "#9aa4ae") for n in seen.names])
        # A few pixels far above the rest would leave the map of gradients black.
        bright = max(np.quantile(explanation, 0.99), np.finfo(np.float32).eps)
        heat = overlay(image, np.clip(explanation / bright, 0, 1))
        for axis, panel in zip(axes[row], (image, heat, table[seen.shown[i]]), strict=False):
            axis.imshow(panel, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        photo = axes[row, 0]
        photo.set_ylabel(f"{seen.km[ids[row]]:,.0f} km off", fontsize=8.5)
        photo.text(0, -0.02, seen.images[i].credit, transform=photo.transAxes, va="top", fontsize=6)
        bars = axes[row, 3]
        bars.barh(values.index, values, color=[colours[str(name)] for name in values.index])
        bars.axvline(1, color=INK, ls=":", lw=1.2)
        bars.set_xlim(0, 1.05 * widest)
        bars.tick_params(axis="y", length=0, labelsize=8.5)
        bars.tick_params(axis="x", labelsize=8, labelbottom=row + 1 == len(ids))
    for axis, title in zip(axes[0], ("image", "explanation", "concepts", "influence"), strict=True):
        axis.set_title(title, fontsize=10)
    return figure


def concept_medians(table: pd.DataFrame, groups: Mapping[str, str]) -> Figure:
    """Median influence of each concept with its interval, a colour per group."""
    rows = table.assign(value=table["median"], group=table["group"].map(groups))
    return dots(
        rows,
        "concept",
        by="group",
        label="median concept influence",
        colours=dict(zip(groups.values(), (RANDOM, GUIDED), strict=False)),
        lines={"": 1.0},
        marks={"by_chance": "laid anywhere"},
        limits=(0, None),
    )


def semantic_maps(
    dataset: GeoDataset, size: int, network: SemanticNetwork | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """What every pixel of a dataset's readable images shows, int16 [N,size,size], indices into the
    names of the concepts, and these. Scenes need no network; photographs without one raise."""
    found = [np.empty((0, size, size), np.int16)]
    with progress_bar("semantic maps", len(dataset), "image", True) as bar:
        for start in range(0, len(dataset), CHUNK):
            part = dataset.subset(range(start, min(start + CHUNK, len(dataset))))
            found.append(_cached_maps(part, size, network))
            bar.update(len(part))
    return np.concatenate(found), semantic.CONCEPTS if network is None else network.names


def _cached_maps(part: GeoDataset, size: int, network: SemanticNetwork | None) -> np.ndarray:
    def make() -> dict[str, torch.Tensor]:
        maps = [_semantic_map(item, size, network) for item in Shard(part, size, "").items]
        return {"maps": torch.from_numpy(np.array(maps, np.int16).reshape(-1, size, size))}

    params = {"dataset": part.identity, "size": size, "network": network and network.key}
    photographs = ("geolib.segmentation.networks.ade20k", "geolib.images")
    modules = photographs if network else ("geoscenes.semantic",)
    return cache.arrays("semantic-maps", params, modules, make)["maps"].numpy()


def _semantic_map(item: GeoImage, size: int, network: SemanticNetwork | None) -> np.ndarray:
    if network is not None:
        return network(item.image, (size, size))
    if item.scene is None:
        raise ValueError(
            f"image {item.id!r} is a photograph: what it shows takes a network. Run `geolib fetch "
            f"{SemanticNetwork.asset}` and pass network=SemanticNetwork()"
        )
    shown = semantic.semantic_map(item.scene).astype(np.int16)
    return cv2.resize(shown, (size, size), interpolation=cv2.INTER_NEAREST)


class Explained(NamedTuple):
    """Images [N], located rightly or wrongly, their explanations and what each pixel shows.
    ``km`` are the errors of all test images by id; ``shown`` [N,H,W] indexes ``names``."""

    images: GeoDataset
    group: Sequence[str]
    km: pd.Series
    batch: torch.Tensor
    maps: Array
    shown: np.ndarray
    names: Sequence[str]
    seconds: float = 0.0

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return self.batch.shape[-1]

    def influences(self, **options: Any) -> Influences:
        """Their :func:`influences`."""
        return influences(self.maps, self.shown, self.names, self.images.ids, self.group, **options)


def explained(
    experiment: LocationExperiment,
    kind: Kind,
    radius_km: float,
    n: int | None,
    steps: int,
    n_samples: int,
    network: SemanticNetwork | None,
) -> Explained:
    """The first n test images located within a radius and the first n beyond, explained (§4.2)."""
    classifier = experiment.location_model(kind).head(0)
    side = classifier.image_size
    km = experiment.places(kind, "test").query("variant == 'f'").set_index("image_id")["km"]
    images, group = right_and_wrong(experiment.images("test"), km, radius_km, n)
    method, options = "integrated_gradients_squared", {"steps": steps, "n_samples": n_samples}
    config = pipeline.EvaluationConfig(attribution=method, attribution_options=options)
    maps, seconds = pipeline.maps(images, classifier, config)
    batch = to_batch([images[i] for i in range(len(images))], side)
    shown, names = semantic_maps(images, side, network)
    return Explained(images, group, km, batch, maps, shown, names, seconds)


class Influences(NamedTuple):
    """A row per image, concept and dilation; ``by_chance`` is its median over all shifts.
    ``shifted`` holds, by (dilation, group, concept), the mean over images [n_shifts] when every
    explanation is shifted at random."""

    rows: pd.DataFrame
    shifted: dict[Hashable, np.ndarray]


def influences(
    maps: Array,
    semantic_maps: Array,
    names: Sequence[str],
    image_ids: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    k: int = K,
    min_size: float = MIN_SIZE,
    dilations: Sequence[int] = (0, 3),
    n_shifts: int = 9999,
    seed: int = 0,
) -> Influences:
    """Influence of every concept over explanations and semantic maps [N,H,W] (§4.2), and by chance:
    one shift moves an image's explanation alike for all its concepts and dilations. ``groups`` [N]
    are what the table sets apart."""
    together = ["all"] * len(image_ids) if groups is None else groups
    if not len(maps) == len(semantic_maps) == len(image_ids) == len(together):
        raise ValueError(
            f"{len(maps)} maps, {len(semantic_maps)} semantic_maps, {len(image_ids)} image_ids "
            f"and {len(together)} groups; expected as many of each"
        )
    rows = []
    sums: dict[Hashable, np.ndarray] = {}
    for i in np.argsort(image_ids):  # sums round alike in any order of images
        rng = np.random.default_rng(seed_sequence(seed, image_ids[i]))
        offsets = tuple(rng.integers(side, size=n_shifts) for side in np.shape(maps[i]))
        for dilation in dilations:
            table = concept_influences(maps[i], semantic_maps[i], k, min_size, dilation).dropna()
            for number, size, value in table.itertuples():
                shifted = shifted_influences(maps[i], semantic_maps[i] == number, k, dilation)
                key = (dilation, together[i], names[number])
                sums[key] = sums.get(key, 0) + shifted[offsets]
                rows.append((image_ids[i], *key, size, value, np.median(shifted)))
    found = pd.DataFrame(rows, columns=COLUMNS)
    counts = found.groupby(CELL).size().to_dict()
    return Influences(found, {key: total / counts[key] for key, total in sums.items()})


def summarise(found: Influences, min_images: int = 100, seed: int = 0) -> pd.DataFrame:
    """Each concept's influence, largest median first, with the torus-shift test (Tables 3 and 4).
    Holm's correction runs, for each dilation, over the concepts of all groups that at least
    `min_images` show; the others are rare and untested."""
    rows = []
    for key, group in found.rows.groupby(CELL):
        values = group["influence"].to_numpy()
        rare = len(values) < min_images
        mean, chance = values.mean(), group["by_chance"].median()
        p_value = np.nan if rare else shift_p_value(mean, found.shifted[key])
        median = median_interval(values, seed=seed)
        rows.append((*key, len(values), *median, mean, chance, p_value, rare))
    columns = ["images", "median", "low", "high", "mean", "by_chance", "p_value", "rare"]
    table = pd.DataFrame(rows, columns=[*CELL, *columns])
    table["p_holm"] = table.groupby("dilation")["p_value"].transform(statistics.holm)
    order = ["dilation", "group", "median"]
    return table.sort_values(order, ascending=[True, False, False], ignore_index=True)


def shift_p_value(observed: float, shifted: np.ndarray) -> float:
    """Two-sided p-value of a mean influence: twice the smaller tail of its shifted values [R], of
    which the observed one counts as one more, so that p is at least 2 / (R + 1)."""
    above = (shifted >= observed - ROUNDING).sum() + 1
    below = (shifted <= observed + ROUNDING).sum() + 1
    return min(1.0, 2 * min(above, below) / (len(shifted) + 1))


def right_and_wrong(
    images: GeoDataset, km: pd.Series, radius: float, n: int | None
) -> tuple[GeoDataset, list[str]]:
    """The first n images located within a radius and the first n beyond; and which each is."""
    errors = km.reindex(images.ids).to_numpy()
    within, beyond = (np.flatnonzero(hit)[:n] for hit in (errors < radius, errors >= radius))
    group = ["within"] * len(within) + ["beyond"] * len(beyond)
    return images.subset([*within.tolist(), *beyond.tolist()]), group


def answer(summary: pd.DataFrame, groups: Mapping[str, str]) -> str:
    """What rightly located images say, in a sentence."""
    name, heading = next(iter(groups.items()))
    rows = frequent(summary)
    rows = rows[rows["group"] == name]
    if rows.empty:
        return f"Too few images located {heading} show any concept."
    ends = rows.iloc[[0, -1]][["concept", "median"]].itertuples(index=False)
    most, least = (f"{concept} (median influence {median:.2f})" for concept, median in ends)
    return (
        f"In images located {heading} explanations lie most on {most} and least on {least}; "
        f"{(rows['p_holm'] < 0.05).sum()} of {len(rows)} concepts differ from what chance gives."
    )


def colour_alone(
    found: Influences, seen: Explained, min_images: int, k: int, min_size: float
) -> tuple[pd.DataFrame, float]:
    """Median influences of a network and of its images' colours alone, and their rank correlation.
    Colour is the largest squared difference from the baseline over the channels."""
    contrast = (seen.batch - torch.tensor(IMAGENET_MEAN)[:, None, None]).square().amax(dim=1)
    options: dict[str, Any] = {"k": k, "min_size": min_size, "n_shifts": 1, "dilations": [0]}
    colour = seen._replace(maps=contrast).influences(**options).rows
    network = found.rows.query("dilation == 0")
    parts = {"network": network, "colour alone": colour}
    medians = {name: rows.groupby("concept")["influence"].median() for name, rows in parts.items()}
    often = network["concept"].value_counts() >= min_images
    table = pd.DataFrame(medians).loc[often[often].index].rename_axis(index=None)
    table = table.sort_values("network", ascending=False)
    return table, _rank_correlation(table)


def _rank_correlation(table: pd.DataFrame) -> float:
    """Of the first two columns; NaN for fewer than three rows."""
    return table.iloc[:, 0].corr(table.iloc[:, 1], "spearman") if len(table) > 2 else np.nan


def of_cues(
    summary: pd.DataFrame, seen: Explained, k: int
) -> tuple[pd.DataFrame, float, np.ndarray]:
    """How much of each concept is cues in rightly located scenes, beside its influence; the rank
    correlation of the two; and the influence of all cues as one concept in each scene."""
    columns = {"cue": "share of its pixels that are cues", "median": "median influence"}
    right = [i for i, name in enumerate(seen.group) if name == "within"]
    if not right or seen.images[right[0]].scene is None:
        return pd.DataFrame(columns=[*columns.values(), "images"]), np.nan, np.array([])
    scenes = [seen.images[i].scene for i in right]
    cues = np.stack([semantic.cue_map(scene) for scene in scenes if scene is not None])
    pairs = zip(right, cues, strict=True)
    found = [concept_influence(seen.maps[i], cue, k=k, min_size=0) for i, cue in pairs]
    influence, concepts = np.array(found), np.array(seen.names)[seen.shown[right].ravel()]
    rows = frequent(summary).query("group == 'within'").set_index("concept")
    rows = rows.assign(cue=pd.Series(cues.ravel()).groupby(concepts).mean())
    table = rows[[*columns, "images"]].rename(columns=columns).rename_axis(index=None)
    table = table.sort_values(columns["cue"], ascending=False)
    return table, _rank_correlation(table), influence[np.isfinite(influence)]


def findings(
    by_size: Mapping[float, Influences], min_images: int, images: str, seed: int
) -> dict[str, Finding]:
    """What the ledger asks of the influences, each at the first size that enough images reach."""
    wanted = {f"influence-{name}": [(0, "within", name)] for name in RIGHT} | {
        f"influence-wrong-{name}": [(0, "beyond", name), (0, "within", name)] for name in WRONG
    }
    none = pd.Series(dtype=float)
    measured: dict[str, Finding] = {}
    for size, found in by_size.items():
        by_cell = found.rows.groupby(CELL)
        parts = {key: part.set_index("image_id")["influence"] for key, part in by_cell}
        samples = {claim: [parts.get(k, none) for k in keys] for claim, keys in wanted.items()}
        if size == max(by_size):
            plain, grown = (parts.get((beta, "within", "sky"), none) for beta in (0, 3))
            samples["influence-dilation-sky"] = [(grown - plain).dropna()]
        for claim, sample in samples.items():
            n = min(map(len, sample))
            if claim in measured or n < max(2, min_images):
                continue
            value, low, high = median_interval(*(one.to_numpy() for one in sample), seed=seed)
            smaller = "the smaller group, " if len(sample) == 2 else ""
            about = f"{images}, {n} images, {smaller}at least {size:.0%} in size"
            measured[claim] = Finding(value=value, low=low, high=high, n=n, data=about)
    return measured


def median_interval(*samples: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """A median over images, or that of one sample [n] minus another's, and the ends of its 95 %
    percentile interval, which are NaN where a sample has fewer than two images."""

    def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        first, *others = (np.median(one, axis=axis) for one in drawn)
        return first - sum(others)

    ordered = [np.sort(sample) for sample in samples]  # the order of images plays no part
    value = float(statistic(*ordered)) if all(map(len, ordered)) else np.nan
    if min(map(len, ordered)) < 2:
        return value, np.nan, np.nan
    rng = np.random.default_rng(seed)
    found = stats.bootstrap(ordered, statistic, method="percentile", rng=rng).confidence_interval
    return value, float(found.low), float(found.high)
