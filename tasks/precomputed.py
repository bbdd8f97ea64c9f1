"""Embeddings that somebody else's CLIP made: `.npy` files, for images with the path of each row beside them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from storage.errors import EmbeddingsError
from storage.files import Folder, split

Answer = TypeVar("Answer")
Floats = npt.NDArray[np.float32]


def read_npy(url: str) -> Floats:
    """A matrix of finite, non-zero rows, scaled to norm 1, float32. Raises `EmbeddingsError`."""
    return _read_npy(url, _version(url))


def file_digest(url: str) -> str:
    """SHA-256 of a file. Raises `EmbeddingsError` where it is not there."""
    return _digest(url, _version(url))


@dataclass(frozen=True)
class ImageEmbeddingsFile:
    """`[I, D]` image embeddings and, beside them in `NAME.keys.txt`, the path of each row's image."""

    url: str

    @classmethod
    def at(cls, url: str) -> ImageEmbeddingsFile:
        """The file at a URL or path."""
        return cls(url)

    @property
    def keys_url(self) -> str:
        """Where the keys are: `image_embeddings.npy` has `image_embeddings.keys.txt`."""
        return f"{self.url.removesuffix('.npy')}.keys.txt"

    def digest(self) -> str:
        """Of both files."""
        return f"{file_digest(self.url)} {file_digest(self.keys_url)}"

    def num_dimensions(self) -> int:
        """`D`."""
        return int(read_npy(self.url).shape[1])

    def rows(self, paths: list[str]) -> Floats:
        """Embeddings of the images with these paths, `[len(paths), D]`. Raises `EmbeddingsError` as `check` does."""
        keys = self.check(paths)
        return read_npy(self.url)[[keys[path] for path in paths]]

    def check(self, paths: list[str]) -> dict[str, int]:
        """The row of each path there is. Raises `EmbeddingsError` where an image has none.

        Rows that no image has are not used.
        """
        keys = self._keys(len(read_npy(self.url)))
        without = [path for path in paths if path not in keys]
        if without:
            raise EmbeddingsError(
                f"{len(without)} of {len(paths)} probe images have no row among the {len(keys)} of {self.keys_url} "
                f"(first: {without[0]!r}; its first key: {next(iter(keys))!r}). Each line of it is the `path` of "
                "an image in the probe set's index: its place below the --probe folder, after the name of its source "
                "where there are several."
            )
        return keys

    def _keys(self, num_rows: int) -> dict[str, int]:
        text = _read(self.keys_url).decode("utf-8-sig", "replace").replace("\r\n", "\n")
        lines = text.removesuffix("\n").split("\n")  # not splitlines, which also splits at what a path may hold
        keys = {line.removeprefix("./"): row for row, line in enumerate(lines) if line}
        if len(lines) != num_rows or len(keys) != num_rows:
            raise EmbeddingsError(
                f"{self.url} has {num_rows} rows, and {self.keys_url} has {len(lines)} lines with {len(keys)} "
                f"different paths. It takes one line per row, each once.{transposed(self.url, len(keys))}"
            )
        return keys


def _version(url: str) -> str:
    return _ask(url, Folder.version)


@lru_cache(maxsize=16)
def _digest(url: str, version: str) -> str:
    del version  # what the digest is cached by: each shard group asks, and the file may be of gigabytes
    return hashlib.sha256(_read(url)).hexdigest()


@lru_cache(maxsize=2)
def _read_npy(url: str, version: str) -> Floats:
    del version  # as above
    _refuse_other(url)
    try:
        matrix = np.load(io.BytesIO(_read(url)), allow_pickle=False)
    except EmbeddingsError:
        raise
    except Exception as error:  # numpy parses headers as Python: tokens, brackets, memory for what they claim
        raise EmbeddingsError(f"{url} is no .npy matrix of numbers ({error or type(error).__name__}).") from error
    if not isinstance(matrix, np.ndarray):
        raise EmbeddingsError(f"{url} is an archive of several arrays (.npz). Save the one matrix with np.save.")
    if matrix.ndim != 2 or not matrix.size or not np.issubdtype(matrix.dtype, np.floating):
        raise EmbeddingsError(
            f"{url} holds {matrix.dtype} of shape {list(matrix.shape)}, not floats of shape [rows, D]."
        )
    rows = matrix.astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        raise EmbeddingsError(
            f"{url}: {len(bad)} of {len(rows)} rows are zero, NaN or infinite (first: row {bad[0]})."
        )
    unit: Floats = rows / norms
    return unit


#: How embeddings in files of other kinds become a `.npy`, by ending; `X` is the path.
_LOADED = {
    "npz": "X = np.load({!r})['arr_0']  # or the name that it has there",
    "txt": "X = np.loadtxt({!r}, dtype=np.float32)",
    "csv": "X = np.loadtxt({!r}, dtype=np.float32, delimiter=',')",
    "tsv": "X = np.loadtxt({!r}, dtype=np.float32, delimiter='\t')",
    "pt": "import torch; X = torch.load({!r}, map_location='cpu').float().numpy()",
    "pth": "import torch; X = torch.load({!r}, map_location='cpu').float().numpy()",
    "safetensors": "from safetensors.numpy import load_file; X = load_file({!r})['embeddings']  # or its name there",
    "parquet": "import pandas as pd; X = pd.read_parquet({!r}).to_numpy(np.float32)",
}


def _refuse_other(url: str) -> None:
    """Raises `EmbeddingsError` for a file of another kind, with the lines that make a `.npy` of it."""
    stem, _, ending = url.rpartition(".")
    if ending.lower() in _LOADED:
        raise EmbeddingsError(
            f"{url} is no .npy file, which embeddings are read from. Two lines of Python make one:\n"
            f"import numpy as np; {_LOADED[ending.lower()].format(url)}\n"
            f"np.save({f'{stem}.npy'!r}, X)"
        )


def transposed(url: str, wanted: int) -> str:
    """A hint for a matrix that has not as many rows as `wanted`, but as many columns; nothing for another."""
    rows, columns = read_npy(url).shape
    if columns != wanted:
        return ""
    return f" It has shape [{rows}, {columns}]: is it transposed? np.save({url!r}, np.load({url!r}).T) turns it."


def _read(url: str) -> bytes:
    return _ask(url, Folder.read)


def _ask(url: str, question: Callable[[Folder, str], Answer]) -> Answer:
    folder, name = split(url)
    try:
        return question(folder, name)
    except FileNotFoundError as error:
        raise EmbeddingsError(f"There is no file {url}.") from error
