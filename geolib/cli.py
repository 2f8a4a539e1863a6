"""The ``geolib`` command: a few lines per verb over the package."""

from __future__ import annotations

import errno
import io
import json
import linecache
import os
import platform
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from geolib.runtime.here import cache_root, check_file, check_folder, printable

if TYPE_CHECKING:  # imports that take seconds
    import pandas as pd

    from geolib.data import GeoDataset, Skipped

# Names are printed as they are: square brackets are no markup, `:smile:` is no picture, and a long
# line is left to the terminal.
_VERBATIM: Any = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
console = Console(**_VERBATIM)
INTERRUPTED = 130  # as shells count it: 128 + SIGINT


class _Commands(typer.core.TyperGroup):
    """Answers every failure in one line; Python's development mode shows the traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name may hold what its encoding lacks
                stream.reconfigure(errors="backslashreplace")
        try:
            given = join_parameters(list(sys.argv[1:] if args is None else args))
            return super().main(given, *rest, **options)
        except SystemExit as end:
            if end.code == INTERRUPTED:
                _fail("interrupted")
            raise
        except Exception as error:
            if sys.flags.dev_mode:
                raise
            _fail(f"error: {in_one_line(error)}")
            raise SystemExit(1) from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EOFError as error:  # of a file, which would be taken for Ctrl-D
            raise RuntimeError(in_one_line(error)) from error


IMAGE_BYTES = 1e6  # of a figure, or of maps and elements
TRAINING_SIZE = 160  # pixels


def _fail(text: str) -> None:
    Console(stderr=True, **_VERBATIM).print(text, style="red")


def in_one_line(error: Exception) -> str:
    """What went wrong, in one line; what was not foreseen here is named, with the place."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        faults = error.errors()
        return "; ".join(
            f"{'.'.join(map(str, one['loc']))}={one['input']!r}: {one['msg']}" for one in faults
        )
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    full = getattr(error, "errno", None) == errno.ENOSPC or "unexpected pos" in text  # of torch
    if full and "GEOLIB_CACHE" not in text:
        text += f"; the output or the cache, {cache_root()} (GEOLIB_CACHE), needs more room"
    if isinstance(error, OSError) and text:
        return text
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "?")
    line = linecache.getline(frame.f_code.co_filename, number).strip()
    if module.partition(".")[0] in ("geolib", "geoscenes", "__main__") and line[:6] == "raise ":
        return text
    where = f"{type(error).__name__} in {module}, line {number}"
    return f"{where}: {text or 'no message'}; PYTHONDEVMODE=1 shows the traceback"


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Explain image geolocation models, object by object; re-run the whole paper.",
    epilog="Start with `geolib book`, or with `geolib explain PHOTO.jpg --model CHECKPOINT`.",
)

# Scenes, one's own photographs, or what `geolib osv5m` has fetched.
Dataset = StrEnum("Dataset", ["geoscenes", "folder", "osv5m"])
Precision = StrEnum("Precision", ["auto", "bf16", "fp32"])
Label = StrEnum("Label", ["true", "predicted"])

Attribution = Annotated[str, Option(help="Attribution method; `geolib info` lists them.")]
Segmenter = Annotated[str, Option(help="Segmenter; `geolib info` lists them.")]
TopP = Annotated[
    float | None, Option(min=0, max=1, help="Salient share of the image; chosen by default.")
]
SMin = Annotated[
    float | None, Option(min=0, max=1, help="Lowest score of an element; chosen by default.")
]
SegmenterCheckpoint = Annotated[
    Path | None, Option(help="Weights of a segmenter that needs them; else what `fetch` left.")
]
Model = Annotated[
    str | None,
    Option(
        help="A checkpoint of ours, or the name of a torchvision or timm classifier; "
        "by default the book's own, which knows synthetic scenes only."
    ),
]
Weights = Annotated[Path | None, Option(help="Weights of a named classifier (safetensors or pth).")]
Root = Annotated[Path | None, Option(help="Folder of photographs, for --dataset folder.")]
Classes = Annotated[
    str | None, Option(help="Countries, separated by commas; `FR,other` is one against the rest.")
]
Outputs = Annotated[
    str | None,
    Option(
        "--classes", help="Names of the classes of --weights, in its order, separated by commas."
    ),
]
Device = Annotated[str, Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.")]
BatchSize = Annotated[
    int | None, Option(min=1, help="Images per pass; by default as the device suggests.")
]
Profile = Annotated[str, Option(help="smoke (minutes), default, paper or theiner.")]
Parameters = Annotated[
    list[str] | None, Option("-p", "--parameter", metavar="NAME VALUE", help="Change a parameter.")
]
Jobs = Annotated[
    int | None, Option(min=1, help="Notebooks at a time, which share the cores; by default two.")
]


@app.command(
    epilog="Examples: `geolib run` · `geolib run 06-faithfulness --profile smoke` · "
    "`geolib run 06-faithfulness -p repeats 20` · `geolib run --dry-run`"
)
def run(
    names: Annotated[list[str] | None, Argument(help="Notebooks; all by default.")] = None,
    profile: Profile = "default",
    parameter: Parameters = None,
    jobs: Jobs = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Only say what would run, why, and how long it took.")
    ] = False,
) -> None:
    """Execute notebooks with papermill; those that nothing has changed for are skipped."""
    typer.echo("looking for what has changed …", err=True)  # before imports that take seconds
    from geolib.book import run as run_

    given = names or (), profile, _parameters(parameter)
    if dry_run:
        _print(
            {
                "notebook": one.name,
                "would run": "yes" if one.why else "no",
                "because these changed": ", ".join(one.why),
                "last time": "" if one.seconds is None else f"{one.seconds:.0f} s",
            }
            for one in run_.plan(*given)
        )
        return
    for one in run_.execute(*given, jobs=jobs):
        console.print(one.target)


@app.command(epilog="Examples: `geolib book` · `geolib book --profile smoke`")
def book(profile: Profile = "default", parameter: Parameters = None, jobs: Jobs = None) -> None:
    """Execute what has changed and build the book; prints the path of its first page."""
    typer.echo("looking for what has changed …", err=True)
    from geolib.book import pages

    typer.echo(pages.book(profile, _parameters(parameter), jobs=jobs))


@app.command(
    epilog="Examples: `geolib train --output scenes.safetensors` · `geolib train --dataset folder "
    "--root PHOTOS --arch mobilenet_v2 --weights FILE --output mine.safetensors` · on several GPUs "
    "or machines `torchrun --nproc-per-node 2 --no-python geolib train --output FILE`"
)
def train(
    output: Annotated[Path, Option(help="Checkpoint to write.")] = Path("classifier.safetensors"),
    dataset: Dataset = Dataset.geoscenes,
    root: Root = None,
    classes: Classes = None,
    arch: Annotated[str, Option(help="Name of a torchvision or timm classifier.")] = ("resnet18"),
    weights: Weights = None,
    image_size: Annotated[
        int | None,
        Option(help="Side of the input in pixels: 160, or the network's own if it takes no other."),
    ] = None,
    n: Annotated[int | None, Option(help="Training images; all by default.")] = None,
    max_epochs: Annotated[int, Option(help="Most epochs.")] = 10,
    learning_rate: Annotated[float, Option(help="Peak of the one-cycle schedule.")] = 3e-4,
    seed: int = 0,
) -> None:
    """Train or fine-tune a country classifier; a killed training goes on where it stopped."""
    from geolib.training.batches import Process

    size, n_bytes = _outline(arch, image_size)
    first = Process.this().rank == 0  # of torchrun; it writes and reports
    if first:
        check_file(output, n_bytes)
    experiment = _experiment(
        *(dataset, root, classes),
        arch=arch,
        weights=str(weights) if weights else None,
        image_size=size,
        n_train=n,
        max_epochs=max_epochs,
        learning_rate=learning_rate,
        seed=seed,
    )
    for split in ("train", "validation", "test"):  # none may be empty, which is said at once
        getattr(experiment, split)
    classifier = experiment.classifier
    if not first:
        return
    classifier.save(output)
    accuracy = experiment.accuracy("test")
    _report(experiment.train, experiment.validation, experiment.test)
    console.print(
        f"accuracy on {accuracy['n_images']} unseen images: {accuracy['value']:.1%} "
        f"(95 % interval {accuracy['low']:.1%} to {accuracy['high']:.1%})"
    )
    typer.echo(output)


@app.command(
    epilog="Examples: `geolib evaluate --model scenes.safetensors` · `geolib evaluate --dataset "
    "folder --root PHOTOS --model mobilenet_v2 --weights FILE --label predicted --output OUT`"
)
def evaluate(
    model: Model = None,
    weights: Weights = None,
    dataset: Dataset = Dataset.geoscenes,
    root: Root = None,
    classes: Annotated[
        str | None,
        Option(help="Countries, separated by commas; with --weights its outputs, in their order."),
    ] = None,
    split: Annotated[str, Option(help="train, validation, test, eval or all.")] = "eval",
    n: Annotated[int | None, Option(help="Images; all by default.")] = None,
    attribution: Annotated[list[str] | None, Option(help="Method; repeat for several.")] = None,
    segmenter: Annotated[list[str] | None, Option(help="Segmenter; repeat for several.")] = None,
    segmenter_checkpoint: SegmenterCheckpoint = None,
    top_p: TopP = None,
    s_min: SMin = None,
    label: Annotated[Label, Option(help="Class by which outcomes are judged.")] = Label.true,
    repeats: Annotated[int, Option(help="Random layouts per image.")] = 10,
    seed: int = 0,
    device: Device = "auto",
    precision: Annotated[
        Precision, Option(help="auto is bf16 where the hardware computes in it.")
    ] = Precision.auto,
    batch_size: BatchSize = None,
    output: Annotated[
        Path | None, Option(help="Folder for outcomes, maps, elements (Parquet, COCO); slower.")
    ] = None,
    workers: Annotated[int | None, Option(help="Processes to start on this machine.")] = None,
    scheduler: Annotated[
        str | None, Option(metavar="ADDRESS", help="A running dask scheduler, as tcp://HOST:8786.")
    ] = None,
) -> None:
    """Deletion and insertion tests over a dataset: guided against random boxes.

    The thresholds of each method with each segmenter are chosen on the labelled validation split,
    or without labels, where there is none, by how much elements cover of the images.
    """
    from geolib import attribution as methods
    from geolib import pipeline, segmentation, statistics
    from geolib.pipeline import cluster
    from geolib.scoring import check_choice

    chosen, segmenters = attribution or ["gradcam++"], segmenter or ["felzenszwalb"]
    # Before a classifier is trained for want of one.
    for method in chosen:
        check_choice("--attribution", method, methods.METHODS)
    for name in segmenters:
        check_choice("--segmenter", name, segmentation.SEGMENTERS)
    _check_root(dataset, root)
    if output:
        check_folder(output, (n or 10) * IMAGE_BYTES)
    classifier = _classifier(model, weights, classes if weights else None)
    for method in chosen:  # before the first of them runs
        methods.check(classifier, method)
    given = _experiment(
        *(dataset, root, classes),
        image_size=classifier.image_size,
        top_p=top_p,
        s_min=s_min,
        seed=seed,
    )
    images = given.split(split, n)
    tables, told = [], {}
    with cluster.connect(workers, scheduler) as client:
        for method, name in product(chosen, segmenters):
            config = pipeline.EvaluationConfig(
                attribution=method,
                segmenter=name,
                segmenter_options=_options(segmenter_checkpoint),
                label=label.value,
                repeats=repeats,
                individual=output is not None,
                seed=seed,
                device=device,
                precision=precision.value,
                batch_size=batch_size,
                **_thresholds(top_p, s_min),
            )
            tuned = _tuned(given, images, classifier, config)
            console.print(f"{method} × {name}: {tuned.note}")
            told[method, name], config = tuned.note, tuned.config
            tables.append(pipeline.evaluate(images, classifier, config, client=client))
            if output:
                pipeline.export(output / f"{method}-{name}", images, classifier, config)
    _report(images)
    comparison = statistics.compare(pipeline.concat(tables))
    pairs = list(zip(comparison["attribution"], comparison["segmenter"], strict=True))
    comparison["thresholds"] = [told[pair] for pair in pairs]
    _print(_shown(comparison))
    _say_empty(comparison)
    if output:
        comparison.to_csv(output / "comparison.csv", index=False)
        typer.echo(output)


@app.command(
    epilog="Examples: `geolib explain street.jpg --model mine.safetensors` · `geolib explain "
    "*.jpg --model mobilenet_v2 --weights FILE --attribution scorecam --segmenter slic`"
)
def explain(
    photos: Annotated[
        list[Path], Argument(metavar="PHOTO…", help="Photographs, or folders of them.")
    ],
    model: Model = None,
    weights: Weights = None,
    classes: Outputs = None,
    attribution: Attribution = "gradcam++",
    segmenter: Segmenter = "felzenszwalb",
    segmenter_checkpoint: SegmenterCheckpoint = None,
    top_p: TopP = None,
    s_min: SMin = None,
    output: Annotated[Path, Option(help="Folder for figures and JSON.")] = Path("explanations"),
) -> None:
    """Explain photographs: an annotated figure and a JSON file for each.

    Elements are the segments of the best scores that cover up to a quarter of the photographs on
    average, or as `--s-min` says.

    Nothing leaves this machine, and no EXIF data or position is written.
    """
    from geolib import attribution as methods
    from geolib import pipeline, segmentation
    from geolib.scoring import check_choice

    # Before a classifier is trained for want of one.
    check_choice("--attribution", attribution, methods.METHODS)
    check_choice("--segmenter", segmenter, segmentation.SEGMENTERS)
    readable, skipped = _readable(photos, output)
    check_folder(output, len(readable) * IMAGE_BYTES)
    output.mkdir(parents=True, exist_ok=True)
    classifier = _classifier(model, weights, classes)
    config = pipeline.EvaluationConfig(
        attribution=attribution,
        segmenter=segmenter,
        segmenter_options=_options(segmenter_checkpoint),
        shard_size=1,
        **_thresholds(top_p, s_min),
    )
    photographs = pipeline.photographs(photo for photo, _ in readable)
    tuned = pipeline.by_coverage(photographs, classifier, config, s_min=s_min)
    console.print(f"thresholds: {tuned.note}")
    for photo, stem in readable:
        explanation = pipeline.explain(classifier, photo, tuned)
        figure, record = output / f"{stem}.png", output / f"{stem}.json"
        explanation.figure().savefig(figure, bbox_inches="tight", facecolor="white")
        record.write_text(json.dumps(explanation.to_dict(), indent=1), encoding="utf-8")
        likely = explanation.probabilities[explanation.prediction]
        console.print(
            f"{explanation.name}: {explanation.prediction} ({likely:.0%}), "
            f"{len(explanation.elements)} elements, {figure}"
        )
        if explanation.note:
            console.print(explanation.note, style="yellow")
    read, left_out = len(readable), len(skipped)
    said = f"{read} photographs read, {left_out} of {read + left_out} photographs were skipped"
    _count(said, skipped)


@app.command(
    epilog="Examples: `geolib fetch --list` · `geolib fetch mobile-sam sam2.1-hiera-tiny` · "
    "`HF_TOKEN=… geolib fetch sam3` · `geolib fetch osv5m-train-images/images/train/00.zip`"
)
def fetch(
    names: Annotated[
        list[str] | None, Argument(metavar="NAME", help="Assets, or NAME/FILE.")
    ] = None,
    listed: Annotated[bool, Option("--list", help="Show what there is and what is here.")] = False,
) -> None:
    """Download models and datasets that the package can use, and verify them.

    A download that broke off goes on. What is here is verified again. Where a licence must be
    accepted first, or photographs come from elsewhere, it says how.
    """
    from geolib.download import assets

    if listed:
        status = assets.status().replace({True: "yes", False: "no"})
        status = status[["name", "here", "size", "licence", "gated", "needed_by"]]
        _print(status.rename(columns={"needed_by": "needed by"}).to_dict("records"))
    elif not names:
        raise ValueError("NAME is missing; `geolib fetch --list` shows what there is")
    for name in names or []:
        typer.echo(assets.fetch(name))
        asset = assets.manifest()[name.partition("/")[0]]
        if asset.by_hand and not asset.gated:
            console.print(asset.by_hand, style="yellow")


@app.command(
    epilog="Examples: `geolib osv5m --split eval` · `MAPILLARY_TOKEN=… geolib osv5m --source "
    "mapillary` · `geolib osv5m --countries FR,IN,JP --seed 1 --root FOLDER`"
)
def osv5m(
    split: Annotated[list[str] | None, Option(help="Split; repeat for several; else all.")] = None,
    countries: Annotated[str, Option(help="ISO codes, separated by commas.")] = "FR,IN,JP",
    source: Annotated[str, Option(help="hub, or mapillary: originals, needs a token.")] = "hub",
    root: Annotated[Path | None, Option(help="Folder to fill, else in the cache.")] = None,
    seed: int = 0,
) -> None:
    """Fetch photographs of OSV-5M by split; a run that broke off goes on where it stopped."""
    from geolib.data.osv5m import FETCH_ORDER, prepare

    codes = _names(countries) or ()
    which = split or FETCH_ORDER
    summary = prepare(root, which=which, countries=codes, seed=seed, source=source)
    typer.echo(summary)
    if not summary.complete:
        why = "failures.parquet beside the images says why; run the same again to retry"
        console.print(why, style="yellow")


@app.command(
    name="study-page",
    epilog="Examples: `geolib study-page STUDY --contact 'Who runs it, who approved it'` · "
    "`geolib study-page STUDY -p dataset folder -p root PHOTOS -p checkpoint mine.safetensors`",
)
def study_page(
    folder: Annotated[Path, Argument(help="New folder for the page and its key.")],
    contact: Annotated[str | None, Option(help="Shown first: who runs the study.")] = None,
    profile: Profile = "default",
    parameter: Parameters = None,
) -> None:
    """Write the study of people: a page to give them, and the key that reads their answers."""
    from geolib.book import run as run_
    from geolib.chapters.experiment import Experiment
    from geolib.chapters.people import material, page

    chapter = "15-human-study"
    parameters = run_.resolve([chapter], profile, _parameters(parameter))[chapter]
    names = ("n_scenes", "n_participants", "attribution", "segmenter")
    chosen = {name: parameters[name] for name in names}
    study = material.prepare(Experiment.from_parameters(parameters), **chosen)
    typer.echo(page.write(folder, study, contact))


@app.command()
def info() -> None:
    """Versions, device, cache folder, and the methods and segmenters that are known."""
    import torch

    import geolib
    from geolib.attribution import METHODS
    from geolib.model import choose_device
    from geolib.segmentation import SEGMENTERS

    rows = {
        "geolib": geolib.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(choose_device()),
        "threads": torch.get_num_threads(),
        "cache": cache_root(),
        "attribution methods": ", ".join(METHODS),
        "segmenters": ", ".join(SEGMENTERS),
    }
    for name, value in rows.items():
        console.print(Text.assemble((name, "bold"), f": {value}"))


def _classifier(model: str | None, weights: Path | None, classes: str | None) -> Any:
    from geolib import model as models
    from geolib.book import run as run_
    from geolib.chapters.experiment import Experiment

    if model:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", models.HeadReplaced)
                return models.load(model, weights=weights, classes=_names(classes))
        except models.HeadReplaced as error:
            raise ValueError(f"--classes: {str(error).rpartition(';')[0]}") from None
    if weights or classes:
        raise ValueError("--model is missing: --weights and --classes are those of a classifier")
    parameters = run_.resolve(["02-classifier"], "default")
    experiment = Experiment.from_parameters(parameters["02-classifier"])
    console.print(
        "no --model: the book's own classifier, which is kept once it has learnt. At first use it "
        f"learns from {experiment.n_train} drawn scenes: some three minutes on two fast cores"
    )
    return experiment.classifier


def _thresholds(top_p: float | None, s_min: float | None) -> dict[str, Any]:
    """Those of the two thresholds that are given."""
    return {name: v for name, v in {"top_p": top_p, "s_min": s_min}.items() if v is not None}


def _tuned(given: Any, images: GeoDataset, classifier: Any, config: Any) -> Any:
    """Thresholds for some images: as given, or chosen on a labelled validation split that holds
    none of them, or without labels on the images themselves."""
    from geolib import pipeline
    from geolib.pipeline.thresholds import judged

    try:
        apart = images.split not in ("all", "validation")
        apart = apart and judged(given.validation, classifier, config)
    except ValueError:  # too few photographs for three splits
        apart = False
    if apart:
        return given.tune(config, classifier)
    some = images.subset(range(min(len(images), AT_HAND)))
    return pipeline.by_coverage(some, classifier, config, s_min=given.s_min)


AT_HAND = 200  # most images that thresholds are chosen on before the work is shared among workers
EMPTY = 0.5  # share of images without an element from which on nothing is learnt of a method


def _shown(comparison: pd.DataFrame) -> list[dict[Any, Any]]:
    """What is printed of a comparison: no number where most images are without an element."""
    empty = comparison["rate_without_elements"]
    results = comparison[["guided", "random", "advantage", "ci_low", "ci_high", "p_holm"]]
    about = comparison[["attribution", "segmenter", "test"]]
    shown = about.join(results.mask(empty > EMPTY)).join(comparison["coverage"])
    shown["no element"] = empty.map("{:.0%}".format)
    return shown.join(comparison["n_images"]).to_dict("records")


def _say_empty(comparison: pd.DataFrame) -> None:
    """Which methods kept no element in some images."""
    for row in comparison.drop_duplicates(["attribution", "segmenter"]).to_dict("records"):
        share, n = row["rate_without_elements"], row["n_images"]
        if share > 0:
            means = "nothing is learnt of it" if share > EMPTY else "these count as no advantage"
            console.print(
                f"{row['attribution']} × {row['segmenter']} kept no element in {share * n:.0f} of "
                f"{n} images: {means}",
                style="yellow",
            )


def _outline(arch: str, image_size: int | None) -> tuple[int, int]:
    """Side of the images that a network is trained on, and the bytes of its weights."""
    from geolib import model as models
    from geolib.model.classifier import takes

    options: Any = {} if Path(arch).is_file() else {"weights": "random", "classes": ("a", "b")}
    classifier = models.load(arch, image_size=image_size, **options)
    n_bytes = sum(tensor.nbytes for tensor in classifier.state_dict().values())
    usual = image_size is None and takes(classifier.network, TRAINING_SIZE)
    return TRAINING_SIZE if usual else classifier.image_size, n_bytes


def _experiment(dataset: Dataset, root: Path | None, classes: str | None, **settings: Any) -> Any:
    """The settings that commands share with the notebooks."""
    from geolib.chapters.experiment import Experiment

    _check_root(dataset, root)
    where = str(root) if root else None
    return Experiment(dataset=dataset.value, root=where, classes=_names(classes), **settings)


def _check_root(dataset: Dataset, root: Path | None) -> None:
    if dataset is Dataset.folder and root is None:
        raise ValueError("--root is missing: --dataset folder needs the folder of photographs")


def _options(checkpoint: Path | None) -> dict[str, Any]:
    return {"checkpoint": str(checkpoint)} if checkpoint else {}


def _readable(places: Sequence[Path], output: Path) -> tuple[list[tuple[Path, str]], list[Skipped]]:
    """Photographs that can be read, each with a name for its results, and what cannot, said."""
    from geolib.data import files

    readable, skipped = files.readable(places, output)
    for entry in skipped:
        console.print(f"skipped: {printable(entry.id)}: {entry.reason}", style="yellow")
    if not readable:
        raise ValueError("none of the photographs could be read")
    return readable, skipped


def _report(*parts: GeoDataset) -> None:
    """How many photographs of some splits were read and skipped; scenes are not counted."""
    from geolib.data import files

    if all(part.name != "geoscenes" for part in parts):
        console.print(files.read_and_skipped(*parts))


def _count(line: str, skipped: Sequence[Skipped]) -> None:
    from geolib.data import files

    console.print(files.counted(line, skipped))


def _names(text: str | None) -> tuple[str, ...] | None:
    from geolib.data.tables import clean

    if not text:
        return None
    names = tuple(clean(name) for name in text.split(","))
    if "" in names or len({*names}) < len(names):
        raise ValueError(f"{text!r}: expected names that differ, separated by commas")
    return names


def _parameters(pairs: list[str] | None) -> dict[str, Any]:
    from geolib.book.parameters import Text

    split = (pair.partition("=") for pair in pairs or [])
    return {name: Text(value) for name, _, value in split}


def join_parameters(arguments: list[str]) -> list[str]:
    """Join ``-p NAME VALUE``, papermill's way, into ``-p NAME=VALUE``; a value must be there.

    Typer has no option that is repeatable and takes two words.
    """
    words, joined = iter(arguments), []
    for word in words:
        joined.append(word)
        if word in ("-p", "--parameter"):
            name = next(words, "")
            value = "" if "=" in name else next(words, None)
            if not name or value is None:
                raise ValueError(f"{word} {name}: expected NAME VALUE, as in -p repeats 20")
            joined.append(name if "=" in name else f"{name}={value}")
    return joined


def main() -> None:
    """Entry point of the ``geolib`` command."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        # Files and their names are UTF-8 in any locale, for the processes that it starts, too.
        environment = os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill cleans up like Ctrl-C
    if not sys.flags.dev_mode:  # no lines of code below what people should know
        warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    app()


def _print(rows: Iterable[Mapping[Any, Any]]) -> None:
    """A table of rows; a terminal narrower than it would cut its numbers off."""
    listed = list(rows)
    table = Table(*listed[0])
    for row in listed:
        table.add_row(*map(_cell, row.values()))
    Console(**_VERBATIM | {"soft_wrap": False}, width=max(console.width, 140)).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value == value else "–"
    return str(value)


if __name__ == "__main__":
    main()
