"""A folder of images for each concept, recorded with the network of a run."""

from __future__ import annotations

from collections.abc import Sequence

from storage.files import Folder
from tasks.dissection.errors import ConceptError
from tasks.evaluation.shown_concepts import ShownConcepts, own_labels
from tasks.finished import FinishedRun
from tasks.models.errors import ModelError
from tasks.observation import ActivationsRef
from tasks.shard import ProbeRef
from tasks.spec import RecordSpec

#: What the images of a recording are, and how much of it is kept.
OF_IMAGES = ("probe", "kept")
#: Parameters of a run that choose among its images, or where it works.
ITS_OWN = ("limit", "sample", "sample_seed", "workers", "dask_address", "device", "share_devices", "activations")
#: What is said of other folders.
TAKES = "--concept-images takes a folder with a folder of images for each concept: DIR/golden_retriever/0.png"


def record_spec(run: FinishedRun, layers: Sequence[str], folder: str, target: str | None) -> RecordSpec:
    """What records layers on the images of a folder as the run did on its own, into its store.

    `target` is what the user typed, and raises as `FinishedRun.network` does. Raises `ConceptError` where there are
    no folders in the folder.
    """
    images = Folder.at(folder)
    if not any((images / name).is_there() for name in images.names()):
        raise ConceptError(f"{TAKES}. {folder} has none.")
    spec = run.plan.spec
    run.network(target, "--concept-images")
    names = (name for name in RecordSpec.model_fields if name not in ITS_OWN)
    changes = {"probe": (folder,), "layers": tuple(layers)}
    return RecordSpec(**{name: getattr(spec, name) for name in names} | changes)


def shown_by(run: FinishedRun, probe: ProbeRef, recording: ActivationsRef) -> ShownConcepts:
    """The images of a folder, by the folder in it that each is in.

    Raises `ModelError` where they were recorded with another network than the run's, `ConceptError` where the images
    are in no folders.
    """
    was, now = run.plan.activations.identity, recording.identity
    other = [name for name in {**was, **now} if name not in OF_IMAGES and was.get(name) != now.get(name)]
    if other:
        raise ModelError(
            f"{run.plan.spec.target} is another network now than the run was made with (different: "
            f"{', '.join(other)}). Give it the same weights and code, or run again."
        )
    rows = own_labels(probe)
    if not rows:
        raise ConceptError(f"{TAKES}.")
    return ShownConcepts(recording, probe.num_images, rows, False, own_labels(run.plan.probe))
