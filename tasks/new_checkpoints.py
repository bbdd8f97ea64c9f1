"""Weights files that appear in a folder: which are new, what dissecting each takes, and how it went."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.completion import Completion
from storage.files import Folder, is_local, split
from storage.identity import digest_of
from storage.layout import Store, safe
from tasks import labelling, observation, publish
from tasks.models.errors import CheckpointError, first_lines
from tasks.models.targets import load_target
from tasks.precomputed import ImageEmbeddingsFile
from tasks.published import REPORT, RUN
from tasks.shard import plan_shards
from tasks.spec import DissectSpec

#: Endings of weights files.
ENDINGS = (".safetensors", ".pt", ".pth")
#: Raised by one when what was dissected before has to be dissected again.
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A weights file as it is now."""

    url: str
    #: The run that dissects it.
    spec: DissectSpec
    #: Where it is recorded, and under which name, that this was done.
    markers: Completion
    digest: str
    #: A text that changes with the file.
    version: str
    is_done: bool

    @property
    def out(self) -> Folder:
        """Where its tables and report go."""
        assert self.spec.out is not None
        return Folder.at(self.spec.out)


def plan_checkpoints(spec: DissectSpec, checkpoints: str) -> list[Checkpoint]:
    """The weights files of a folder or glob in order, each with the run that dissects it. Loads no model.

    One is done where a run of the same spec, on the same images, lists and embeddings, has dissected this version of
    the file, and the run's folder is still there. A changed function of one's own is not noticed: remove the folder
    to have it done again. Raises `CheckpointError`, `SourceError`.
    """
    if spec.checkpoint:
        raise CheckpointError(
            f"The spec has the checkpoint {spec.checkpoint}, and each of {checkpoints} takes its place. Leave it out."
        )
    if not spec.out:
        raise CheckpointError("The spec has no out. Give the folder in which each checkpoint has one of its own.")
    if spec.target.startswith("open_clip:") and not is_local(checkpoints):
        raise CheckpointError(
            f"open_clip reads weights from files of this machine, and {checkpoints} is a URL. Copy or mount them."
        )
    found = _by_stem(_weights_files(checkpoints), checkpoints)
    markers = Store.at(spec.store).checkpoints_done()
    inputs, done = _inputs(spec), markers.done()
    planned = []
    for stem, url in found.items():
        own = spec.model_copy(update={"checkpoint": url, "out": Folder.at(spec.out).path(safe(stem))})
        folder, name = split(url)
        version = folder.version(name)
        digest = digest_of({"spec": _asked(own), "file": version, "inputs": inputs})
        is_done = digest in done and Folder.at(str(own.out)).exists(RUN)
        planned.append(Checkpoint(url, own, markers, digest, version, is_done))
    return planned


def _asked(spec: DissectSpec) -> dict[str, Any]:
    """The parameters that name a run; options that came later count where they are given."""
    later = {name for name in ("checkpoint_key", "checkpoint_prefix") if getattr(spec, name) is None}
    return spec.model_dump(mode="json", exclude=later)


def forget_networks() -> None:
    """Before a run: this process may have loaded what a file held before, weights or code."""
    load_target.cache_clear()


def mark_dissected(checkpoint: Checkpoint) -> None:
    """Records that a checkpoint, as it was when this was planned, is dissected."""
    facts = {"checkpoint": checkpoint.url, "version": checkpoint.version, "out": checkpoint.out.url}
    checkpoint.markers.mark(checkpoint.digest, facts)


def summary(plan: Sequence[Checkpoint], errors: Mapping[str, Exception]) -> list[dict[str, str]]:
    """A row for each checkpoint: what was done with it, where its report is, and why there is none."""
    rows = []
    for one in plan:
        if one.url in errors:
            what, report, error = "failed", "", _said(errors[one.url])
        else:
            what, report, error = "done before" if one.is_done else "dissected", one.out.path(REPORT), ""
        rows.append({"checkpoint": one.url, "what": what, "report": report, "error": error})
    return rows


def refuse_failures(plan: Sequence[Checkpoint], errors: Mapping[str, Exception]) -> None:
    """Raises `CheckpointError` that names each checkpoint that failed, with its error."""
    if errors:
        listed = "\n".join(f"{url}: {_said(error)}" for url, error in errors.items())
        how_many = f"{len(errors)} of {len(plan)} checkpoints could not be dissected"
        raise CheckpointError(f"{how_many}; the next run tries them again.\n{listed}")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_lines(error)}"


def _weights_files(checkpoints: str) -> list[str]:
    """URLs of the weights files of a folder or glob, sorted. Hidden files are left out: writers put parts there."""
    head = re.split(r"[*?\[]", checkpoints)[0]
    if head == checkpoints:
        root = Folder.at(checkpoints)
        if not root.exists():
            raise CheckpointError(f"There is no folder {root.url} of checkpoints.")
        paths = root.names()
    else:
        (root, _), pattern = split(head), checkpoints[head.rfind("/") + 1 :]
        paths = root.glob(pattern)
    files = [path for path in paths if path.endswith(ENDINGS) and not path.rpartition("/")[2].startswith(".")]
    if not files:
        raise CheckpointError(f"There is no checkpoint in {checkpoints}: none of {', '.join(ENDINGS)}.")
    return [root.path(path) for path in files]


def _by_stem(urls: Sequence[str], checkpoints: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for url in urls:
        stem = url.rpartition("/")[2].rpartition(".")[0]
        other = found.setdefault(stem, url)
        if other != url:
            raise CheckpointError(
                f"{other} and {url} would both be published in the folder {stem} of out. Rename one, or give a "
                f"narrower pattern than {checkpoints}."
            )
    return found


def _inputs(spec: DissectSpec) -> dict[str, Any]:
    """What else results depend on, without reading it: images, lists, embeddings, and the versions of the code."""
    named = [spec.concepts, spec.truth, spec.clip, spec.clip_checkpoint, spec.concept_embeddings]
    if spec.image_embeddings:
        named += [spec.image_embeddings, ImageEmbeddingsFile.at(spec.image_embeddings).keys_url]
    files = [split(one) for one in named if one]
    return {
        "version": [VERSION, observation.RECORDING_VERSION, labelling.VERSION, publish.VERSION],
        "probe": plan_shards(spec).folder.name,
        "files": {folder.path(name): folder.version(name) for folder, name in files if folder.is_file(name)},
    }
