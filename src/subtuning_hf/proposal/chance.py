"""
Chance outside torch, which a transform of rows may draw from.

Torch's own is kept by `intact`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def own_chance(seed: int) -> Iterator[None]:
    """
    Inside, what Python and numpy draw depends on the seed alone; outside, it is as if nothing had been drawn.

    Args:
        seed (`int`): 0 or more.
    """
    python, numbers = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
