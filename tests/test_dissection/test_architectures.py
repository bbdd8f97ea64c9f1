"""Architectures of the libraries, small, with random weights: layouts, neurons, and activations pooled by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import Transformer, VisionTransformer
from torch import Tensor, nn
from torchvision import models

from tasks.dissection.errors import LayerError
from tasks.dissection.hooks import recorded
from tasks.dissection.layers import recordable, resolve, trace
from tasks.dissection.summary import SummaryName
from tests.test_dissection.networks import autoencoded_maps, autoencoded_pixels, autoencoded_vectors

Pool = Callable[[Tensor], Tensor]
#: A layer as written, its layout, its neurons, a summary function, and the same by hand.
Layer = tuple[str, str, int, SummaryName, Pool]

WIDE = (3, 64, 96)
MAP, LAST, TOKENS, VECTOR = "map", "map, channels last", "tokens", "vector"
TOKENS_FIRST = "tokens before images, 1 before the patches"


def first_mean(o: Tensor) -> Tensor:
    return o.mean((2, 3))


def first_max(o: Tensor) -> Tensor:
    return o.amax((2, 3))


def last_mean(o: Tensor) -> Tensor:
    return o.mean((1, 2))


def last_max(o: Tensor) -> Tensor:
    return o.amax((1, 2))


def itself(o: Tensor) -> Tensor:
    return o


def before(num_prefix: int) -> str:
    return f"tokens, {num_prefix} before the patches"


def torchvision(name: str, **more: Any) -> Callable[[], nn.Module]:
    return lambda: models.get_model(name, weights=None, **more)


def from_timm(name: str, **more: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, **more)


SMALL_VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2}
SMALL_SWIN = {"depths": (1, 1), "num_heads": (2, 2), "embed_dim": 12, "window_size": 4}

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[Layer]]] = {
    "torchvision resnet18": (
        torchvision("resnet18"),
        WIDE,
        [
            ("conv1", MAP, 64, "max", first_max),
            ("layer2[-1].bn2", MAP, 128, "mean", first_mean),
            ("layer4", MAP, 512, "mean", first_mean),
            ("avgpool", MAP, 512, "max", lambda o: o[:, :, 0, 0]),
            ("fc", VECTOR, 1000, "mean", itself),
        ],
    ),
    "torchvision vgg11_bn": (
        torchvision("vgg11_bn", init_weights=False, num_classes=7),
        (3, 32, 48),
        [
            ("features[0]", MAP, 64, "mean", first_mean),
            ("features[28]", MAP, 512, "max", first_max),
            ("avgpool", MAP, 512, "mean", first_mean),
            ("classifier[3]", VECTOR, 4096, "max", itself),
        ],
    ),
    "torchvision efficientnet_b0": (
        torchvision("efficientnet_b0"),
        WIDE,
        [
            ("features[2]", MAP, 24, "mean", first_mean),
            ("features[4][1].block[2].fc1", MAP, 20, "mean", first_mean),
            ("features[8]", MAP, 1280, "max", first_max),
        ],
    ),
    "torchvision convnext_tiny": (
        torchvision("convnext_tiny"),
        WIDE,
        [
            ("features[1]", MAP, 96, "mean", first_mean),
            ("features[1][0].block[2]", LAST, 96, "mean", last_mean),
            ("features[1][0].block[3]", LAST, 384, "max", last_max),
            ("features[7][2].block[4]", LAST, 3072, "max", last_max),
            ("features[7][2].block[6]", MAP, 768, "max", first_max),
        ],
    ),
    "torchvision swin_v2_t": (
        torchvision("swin_v2_t"),
        WIDE,
        [
            ("features[0][0]", MAP, 96, "mean", first_mean),
            ("features[1]", LAST, 96, "max", last_max),
            ("features[1][0].attn", LAST, 96, "mean", last_mean),
            ("features[7][1].mlp[0]", LAST, 3072, "max", last_max),
            ("permute", MAP, 768, "mean", first_mean),
        ],
    ),
    "torchvision vit_b_16": (
        torchvision("vit_b_16", image_size=32),
        (3, 32, 32),
        [
            ("encoder.layers[-1]", before(1), 768, "class_token", lambda o: o[:, 0]),
            ("encoder.layers[0].mlp[0]", before(1), 3072, "token_max", lambda o: o[:, 1:].amax(1)),
            ("encoder", before(1), 768, "mean", lambda o: o.mean(1)),
        ],
    ),
    "timm resnet10t": (
        from_timm("resnet10t"),
        WIDE,
        [("conv1[6]", MAP, 64, "mean", first_mean), ("layer3[0]", MAP, 256, "max", first_max)],
    ),
    "timm regnetx_002": (
        from_timm("regnetx_002"),
        WIDE,
        [("s2", MAP, 56, "mean", first_mean), ("s4.b7.conv2.bn", MAP, 368, "max", first_max)],
    ),
    "timm convnext_atto": (
        from_timm("convnext_atto"),
        WIDE,
        [("stages[1]", MAP, 80, "mean", first_mean), ("stages[3].blocks[-1].mlp.act", MAP, 1280, "max", first_max)],
    ),
    "timm swin_tiny, one size only": (
        from_timm("swin_tiny_patch4_window7_224", img_size=(32, 64), **SMALL_SWIN),
        (3, 32, 64),
        [
            ("layers[0]", LAST, 12, "mean", last_mean),
            ("layers[1].downsample", LAST, 24, "max", last_max),
            ("layers[1].blocks[0].mlp", TOKENS, 24, "token_max", lambda o: o.amax(1)),
        ],
    ),
    "timm vit_tiny, patches in 4 rows of 3": (
        from_timm("vit_tiny_patch16_224", img_size=(64, 48), **SMALL_VIT),
        (3, 64, 48),
        [
            ("patch_embed", TOKENS, 24, "token_mean", lambda o: o.mean(1)),
            ("blocks[1]", before(1), 24, "class_token", lambda o: o[:, 0]),
            ("blocks[1].mlp.fc1", before(1), 96, "token_mean", lambda o: o[:, 1:13].mean(1)),
        ],
    ),
    "timm vit_tiny, any size": (
        from_timm("vit_tiny_patch16_224", img_size=64, dynamic_img_size=True, **SMALL_VIT),
        (3, 64, 48),
        [
            ("patch_embed", LAST, 24, "max", last_max),
            ("blocks[1]", before(1), 24, "token_max", lambda o: o[:, 1:].amax(1)),
        ],
    ),
    "timm deit_tiny_distilled": (
        from_timm("deit_tiny_distilled_patch16_224", img_size=64, **SMALL_VIT),
        (3, 64, 64),
        [
            ("blocks[0]", before(2), 24, "class_token", lambda o: o[:, 0]),
            ("norm", before(2), 24, "token_mean", lambda o: o[:, 2:].mean(1)),
            ("norm", before(2), 24, "max", lambda o: o.amax(1)),
        ],
    ),
    "timm dinov2 with 4 registers": (
        from_timm("vit_small_patch14_reg4_dinov2", img_size=56, **SMALL_VIT),
        (3, 56, 56),
        [
            ("blocks[0]", before(5), 24, "class_token", lambda o: o[:, 0]),
            ("blocks[1]", before(5), 24, "token_max", lambda o: o[:, 5:].amax(1)),
        ],
    ),
    "timm cait, the class token in the last blocks": (
        from_timm("cait_xxs24_224", img_size=64, depth=2),
        (3, 64, 64),
        [
            ("blocks[1]", TOKENS, 192, "token_mean", lambda o: o.mean(1)),
            ("blocks_token_only[1]", before(1), 192, "class_token", lambda o: o[:, 0]),
            ("norm", before(1), 192, "token_max", lambda o: o[:, 1:].amax(1)),
        ],
    ),
    "timm mixer_s32": (
        from_timm("mixer_s32_224", img_size=96),
        (3, 96, 96),
        [
            ("blocks[1]", TOKENS, 512, "mean", lambda o: o.mean(1)),
            ("blocks[1].mlp_channels.act", TOKENS, 2048, "token_max", lambda o: o.amax(1)),
        ],
    ),
    "open_clip ViT": (
        lambda: VisionTransformer(image_size=32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=2),
        (3, 32, 32),
        [
            ("conv1", MAP, 16, "max", first_max),
            ("transformer.resblocks[0]", before(1), 16, "class_token", lambda o: o[:, 0]),
            ("transformer.resblocks[1].mlp.c_fc", before(1), 32, "token_mean", lambda o: o[:, 1:].mean(1)),
            ("ln_post", before(1), 16, "token_max", lambda o: o[:, 1:].amax(1)),
        ],
    ),
    "open_clip ViT, tokens before images": (
        lambda: tokens_first(VisionTransformer(32, 8, width=16, layers=2, heads=2, mlp_ratio=2)),
        (3, 32, 32),
        [
            ("transformer.resblocks[0]", TOKENS_FIRST, 16, "class_token", lambda o: o[0]),
            ("transformer.resblocks[1].mlp.gelu", TOKENS_FIRST, 64, "token_mean", lambda o: o[1:].mean(0)),
            ("ln_post", before(1), 16, "token_max", lambda o: o[:, 1:].amax(1)),
        ],
    ),
    "open_clip ResNet": (
        lambda: ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=2, image_size=64, width=8),
        (3, 64, 64),
        [
            ("layer2", MAP, 64, "mean", first_mean),
            ("layer4[0].conv2", MAP, 64, "max", first_max),
            ("attnpool", VECTOR, 8, "mean", itself),
        ],
    ),
    "a sparse autoencoder's latents, a vector per image": (
        autoencoded_vectors,
        WIDE,
        [("sae", VECTOR, 4096, "max", itself), ("net.fc", VECTOR, 1000, "mean", itself)],
    ),
    "a sparse autoencoder's latents, of pixels as tokens": (
        autoencoded_pixels,
        WIDE,
        [("sae", TOKENS, 4096, "max", lambda o: o.amax(1)), ("sae[1]", TOKENS, 4096, "mean", lambda o: o.mean(1))],
    ),
    "a sparse autoencoder's latents, as a map": (
        autoencoded_maps,
        WIDE,
        [("sae", MAP, 4096, "max", first_max), ("net.layer2", MAP, 128, "mean", first_mean)],
    ),
}


def tokens_first(tower: VisionTransformer) -> VisionTransformer:
    """The tower with its blocks over `[T, B, N]`, as towers before open_clip 2.24 have them."""
    tower.transformer = Transformer(16, 2, 2, batch_first=False)
    return tower


@contextmanager
def plainly_hooked(module: nn.Module) -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda module, args, output: outputs.append(output.clone()))
    yield outputs
    handle.remove()


@pytest.mark.parametrize("network", NETWORKS)
def test_recorded_is_what_a_plain_hook_gives_pooled_by_hand(network: str) -> None:
    make, image_shape, layers = NETWORKS[network]
    model = make().eval()
    traced = trace(model, image_shape)
    images = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0))
    for written, layout, num_neurons, summary, pool in layers:
        (name,) = resolve(model, [written])
        assert (str(traced[name].layout), traced[name].num_neurons) == (layout, num_neurons), name
        layouts = recordable(traced, [name], summary)
        with (
            torch.no_grad(),
            recorded(model, layouts, summary) as activations,
            plainly_hooked(model.get_submodule(name)) as outputs,
        ):
            model(images)
        assert activations[name].shape == (2, num_neurons)
        np.testing.assert_allclose(activations[name], pool(outputs[0]), 1e-4, 1e-6, err_msg=f"{name} {summary}")


def test_registers_without_a_class_token_are_left_out_and_are_no_class_token() -> None:
    model = timm.create_model("vit_base_patch16_reg4_gap_256", img_size=64, **SMALL_VIT).eval()
    traced = trace(model, (3, 64, 64))
    assert str(traced["blocks.0"].layout) == before(4)
    with pytest.raises(LayerError, match=r"'blocks\.0' gives 4 tokens before its patches, and they are registers"):
        recordable(traced, ["blocks.0"], "class_token")


def test_layers_of_windows_heads_and_fused_attention_are_refused_with_what_they_give() -> None:
    swin = trace(timm.create_model("swin_tiny_patch4_window7_224", img_size=32, **SMALL_SWIN).eval(), (3, 32, 32))
    vit = trace(timm.create_model("vit_tiny_patch16_224", img_size=64, **SMALL_VIT).eval(), (3, 64, 64))
    with pytest.raises(LayerError, match=r"gives \[12, 16, 12\] for 3 images, which has no row per image"):
        recordable(swin, ["layers.0.blocks.0.attn"], "mean")
    with pytest.raises(LayerError, match=r"gives \[2, 17, 12\] for an image: which axis holds its neurons cannot"):
        recordable(vit, ["blocks.0.attn.q_norm"], "mean")
    with pytest.raises(LayerError, match=r"'blocks\.0\.attn\.attn_drop' \(Dropout\) does not run"):
        recordable(vit, ["blocks.0.attn.attn_drop"], "mean")
