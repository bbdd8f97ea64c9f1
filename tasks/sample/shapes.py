"""The twenty shapes of the drawn world, each a mask over a grid of points.

A shape is a function of two arrays, x to the right and y upwards, that says which points lie inside. It
fills about the unit disc and uses only comparisons, sums, products and quotients: IEEE 754 fixes those to
the last bit, so a drawing is the same on every machine. Sines and cosines are not, hence the decimals.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.floating[Any]]  # float32 throughout; NumPy's stubs lose that at the first product
Mask = NDArray[np.bool_]
Shape = Callable[[Grid, Grid], Mask]


def _disc(x: Grid, y: Grid, cx: float, cy: float, radius: float) -> Mask:
    return (x - cx) * (x - cx) + (y - cy) * (y - cy) <= radius * radius


def _box(x: Grid, y: Grid, left: float, right: float, bottom: float, top: float) -> Mask:
    return (x >= left) & (x <= right) & (y >= bottom) & (y <= top)


def _polygon(*corners: tuple[float, float]) -> Shape:
    """A closed polygon; a point is inside if a ray to its right crosses the outline an odd number of times."""

    def inside(x: Grid, y: Grid) -> Mask:
        odd = np.zeros(x.shape, dtype=np.bool_)
        for (xa, ya), (xb, yb) in zip(corners, (*corners[1:], corners[0]), strict=True):
            if ya != yb:
                odd ^= ((y >= ya) != (y >= yb)) & (x < xa + (y - ya) * ((xb - xa) / (yb - ya)))
        return odd

    return inside


def _oval(x: Grid, y: Grid) -> Mask:
    return x * x / 0.96 + y * y / 0.25 <= 1


def _ring(x: Grid, y: Grid) -> Mask:
    return _disc(x, y, 0, 0, 0.95) & ~_disc(x, y, 0, 0, 0.55)


def _cross(x: Grid, y: Grid) -> Mask:
    return _box(x, y, -0.3, 0.3, -0.95, 0.95) | _box(x, y, -0.95, 0.95, -0.3, 0.3)


def _heart(x: Grid, y: Grid) -> Mask:
    u, v = 1.25 * x, 1.25 * y + 0.1
    rim = u * u + v * v - 1
    inside: Mask = rim * rim * rim <= u * u * v * v * v
    return inside


def _crescent(x: Grid, y: Grid) -> Mask:
    return _disc(x, y, 0, 0, 0.95) & ~_disc(x, y, 0.45, 0, 0.72)


def _hourglass(x: Grid, y: Grid) -> Mask:
    return (np.abs(x) <= 0.75 * np.abs(y) + 0.08) & (np.abs(y) <= 0.95)


def _house(x: Grid, y: Grid) -> Mask:
    walls = _box(x, y, -0.62, 0.62, -0.9, 0.15) & ~_box(x, y, -0.18, 0.18, -0.9, -0.3)
    return walls | _polygon((0, 0.95), (-0.95, 0.15), (0.95, 0.15))(x, y)


def _drop(x: Grid, y: Grid) -> Mask:
    # The triangle's lower corners are where lines from its tip touch the disc.
    return _disc(x, y, 0, -0.3, 0.62) | _polygon((0, 1), (-0.545, -0.004), (0.545, -0.004))(x, y)


def _flower(x: Grid, y: Grid) -> Mask:
    petals = np.zeros(x.shape, dtype=np.bool_)
    for cx, cy in ((0.62, 0), (-0.62, 0), (0.31, 0.54), (0.31, -0.54), (-0.31, 0.54), (-0.31, -0.54)):
        petals |= _disc(x, y, cx, cy, 0.34)
    return (petals | _disc(x, y, 0, 0, 0.4)) & ~_disc(x, y, 0, 0, 0.2)


def _gear(x: Grid, y: Grid) -> Mask:
    u, v = 0.7071 * (x + y), 0.7071 * (x - y)
    teeth = _disc(x, y, 0, 0, 0.7)
    for a, b in ((x, y), (y, x), (u, v), (v, u)):
        teeth |= _box(a, b, -0.16, 0.16, -0.98, 0.98)
    return teeth & ~_disc(x, y, 0, 0, 0.34)


def _ladder(x: Grid, y: Grid) -> Mask:
    across = np.abs(x)
    bars = _box(across, y, 0.4, 0.62, -0.98, 0.98)
    for height in (-0.72, -0.24, 0.24, 0.72):
        bars |= _box(across, y, 0, 0.62, height - 0.1, height + 0.1)
    return bars


def _fish(x: Grid, y: Grid) -> Mask:
    body = (x + 0.22) * (x + 0.22) / 0.52 + y * y / 0.24 <= 1
    tail = _polygon((0.3, 0), (0.98, 0.55), (0.98, -0.55))(x, y)
    return (body | tail) & ~_disc(x, y, -0.55, 0.14, 0.1)


def _mushroom(x: Grid, y: Grid) -> Mask:
    cap = (x * x / 0.9 + (y - 0.02) * (y - 0.02) / 0.68 <= 1) & (y >= 0.02)
    return cap | _box(x, y, -0.26, 0.26, -0.92, 0.02)


def _key(x: Grid, y: Grid) -> Mask:
    bow = _disc(x, y, 0, 0.55, 0.43) & ~_disc(x, y, 0, 0.55, 0.2)
    bit = _box(x, y, 0, 0.48, -0.98, -0.74) | _box(x, y, 0, 0.48, -0.58, -0.36)
    return bow | _box(x, y, -0.13, 0.13, -0.98, 0.2) | bit


SHAPES: dict[str, Shape] = {
    "circle": lambda x, y: _disc(x, y, 0, 0, 0.9),
    "oval": _oval,
    "square": lambda x, y: _box(x, y, -0.78, 0.78, -0.78, 0.78),
    "triangle": _polygon((0, 0.95), (-0.92, -0.7), (0.92, -0.7)),
    "star": _polygon(
        *((0, 1), (-0.235, 0.324), (-0.951, 0.309), (-0.38, -0.124), (-0.588, -0.809)),
        *((0, -0.4), (0.588, -0.809), (0.38, -0.124), (0.951, 0.309), (0.235, 0.324)),
    ),
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "arrow": _polygon(
        *((0, 1), (-0.78, 0.12), (-0.28, 0.12), (-0.28, -0.95)),
        *((0.28, -0.95), (0.28, 0.12), (0.78, 0.12)),
    ),
    "hourglass": _hourglass,
    "house": _house,
    "drop": _drop,
    "flower": _flower,
    "gear": _gear,
    "ladder": _ladder,
    "bolt": _polygon(
        *((0.1, 1), (-0.62, -0.12), (-0.08, -0.12), (-0.28, -1), (0.62, 0.22), (0.08, 0.22), (0.5, 1)),
    ),
    "fish": _fish,
    "mushroom": _mushroom,
    "key": _key,
}
