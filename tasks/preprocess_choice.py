"""The text of --preprocess, read: it is checked before anything is loaded, and imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: The preprocessing of ImageNet's networks, by its name.
IMAGENET = "imagenet"
FORMS = "imagenet, SIZE, SIZE,mean=M,std=S (a number, or three as R/G/B) or module:function"


class PreprocessError(ValueError):
    """A preprocessing that is none."""


@dataclass(frozen=True)
class PreprocessChoice:
    """How images become inputs: a square of some size, or a function of the user's."""

    #: Side of the square, in pixels.
    size: int = 0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    #: Module and name in it.
    function: tuple[str, str] | None = None

    @classmethod
    def of(cls, text: str) -> PreprocessChoice:
        """As typed: `32`, `32,mean=0.5,std=0.25`, `32,mean=0.49/0.48/0.45`, `module:function`.

        Raises `PreprocessError`.
        """
        if ":" in text:
            module, _, name = text.rpartition(":")
            if not module or not name:
                raise PreprocessError(f"--preprocess {text!r} is no module:function. Write {FORMS}.")
            return cls(function=(module, name))
        size, *given = (part.strip() for part in text.split(","))
        if not (size.isascii() and size.isdecimal() and int(size)):
            raise PreprocessError(f"--preprocess {text!r} does not begin with a size in pixels. Write {FORMS}.")
        values: dict[str, tuple[float, ...]] = {}
        for part in given:
            name, _, numbers = part.partition("=")
            if name not in ("mean", "std") or name in values:
                raise PreprocessError(f"--preprocess {text!r}: {part!r} is no mean or std. Write {FORMS}.")
            values[name] = _numbers(numbers, text, name)
        if min(values.get("std", (1.0,))) <= 0:
            raise PreprocessError(f"--preprocess {text!r}: the standard deviation has to be above 0.")
        return cls(int(size), values.get("mean", cls.mean), values.get("std", cls.std))


def names_code(text: str) -> bool:
    """True if a preprocessing is `module:function`, code of somebody's own."""
    return ":" in text


def check_preprocess(text: str) -> None:
    """Raises `PreprocessError` where a text is no preprocessing."""
    if text != IMAGENET:
        PreprocessChoice.of(text)


def _numbers(text: str, whole: str, name: str) -> tuple[float, ...]:
    """One number for each of three channels; a single one is of all."""
    try:
        values = tuple(float(part) for part in text.split("/"))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise PreprocessError(
            f"--preprocess {whole!r}: {name}={text} is neither a number nor three, as 0.49/0.48/0.45 for red, green "
            "and blue."
        )
    return values * 3 if len(values) == 1 else values
