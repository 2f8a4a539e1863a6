"""Where, with which precision and on how many images at once a network runs."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def choose_device(device: str | torch.device = "auto", *, float64: bool = False) -> torch.device:
    """The given device; ``"auto"`` is CUDA, else Apple's GPU, else the CPU.

    With ``float64``, Apple's GPU, which does not compute in it, is left out.
    """
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    apple = torch.backends.mps.is_available() and not float64
    return torch.device("mps" if apple else "cpu")


def uses_bf16(device: str | torch.device, precision: str = "auto") -> bool:
    """Whether networks run in bfloat16: ``"auto"`` says yes where the hardware computes in it.

    ``precision`` is ``"auto"``, ``"bf16"`` or ``"fp32"``, else a ValueError.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision={precision!r}; expected one of auto, bf16, fp32")
    if precision != "auto":
        return precision == "bf16"
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if kind == "cpu" else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def inference_precision(device: str | torch.device, precision: str = "auto") -> torch.autocast:
    """Context in which forward passes run in bfloat16 if :func:`uses_bf16`, else in float32."""
    bf16 = uses_bf16(device, precision)
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)


def choose_batch_size(device: str | torch.device) -> int:
    """Images per pass that keep a device busy; :class:`BatchSize` halves them where need be."""
    return 128 if torch.device(device).type == "cuda" else 32


class BatchSize:
    """Number of images per pass, halved whenever the memory runs out.

    ``images`` is the number to begin with, at least 1, else a ValueError; None: as suits a device.
    """

    def __init__(self, images: int | None, device: str | torch.device = "cpu") -> None:
        self.images = choose_batch_size(device) if images is None else images
        if self.images < 1:
            raise ValueError(f"batch_size={images}; expected at least 1")

    def run(self, function: Callable[[int], T]) -> T:
        """``function(images)``; with half as many, for good, whenever memory runs out.

        Warns each time of both numbers. It is an error if a single image does not fit.
        """
        while True:
            try:
                return function(self.images)
            except RuntimeError as error:
                if self.images == 1 or not _out_of_memory(error):
                    raise
            # Outside the handler, whose error holds on to the tensors of the pass that failed.
            gc.collect()
            torch.cuda.empty_cache()
            before, self.images = self.images, self.images // 2
            warnings.warn(
                f"out of memory with {before} images at once: going on with {self.images}; "
                f"batch_size={self.images} avoids the attempt",
                stacklevel=2,
            )


def _out_of_memory(error: RuntimeError) -> bool:
    # Here, and not above: it takes seconds to import.
    from lightning.pytorch.utilities.memory import is_oom_error

    return isinstance(error, torch.OutOfMemoryError) or is_oom_error(error)
