"""What `make book` takes: seconds, the same as a ratio, peak memory and disk (Linux).

    python benchmarks/book.py [--command "make book"] [--reference-only]

Runs the command with an empty cache in a temporary folder, so run it in a fresh clone. The ratio
divides its seconds by those of 1,000 training steps' worth of images on the same machine (ResNet-18
at 144 pixels, batches of 32, bf16 where the processor computes in it, all cores), measured first
and while nothing else runs. Memory is that of the command and everything it starts, with shared
pages counted once, looked at twice a second; disk that of `_build` and the cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
import torchvision
from torch.nn import functional as F

from geolib.model.device import uses_bf16
from geolib.runtime.here import repository_root

STEPS, BATCH_SIZE, IMAGE_SIZE = 1000, 32, 144
MEASURED_STEPS, WARM_UP = 30, 5
SECONDS_BETWEEN_LOOKS = 0.5


def reference_seconds() -> float:
    """Seconds of 1,000 training steps, from thirty."""
    network = torchvision.models.resnet18(num_classes=3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    images = torch.rand(BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH_SIZE) % 3
    bf16 = uses_bf16(torch.device("cpu"))
    for step in range(WARM_UP + MEASURED_STEPS):
        if step == WARM_UP:
            started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - started) / MEASURED_STEPS * STEPS


def memory(process: int) -> int:
    """Bytes that a process and its descendants hold; shared pages are counted once."""
    children = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in parentheses, may hold spaces.
            parent = int(
                (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
            )
        except OSError:  # it has ended
            continue
        children[parent].append(int(folder.name))
    total, pending = 0, [process]
    while pending:
        one = pending.pop()
        pending += children[one]
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def disk(*folders: Path) -> int:
    """Bytes of all files of folders; of a file with two names, once."""
    files = [path.lstat() for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sum({(s.st_dev, s.st_ino): s.st_size for s in files}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--command", default="make book")
    parser.add_argument("--reference-only", action="store_true")
    arguments = parser.parse_args()
    reference = reference_seconds()
    print(f"1,000 training steps: {reference:.0f} s on {os.cpu_count()} cores", flush=True)
    if arguments.reference_only:
        return
    with tempfile.TemporaryDirectory() as cache:
        started, peak = time.perf_counter(), 0
        process = subprocess.Popen(
            arguments.command.split(),
            cwd=repository_root(),
            env=os.environ | {"GEOLIB_CACHE": cache},
        )
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        seconds = time.perf_counter() - started
        used = disk(repository_root() / "_build", Path(cache))
    print(f"{arguments.command}: {seconds:.0f} s, exit status {process.returncode}")
    print(f"ratio: {seconds / reference:.2f}")
    print(f"peak memory: {peak / 2**30:.2f} GiB")
    print(f"disk of _build and the cache: {used / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
