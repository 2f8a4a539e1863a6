"""Shards of an evaluation on many processes or machines, through dask.distributed.

The workers only fill the cache, which they share; the code of a serial run then reads it. A shard
that dies with its worker is given to another, and a run that lost its scheduler goes on with the
shards that are missing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
from distributed import (
    CancelledError,
    Client,
    KilledWorker,
    LocalCluster,
    WorkerPlugin,
    as_completed,
    get_worker,
)
from distributed.comm import CommClosedError

from geolib import data
from geolib.data.pixels import single_threaded
from geolib.model import Classifier
from geolib.pipeline import shards as shards_
from geolib.runtime import cache
from geolib.runtime.here import KEEP_FREED_MEMORY, cache_root, progress_bar

Stage = Callable[[shards_.Shard, Classifier, shards_.EvaluationConfig], Path]

# By default Dask has workers give freed memory back at once, which takes a third of the time of a
# network on a processor.
WORKER_ENVIRONMENT = {**KEEP_FREED_MEMORY, "OMP_NUM_THREADS": "1"}
# Seconds in which a scheduler must answer, and a first worker join it.
PATIENCE = 30


@contextmanager
def connect(workers: int | None = None, scheduler: str | None = None) -> Iterator[Client | None]:
    """Client of a cluster for :func:`geolib.pipeline.evaluate`; to be used as a context.

    Parameters
    ----------
    workers : worker processes to start on this machine, stopped at the end of the context.
    scheduler : address of a running scheduler, for example ``"tcp://host:8786"``. Its workers run
        one shard at a time (``dask worker --nthreads 1``) and see the same photographs and the same
        cache folder as this machine, under the same paths. On processors they are faster with the
        environment variables of ``geolib.runtime.here.KEEP_FREED_MEMORY``.

    Yields
    ------
    The client, or None where neither is given: the run is then serial.

    Raises
    ------
    ValueError
        If both are given, or ``workers`` is less than 1.
    ConnectionError
        If the scheduler does not answer, or has no workers.
    """
    if workers is not None and scheduler is not None:
        raise ValueError(
            f"workers={workers} and scheduler={scheduler!r}: give the number of processes to "
            "start here, or the scheduler that has its own, not both"
        )
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}; expected at least 1, or None for a serial run")
    if scheduler is not None:
        with _reach(scheduler) as client:
            yield client
    elif workers is not None:
        with (
            dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            ) as started,
            Client(started) as client,
        ):
            yield client
    else:
        yield None


def _reach(scheduler: str) -> Client:
    try:
        client = Client(scheduler, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"scheduler={scheduler!r} does not answer ({error}); start one with `dask scheduler`, "
            "and give the address that it prints"
        ) from error
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        client.close()
        raise ConnectionError(
            f"scheduler={scheduler!r} has no workers; start some with "
            f"`dask worker {scheduler} --nthreads 1`"
        ) from error
    return client


def compute(
    client: Client,
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: shards_.EvaluationConfig,
    stages: Sequence[Stage] = (shards_.outcomes,),
    *,
    progress: bool = True,
) -> None:
    """Compute stages of a dataset on a cluster, into the cache (§5 of arXiv 2605.00912).

    Parameters
    ----------
    client : of :func:`connect`, or any other whose workers have one thread each.
    dataset : its images travel as records, not as pixels.
    classifier : sent once to every worker.
    config : settings.
    stages : functions of a shard, the classifier and the settings, each to the folder it fills.
    progress : whether to show a progress bar over finished shards.

    Raises
    ------
    ValueError
        What a shard raised, for example of an unknown label; or if a worker runs other code,
        several shards at once, or writes to a cache folder that this machine does not see.
    ConnectionError
        If the scheduler is lost; finished shards are kept.
    RuntimeError
        If a shard took several workers with it.
    """
    shards = list(shards_.shards(dataset, classifier, config.shard_size))
    run = _Run(classifier, config, stages)
    client.register_plugin(run)
    futures = client.map(_compute, shards, run=run.name, pure=False)
    sizes = dict(zip(futures, (len(shard.dataset) for shard in shards), strict=True))
    # A finished shard that is let go of is not asked for again when its worker dies.
    del futures
    title = f"{config.attribution} × {config.segmenter}"
    try:
        with progress_bar(title, sum(sizes.values()), "image", progress) as bar:
            for future in as_completed(list(sizes), loop=client.loop):
                _check_shared(Path(future.result()))
                bar.update(sizes.pop(future))
    except (CancelledError, CommClosedError) as error:
        raise ConnectionError(
            "the connection to the scheduler was lost; finished shards are in the cache: start "
            "the scheduler if need be, and run the same command again to go on where it stopped"
        ) from error
    except KilledWorker as error:
        raise RuntimeError(
            f"a shard of {config.shard_size} images was lost with {error.allowed_failures + 1} "
            "workers in turn, most likely for want of memory: give the workers more, or make "
            "shard_size or batch_size smaller"
        ) from error
    finally:
        # A scheduler that dies leaves the client "running" for a moment.
        if client.status == "running":
            with suppress(CommClosedError):
                client.unregister_worker_plugin(run.name)


class _Run(WorkerPlugin):
    """What all shards of a run share, taken to every worker and to those that join later.

    A plugin is pickled as it is. As an argument of tasks the classifier would draw them all to the
    worker that has it first; as the result of a task it would arrive with its weights in another
    order in memory, and compute other last digits.
    """

    def __init__(
        self, classifier: Classifier, config: shards_.EvaluationConfig, stages: Sequence[Stage]
    ) -> None:
        self.name = f"run-{uuid4().hex}"
        self.classifier = classifier
        self.config = config
        self.stages = stages
        self.cache = str(cache_root().absolute())
        self.version = _version()


def _compute(shard: shards_.Shard, run: str) -> str:
    """On a worker: folder of a shard's last stage, computed where the cache does not hold it."""
    worker = get_worker()
    if worker.state.nthreads > 1:
        # Attribution hooks into the network, which the threads of a process would share.
        raise ValueError(
            f"worker {worker.address} runs {worker.state.nthreads} shards at once in one process; "
            "start workers with `--nthreads 1`, and as many of them as there are cores"
        )
    shared: Any = worker.plugins[run]
    if shared.version != _version():
        raise ValueError(
            f"worker {worker.address} has another version of this package or of its numerical "
            "libraries than the machine that asks; install the same and start it again"
        )
    os.environ["GEOLIB_CACHE"] = shared.cache
    single_threaded(0)
    with shards_.single_thread():
        folders = [stage(shard, shared.classifier, shared.config) for stage in shared.stages]
    return str(folders[-1])


def _version() -> str:
    """Hash of the code that computes outcomes and of the versions of the libraries it uses."""
    return cache.key("outcomes", {}, ("geolib.pipeline.shards",))


def _check_shared(folder: Path) -> None:
    if not (folder / cache.MANIFEST).is_file():
        raise ValueError(
            f"a worker wrote to {folder}, which this machine does not see; set the environment "
            "variable GEOLIB_CACHE to a folder that all machines share"
        )
