"""Where and with which precision a network runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = ("auto", "bf16", "fp32")


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The given device; ``"auto"`` is CUDA, else Apple's GPU, else the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def uses_bf16(device: str | torch.device, precision: str = "auto") -> bool:
    """Whether networks run in bfloat16: ``"auto"`` says yes where the hardware computes in it.

    Raises
    ------
    ValueError
        If ``precision`` is not ``"auto"``, ``"bf16"`` or ``"fp32"``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision == "bf16"
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and _cpu_computes_bf16()


def inference_precision(
    device: str | torch.device, precision: str = "auto"
) -> AbstractContextManager[object]:
    """Context in which forward passes run in bfloat16 where that is wanted, else in float32.

    Parameters
    ----------
    device
        Device of the network.
    precision
        ``"bf16"``, ``"fp32"``, or ``"auto"``: bfloat16 where the hardware computes in it.
    """
    if not uses_bf16(device, precision):
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def _cpu_computes_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
