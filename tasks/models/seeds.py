"""Random numbers that are the same in every process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the `with`, the generators of Python, NumPy and PyTorch start at `seed`; then they go on as before."""
    python, array = random.getstate(), np.random.get_state()
    tensor = torch.random.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.random.set_rng_state(tensor)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
