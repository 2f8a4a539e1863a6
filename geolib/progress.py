"""One progress bar for everything that takes longer than a moment."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


def progress_bar(description: str, total: int, unit: str, shown: bool) -> tqdm[Any]:
    """A bar that is advanced with ``update``; to be used as a context.

    Where ``shown`` is true the bar can still be switched off with ``TQDM_DISABLE=1``, which an
    explicit ``disable=False`` would override.
    """
    hidden: dict[str, Any] = {} if shown else {"disable": True}
    return tqdm(total=total, desc=description, unit=unit, **hidden)
