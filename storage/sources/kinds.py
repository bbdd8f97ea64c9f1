"""Which kind of source a text means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from storage.errors import SourceError
from storage.files import Folder
from storage.sources.broden import Broden
from storage.sources.folder import ImageFolder
from storage.sources.image_list import PATH_COLUMNS, ImageList
from storage.sources.parquet_images import ParquetImages, holds_images
from storage.sources.source import Source, SourceSettings
from storage.sources.tars import Tars
from storage.user_tables import CSVS, TABLES


@dataclass(frozen=True)
class Kind:
    """A kind of source."""

    #: What is to be given, for messages.
    form: str
    recognises: Callable[[str], bool]
    make: Callable[[str, SourceSettings], Source]


def source_at(text: str, kinds: Sequence[Kind], settings: SourceSettings) -> Source:
    """The source that a text means: of the first kind that recognises it. Raises `SourceError`."""
    for kind in kinds:
        if kind.recognises(text):
            return kind.make(text, settings)
    folder = Folder.at(text)
    if text.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        raise SourceError(f"{text} is compressed, and images in it cannot be reached by their place. Uncompress it.")
    what = f"{text} is a file of another kind" if folder.exists() else f"There is no folder {folder.url}"
    raise SourceError(f"{what}. --probe takes {'; '.join(kind.form for kind in kinds)}.")


def _is_folder(text: str) -> bool:
    return Folder.at(text).is_there()


def _list(text: str) -> Source:
    return ParquetImages(text) if not text.lower().endswith(CSVS) and holds_images(text) else ImageList(text)


def _is_broden(text: str) -> bool:
    return _is_folder(text) and {"index.csv", "label.csv", "images"} <= set(Folder.at(text).names())


#: In the order in which they are tried. The task layer adds those that need torchvision.
KINDS = (
    Kind(
        f"a .csv, .tsv or .parquet list with a column {' or '.join(PATH_COLUMNS[:4])}",
        lambda text: text.lower().endswith(TABLES),
        lambda text, _: _list(text),
    ),
    Kind(
        "WebDataset shards as x.tar, 'x/*.tar' or 'x-{000..009}.tar'",
        lambda text: text.endswith(".tar"),
        lambda text, settings: Tars(text, settings.tar_lists),
    ),
    Kind("a folder of Broden with index.csv, label.csv and images/", _is_broden, lambda text, _: Broden(text)),
    Kind(
        "a folder of images, flat or by class, as a path or fsspec URL",
        _is_folder,
        lambda text, _: ImageFolder(text),
    ),
)
