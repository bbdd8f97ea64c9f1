"""Concepts: the list a run names neurons with, and the embeddings of its texts, kept by text.

A block is one Parquet file with the texts and their embeddings together (not Zarr beside Parquet: so a text can
never be torn from its vector). An edited list embeds only the lines that no block has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.completion import Completion
from storage.errors import EmbeddingsError, IncompleteError
from storage.files import Folder
from storage.identity import Identity, digest_of, digest_of_bytes
from storage.layout import Store
from storage.tables import read_parquet, write_parquet
from tasks import sample
from tasks.concept_files import concept_file
from tasks.dissection import concepts as lists
from tasks.dissection.concepts import ConceptList
from tasks.dissection.errors import ConceptError
from tasks.dissection.threads import computes_alone, in_threads
from tasks.models.clip import PlacedClip, load_clip
from tasks.models.devices import Placement, held_device, placed
from tasks.precomputed import Floats, file_digest, read_npy, transposed
from tasks.running import Counter, Waiting, go_on
from tasks.spec import EmbedSpec

#: Texts in a forward pass, always so many: the last digits of an embedding would otherwise depend on how many texts
#: are new, and on the number of threads.
TEXTS_PER_BATCH = 64


@dataclass(frozen=True)
class ConceptEmbeddingsRef:
    """Embeddings of concept texts by one encoder."""

    folder: Folder
    #: Digest of the encoder: a CLIP model's weights, or a file of precomputed rows with its list.
    digest: str

    def blocks(self) -> list[str]:
        """Names of the finished blocks, sorted. One whose table was removed is none: it is made again."""
        names = set(self.folder.names())
        return sorted(block for block in Completion(self.folder).done() if f"{block}.parquet" in names)


def concept_list(spec: EmbedSpec) -> ConceptList:
    """The concepts that a spec names, in order. Raises `ConceptError`."""
    if not spec.concepts:
        raise ConceptError("No concepts are given: --concepts FILE or a name.")
    found = named_list(spec.concepts)
    return found.unique() if spec.unique_concepts else found


def named_list(name: str) -> ConceptList:
    """A list by its name (`common-20k`, `imagenet`, `sample`) or from a file. Raises `ConceptError`."""
    if name in lists.COMMON:
        return lists.common_words(name)
    if name == "imagenet":
        return lists.imagenet_classes()
    if name == "sample":
        return lists.parse(sample.CONCEPTS.read_bytes(), sample.CONCEPTS.name)
    return concept_file(name)


def list_digest(concepts: Sequence[str]) -> str:
    """The digest of a list of concepts, in their order."""
    return digest_of({"concepts": concepts})


def concept_embeddings_of(spec: EmbedSpec) -> ConceptEmbeddingsRef:
    """The reference of the embeddings of a spec's concepts."""
    identity: Identity
    if spec.concept_embeddings:
        rows, texts = len(read_npy(spec.concept_embeddings)), _texts(spec)
        if rows != len(texts):
            raise EmbeddingsError(
                f"{spec.concept_embeddings} has {rows} rows, and the list {spec.concepts} has {len(texts)} concepts. "
                "Row i is the embedding of concept i (blank lines are no concepts)."
                + transposed(spec.concept_embeddings, len(texts))
            )
        listed = digest_of({"texts": texts})
        identity = {"precomputed": file_digest(spec.concept_embeddings), "texts": listed}
    else:
        assert spec.clip is not None  # the spec has one of both
        clip = load_clip(spec.clip, spec.clip_checkpoint)
        identity = {key: value for key, value in clip.identity.items() if key != "preprocess"}
    digest = digest_of(identity)
    return ConceptEmbeddingsRef(Store.at(spec.store).concepts(digest), digest)


def missing_texts(ref: ConceptEmbeddingsRef, spec: EmbedSpec) -> list[str]:
    """Texts of a spec's concepts that no block has, in order, each once."""
    known = stored_embeddings(ref)
    return [text for text in dict.fromkeys(_texts(spec)) if text not in known]


def num_concepts(spec: EmbedSpec) -> int:
    """How many different texts a spec's concepts have."""
    return len(set(_texts(spec)))


@task(task_run_name="embed {num_texts} concepts", cache_policy=NO_CACHE)
@computes_alone
def embed_concepts(ref: ConceptEmbeddingsRef, spec: EmbedSpec, num_texts: int) -> int:
    """Embeds the texts that no block has, and writes them as one block; returns how many."""
    del num_texts  # it is in the task's name
    if concept_embeddings_of(spec).digest != ref.digest:
        load_clip.cache_clear()  # a worker that outlives runs has loaded what a file held before
        if concept_embeddings_of(spec).digest != ref.digest:
            raise EmbeddingsError(
                "What embeds the concepts, or their list, is another on a worker than the run was planned with. "
                "Give all machines the same files, and run again."
            )
    with Store.at(spec.store).leases.held(f"concepts-{ref.digest}", Waiting()):
        # Another list has some of the texts, and another run may have embedded them.
        texts = missing_texts(ref, spec)
        if texts:
            _embed_concepts(ref, spec, texts)
        return len(texts)


def _embed_concepts(ref: ConceptEmbeddingsRef, spec: EmbedSpec, texts: list[str]) -> None:
    vectors = _precomputed(spec, texts) if spec.concept_embeddings else embed_by_clip(spec, texts, Counter().add)
    block = digest_of_bytes("\n".join(texts).encode())
    table = pd.DataFrame({"text": texts, "embedding": list(vectors)})
    Completion(ref.folder).mark(
        block, {"num_texts": len(texts)}, [write_parquet(ref.folder, f"{block}.parquet", table)]
    )


def embed_by_clip(spec: EmbedSpec, texts: list[str], embedded: Callable[[int], None] = lambda _: None) -> Floats:
    """Unit embeddings of texts by the spec's CLIP model, `[C, D]`, on a device that nobody else has meanwhile.

    `embedded` is told of each batch how many texts it has.
    """
    assert spec.clip is not None  # it embeds them
    source = load_clip(spec.clip, spec.clip_checkpoint)
    with held_device(spec.device, shared=spec.share_devices, asks=go_on) as device:
        return embed_texts(placed(PlacedClip, source, Placement.of(spec, device)), texts, embedded)


def embed_texts(clip: PlacedClip, texts: list[str], embedded: Callable[[int], None] = lambda _: None) -> Floats:
    """Unit embeddings of texts, `[C, D]`."""
    batches = [texts[i : i + TEXTS_PER_BATCH] for i in range(0, len(texts), TEXTS_PER_BATCH)]
    filled = [batch + [""] * (TEXTS_PER_BATCH - len(batch)) for batch in batches]
    vectors = []
    for batch, vector in zip(batches, in_threads(clip.embed_texts, filled), strict=True):
        vectors.append(vector)
        embedded(len(batch))
    found: Floats = torch.cat(vectors)[: len(texts)].numpy()
    return found


def read_concept_embeddings(ref: ConceptEmbeddingsRef, spec: EmbedSpec) -> Floats:
    """Unit embeddings `[C, D]` of a spec's concepts in list order. Raises `IncompleteError`."""
    known = stored_embeddings(ref)
    texts = _texts(spec)
    without = [text for text in texts if text not in known]
    if without:
        raise IncompleteError(
            f"{len(without)} of {len(texts)} concepts have no embedding yet (first: {without[0]!r}). "
            "Run `clip-dissect embed` with the same options first, or `clip-dissect run`."
        )
    return np.stack([known[text] for text in texts])


def _texts(spec: EmbedSpec) -> list[str]:
    return [lists.prompt(spec.prompt, concept) for concept in concept_list(spec).concepts]


def _precomputed(spec: EmbedSpec, texts: list[str]) -> Floats:
    assert spec.concept_embeddings is not None
    matrix = read_npy(spec.concept_embeddings)
    first: dict[str, int] = {}
    for row, text in enumerate(_texts(spec)):
        if not np.allclose(matrix[first.setdefault(text, row)], matrix[row], atol=1e-3):
            raise EmbeddingsError(
                f"{text!r} is listed twice, and rows {first[text]} and {row} of {spec.concept_embeddings} differ. "
                "One text has one embedding: drop one, or make the two texts different."
            )
    return matrix[[first[text] for text in texts]]


def stored_embeddings(ref: ConceptEmbeddingsRef) -> dict[str, Floats]:
    """Embeddings by text. Blocks in order of name and the first wins, so that two runs read the same."""
    known: dict[str, Floats] = {}
    for name in ref.blocks():
        block = read_parquet(ref.folder, f"{name}.parquet", alone=True)
        for text, vector in zip(block["text"], block["embedding"], strict=True):
            known.setdefault(text, vector)
    return known
