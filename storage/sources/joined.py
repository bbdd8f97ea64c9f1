"""Several sources as one list of images, in the order given."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from storage.sources.source import Source, SourceImage


def named(sources: Sequence[Source]) -> dict[str, Source]:
    """Sources by a name of their own: with `-2`, `-3` ... where two have one."""
    taken: dict[str, int] = {}
    return {_unique(source.name, taken): source for source in sources}


def joined(sources: Mapping[str, Source]) -> Iterator[SourceImage]:
    """The images of all sources, with their source's name and a key unique in the probe set.

    The path of an image of several sources begins with its source's name. The second of two images of one path is
    refused: nobody could tell which of them a row of embeddings, or a line of a report, is about.
    """
    keys: dict[str, int] = {}
    for name, source in sources.items():
        prefix = path_prefix(name, sources)
        paths: set[str] = set()
        for image in source.images():
            reason = image.reason or ("another image of the source has this path" if image.path in paths else "")
            paths.add(image.path)
            key = _unique(prefix + (image.key or key_of(image.path)), keys)
            yield replace(image, path=prefix + image.path, reason=reason, key=key, source=name)


def path_prefix(name: str, sources: Mapping[str, Source]) -> str:
    """What paths of a source begin with: nothing where it is alone, so that they are those of its files."""
    return f"{name}/" if len(sources) > 1 else ""


def selected(
    images: Iterator[SourceImage], limit: int | None, sample: int | None, sample_seed: int
) -> Iterator[SourceImage]:
    """The first `limit` images; of those, `sample` random ones, in their order. To sample holds all of them."""
    first = islice(images, limit)
    if sample is None:
        return first
    found = list(first)
    if sample >= len(found):
        return iter(found)
    rows = np.random.default_rng(sample_seed).choice(len(found), sample, replace=False)
    return (found[row] for row in np.sort(rows))


def key_of(path: str) -> str:
    """A WebDataset key for a path or URL: no ending, and no dots, because WebDataset ends a key at the first one."""
    folder, name = posixpath.split(re.sub(r"^[a-z0-9+]+://", "", path))
    stem = posixpath.join(folder, name.rsplit(".", 1)[0]).replace(".", "_").lstrip("/")
    # WebDataset takes what lies in a folder `__x__` for its own.
    return re.sub(r"^__(?=[^/]*__/)", "_", stem)


def _unique(name: str, taken: dict[str, int]) -> str:
    """`name`, or `name-2`, `name-3` ...; `taken` counts how often a name was asked for."""
    number, unique = taken.get(name, 0) + 1, name
    while unique in taken:
        unique = f"{name}-{number}"
        number += unique in taken
    taken[name] = number
    taken.setdefault(unique, 1)
    return unique
