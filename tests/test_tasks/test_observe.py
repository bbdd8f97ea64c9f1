"""Embeddings and activations: those of a plain forward pass, each recorded once, nothing half."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms import v2

from storage.errors import EmbeddingsError, IdentityError, ShardError
from tasks import feed, recorded, writing
from tasks import images as decoding
from tasks.concepts import concept_embeddings_of, embed_concepts
from tasks.dissection.errors import LayerError, UnknownNameError
from tasks.models.clip import load_clip
from tasks.models.errors import ModelError
from tasks.models.targets import load_target
from tasks.observation import ObservationWork, plan_observation
from tasks.observe import observe
from tests.test_tasks.conftest import (
    Bench,
    TinyClip,
    activations,
    image_embeddings,
    make_clip,
    observed,
    on_cpu,
    recording,
    shard,
)
from tests.tiny_models import ColourNet, latents, to_tensor


def inputs(bench: Bench) -> Tensor:
    """The preprocessed probe images in row order, read without the product."""
    files = sorted((path for path in bench.images.rglob("*.*")), key=lambda path: str(path.relative_to(bench.images)))
    return torch.stack([to_tensor(Image.open(file).convert("RGB")) for file in files])


@pytest.mark.parametrize("batch_size", [1, 7, 48, 100])
def test_activations_are_those_of_a_plain_forward_pass(bench: Bench, batch_size: int) -> None:
    spec = bench.spec(batch_size=batch_size)
    plan = observed(shard(spec), None, spec)
    with torch.inference_mode():
        net, x = ColourNet(), inputs(bench)
        conv, head = net.conv(x).mean((2, 3)).numpy(), net(x).numpy()
    assert np.allclose(activations(plan, "conv"), conv, atol=1e-6)
    assert np.allclose(activations(plan, "head"), head, atol=1e-6)


def test_max_is_another_summary_and_lies_beside_mean(bench: Bench) -> None:
    spec = bench.spec()
    probe = shard(spec)
    mean, largest = observed(probe, None, spec), observed(probe, None, bench.spec(summary="max"))
    with torch.inference_mode():
        expected = ColourNet().conv(inputs(bench)).amax((2, 3)).numpy()
    assert np.allclose(activations(largest, "conv"), expected, atol=1e-6)
    assert not np.allclose(activations(mean, "conv"), expected, atol=1e-2)


def test_a_sparse_autoencoders_latents_are_recorded_as_any_layer(bench: Bench) -> None:
    spec = bench.spec(target="tests.tiny_models:latents", layers=("sae", "net.conv"), summary="max")
    plan = observed(shard(spec), None, spec)
    net, _ = latents()
    with torch.inference_mode():
        pixels = ColourNet().conv(inputs(bench)).relu().flatten(2).transpose(1, 2)  # [I, 64, 4]
        codes = torch.relu(pixels @ net.get_parameter("sae.1.weight").T + net.get_parameter("sae.1.bias"))
    assert activations(plan, "sae").shape == (48, 2048)
    assert np.allclose(activations(plan, "sae"), codes.amax(1).numpy(), atol=1e-6)


def test_embeddings_are_those_of_the_model(bench: Bench, tiny_clip: TinyClip) -> None:
    spec = bench.spec(image_embeddings=None, **tiny_clip.options)
    plan = observed(shard(spec), spec, None)
    clip = load_clip(str(tiny_clip.config), str(tiny_clip.checkpoint))
    files = sorted(bench.images.rglob("*.*"), key=lambda path: str(path.relative_to(bench.images)))
    batch = torch.stack([clip.preprocess(Image.open(file).convert("RGB")) for file in files])
    assert np.allclose(image_embeddings(plan), on_cpu(clip).embed_images(batch, 8)().numpy(), atol=1e-5)


def test_precomputed_embeddings_are_stored_in_row_order(bench: Bench) -> None:
    spec = bench.spec()
    found = image_embeddings(observed(shard(spec), spec, None))
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    assert found.argmax(1)[:12].tolist() == [2] * 12  # blue comes first
    assert found.argmax(1)[36:].tolist() == [0] * 12  # and red last


def test_a_second_run_finds_nothing_missing(bench: Bench) -> None:
    spec = bench.spec()
    probe = shard(spec)
    assert len(observed(probe, spec, spec).missing) == 1
    assert plan_observation(probe, spec, spec).missing == ()


@pytest.fixture
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four shard groups of 16 images at most."""
    monkeypatch.setattr("storage.completion.ROWS_UNIT", 16)
    monkeypatch.setattr("storage.completion.MAX_TASKS", 4)


@pytest.mark.usefixtures("_small_groups")
def test_a_stopped_run_goes_on_with_the_groups_that_are_missing(bench: Bench) -> None:
    spec = bench.spec()
    probe = shard(spec)
    plan = plan_observation(probe, spec, spec)
    assert len(plan.missing) == 3
    observe.fn(plan, plan.work[1])
    rest = plan_observation(probe, spec, spec).work
    assert rest == [plan.work[0], plan.work[2]]
    assert np.isnan(activations(plan, "head")[:16]).all()
    for work in rest:
        observe.fn(plan, work)
    assert np.isfinite(activations(plan, "head")).all()
    assert plan_observation(probe, spec, spec).missing == ()


@pytest.mark.usefixtures("_small_groups")
def test_a_task_that_begins_again_decodes_only_the_groups_that_it_had_not_marked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(feed, "decode", lambda *of: decoded.append(1) or decoding.decode(*of))
    spec = bench.spec()
    plan = plan_observation(shard(spec), spec, spec)
    whole = ObservationWork(plan.missing)
    observe.fn(plan, ObservationWork(plan.missing[:1]))  # then its worker is lost
    assert observe.fn(plan, whole).num_images == 32
    assert len(decoded) == 48
    assert observe.fn(plan, whole).num_images == 0
    assert plan_observation(plan.probe, spec, spec).missing == ()


@pytest.mark.usefixtures("_small_groups")
def test_groups_of_any_size_give_the_same_values(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = bench.spec()
    small = observed(shard(spec), spec, spec)
    monkeypatch.setattr("storage.completion.ROWS_UNIT", 256)
    whole_spec = bench.spec(store=f"{bench.store}-2", images_per_shard=48)
    whole = observed(shard(whole_spec), whole_spec, whole_spec)
    assert (len(small.missing), len(whole.missing)) == (3, 1)
    for layer in ("conv", "head"):
        assert np.array_equal(activations(small, layer), activations(whole, layer))
    assert np.array_equal(image_embeddings(small), image_embeddings(whole))


def test_a_new_layer_records_only_that_layer(bench: Bench) -> None:
    spec = bench.spec(layers=("head",))
    probe = shard(spec)
    before = activations(observed(probe, spec, spec), "head")
    plan = plan_observation(probe, spec, bench.spec(layers=("head", "conv")))
    assert [(one.activations, one.embeddings) for one in plan.missing] == [((("mean", "conv"),), False)]
    observe.fn(plan, plan.work[0])
    assert np.array_equal(activations(plan, "head"), before)
    assert np.isfinite(activations(plan, "conv")).all()


def test_new_embeddings_record_no_layer_again(bench: Bench, tiny_clip: TinyClip) -> None:
    spec = bench.spec()
    probe = shard(spec)
    observed(probe, spec, spec)
    other = bench.spec(image_embeddings=None, **tiny_clip.options)
    assert [(one.activations, one.embeddings) for one in plan_observation(probe, other, other).missing] == [
        ((), True)
    ]


def test_an_image_is_decoded_once_for_both_models(
    bench: Bench, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(feed, "decode", lambda *of: decoded.append(1) or decoding.decode(*of))
    spec = bench.spec(image_embeddings=None, **tiny_clip.options)
    plan = observed(shard(spec), spec, spec)
    assert len(decoded) == 48
    assert np.isfinite(activations(plan, "head")).all()
    assert np.isfinite(image_embeddings(plan)).all()


def test_precomputed_embeddings_decode_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = bench.spec()
    probe = shard(spec)
    monkeypatch.setattr(feed, "decode", None)
    assert np.isfinite(image_embeddings(observed(probe, spec, None))).all()


class Wide(nn.Module):
    """Two layers with different numbers of neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def wide() -> tuple[nn.Module, v2.Compose]:
    torch.manual_seed(0)
    return Wide(), to_tensor


def hostile() -> tuple[nn.Module, v2.Compose]:
    """A network whose layers are called like paths."""
    net = nn.Sequential()
    for name in HOSTILE:
        net.add_module(name, nn.Conv2d(3, 3, 1))
    return net, to_tensor


HOSTILE = ("a/b", "a/b/c", "zürich", "zarr;json", "__", "a%2Fb", "x" * 300)


class Coded(ColourNet):
    """`sae` gives what is before its activation, its codes, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.sae = Encoder()

    def forward(self, x: Tensor) -> Tensor:
        self.sae(super().forward(x) - 0.5)
        return x


class Encoder(nn.Module):
    """A sparse autoencoder's."""

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return x, {"codes": x.relu(), "mean": x.mean()}


def coded() -> tuple[nn.Module, v2.Compose]:
    """A network with a layer that gives several tensors."""
    return Coded(), to_tensor


class Uneven:
    """A preprocessing that leaves every image its own size."""

    def __call__(self, image: Image.Image) -> Tensor:
        return v2.functional.to_dtype(v2.functional.pil_to_tensor(image), torch.float32, scale=True)


def uneven() -> tuple[nn.Module, Uneven]:
    return ColourNet(), Uneven()


def test_plain_xarray_opens_layers_of_different_widths(bench: Bench) -> None:
    spec = bench.spec(target=f"{__name__}:wide", layers=("a", "b"))
    of = recording(observed(shard(spec), None, spec))
    with xarray.open_zarr(of.store.activations(of.digest), consolidated=False) as dataset:
        assert dataset["a"].shape == (48, 2)
        assert dataset["b"].shape == (48, 5)
        assert dataset["a"].dims[0] == dataset["b"].dims[0] == "image"


def test_layers_of_any_name_are_recorded_apart(bench: Bench) -> None:
    spec = bench.spec(target=f"{__name__}:hostile", layers=HOSTILE)
    plan = observed(shard(spec), None, spec)
    found = [activations(plan, layer) for layer in HOSTILE]
    assert np.isfinite(found).all()
    assert not any(np.allclose(one, other) for one, other in pairwise(found))
    assert plan_observation(plan.probe, None, spec).missing == ()


def test_of_several_tensors_the_one_that_is_named_is_recorded(bench: Bench) -> None:
    spec = bench.spec(target=f"{__name__}:coded", layers=("sae", "sae[-1][codes]", "sae[0]"))
    plan = observed(shard(spec), None, spec)
    of = recording(plan)
    assert list(of.layouts) == ["sae", "sae[1][codes]", "sae[0]"]
    before, codes, first = (activations(plan, layer) for layer in of.layouts)
    assert np.array_equal(before, first) and (before < 0).any()
    assert np.array_equal(codes, before.clip(min=0))
    assert of.notes == (
        "Layer sae gives 3 tensors, and the first of them, sae[0], is recorded. To record another, name it: "
        "sae[1][codes].",
    )
    named = bench.spec(target=f"{__name__}:coded", layers=("sae[1][codes]",))
    again = plan_observation(plan.probe, None, named)
    assert again.missing == () and recording(again).notes == ()  # it is the same layer, however it is written


class Overflowing(ColourNet):
    """Gives infinity for green where an image is redder than `LIMIT`."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        out[:, 1] = torch.where(out[:, 0] > LIMIT, torch.inf, out[:, 1])
        return out


LIMIT = 0.0


def overflowing() -> tuple[nn.Module, v2.Compose]:
    net = nn.Sequential()
    net.add_module("body", Overflowing())
    return net, to_tensor


def test_an_activation_that_is_not_finite_is_counted_listed_and_ignored_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        expected = ColourNet()(inputs(bench)).numpy()
    reddest = expected[:, 0].argsort()
    monkeypatch.setattr(f"{__name__}.LIMIT", float(expected[reddest[-2:], 0].mean()))
    spec = bench.spec(target=f"{__name__}:overflowing", layers=("body", "body.conv"))
    plan = observed(shard(spec), None, spec)
    of = recording(plan)
    marker = {layer: of.done(layer) for layer in of.layouts}
    facts = {layer: marker[layer].facts(plan.missing[0].rows.name)["ignored"] for layer in of.layouts}
    assert facts["body"] == {"activations": 1, "images": [int(reddest[-1])]}
    assert facts["body.conv"] == {"activations": 0, "images": []}
    expected[reddest[-1], 1] = -np.inf
    found = activations(plan, "body")
    assert np.isneginf(found).sum() == 1
    assert np.allclose(found, expected, atol=1e-6)
    assert recorded.statistics(of, 48, "body").count.tolist() == [48, 47, 48, 48]
    assert recorded.top_images(of, 48, "body", 48).rows[-1, 1] == reddest[-1]


def test_images_with_ignored_activations_are_rows_of_the_probe_set(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MOST_IGNORED_LISTED", 5)
    spec = bench.spec(target="tests.tiny_models:nans", layers=("body",))
    plan = observed(shard(spec), None, spec)
    of = recording(plan)
    ignored = of.done("body").facts(plan.missing[0].rows.name)["ignored"]
    assert ignored == {"activations": 12 * 4, "images": [36, 37, 38, 39, 40]}


@pytest.mark.usefixtures("_small_groups")
def test_a_layer_that_is_never_finite_is_refused_by_name_and_nothing_is_marked(bench: Bench, tmp_path: Path) -> None:
    weights = ColourNet().state_dict()
    weights["head.weight"].fill_(torch.nan)
    save_file(weights, tmp_path / "weights.safetensors")
    spec = bench.spec(checkpoint=str(tmp_path / "weights.safetensors"))
    probe = shard(spec)
    with pytest.raises(LayerError, match=r"'head' gives NaN or infinite values on all of images 0-15 .*weights"):
        observed(probe, None, spec)
    assert len(plan_observation(probe, None, spec).missing) == 3


def test_a_layer_that_is_fine_in_a_network_that_ends_in_nan_is_recorded(bench: Bench) -> None:
    spec = bench.spec(target="tests.tiny_models:nans", layers=("body.head",))
    assert np.isfinite(activations(observed(shard(spec), None, spec), "body.head")).all()


def test_nan_embeddings_are_refused(bench: Bench, tiny_clip: TinyClip) -> None:
    weights = load_file(tiny_clip.checkpoint)
    weights["visual.proj"].fill_(torch.nan)
    save_file(weights, tiny_clip.checkpoint)
    spec = bench.spec(image_embeddings=None, **tiny_clip.options)
    probe = shard(spec)
    with pytest.raises(Exception, match="NaN"):
        observed(probe, spec, None)
    assert len(plan_observation(probe, spec, None).missing) == 1


def test_keys_that_do_not_match_are_refused_before_any_image_is_decoded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Path(str(bench.image_embeddings).removesuffix(".npy") + ".keys.txt")
    keys.write_text(keys.read_text().replace("red/", "rot/"))
    spec = bench.spec()
    probe = shard(spec)
    monkeypatch.setattr(feed, "decode", None)
    with pytest.raises(EmbeddingsError, match=r"12 of 48 probe images have no row among the 48"):
        plan_observation(probe, spec, spec)


def test_images_of_different_sizes_that_are_not_resized_are_refused_clearly(bench: Bench) -> None:
    Image.new("RGB", (31, 17)).save(bench.images / "odd.png")
    spec = bench.spec(target=f"{__name__}:uneven", layers=("head",))
    with pytest.raises(Exception, match=r"(?i)preprocess"):
        observed(shard(spec), None, spec)


def test_a_damaged_shard_is_named_and_nothing_is_marked(bench: Bench) -> None:
    spec = bench.spec()
    probe = shard(spec)
    data = probe.folder.read("shard-000001.tar")
    probe.folder.write("shard-000001.tar", data[: len(data) // 2])
    with pytest.raises(ShardError, match=r"shard-000001\.tar"):
        observed(probe, None, spec)
    assert len(plan_observation(probe, None, spec).missing) == 1


def test_an_unknown_layer_is_refused_when_planning(bench: Bench) -> None:
    spec = bench.spec(layers=("heda",))
    with pytest.raises(UnknownNameError, match="Nearest: head"):
        plan_observation(shard(spec), None, spec)


def test_another_network_never_reuses_activations(bench: Bench, tmp_path: Path) -> None:
    spec = bench.spec()
    probe = shard(spec)
    before = recording(observed(probe, None, spec))
    weights = ColourNet().state_dict()
    weights["head.weight"][0, 0] += 2**-20
    save_file(weights, tmp_path / "weights.safetensors")
    plan = plan_observation(probe, None, bench.spec(checkpoint=str(tmp_path / "weights.safetensors")))
    assert recording(plan).digest != before.digest
    assert len(plan.missing) == 1


def test_a_store_that_was_copied_together_by_hand_is_refused(bench: Bench) -> None:
    spec = bench.spec()
    probe = shard(spec)
    of = recording(observed(probe, None, spec))
    group: Any = of.group()
    group.attrs["identity"] = {**of.identity, "weights": "other"}
    with pytest.raises(IdentityError, match="weights: stored 'other'"):
        plan_observation(probe, None, spec)


def test_a_worker_that_outlived_a_change_of_checkpoint_records_the_network_planned_with(
    bench: Bench, tmp_path: Path
) -> None:
    older, newer = ({name: n * tensor for name, tensor in ColourNet().state_dict().items()} for n in (1, 2))
    checkpoint = tmp_path / "weights.safetensors"
    spec = bench.spec(checkpoint=str(checkpoint), layers=("conv",))
    save_file(newer, checkpoint)
    plan = plan_observation(shard(spec), None, spec)

    def hold_older() -> None:
        load_target.cache_clear()
        save_file(older, checkpoint)
        load_target(*spec.network)

    hold_older()
    with pytest.raises(ModelError, match=r"another network .* planned with .different: weights"):
        observe.fn(plan, plan.work[0])
    hold_older()
    save_file(newer, checkpoint)
    observe.fn(plan, plan.work[0])
    with torch.inference_mode():
        expected = 2 * ColourNet().conv(inputs(bench)).mean((2, 3)).numpy()
    assert np.allclose(activations(plan, "conv"), expected, atol=1e-6)


def test_a_worker_with_another_clip_is_refused(bench: Bench, tiny_clip: TinyClip, tmp_path: Path) -> None:
    spec = bench.spec(image_embeddings=None, concept_embeddings=None, **tiny_clip.options)
    plan, concepts = plan_observation(shard(spec), spec, None), concept_embeddings_of(spec)
    other = make_clip(tmp_path / "other", seed=1)
    tiny_clip.checkpoint.write_bytes(other.checkpoint.read_bytes())
    load_clip.cache_clear()
    with pytest.raises(ModelError, match=r"another CLIP model .* planned with"):
        observe.fn(plan, plan.work[0])
    with pytest.raises(EmbeddingsError, match="than the run was planned with"):
        embed_concepts.fn(concepts, spec, 4)


def test_embeddings_that_change_during_a_run_are_refused(bench: Bench) -> None:
    spec = bench.spec()
    plan = plan_observation(shard(spec), spec, None)
    np.save(bench.image_embeddings, np.load(bench.image_embeddings)[::-1])
    with pytest.raises(EmbeddingsError, match="changed since the run began"):
        observe.fn(plan, plan.work[0])
