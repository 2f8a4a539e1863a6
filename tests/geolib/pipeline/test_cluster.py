"""Many workers: the bytes of a serial run, whatever dies on the way."""

import asyncio
import os
import pickle
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import dask
import pandas as pd
import pytest
import torch
from distributed import Client, LocalCluster, Scheduler, Worker
from distributed.utils import get_mp_context
from toys import CLASSES, classifier, write_photographs
from typer.testing import CliRunner

from geolib import data, model, pipeline
from geolib.cli import app
from geolib.data import PhotoRecord
from geolib.pipeline import EvaluationConfig, cluster, shards

CONFIG = EvaluationConfig(repeats=2, shard_size=1, precision="fp32")


@pytest.fixture(scope="module", autouse=True)
def _forked_workers():
    """Workers are forked from a process that has imported the package: imports take seconds."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["geolib.pipeline.cluster"])
        yield


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Switches to an empty cache."""
    return lambda name: monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / name))


@pytest.fixture
def photos(tmp_path):
    write_photographs(tmp_path / "photos", 2)
    return data.load("folder", "all", root=tmp_path / "photos")


@dataclass(frozen=True)
class FatalRecord(PhotoRecord):
    """A photograph that kills a process when it is read, if the fuse says which."""

    fuse: Path = Path()

    def read(self):
        if self.fuse.is_file():
            victim = self.fuse.read_text()
            if victim != "always":
                self.fuse.unlink()
            os.kill(int(victim) if victim.isdigit() else os.getpid(), signal.SIGKILL)
        known = {name: value for name, value in vars(self).items() if name != "fuse"}
        return PhotoRecord(**known).read()


def _with_fuse(dataset, index, fuse):
    records = list(dataset.records)
    records[index] = FatalRecord(**vars(records[index]), fuse=fuse)
    return data.GeoDataset(dataset.name, dataset.classes, dataset.split, records)


def _evaluate(dataset, client=None, network=None, **changes):
    """The table as the bytes of a Parquet file."""
    config, network = CONFIG.model_copy(update=changes), network or classifier()
    table = pipeline.evaluate(dataset, network, config, client=client, progress=False)
    return table.to_parquet(index=False)


def _finished():
    paths = shards.cache.cache_root().glob("outcomes/*/*/manifest.json")
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.fixture
def threads():
    """Sets the number of torch's threads."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# The same bytes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    """A network whose float32 sums depend on the threads and on the order of weights in memory."""
    made = model.load("squeezenet1_1", weights="random", classes=CLASSES, image_size=64)
    return made.to(memory_format=torch.channels_last)


def test_any_number_of_workers_gives_the_bytes_of_a_serial_run(photos, network, fresh, threads):
    threads(2)
    serial = _evaluate(photos, network=network)
    for workers in (1, 2, 4):
        fresh(f"workers{workers}")
        with cluster.connect(workers) as client:
            assert _evaluate(photos, client, network) == serial
            done = client.run(lambda dask_worker: dask_worker.state.executed_count)
        assert len(_finished()) == len(photos)
        # Who computes what is the scheduler's choice: it moves a shard where a worker is free.
        assert len(done) == workers
        assert sum(done.values()) == len(photos)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_shard_does_not_depend_on_the_number_of_threads(
    photos, network, fresh, threads, precision
):
    tables = []
    for number in (1, 2, 3):
        fresh(f"threads{number}")
        threads(number)
        tables.append(_evaluate(photos, network=network, shard_size=3, precision=precision))
        assert torch.get_num_threads() == number
    assert tables[0] == tables[1] == tables[2]


def test_elements_and_skipped_images_are_those_of_a_serial_run(photos, fresh):
    photos.records[1].path.write_bytes(b"this is no picture")
    with pytest.warns(UserWarning, match="1 of 4 images were skipped"):
        serial = pipeline.elements(photos, classifier(), CONFIG, progress=False)
    fresh("workers")
    with cluster.connect(1) as client, pytest.warns(UserWarning, match="1 of 4"):
        shared = pipeline.elements(photos, classifier(), CONFIG, client=client, progress=False)
    pd.testing.assert_frame_equal(serial, shared, check_exact=True)
    assert shared.attrs == serial.attrs
    assert [skipped["id"] for skipped in shared.attrs["skipped"]] == [photos.ids[1]]


def test_the_bar_counts_the_images_of_finished_shards(photos, monkeypatch):
    steps = []

    @contextmanager
    def bar(title, total, unit, shown):
        assert total == 4
        yield SimpleNamespace(update=steps.append)

    monkeypatch.setattr(cluster, "progress_bar", bar)
    with cluster.connect(1) as client:
        _evaluate(photos, client, shard_size=3)
    assert sorted(steps) == [1, 3]


def test_records_travel_and_pixels_do_not(photos):
    shard = next(shards.shards(photos, classifier(), 4))
    assert len(pickle.dumps(shard)) < photos[0].image.nbytes / 2


# What dies ----------------------------------------------------------------------------------------


def test_a_shard_whose_worker_is_killed_is_given_to_another(photos, fresh, tmp_path):
    serial = _evaluate(photos)
    fresh("workers")
    fuse = tmp_path / "fuse"
    fuse.write_text("the worker")
    with cluster.connect(2) as client:
        assert _evaluate(_with_fuse(photos, 2, fuse), client) == serial
    assert not fuse.exists()


def test_a_shard_that_kills_every_worker_is_an_error_that_says_so(photos, tmp_path):
    fuse = tmp_path / "fuse"
    fuse.write_text("always")
    lost = pytest.raises(RuntimeError, match=r"lost with 2 workers in turn.*shard_size")
    few = dask.config.set({"distributed.scheduler.allowed-failures": 1})
    with few, cluster.connect(1) as client, lost:
        _evaluate(_with_fuse(photos, 3, fuse), client)


def _serve(kind, options, announce):
    """A scheduler or a worker in a process of its own."""

    async def run():
        async with kind(host="127.0.0.1", dashboard=False, **options) as server:
            announce.send(server.address)
            await server.finished()

    asyncio.run(run())


@pytest.fixture
def machines():
    """Starts schedulers and workers; gives process and address."""
    started = []

    def start(kind, **options):
        receive, send = get_mp_context().Pipe(duplex=False)
        process = get_mp_context().Process(target=_serve, args=(kind, options, send))
        process.start()
        started.append(process)
        assert receive.poll(60), f"no {kind.__name__} within a minute"
        return process, receive.recv()

    yield start
    for process in started:
        process.kill()
        process.join()


def test_a_run_that_lost_its_scheduler_goes_on_where_it_stopped(photos, fresh, tmp_path, machines):
    serial = _evaluate(photos)
    fresh("workers")
    scheduler, address = machines(Scheduler, port=0)
    machines(Worker, scheduler_ip=address, nthreads=1)
    fuse = tmp_path / "fuse"
    fuse.write_text(str(scheduler.pid))
    fatal = _with_fuse(photos, 3, fuse)
    with (
        pytest.raises(ConnectionError, match="run the same command again"),
        cluster.connect(scheduler=address) as client,
    ):
        _evaluate(fatal, client)
    kept = _finished()
    assert 1 <= len(kept) <= 4
    _, address = machines(Scheduler, port=0)
    machines(Worker, scheduler_ip=address, nthreads=1)
    with cluster.connect(scheduler=address) as client:
        assert _evaluate(fatal, client) == serial
    assert kept.items() <= _finished().items()


# Mistakes -----------------------------------------------------------------------------------------


def test_what_a_worker_refuses_is_the_users_own_error(photos, tmp_path, monkeypatch):
    known = data.load("folder", "all", root=tmp_path / "photos", classes=["blue", "red", "green"])
    with cluster.connect(1) as client:
        with pytest.raises(ValueError, match=r"green.*label='predicted'"):
            _evaluate(known, client)
        monkeypatch.setattr(cluster, "_version", lambda: "other")
        with pytest.raises(ValueError, match="another version"):
            _evaluate(photos, client)
    options = {"threads_per_worker": 2, "processes": False, "dashboard_address": None}
    refused = pytest.raises(ValueError, match="--nthreads 1")
    with LocalCluster(1, **options) as wide, Client(wide) as client, refused:
        _evaluate(photos, client)


def test_a_cache_folder_that_is_not_shared_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"elsewhere.*GEOLIB_CACHE"):
        cluster._check_shared(tmp_path / "elsewhere")


def test_what_cannot_be_connected_to_is_named(monkeypatch, machines):
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    _, lonely = machines(Scheduler, port=0)
    for workers, scheduler, error, words in (
        (0, None, ValueError, "workers=0"),
        (2, "tcp://127.0.0.1:8786", ValueError, "not both"),
        (None, "tcp://127.0.0.1:9", ConnectionError, "dask scheduler"),
        (None, "nonsense://", ConnectionError, "dask scheduler"),
        (None, lonely, ConnectionError, f"dask worker {lonely} --nthreads 1"),
    ):
        with pytest.raises(error, match=words), cluster.connect(workers, scheduler):
            pass


# The command --------------------------------------------------------------------------------------


def test_the_command_writes_the_files_of_a_serial_run(photos, fresh, tmp_path, monkeypatch):
    monkeypatch.setattr("geolib.model.load", lambda *args, **kwargs: classifier())
    arguments = ["evaluate", "--model", "m", "--dataset", "folder", "--split", "all"]
    arguments += ["--root", str(tmp_path / "photos"), "--repeats", "2", "--output"]
    written = []
    for name, options in {"serial": [], "shared": ["--workers", "2"]}.items():
        fresh(name)
        result = CliRunner().invoke(app, [*arguments, str(tmp_path / f"out-{name}"), *options])
        assert result.exit_code == 0, result.output
        files = sorted(p for p in (tmp_path / f"out-{name}").rglob("*") if p.is_file())
        written.append({p.name: p.read_bytes() for p in files})
    assert written[0] == written[1]
    assert "outcomes.parquet" in written[0]
