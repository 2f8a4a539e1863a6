"""Training on two processes under torchrun: the result of one, across a kill and a restart.

Run by torchrun, as ``test_distributed.py FOLDER``, this file is one of the processes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from test_training import killed_before, noted_steps
from toys import CLASSES, SMALL, patches, write_photographs

from geolib import model
from geolib.training import recipe

# A batch that two processes cannot halve, and a last validation batch of a single image.
CONFIG = SMALL.model_copy(update={"batch_size": 15, "max_epochs": 3, "freeze_batch_norm": True})
TRAIN, VALIDATION = 47, 16

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "PYTHONPATH": os.pathsep.join(sys.path),
    # Without it a restarted process finds the addresses of those before it (pytorch issue 135712).
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


def fit(checkpoints: Path | None) -> model.Classifier:
    validation = patches(VALIDATION, first=1000, split="validation")
    return model.train(patches(TRAIN), validation, CONFIG, checkpoints=checkpoints, device="cpu")


def one_process(folder: Path) -> None:
    """What each process does: note its steps and the checkpoints it writes, train, save.

    One of the two is killed in mid-epoch, whereupon torchrun starts both again.
    """
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    doomed = rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    save = TorchCheckpointIO.save_checkpoint

    def noted_save(*arguments, **options):
        (folder / f"{rank}-wrote").touch()
        save(*arguments, **options)

    TorchCheckpointIO.save_checkpoint = noted_save
    killed_before(*((1, 2) if doomed else ()))
    made = noted_steps(pytest.MonkeyPatch())
    classifier = fit(folder / "checkpoints")
    classifier.save(folder / f"{rank}.safetensors")
    (folder / f"{rank}-steps.json").write_text(json.dumps(made))


def torchrun(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine."""
    launcher = "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"
    command = sys.executable, "-m", *launcher, "--nproc-per-node=2", *command
    environment = os.environ | ENVIRONMENT | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Path:
    """Folder of a training on two processes, one of which was killed in mid-epoch."""
    folder = tmp_path_factory.mktemp("torchrun")
    torchrun("--max-restarts=1", __file__, str(folder))
    return folder


def test_two_processes_give_the_result_of_one(resumed):
    alone = fit(None)
    first, second = (model.load(resumed / f"{rank}.safetensors") for rank in range(2))
    assert first.weights_sha256 == second.weights_sha256
    assert first.history.equals(second.history)
    np.testing.assert_allclose(first.history, alone.history, rtol=1e-4)
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = alone(images)
        torch.testing.assert_close(first(images), logits, atol=1e-3, rtol=0)
    assert logits.std() > 0.1


def test_a_killed_run_goes_on_within_the_epoch(resumed):
    steps = [json.loads((resumed / f"{rank}-steps.json").read_text()) for rank in range(2)]
    assert steps == [[[1, 2], [2, 0], [2, 1], [2, 2]]] * 2


def test_the_first_process_alone_writes_checkpoints(resumed):
    assert (resumed / "0-wrote").exists()
    assert not (resumed / "1-wrote").exists()
    written = {path.name for path in (resumed / "checkpoints").iterdir()}
    assert written == {recipe.BEST, recipe.LAST, recipe.IDENTITY}


def test_geolib_train_as_the_launched_command(tmp_path):
    write_photographs(tmp_path / "photos", 12)
    command = f"--dataset folder --root {tmp_path}/photos --arch {SMALL.arch} --image-size 32"
    command += f" --max-epochs 1 --output {tmp_path}/c.safetensors"
    geolib = "--no-python", str(Path(sys.executable).with_name("geolib")), "train"
    done = torchrun(*geolib, *command.split(), GEOLIB_CACHE=str(tmp_path / "cache"))
    assert done.stdout.count("accuracy on") == done.stdout.count("c.safetensors") == 1
    assert model.load(tmp_path / "c.safetensors").classes == CLASSES
    assert len(list((tmp_path / "cache").glob("classifier/*/*/manifest.json"))) == 1
    assert not list((tmp_path / "cache" / "unfinished").iterdir())


if __name__ == "__main__":
    one_process(Path(sys.argv[1]))
