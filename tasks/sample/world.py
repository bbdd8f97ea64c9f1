"""A drawn world: one textured, coloured shape on a coloured background, with captions that are true of it.

Any scene is drawn from its split and index alone, bit for bit the same on every machine (see
`tasks.sample.shapes`). Each block of 2,400 consecutive scenes holds every shape 120 times, and within a
shape every colour 10, every texture 20, every kind of background 30 and every background colour 10 times:
SoftWPMI compares the neurons of a layer, so a class that happened to be red more often than the others
would rightly be labelled "red".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from string import Formatter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.sample.shapes import SHAPES, Grid

Split = Literal["train", "probe"]
Pixels = NDArray[np.uint8]

SIZE = 64  # pixels a side
PER_SHAPE = 120  # scenes of each shape in a block
PER_BLOCK = PER_SHAPE * len(SHAPES)
_OVERSAMPLING = 2  # points per pixel a side
_SPLITS: dict[Split, int] = {"train": 1, "probe": 2}
_DECK, _SCENE, _PIXELS = 0, 1, 2  # the streams of random numbers of a split

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "orange": (245, 140, 25),
    "yellow": (245, 225, 50),
    "green": (40, 150, 55),
    "turquoise": (50, 205, 195),
    "blue": (40, 75, 215),
    "purple": (130, 45, 165),
    "pink": (250, 150, 190),
    "brown": (120, 70, 30),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
    "gray": (135, 135, 135),
}
_BY_NAME = tuple(COLOURS)

# A texture is the share of the second tone at each point, from the point's place in pixels and its speckle.
TEXTURES: dict[str, Callable[[Grid, Grid, Grid], Grid]] = {
    "solid": lambda x, _y, _speckle: np.zeros_like(x),
    "striped": lambda _x, y, _speckle: _odd(y / 4),
    "dotted": lambda x, y, _speckle: _as_grid(_from_cell(x, 8) + _from_cell(y, 8) <= 7.5),
    "checkered": lambda x, y, _speckle: (_odd(x / 5) + _odd(y / 5)) % 2,
    "speckled": lambda _x, _y, speckle: _as_grid(speckle > 0.65),
    "zigzag": lambda x, y, _speckle: _odd((y + np.abs(x % 10 - 5)) / 4),
}
BACKGROUNDS = ("plain", "grainy", "tiled", "cloudy")

# Caption templates, and how often each is used. Bare shapes come more often: a colour is told by any pixel and a
# shape only by many, so a contrastive model learns colours first and, for long, nothing else.
CAPTIONS: dict[str, int] = {
    "{shape}": 3,
    "a {shape}": 3,
    "{colour}": 1,
    "{texture}": 1,
    "{colour} {shape}": 1,
    "{texture} {shape}": 1,
    "{texture} {colour}": 1,
    "{background_colour} background": 1,
    "{background} background": 1,
    "{background} {background_colour} background": 1,
    "a {texture} {colour} {shape}": 1,
    "a {shape} on a {background_colour} background": 1,
    "a {colour} {shape} on a {background} background": 1,
    "a {texture} {colour} {shape} on a {background} {background_colour} background": 1,
}
_URN = tuple(template for template, times in CAPTIONS.items() for _ in range(times))


@dataclass(frozen=True)
class Scene:
    """What one drawing shows, and all that is needed to draw it."""

    shape: str
    colour: str
    texture: str
    background: str  # kind of background: one of BACKGROUNDS
    background_colour: str  # always another than colour
    center: tuple[float, float]  # of the shape, in pixels from the left and from the top
    radius: float  # of the shape, in pixels
    tilt: float  # tangent of half the angle by which the shape is turned
    split: Split
    index: int


def _random(split: Split, stream: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([_SPLITS[split], stream, index]))


@cache
def _decks(split: Split, block: int, shape: int) -> tuple[list[int], list[int]]:
    """Textures and kinds of background of the 120 scenes of a shape, in a shuffled order."""
    ranks = np.argsort(_random(split, _DECK, block * len(SHAPES) + shape).random((2, PER_SHAPE)), axis=1)
    return (ranks[0] % len(TEXTURES)).tolist(), (ranks[1] % len(BACKGROUNDS)).tolist()


def scene(index: int, split: Split) -> Scene:
    """Return the scene of that index: shapes follow each other in runs of 120 within a block of 2,400."""
    block, within = divmod(index, PER_BLOCK)
    shape, turn = divmod(within, PER_SHAPE)
    textures, kinds = _decks(split, block, shape)
    lap, colour = divmod(turn, len(COLOURS))
    behind = (colour + 1 + (lap + shape + block) % (len(COLOURS) - 1)) % len(COLOURS)
    shift_x, shift_y, size, tilt = _random(split, _SCENE, index).random(4).tolist()
    return Scene(
        shape=tuple(SHAPES)[shape],
        colour=_BY_NAME[colour],
        texture=tuple(TEXTURES)[textures[turn]],
        background=BACKGROUNDS[kinds[turn]],
        background_colour=_BY_NAME[behind],
        center=(SIZE / 2 + 10 * (shift_x - 0.5), SIZE / 2 + 10 * (shift_y - 0.5)),
        radius=18 + 8 * size,
        tilt=0.36 * (tilt - 0.5),  # up to 20 degrees either way
        split=split,
        index=index,
    )


def mentions(template: str) -> frozenset[str]:
    """Return the fields of a scene that a caption template speaks of."""
    return frozenset(field for _, field, _, _ in Formatter().parse(template) if field)


def template(rng: np.random.Generator) -> str:
    """Return a caption template, each as often as `CAPTIONS` says."""
    return _URN[int(rng.random() * len(_URN))]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return one true caption of a scene, from a bare word to a full description."""
    return template(rng).format(**vars(scene))


def draw(scene: Scene) -> Pixels:
    """Return the picture of a scene, uint8 [64, 64, 3], RGB."""
    rng = _random(scene.split, _PIXELS, scene.index)
    side = SIZE * _OVERSAMPLING
    place = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / _OVERSAMPLING  # pixels
    across = np.broadcast_to(place, (side, side))
    down = np.broadcast_to(place[:, None], (side, side))

    right, up = across - scene.center[0], scene.center[1] - down
    square = scene.tilt * scene.tilt
    cosine, sine = (1 - square) / (1 + square), 2 * scene.tilt / (1 + square)
    x, y = cosine * right + sine * up, cosine * up - sine * right
    mask = SHAPES[scene.shape](x / scene.radius, y / scene.radius)

    phase = 8 * rng.random(2)
    inside = TEXTURES[scene.texture](x + float(phase[0]), y + float(phase[1]), _blown_up(rng, 2))
    share = np.where(mask, 0.5 * inside, _behind(scene.background, across, down, rng))[..., None]
    tones = [_tones(name, rng) for name in (scene.colour, scene.background_colour)]
    first, second = (np.where(mask[..., None], tones[0][i], tones[1][i]) for i in (0, 1))
    fine = first + share * (second - first)  # [2·64, 2·64, 3]
    total = fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]
    pixels: Pixels = np.floor(total / 4 + 0.5).astype(np.uint8)
    return pixels


def _behind(kind: str, across: Grid, down: Grid, rng: np.random.Generator) -> Grid:
    """The share of the second tone at each point of a background."""
    if kind == "grainy":
        return np.float32(0.45) * _blown_up(rng, 1)
    if kind == "tiled":
        shift = 10 * rng.random(2)
        lines = ((across + float(shift[0])) % 10 < 2) | ((down + float(shift[1])) % 10 < 2)
        return np.float32(0.4) * _as_grid(lines)
    if kind == "cloudy":
        return np.float32(0.65) * _clouds(rng)
    return np.zeros_like(across)


def _blown_up(rng: np.random.Generator, cell: int) -> Grid:
    """Noise in [0, 1) that is constant over square cells of so many pixels."""
    noise = rng.random((SIZE // cell, SIZE // cell)).astype(np.float32)
    return noise.repeat(cell * _OVERSAMPLING, axis=0).repeat(cell * _OVERSAMPLING, axis=1)


def _clouds(rng: np.random.Generator) -> Grid:
    """Smooth noise in [0, 1): random heights every 16 pixels, with straight lines between them."""
    heights = rng.random((6, 6)).astype(np.float32)  # the last row and column lie beyond the picture
    place = np.arange(SIZE * _OVERSAMPLING, dtype=np.float32) * np.float32(4 / (SIZE * _OVERSAMPLING))
    low = place.astype(np.intp)
    part = place - low.astype(np.float32)
    rows = heights[low] + part[:, None] * (heights[low + 1] - heights[low])
    return rows[:, low] + part * (rows[:, low + 1] - rows[:, low])


def _tones(colour: str, rng: np.random.Generator) -> tuple[Grid, Grid]:
    """A colour, a little off, and its second tone: darker for light colours, lighter for dark ones."""
    first = np.asarray(COLOURS[colour], dtype=np.float32) + (20 * rng.random(3) - 10).astype(np.float32)
    red, green, blue = COLOURS[colour]
    second = 0 if 2 * red + 5 * green + blue > 8 * 128 else 255
    return np.clip(first, 0, 255), np.full(3, second, dtype=np.float32)


def _as_grid(mask: NDArray[np.bool_]) -> Grid:
    return mask.astype(np.float32)


def _odd(band: Grid) -> Grid:
    return np.floor(band) % 2


def _from_cell(x: Grid, period: int) -> Grid:
    """Squared distance to the middle of the cell of a lattice, in square pixels."""
    return (x % period - period / 2) ** 2
