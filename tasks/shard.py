"""Probe images into WebDataset shards with an index: plan, tasks of some shards each, one to finish."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import groupby, islice, pairwise
from operator import attrgetter
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.completion import Rows, in_tasks
from storage.errors import DamagedError, IncompleteError, SourceError
from storage.files import Folder
from storage.identity import digest_of
from storage.layout import Store
from storage.shards import MANIFEST
from storage.sources.joined import joined, named, selected
from storage.sources.kinds import source_at
from storage.sources.source import CopiedSource, Source, SourceImage, SourceSettings
from storage.tables import GROUP_ROWS, read_chosen, read_parquet, read_rows, write_parts
from tasks import number_types
from tasks.packing import Packing, pack
from tasks.probe_index import INDEX, LISTING, REJECTS, left_out_of, write_index
from tasks.running import Counter, Waiting
from tasks.spec import ShardSpec
from tasks.torchvision_sets import ALL_KINDS

#: Raised by one when the same files would give other shards than before. 2: sources, encodings, tars in place.
VERSION = 2
LISTING_COLUMNS = [column.name for column in fields(SourceImage)]
#: Files of the listing that a task reads at a time, of parts that begin in one such range.
FILES_READ = 1 << 17


@dataclass(frozen=True)
class ProbeRef:
    """A finished probe set."""

    folder: Folder
    #: Digest of the images and their paths, in order: what embeddings and activations depend on.
    digest: str
    num_images: int
    num_rejects: int
    num_shards: int
    #: Files of the sources that are no candidates, counted by ending, as they are now; of a set opened by its folder,
    #: as they were when it was finished.
    left_out: Mapping[str, int] = field(default_factory=dict, compare=False)

    def index(self) -> pd.DataFrame:
        """The index: a row per image, in row order, labelled by it. Of a hundred million images, tens of GB."""
        return _index(self.folder, self.digest)

    def rows(self, rows: Rows) -> pd.DataFrame:
        """Some rows of the index, labelled as in `index`, in the memory of these. Raises `DamagedError`."""
        return read_rows(self.folder, INDEX, rows)

    def chosen(self, rows: Sequence[int]) -> pd.DataFrame:
        """Rows of the index by their numbers, rising and each once, labelled as in `index`. Raises `DamagedError`."""
        return read_chosen(self.folder, INDEX, rows)

    def paths(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
        """What images of any rows are called, in the memory of these."""
        numbers, where = np.unique(rows, return_inverse=True)
        return read_chosen(self.folder, INDEX, numbers.tolist(), ["path"])["path"].to_numpy(dtype=object)[where]

    def rejects(self) -> pd.DataFrame:
        """Refused inputs with their reasons."""
        return read_parquet(self.folder, REJECTS)


@dataclass(frozen=True)
class ShardPart:
    """Files `[start, stop)` of the listing, which become one shard, or are in one tar used in place."""

    number: int
    start: int
    stop: int

    def __str__(self) -> str:
        return f"shard {self.number}"

    @property
    def name(self) -> str:
        """Name of its marker and tables."""
        return f"{self.number:06d}"


@dataclass(frozen=True)
class ShardWork:
    """Parts that one task packs, in order."""

    parts: tuple[ShardPart, ...]

    @property
    def num_files(self) -> int:
        """Files to read."""
        return sum(part.stop - part.start for part in self.parts)

    def __str__(self) -> str:
        first, last = self.parts[0].number, self.parts[-1].number
        return f"shard {first}" if first == last else f"shards {first}-{last}"


@dataclass(frozen=True)
class ShardPlan:
    """What sharding a probe set takes."""

    packing: Packing
    #: What chose among the files: limit, sample, sample_seed.
    selection: tuple[int | None, ...]
    num_files: int
    num_parts: int
    missing: tuple[ShardPart, ...]

    @property
    def folder(self) -> Folder:
        """The folder of the probe set."""
        return self.packing.folder

    @property
    def finished(self) -> ProbeRef:
        """The probe set once it is finished."""
        return replace(probe_at(self.folder), left_out=left_out_of(self.packing.sources))

    @property
    def work(self) -> list[ShardWork]:
        """The missing parts by tasks: a bounded number of these, however many the parts are."""
        return [ShardWork(parts) for parts in in_tasks(self.missing)]


def plan_shards(spec: ShardSpec) -> ShardPlan:
    """Lists the sources and says which shards are missing. Reads no image, at most how one begins.

    Raises `SourceError`.
    """
    store = Store.at(spec.store)
    settings = SourceSettings(store.tar_lists(), spec.data_root)
    sources = named([source_at(text, ALL_KINDS, settings) for text in spec.probe])
    if spec.resize is not None:
        _refuse_in_place(sources, spec.resize)
    selection = spec.limit, spec.sample, spec.sample_seed
    listing = _Listing(spec.images_per_shard)
    with TemporaryFile() as file:  # where it belongs is known when all is listed
        write_parts(file, listing.tables(selected(joined(sources), *selection)))
        parameters = {
            "version": VERSION,
            "listing": listing.sha256.hexdigest(),
            "images_per_shard": spec.images_per_shard,
            "selection": list(selection),
            "resize": spec.resize,
            **listing.number_types,
        }
        packing = Packing(store.probe(digest_of(parameters)), store.leases, sources, spec.resize)
        parts = listing.parts
        if packing.folder.exists(MANIFEST):
            return ShardPlan(packing, selection, listing.num_files, len(parts), ())
        done = packing.parts.done()
        file.seek(0)
        if not packing.folder.exists(LISTING):
            with packing.folder.writing(LISTING) as out:
                shutil.copyfileobj(file, out)
    missing = tuple(part for part in parts if part.name not in done)
    return ShardPlan(packing, selection, listing.num_files, len(parts), missing)


def _refuse_in_place(sources: dict[str, Source], side: int) -> None:
    for source in sources.values():
        if not isinstance(source, CopiedSource):
            raise SourceError(
                f"--resize {side} stores images anew, and the tars of {source.text} are used in place. "
                "Leave out --resize, or unpack them and give the folder."
            )


class _Listing:
    """What is listed, in the memory of some images: its digest, and the parts that it is cut into.

    A part per tar used in place; what is copied is cut into shards, across sources.
    """

    def __init__(self, images_per_shard: int) -> None:
        self._images_per_shard = images_per_shard
        self._starts: list[int] = []
        self._tar: tuple[str, str] | None = None
        self._may_be_wide = False
        self.sha256, self.num_files = hashlib.sha256(), 0

    def tables(self, images: Iterator[SourceImage]) -> Iterator[pd.DataFrame]:
        """The listing, some rows at a time."""
        columns = attrgetter(*LISTING_COLUMNS)
        while some := list(islice(images, GROUP_ROWS)):
            for image in some:
                self._add(image)
            yield pd.DataFrame(map(columns, some), columns=LISTING_COLUMNS)

    def _add(self, image: SourceImage) -> None:
        # Names, sizes and times stand for the content here, as in git's index: a file that changes gets new shards,
        # and what is computed from shards depends on their content alone.
        text = f"{image.source}\0{image.path}\0{image.num_bytes}\0{image.version}\0{image.label}\n"
        self.sha256.update(text.encode())
        tar = (image.source, image.url) if image.offset >= 0 else None
        is_first = not self._starts or tar != self._tar
        if is_first or (tar is None and self.num_files - self._starts[-1] == self._images_per_shard):
            self._starts.append(self.num_files)
        self._tar = tar
        self._may_be_wide |= image.ending in number_types.ENDINGS
        self.num_files += 1

    @property
    def number_types(self) -> dict[str, int]:
        """What names how values are scaled, where a file may need it: other probe sets keep their names."""
        return {"number_types": number_types.VERSION} if self._may_be_wide else {}

    @property
    def parts(self) -> tuple[ShardPart, ...]:
        """All parts, in order."""
        bounds = pairwise([*self._starts, self.num_files])
        return tuple(ShardPart(number, start, stop) for number, (start, stop) in enumerate(bounds))


@task(task_run_name="{work}", cache_policy=NO_CACHE)
def make_shards(packing: Packing, work: ShardWork) -> None:
    """Packs the parts, each marked when it is done."""
    counter = Counter()
    for _, parts in groupby(work.parts, lambda part: part.start // FILES_READ):
        near = list(parts)
        listing = read_rows(packing.folder, LISTING, Rows(near[0].start, near[-1].stop))[LISTING_COLUMNS]
        for part in _in_turn(packing, near):
            records = listing.loc[part.start : part.stop - 1].itertuples(index=False)
            pack(packing, part.name, [SourceImage(*record) for record in records])
            counter.add(part.stop - part.start)


def _in_turn(packing: Packing, parts: Sequence[ShardPart]) -> Iterator[ShardPart]:
    """The parts that nobody else packs, nor has packed."""
    wanted = {part: [f"{packing.folder.name}-{part.name}"] for part in parts}
    for lot in packing.leases.lots(wanted, Waiting()):
        yield from (part for part in lot if not packing.parts.has(part.name))


@task(task_run_name="index", cache_policy=NO_CACHE)
def finish_probe(plan: ShardPlan) -> ProbeRef:
    """Joins the parts' tables into the index and writes the manifest. Raises `SourceError` without any image."""
    if not plan.folder.exists(MANIFEST):
        with plan.packing.leases.held(f"{plan.folder.name}-index", Waiting()):
            if not plan.folder.exists(MANIFEST):  # another run's
                write_index(plan.packing, [f"{number:06d}" for number in range(plan.num_parts)], plan.selection)
    return plan.finished


def finished_probe(spec: ShardSpec) -> ProbeRef:
    """The probe set of a spec. Raises `IncompleteError` where it is not sharded yet."""
    plan = plan_shards(spec)
    if not plan.folder.exists(MANIFEST):
        raise IncompleteError(
            f"{len(plan.missing)} of {plan.num_parts} shards of {spec.sources} are missing. "
            "Run `clip-dissect shard` with the same options first, or `clip-dissect run`."
        )
    return plan.finished


def probe_at(folder: Folder) -> ProbeRef:
    """The finished probe set in a folder. Raises `DamagedError` where its manifest does not say what it is."""
    manifest = folder.read_json(MANIFEST)
    try:
        digest, shards = str(manifest["digest"]), len(manifest["shards"])
        num_images, num_rejects = int(manifest["num_images"]), int(manifest["num_rejects"])
        left_out = {str(name): int(number) for name, number in dict(manifest.get("left_out", {})).items()}
        return ProbeRef(folder, digest, num_images, num_rejects, shards, left_out)
    except (LookupError, TypeError, ValueError) as error:
        raise DamagedError(
            f"{folder.path(MANIFEST)} does not say what a probe set is ({error!r}). Remove the folder {folder.url} "
            "and run again."
        ) from error


@lru_cache(maxsize=4)
def _index(folder: Folder, digest: str) -> pd.DataFrame:
    del digest  # it is what the index is cached by
    return read_parquet(folder, INDEX)
