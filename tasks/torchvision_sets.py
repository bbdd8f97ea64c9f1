"""Data sets of torchvision as probe sources: `torchvision:CIFAR100/train`. No Prefect."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from sys import stderr
from typing import Any

from filelock import FileLock

from storage.errors import SourceError
from storage.sources.kinds import KINDS, Kind
from storage.sources.source import CopiedSource, SourceImage
from tasks.images import as_png

PREFIX = "torchvision:"
TRAIN_TEST: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}


def _splits(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"split": name} for name in names}


#: Classification sets that may be named, and how their constructors ask for a split. A list, not any attribute of
#: the module: a text from a spec file chooses among these and runs nothing else.
DATA_SETS: dict[str, dict[str, dict[str, Any]]] = {
    "CIFAR10": TRAIN_TEST,
    "CIFAR100": TRAIN_TEST,
    "Country211": _splits("train", "valid", "test"),
    "DTD": _splits("train", "val", "test"),
    "FGVCAircraft": _splits("train", "val", "trainval", "test"),
    "FashionMNIST": TRAIN_TEST,
    "Flowers102": _splits("train", "val", "test"),
    "Food101": _splits("train", "test"),
    "KMNIST": TRAIN_TEST,
    "MNIST": TRAIN_TEST,
    "OxfordIIITPet": _splits("trainval", "test"),
    "STL10": _splits("train", "test"),
    "SVHN": _splits("train", "test", "extra"),
    "USPS": TRAIN_TEST,
}


@dataclass(frozen=True)
class TorchvisionSet(CopiedSource):
    """The images of a data set, by row number, as PNG: what torchvision gives are pixels."""

    text: str
    data_root: str
    encoding = "png"

    @property
    def name(self) -> str:
        """Set and split."""
        return self.text.removeprefix(PREFIX).replace("/", "-")

    def images(self) -> Iterator[SourceImage]:
        """Downloads the set if it is not there. Raises `SourceError`."""
        data = self._data()
        labels = _labels(data)
        for number in range(len(data)):
            # torchvision checks the files against its own sums, so the name stands for the content.
            yield SourceImage(f"{number:06d}.png", str(number), 0, self.text, labels[number])

    def read(self, url: str) -> bytes:
        """The image of a row, encoded without loss."""
        image, _ = self._data()[int(url)]
        return as_png(image)

    def _data(self) -> Any:
        name, _, split = self.text.removeprefix(PREFIX).partition("/")
        if name not in DATA_SETS:
            near = difflib.get_close_matches(name.lower(), [known.lower() for known in DATA_SETS], 3, 0.4)
            nearest = [known for lower in near for known in DATA_SETS if known.lower() == lower]
            raise SourceError(
                f"There is no torchvision data set {name!r} for --probe. "
                + (f"Nearest: {', '.join(nearest)}. " if nearest else "")
                + f"All: {', '.join(DATA_SETS)}."
            )
        if split not in DATA_SETS[name]:
            choices = ", ".join(f"{PREFIX}{name}/{known}" for known in DATA_SETS[name])
            raise SourceError(f"{self.text} names no split of {name}. Give {choices}.")
        return _opened(name, split, str(Path(self.data_root).expanduser()))


TORCHVISION = Kind(
    "a data set of torchvision, as torchvision:CIFAR10/test",
    lambda text: text.startswith(PREFIX),
    lambda text, settings: TorchvisionSet(text, settings.data_root),
)
#: All kinds of source that --probe takes.
ALL_KINDS = (TORCHVISION, *KINDS)


@lru_cache(maxsize=2)
def _opened(name: str, split: str, root: str) -> Any:
    from torchvision import datasets  # half of a second, for those who ask for a set of it

    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        # One at a time: tasks of several processes would unpack into each other's files. What torchvision prints
        # is no output of the command.
        with FileLock(f"{root}/{name}.lock"), redirect_stdout(stderr):
            return getattr(datasets, name)(root, download=True, **DATA_SETS[name][split])
    except Exception as error:  # of URLs, files, sums of files, missing packages that read them
        raise SourceError(
            f"torchvision's {name} is not in {root}, and to fetch it failed ({error}). Fetch it where there is a "
            f"network, with python -c 'import torchvision.datasets as d; d.{name}(\"{root}\", download=True)', and "
            "copy the folder; or give its place with --data-root."
        ) from error


def _labels(data: Any) -> list[str]:
    """The class of each row: by name where the set has names."""
    numbers = next(
        values for field in ("targets", "labels", "_labels") if (values := getattr(data, field, None)) is not None
    )
    names = getattr(data, "classes", None)
    return [str(names[int(number)]) if names else str(int(number)) for number in numbers]
