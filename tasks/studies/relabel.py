"""A run's stored embeddings and activations labelled anew, by the steps of the flow `label_neurons`.

No network is loaded: what embeddings and activations are is in `run.json`. (A target may be somebody's own code,
which a file alone must not make run.)
"""

from __future__ import annotations

from collections.abc import Iterable

from storage import arrays
from storage.errors import IncompleteError
from storage.files import Folder
from storage.identity import Identity, digest_of
from tasks.concepts import ConceptEmbeddingsRef
from tasks.dissection.layouts import Axes, Layout
from tasks.labelling import LabelPlan, plan_labels_of
from tasks.observation import EMBEDDINGS, ActivationsRef, EmbeddingsRef
from tasks.spec import LabelSpec
from tasks.studies.studied import StudiedRun, StudyError


def plan_of(run: StudiedRun, layers: Iterable[str]) -> LabelPlan:
    """What the labels of some of a run's layers are made of, and where they lie.

    Raises `IncompleteError` where some of it is not in the store any more, `StudyError` where the concept list is
    another one by now.
    """
    probe, spec = run.probe, label_spec(run)
    concepts = run.facts["digests"]["concepts"]
    plan = plan_labels_of(
        probe,
        spec,
        _embeddings(run),
        _activations(run, spec, layers),
        ConceptEmbeddingsRef(run.store.concepts(concepts), concepts),
    )
    if plan.digest != run.facts["digests"]["labels"]:
        raise StudyError(
            f"The labels of {run.out.url} would be others today: the concept list {spec.concepts} has changed since, "
            "or this version labels otherwise. Run again with the same options, and study that."
        )
    return plan


def label_spec(run: StudiedRun) -> LabelSpec:
    """How a run labelled; here in this process, with no similarities kept."""
    own = run.spec.model_dump(include=set(LabelSpec.model_fields))
    return LabelSpec(**own | {"workers": 0, "dask_address": None})


def _identity(run: StudiedRun, what: str) -> Identity:
    identities = run.facts.get("identity")
    if not isinstance(identities, dict) or not isinstance(identities.get(what), dict):
        raise StudyError(f"{run.out.url} does not say what its {what} are: run again with this version.")
    found: Identity = identities[what]
    return found


def _embeddings(run: StudiedRun) -> EmbeddingsRef:
    identity = _identity(run, "embeddings")
    digest = digest_of(identity)
    url = run.store.embeddings(digest)
    _require(url, "image embeddings")
    num_dimensions = arrays.shape(arrays.open_group(url, identity), EMBEDDINGS)[1]
    return EmbeddingsRef(run.store, digest, identity, num_dimensions)


def _activations(run: StudiedRun, spec: LabelSpec, layers: Iterable[str]) -> ActivationsRef:
    identity = _identity(run, "activations")
    digest = digest_of(identity)
    _require(run.store.summaries(digest), "activations")
    facts = {layer: run.facts["layers"][layer] for layer in layers}
    # The label steps ask for a layer's name and neurons; of its layout the run says no more than this.
    layouts = {layer: Layout(Axes(of["layout"].partition(",")[0])) for layer, of in facts.items()}
    num_neurons = {layer: of["neurons"] for layer, of in facts.items()}
    return ActivationsRef(run.store, digest, identity, spec.summary[0], spec.activations, layouts, num_neurons)


def _require(url: str, what: str) -> None:
    if not Folder.at(url).exists():
        raise IncompleteError(
            f"The {what} of the run are not there any more: {url}. Run again with the same options."
        )
