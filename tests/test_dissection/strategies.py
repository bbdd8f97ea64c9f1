"""What hypothesis draws for the method: small activation and similarity matrices, ties and dead neurons included."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

# No deadline: a loaded machine is no failure. Derandomised: a change is judged by what it does, not by its luck.
QUICK = settings(max_examples=40, deadline=None, derandomize=True)

Matrix = npt.NDArray[np.float64]


class Problem(NamedTuple):
    """`P [I, C]` and `A [I, N]` in float64."""

    P: Matrix
    A: Matrix

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.P), torch.from_numpy(self.A)


def real_numbers(largest: float) -> st.SearchStrategy[float]:
    return st.floats(-largest, largest, width=32, allow_subnormal=False)


#: Activations of four values only, so that ties are everywhere, or any.
activations = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), real_numbers(100.0))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """1 to 10 images, 1 to 5 concepts, 1 to 4 neurons."""
    num_images, num_concepts, num_neurons = (draw(st.integers(1, most)) for most in (10, 5, 4))
    P = draw(hnp.arrays(np.float64, (num_images, num_concepts), elements=real_numbers(1.0)))
    A = draw(hnp.arrays(np.float64, (num_images, num_neurons), elements=activations))
    return Problem(P, A)


def activation_blocks(*, not_finite: bool = False) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    """`[I, N]` float32, ties everywhere; with some that are not finite where wanted."""
    return hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=16),
        elements=st.sampled_from([-1.5, -0.0, 0.0, 1.0, 2.5] + [np.nan, np.inf, -np.inf] * not_finite),
    )
