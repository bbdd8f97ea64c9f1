"""Every path of a store, in one place.

store.json                                  format of the store
probes/<digest>/shard-000000.tar …          original image bytes (WebDataset)
                parts/000000.json …         marker of a shard: its count, bytes, sha256
                parts/000000.parquet …      its rows; 000000.rejects.parquet its refused inputs
                index.parquet, rejects.parquet, wids.json, manifest.json (last)
                broden.parquet, broden-concepts.parquet   what Broden says of its images
tars/<digest>.parquet                       members of a tar that is used in place
embeddings/<digest>.zarr, <digest>.done/    image embeddings [I, D], markers per shard group
concepts/<digest>/<block>.parquet           concept embeddings by text
activations/<digest>.zarr, <digest>.done/<layer>/   activations [I, N] per layer, markers per shard group
            <digest>.summaries.zarr/<layer>/        top images [G, K, N], statistics [G, 4, N] of G shard groups
labels/<digest>/<layer>/                    label table, top images and neurons of a layer; blocks while it is made
similarities/<digest>.zarr, <digest>.parquet   all similarities [N, C] per layer, where a run keeps them; concepts
runs/<digest>/                              what a run publishes where no --out is given
checkpoints/<digest>.json                   marker of a weights file that `dissect_new` has dissected
leases/                                     who is at what, while it is
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from storage.completion import Completion
from storage.errors import IdentityError
from storage.files import Folder
from storage.leases import Leases

#: Raised by one when a store of an older version can no longer be read.
FORMAT = 1


@dataclass(frozen=True)
class Store:
    """A store by its root folder."""

    root: Folder

    @classmethod
    def at(cls, url: str) -> Store:
        """The store at a URL, made if it is not there. Raises `IdentityError` for another version's store."""
        root = Folder.at(url)
        try:
            found = root.read_json("store.json").get("format")
        except FileNotFoundError:
            found = FORMAT
            root.write_json("store.json", {"format": found, "what": "clip-dissect store"})
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

    def labels(self, digest: str, layer: str) -> Folder:
        """Label table and top images of one layer."""
        return self.root / "labels" / digest / safe(layer)

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

    def run(self, digest: str) -> Folder:
        """What a run publishes where no other place is given."""
        return self.root / "runs" / digest


def safe(name: str) -> str:
    """A layer's name as one path part: letters, digits, `.`, `_`, `-`; all else percent-encoded."""
    quoted = quote(name, safe="")
    return quoted.replace(".", "%2E") if set(quoted) <= {"."} else quoted
