"""One progress bar for everything that takes longer than a moment."""

from __future__ import annotations

import os
from typing import Any

from tqdm.auto import tqdm


def progress_bar(description: str, total: int, unit: str, shown: bool) -> tqdm[Any]:
    """A bar that is advanced with ``update``; to be used as a context.

    ``TQDM_DISABLE=1`` hides it: tqdm itself forgets that variable in notebooks.
    """
    hidden = not shown or bool(os.environ.get("TQDM_DISABLE"))
    return tqdm(total=total, desc=description, unit=unit, disable=hidden)
