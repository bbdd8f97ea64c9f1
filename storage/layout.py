"""Every path of a store, in one place.

store.json                                  format of the store
probes/<digest>/shard-000000.tar …          original image bytes (WebDataset)
                parts/000000.json …         marker of a shard: its count, bytes, sha256
                parts/000000.parquet …      its rows; 000000.rejects.parquet its refused inputs
                index.parquet, rejects.parquet, wids.json, manifest.json (last)
                broden.parquet, broden-concepts.parquet   what Broden says of its images
tars/<digest>.parquet, <digest>.json        members of a tar that is used in place, marker
embeddings/<digest>.zarr, <digest>.done/    image embeddings [I, D], markers per shard group
concepts/<digest>/<block>.parquet, .json    concept embeddings by text, marker of a block
activations/<digest>.zarr/<layer>/, <digest>.done/<layer>/   activations [I, N] per layer, markers per shard group
            <digest>.summaries.zarr/<layer>/        top images [G, K, N], statistics [G, 4, N] of G shard groups
labels/<digest>/<layer>/                    label table, top images and neurons of a layer; blocks while it is made
details/<digest>/<layer>/                   histograms, upper ranges and similar neurons of a layer; blocks as above
similarities/<digest>.zarr/<layer>/, <digest>.parquet   similarities [N, C] of a layer, where a run keeps them
runs/<digest>/                              what a run publishes where no --out is given; studies/ of it
runs/<digest>.json                          record of a published run, by its folder: what it refers to
checkpoints/<digest>.json                   marker of a weights file that `dissect_new` has dissected
leases/                                     who is at what, while it is

A `<layer>` is the layer's name as `safe` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from storage.completion import Completion
from storage.errors import IdentityError, IncompleteError
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.leases import Leases
from storage.letter_case import ignores_case, refuse_twins

#: Raised by one when a store of an older version can no longer be read.
FORMAT = 1
#: What store.json says.
STORE = {"format": FORMAT, "what": "clip-dissect store"}
#: Most bytes of a path part that file systems take.
LONGEST_PART = 255
#: And of the name of a file, which has a longer one while it is being written.
LONGEST_FILE = LONGEST_PART - len("..4194304-0123abcd.partial")
#: Path parts that mean something in a Zarr group.
RESERVED = ("zarr.json",)


@dataclass(frozen=True)
class Store:
    """A store by its root folder."""

    root: Folder

    @classmethod
    def at(cls, url: str) -> Store:
        """The store at a URL, made if it is not there. Raises `IdentityError` for another version's store."""
        try:
            return cls.existing(url)
        except IncompleteError:
            Folder.at(url).write_json("store.json", STORE)
            return cls.existing(url)

    @classmethod
    def existing(cls, url: str) -> Store:
        """The store at a URL. Raises `IncompleteError` where there is none, `IdentityError` as `at` does."""
        root = Folder.at(url)
        try:
            said = root.read_json("store.json")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise IncompleteError(
                f"There is no store at {root.url}: it has no store.json, which every run writes."
            ) from error
        found = said.get("format") if isinstance(said, dict) else None
        if found != FORMAT:
            raise IdentityError(
                f"The store {root.url} has format {found}, and this version reads and writes format {FORMAT}. "
                "Use another --store, or the version that wrote it."
            )
        return cls(root)

    def probe(self, digest: str) -> Folder:
        """Shards, index, rejects and manifest of a probe set."""
        return self.root / "probes" / digest

    def tar_lists(self) -> Folder:
        """Lists of the members of tars that are used in place."""
        return self.root / "tars"

    def embeddings(self, digest: str) -> str:
        """URL of the Zarr group of image embeddings."""
        return self.root.path(f"embeddings/{digest}.zarr")

    def embeddings_done(self, digest: str) -> Completion:
        """Markers of finished shard groups of image embeddings."""
        return Completion(self.root / "embeddings" / f"{digest}.done")

    def concepts(self, digest: str) -> Folder:
        """Blocks of concept embeddings of one text encoder."""
        return self.root / "concepts" / digest

    def activations(self, digest: str) -> str:
        """URL of the Zarr group of activations: an array per layer."""
        return self.root.path(f"activations/{digest}.zarr")

    def summaries(self, digest: str) -> str:
        """URL of the Zarr group of what is kept of every shard group's activations: a group per layer (`safe`)."""
        return self.root.path(f"activations/{digest}.summaries.zarr")

    def activations_done(self, digest: str, layer: str) -> Completion:
        """Markers of finished shard groups of one layer's activations and their summaries."""
        return Completion(self.root / "activations" / f"{digest}.done" / safe(layer))

    def refuse_twins(self, digest: str, layers: Iterable[str]) -> None:
        """Raises `ForeignError` where activations of one layer would lie where those of another do.

        On a file system that ignores case, as that of macOS, `Conv` and `conv` are one folder.
        """
        if ignores_case(self.root, "store.json"):
            there = (self.root / "activations" / f"{digest}.done").names()
            way_out = "Choose one of them, or a --store for each."
            refuse_twins(self.root, map(safe, layers), there, way_out)

    def labels(self, digest: str, layer: str) -> Folder:
        """Label table and top images of one layer."""
        return self.root / "labels" / digest / safe(layer)

    def details(self, digest: str, layer: str) -> Folder:
        """Facts of one layer's neurons that do not depend on concepts."""
        return self.root / "details" / digest / safe(layer)

    def similarities(self, digest: str) -> str:
        """URL of the Zarr group of all similarities: an array per layer."""
        return self.root.path(f"similarities/{digest}.zarr")

    @property
    def kept(self) -> Folder:
        """Where similarities are kept: a table of concepts, the columns of the arrays, lies beside each group."""
        return self.root / "similarities"

    def checkpoints_done(self) -> Completion:
        """Markers of weights files that were dissected as new ones."""
        return Completion(self.root / "checkpoints")

    @property
    def leases(self) -> Leases:
        """Who is at what is made in the store."""
        return Leases(self.root / "leases")

    def runs(self) -> Completion:
        """Records of published runs."""
        return Completion(self.root / "runs")

    def run(self, digest: str) -> Folder:
        """What a run publishes where no other place is given."""
        return self.root / "runs" / digest


@dataclass(frozen=True)
class Place:
    """What a file of a store belongs to."""

    kind: str
    digest: str = ""
    #: As in paths (`safe`); empty where it is of no layer.
    layer: str = ""


_DIGEST, _ROWS, _LAYER = "(?P<digest>[0-9a-f]{20})", r"\d{12}-\d{12}", "(?P<layer>[^/]+)"
#: What `safe` gives.
_SAFE = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2}|%-)+")
#: In a Zarr array's folder.
_ARRAY = r"(?:zarr\.json|c(?:/\d+)+)"
_TABLES = "index|rejects|listing|broden|broden-concepts"
_PATTERNS = [
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("store", r"store\.json"),
        ("probe set", rf"probes/{_DIGEST}/(?:(?:manifest|wids)\.json|(?:{_TABLES})\.parquet|shard-\d{{6,}}\.tar)"),
        ("probe set", rf"probes/{_DIGEST}/parts/\d{{6,}}(?:\.json|(?:\.rejects)?\.parquet)"),
        ("list of a tar", rf"tars/{_DIGEST}\.(?:json|parquet)"),
        ("embeddings", rf"embeddings/{_DIGEST}(?:\.done/{_ROWS}\.json|\.zarr/zarr\.json|\.zarr/embeddings/{_ARRAY})"),
        ("concepts", rf"concepts/{_DIGEST}/[0-9a-f]{{20}}\.(?:json|parquet)"),
        ("activations", rf"activations/{_DIGEST}(?:\.summaries)?\.zarr/zarr\.json"),
        ("activations", rf"activations/{_DIGEST}\.done/{_LAYER}/{_ROWS}\.json"),
        # Older versions gave an array the layer's own name, which may be a path.
        ("activations", rf"activations/{_DIGEST}\.zarr/(?P<array>.+)/(?:zarr\.json|c/\d+/\d+)"),
        ("activations", rf"activations/{_DIGEST}\.summaries\.zarr/{_LAYER}/zarr\.json"),
        (
            "activations",
            rf"activations/{_DIGEST}\.summaries\.zarr/{_LAYER}/(?:top_values|top_rows|statistics)/{_ARRAY}",
        ),
        (
            "labels",
            rf"labels/{_DIGEST}/{_LAYER}/(?:(?:labels|top_images|neurons)\.parquet|used\.bundle|(?:found|done)\.json)",
        ),
        ("labels", rf"labels/{_DIGEST}/{_LAYER}/(?:softmax/{_ROWS}|blocks/{_ROWS}\.{_ROWS})\.bundle"),
        (
            "details",
            rf"details/{_DIGEST}/{_LAYER}/(?:(?:neurons|image_ranges|similar_neurons)\.parquet|done\.json"
            rf"|blocks/{_ROWS}\.bundle)",
        ),
        ("similarities", rf"similarities/{_DIGEST}(?:\.parquet|\.zarr/zarr\.json)"),
        ("similarities", rf"similarities/{_DIGEST}\.zarr/(?P<array>.+)/(?:zarr\.json|c/\d+/\d+)"),
        ("checkpoint", rf"checkpoints/{_DIGEST}\.json"),
        ("run", rf"runs/{_DIGEST}\.json"),
        # Of one who publishes, beside the file that it is about.
        ("lease", rf"(?:leases/[^/]+|runs/{_DIGEST}/run\.json)(?:\.lock|\.lease/\d{{10}})"),
        (
            "published run",
            rf"runs/{_DIGEST}/(?:run(?:\.begun)?\.json|spec\.yaml|(?:report|rate)\.html|(?:labels|descriptions)\.csv"
            r"|(?:labels|top_images|rejects|neurons|image_ranges|similar_neurons|inputs)\.parquet"
            r"|report/(?:index|layers/[\w.-]+)\.html|report/data/[\w-]+\.js"
            r"|studies/[a-z-]+/[\w-]+\.(?:svg|png|csv|parquet|json))",
        ),
    )
]


@lru_cache(maxsize=1 << 16)
def place(path: str) -> Place | None:
    """What a file belongs to, by its path from the root; None where no version of ours writes one there."""
    for kind, pattern in _PATTERNS:
        if found := pattern.fullmatch(path):
            names = found.groupdict()
            return Place(kind, names.get("digest", ""), names.get("layer") or _layer_of_array(names.get("array", "")))
    return None


def _layer_of_array(path: str) -> str:
    return path if _SAFE.fullmatch(path) else safe(path)


def safe(name: str) -> str:
    """A layer's name as one path part, another for every name: letters, digits, `.`, `_`, `-`, `~` as they are.

    All else is percent-encoded. A part longer than file systems take is cut, and ends with a digest of the name.
    """
    quoted = quote(name, safe="", errors="surrogatepass")
    if set(quoted) <= {"."} or quoted in RESERVED:
        quoted = quoted.replace(".", "%2E")
    return within_limit(quoted, LONGEST_PART)


def within_limit(part: str, most: int) -> str:
    """A percent-encoded path part, of at most so many bytes: a digest takes the place of what is beyond."""
    if len(part.encode()) <= most:
        return part
    # No percent-encoding has `%-`: this is nobody else's name.
    digest = f"%-{digest_of_bytes(part.encode())}"
    cut = part.encode()[: most - len(digest)].decode(errors="ignore")
    return re.sub("%[0-9A-F]?$", "", cut) + digest
