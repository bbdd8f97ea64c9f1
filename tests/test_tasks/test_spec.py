"""Run parameters: all described, refused when they contradict each other, and never changed by a round trip."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks import spec as specs
from tasks.dissection.similarity import SIMILARITIES
from tasks.parameters import HYPERPARAMETERS, Group, names_function, same_target, target_file
from tasks.paths import seen_from
from tasks.spec import DissectSpec, EmbedSpec, LabelSpec, RecordSpec, ShardSpec

WHOLE: dict[str, Any] = {
    "probe": "images",
    "clip": "ViT-B-16/openai",
    "concepts": "common-3k",
    "target": "torchvision:resnet50",
    "layers": ("layer1",),
}
GROUPS = [value for value in vars(specs).values() if inspect.isclass(value) and issubclass(value, Group)]


def refused(kind: type[Group], **parameters: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        kind(**parameters)
    return " ".join(str(problem["msg"]) for problem in caught.value.errors())


def test_every_parameter_is_described_by_a_sentence() -> None:
    fields = {(kind.__name__, name): field for kind in GROUPS for name, field in kind.model_fields.items()}
    assert len(fields) > 30
    for where, field in fields.items():
        assert field.description, where
        assert field.description.endswith("."), where


def test_every_default_given_in_a_description_is_that_of_the_function() -> None:
    for function, names in HYPERPARAMETERS.items():
        signature = inspect.signature(SIMILARITIES[function]).parameters
        for name in names:
            description = DissectSpec.model_fields[name].description or ""
            if name == "top_fraction":
                assert "rank_reorder (0.05)" in description
                continue
            assert f"({signature[name].default:g})" in description, (function, name)


def test_a_spec_goes_through_json_unchanged() -> None:
    spec = DissectSpec(**WHOLE, top_k=7, prompt="a {}")
    assert DissectSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_spec_can_not_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DissectSpec(**WHOLE).top_k = 3  # type: ignore[misc]


def test_an_unknown_parameter_is_refused() -> None:
    assert "not permitted" in refused(ShardSpec, probe="images", image_per_shard=3)


def test_a_clip_checkpoint_needs_its_model() -> None:
    message = refused(EmbedSpec, probe="images", image_embeddings="x.npy", clip_checkpoint="w.safetensors")
    assert "--clip MODEL" in message


def test_something_has_to_embed_the_images() -> None:
    assert "Nothing embeds the images: give --clip MODEL, or --image-embeddings" in refused(EmbedSpec, probe="images")


def test_something_has_to_embed_the_concepts() -> None:
    message = refused(EmbedSpec, probe="images", image_embeddings="x.npy", concepts="sample")
    assert "Nothing embeds the concepts: give --clip MODEL, or --concept-embeddings" in message


@pytest.mark.parametrize("concepts", [{}, {"concepts": "sample", "concept_embeddings": "c.npy"}])
def test_a_clip_model_that_would_embed_nothing_is_refused(concepts: dict[str, str]) -> None:
    message = refused(EmbedSpec, probe="images", clip="ViT-B-16/openai", image_embeddings="x.npy", **concepts)
    assert "embed nothing" in message


@pytest.mark.parametrize(
    "embeddings",
    [
        {"image_embeddings": "x.npy", "concept_embeddings": "c.npy", "clip": None},
        {"image_embeddings": "x.npy"},
        {"concept_embeddings": "c.npy"},
    ],
    ids=str,
)
def test_precomputed_embeddings_and_a_model_go_together(embeddings: dict[str, Any]) -> None:
    assert DissectSpec(**(WHOLE | embeddings))


def test_labels_need_concepts() -> None:
    with pytest.raises(ValidationError, match="concepts"):
        LabelSpec(**{name: value for name, value in WHOLE.items() if name != "concepts"})


def test_a_prompt_needs_a_place_for_the_concept() -> None:
    assert "has no {} where the concept goes" in refused(DissectSpec, **WHOLE, prompt="a photo of a")


def test_at_least_one_layer_is_named() -> None:
    with pytest.raises(ValidationError, match="layers"):
        RecordSpec(probe="images", target="sample", layers=())


@pytest.mark.parametrize(
    ("similarity", "name", "value"),
    [
        (similarity, name, 1 if name in ("top_k", "num_permutations", "seed") else 0.5)
        for similarity in HYPERPARAMETERS
        for name in sorted({name for names in HYPERPARAMETERS.values() for name in names})
    ],
)
def test_a_hyperparameter_is_taken_by_its_own_functions_only(similarity: str, name: str, value: float) -> None:
    if name in HYPERPARAMETERS[similarity]:
        spec = DissectSpec(**WHOLE, similarity=similarity, **{name: value})  # type: ignore[arg-type]
        assert spec.hyperparameters() == {name: value}
        return
    message = refused(DissectSpec, **WHOLE, similarity=similarity, **{name: value})
    assert f"--{name.replace('_', '-')} is no hyperparameter of {similarity}" in message
    for own in HYPERPARAMETERS[similarity]:
        assert f"--{own.replace('_', '-')}" in message


@pytest.mark.parametrize(
    "wrong",
    [{"top_k": 0}, {"a": 0}, {"p_start": 1}, {"ranks": 0}, {"top_images": 0}, {"batch_size": 0}, {"limit": 0}],
    ids=str,
)
def test_a_number_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DissectSpec(**WHOLE, **wrong)


def test_parameters_are_read_without_torch_and_prefect() -> None:
    code = "import sys, tasks.spec; print([m for m in ('torch', 'prefect', 'numpy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("engine", [{"workers": 2}, {"dask_address": "tcp://host:8786"}], ids=str)
def test_other_processes_cannot_share_a_store_in_memory(engine: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="is the memory of one process"):
        DissectSpec(**WHOLE, store="memory://store", **engine)
    assert DissectSpec(**WHOLE, store="memory://store").workers == 0


def test_layers_may_be_one_text_as_on_the_command_line() -> None:
    for typed in ("conv1, layer*", ["conv1, layer*"], ["conv1", "layer*"]):  # the second in a field of the form
        assert DissectSpec(**WHOLE | {"layers": typed}).layers == ("conv1", "layer*")
    with pytest.raises(ValidationError, match="valid string"):
        DissectSpec(**WHOLE | {"layers": ["conv1", 3]})
    assert DissectSpec(**WHOLE | {"layers": "conv1"}).layers == ("conv1",)


@pytest.mark.parametrize("tau", ["0.16", "-1", "null:0", "null:0.95", 0.5])
def test_tau_is_a_number_or_a_quantile_of_the_null(tau: Any) -> None:
    spec = DissectSpec(**(WHOLE | {"tau": tau}))
    assert spec.tau == str(tau)
    number = float(str(tau).removeprefix("null:"))
    assert number in (spec.cut.similarity, spec.cut.null_quantile)
    assert (spec.cut.null_quantile is not None) == str(tau).startswith("null:")


@pytest.mark.parametrize("tau", ["high", "null:", "null:1", "null:-0.1", "nul:0.5", "nan", "inf"])
def test_another_tau_is_refused(tau: str) -> None:
    with pytest.raises(ValidationError, match="neither a number nor null:QUANTILE"):
        DissectSpec(**(WHOLE | {"tau": tau}))


def test_a_cut_by_the_null_needs_one() -> None:
    with pytest.raises(ValidationError, match="--null-samples 0 leaves them out"):
        DissectSpec(**(WHOLE | {"tau": "null:0.9", "null_samples": 0}))


def test_the_form_of_the_ui_begins_with_what_is_needed() -> None:
    schema = DissectSpec.model_json_schema()
    assert list(schema["properties"])[: len(schema["required"])] == schema["required"]
    assert set(schema["properties"]) == set(DissectSpec.model_fields)
    assert all(field["description"] for field in schema["properties"].values())


@pytest.mark.parametrize(
    "target", ["./net.py:f", "/a/net.py:f", "net.py:f", "~/net.py:f", "a:b/net.py:f", "module:f"]
)
def test_a_file_or_module_is_code_of_somebody_s_own(target: str) -> None:
    assert names_function(target)
    assert target_file(target) == ((target[:-2], "f") if ".py" in target else None)


@pytest.mark.parametrize("target", ["torchvision:net.py:f", "timm:./net.py:f", "open_clip:/a/net.py:f", "sample"])
def test_a_network_of_a_library_is_no_file(target: str) -> None:
    assert not names_function(target) and target_file(target) is None


def test_a_target_typed_by_another_path_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = f"{tmp_path}/net.py:f"
    for typed in ("net.py:f", "./net.py:f", "../" + tmp_path.name + "/net.py:f", run):
        assert same_target(typed, run)
    for other in ("net.py:g", "x/net.py:f", "net:f", None):
        assert not same_target(other, run)
    assert same_target("net:f", "net:f") and not same_target(None, "net:f")


def test_the_file_of_a_target_is_found_from_another_folder(tmp_path: Path) -> None:
    assert seen_from([tmp_path], {"target": "./net.py:f"})["target"] == f"{tmp_path}/net.py:f"
    for name in ("module:f", "torchvision:resnet50", "/a/net.py:f"):
        assert seen_from([tmp_path], {"target": name})["target"] == name
