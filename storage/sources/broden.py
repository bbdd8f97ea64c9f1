"""Broden, as Network Dissection publishes it: images, and beside them files that say which pixel shows what.

`index.csv` has a row per image: its file, and per category of concepts either files whose pixels are concept
numbers, or numbers of concepts that the whole image shows, separated by `;`. `label.csv` names the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from storage.errors import SourceError
from storage.files import Folder
from storage.sources.image_list import read_table, size_and_version
from storage.sources.reading import read_file
from storage.sources.source import CopiedSource, SourceImage

#: Columns of index.csv that are no category of concepts: file and split, sizes of the image and its pixel labels.
NO_CATEGORY = ("image", "split", "ih", "iw", "sh", "sw")
ANNOTATIONS, CONCEPTS = "broden.parquet", "broden-concepts.parquet"


@dataclass(frozen=True)
class Broden(CopiedSource):
    """The images of a Broden folder; not the pixel labels, which lie among them."""

    text: str

    @property
    def folder(self) -> Folder:
        """The folder of index.csv and label.csv."""
        return Folder.at(self.text)

    @property
    def files(self) -> Folder:
        """The folder of images and pixel labels."""
        return self.folder / "images"

    def images(self) -> Iterator[SourceImage]:
        """In the order of index.csv. Raises `SourceError` where that or label.csv is none of Broden."""
        self._concepts()  # used when the images are packed; better known before
        for path in self._index()["image"]:
            url = self.files.path(path)
            yield SourceImage(path, url, *size_and_version(url))

    def read(self, url: str) -> bytes:
        """The file as it is."""
        return read_file(url)

    def tables(self) -> dict[str, pd.DataFrame]:
        """`broden.parquet`, a row per image and annotation: a file of pixel labels, or a concept of the whole image
        by its number. `broden-concepts.parquet`, a row per concept: label.csv."""
        index = self._index()
        rows = [
            (image, category, "" if cell.isdigit() else self.files.path(cell), int(cell) if cell.isdigit() else -1)
            for category in (column for column in index if column not in NO_CATEGORY)
            for image, cells in zip(index["image"], index[category], strict=True)
            for cell in map(str.strip, cells.split(";"))
            if cell
        ]
        annotations = pd.DataFrame(rows, columns=["path", "category", "pixel_file", "concept"])
        return {ANNOTATIONS: annotations, CONCEPTS: self._concepts()}

    def _concepts(self) -> pd.DataFrame:
        url = self.folder.path("label.csv")
        concepts = read_table(url)
        missing = [name for name in ("number", "name", "category") if name not in concepts]
        if missing:
            raise SourceError(f"{url} has no column {', '.join(missing)}, which that of Broden has.")
        try:
            return concepts.assign(number=pd.to_numeric(concepts["number"]))
        except ValueError as error:
            raise SourceError(f"The numbers of concepts in {url} are not all numbers ({error}).") from error

    def _index(self) -> pd.DataFrame:
        index = read_table(self.folder.path("index.csv"))
        if "image" not in index or index.empty:
            raise SourceError(
                f"{self.folder.path('index.csv')} has {len(index)} rows and the columns {', '.join(index.columns)}. "
                f"That of Broden has a row per image: {', '.join(NO_CATEGORY)}, and the categories of concepts."
            )
        return index
