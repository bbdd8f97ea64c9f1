"""What a linear layer reads, found in its recording."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.errors import IncompleteError
from tasks.finished import FinishedRun, StudyError
from tasks.inputs import LinearInputs, linear_inputs
from tasks.models.errors import ModelError
from tasks.models.targets import load_target
from tests.test_tasks.conftest import Bench, observed, recording, shard


def inputs(bench: Bench, layer: str, **changes: Any) -> LinearInputs | None:
    spec = bench.spec(**changes)
    plan = observed(shard(spec), None, spec)
    target = load_target(*spec.network)
    return linear_inputs(target, recording(plan), plan.probe.num_images, layer)


@pytest.mark.parametrize("activations", ["float32", "float16"])
def test_the_head_is_found_to_read_the_mean_of_the_map_before_it(bench: Bench, activations: str) -> None:
    found = inputs(bench, "head", activations=activations)
    assert found is not None
    assert found.input_layer == "conv"
    assert found.weight.tolist()[0] == [2, -1, -1, 0]
    assert found.bias.tolist() == [0, 0, 0, 0]


def test_of_layers_that_say_the_same_the_last_is_taken(bench: Bench) -> None:
    found = inputs(bench, "head", layers=("conv", "relu", "head"))
    assert found is not None and found.input_layer == "relu"


@pytest.mark.parametrize(
    "change",
    [{"layers": ("head",)}, {"summary": ("max",)}, {"activations": "top"}],
    ids=["not recorded", "another summary", "top images alone"],
)
def test_weights_are_given_where_it_is_not_known_whose_they_are(bench: Bench, change: dict[str, Any]) -> None:
    found = inputs(bench, "head", **change)
    assert found is not None and found.weight.shape == (4, 4)
    assert found.input_layer is None


def test_a_layer_that_is_not_linear_has_no_weights(bench: Bench) -> None:
    assert inputs(bench, "relu", layers=("relu", "head")) is None


def test_a_tensor_of_which_a_layer_gives_several_has_no_weights(bench: Bench) -> None:
    assert inputs(bench, "sae[0]", target="tests.test_tasks.test_observe:coded", layers=("sae[0]", "head")) is None


def test_a_layer_that_the_images_are_put_into_reads_no_recorded_one(bench: Bench) -> None:
    found = inputs(bench, "conv")
    assert found is not None and found.weight.shape == (4, 3)
    assert found.input_layer is None


def test_another_network_than_was_recorded_is_refused(bench: Bench) -> None:
    spec = bench.spec()
    plan = observed(shard(spec), None, spec)
    with pytest.raises(ModelError, match=r"small is another network.*architecture"):
        linear_inputs(load_target("tests.tiny_models:small", None), recording(plan), 48, "head")


def test_a_published_run_leads_to_its_activations(studied: FinishedRun) -> None:
    of = studied.plan.activations
    assert of.num_neurons == {"conv": 4, "head": 4}
    found = linear_inputs(load_target(studied.spec.target, None), of, studied.probe.num_images, "head")
    assert found is not None and found.input_layer == "conv"
    assert torch.equal(found.weight[3], torch.tensor([0.5, 0.5, 0.5, 0]))


def test_activations_that_were_removed_are_not_made_anew(studied: FinishedRun) -> None:
    store, digest = studied.store, studied.facts["digests"]["activations"]
    (store.root / "activations" / f"{digest}.summaries.zarr").remove()
    with pytest.raises(IncompleteError, match="activations of the run are not there any more"):
        studied.plan_of(["head"])
    assert not Path(store.summaries(digest)).exists()


def test_a_run_that_does_not_say_what_it_is_made_of_is_refused(studied: FinishedRun) -> None:
    with pytest.raises(StudyError, match="does not say what its embeddings are"):
        replace(studied, facts=studied.facts | {"identity": None}).plan_of(["head"])
