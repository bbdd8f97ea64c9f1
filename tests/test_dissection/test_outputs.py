"""Tensors of which a layer gives several: each has a name, and is found by it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tasks.dissection.errors import LayerError, UnknownNameError
from tasks.dissection.hooks import recorded
from tasks.dissection.layers import choices, recordable, resolve, trace
from tasks.dissection.outputs import items, module_name, tensor_of

ONE, TWO, THREE = torch.zeros(2, 3), torch.ones(2, 3), torch.full((2, 3), 2.0)


@dataclass
class Fields:
    """As a library's own class of outputs."""

    codes: Tensor
    mask: Tensor | None = None


class Named(NamedTuple):
    """As an autoencoder may give it."""

    before: Tensor
    codes: Tensor


@dataclass
class ModelOutput(OrderedDict[str, object]):
    """A mapping and a dataclass at once, as transformers' outputs are."""

    last: Tensor
    pooled: Tensor

    def __post_init__(self) -> None:
        self.update(last=self.last, pooled=self.pooled)


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (ONE, [""]),
        ((ONE, TWO), ["[0]", "[1]"]),
        ([None, (ONE, {"a": TWO})], ["[1][0]", "[1][1][a]"]),
        ({"codes": ONE, "mask": ONE > 0, "b.c": TWO}, ["[codes]", "[b.c]"]),
        ({0: ONE, "0": TWO}, ["[0]", "['0']"]),
        (Fields(ONE), ["[codes]"]),
        (Named(ONE, TWO), ["[before]", "[codes]"]),
        (ModelOutput(ONE, TWO), ["[last]", "[pooled]"]),
        (torch.rand(2, 3).topk(2), ["[0]"]),
        (Fields, []),
        ((), []),
    ],
)
def test_items_are_named_by_key_field_or_number(output: object, names: list[str]) -> None:
    assert [item.name for item in items(output)] == names


def test_an_item_has_other_names_too() -> None:
    before, codes = items(Named(ONE, TWO))
    assert (before.aliases, codes.aliases) == (("[0]", "[-2]"), ("[1]", "[-1]"))
    assert items(ModelOutput(ONE, TWO))[1].aliases == ("[1]",)
    [inner] = items((None, [ONE]))
    assert {inner.name, *inner.aliases} == {"[1][0]", "[1][-1]", "[-1][0]", "[-1][-1]"}


_outputs = st.recursive(
    st.builds(lambda: torch.zeros(1)) | st.none() | st.builds(lambda: torch.zeros(1, dtype=torch.int64)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 3), inner, max_size=3)
        | st.tuples(inner, inner).map(lambda pair: Named(*pair))
    ),
    max_leaves=8,
)


@given(_outputs)
def test_every_item_is_found_by_its_name_and_no_two_share_one(output: object) -> None:
    found = items(output)
    assert len({item.name for item in found}) == len(found)
    for item in found:
        assert tensor_of(output, f"layer{item.name}", item.name) is item.tensor


class TestTensorOf:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda t: t,
            lambda t: (t, None),
            lambda t: [t, t + 1],
            lambda t: Named(t, t + 1),
            lambda t: (None, t),
            lambda t: {"maps": t, "classes": t > 0},
            lambda t: Fields(t),
            lambda t: [[{"maps": t}]],
        ],
    )
    def test_the_name_alone_is_the_output_the_first_of_several_or_the_only_one(
        self, wrap: Callable[[Tensor], object]
    ) -> None:
        assert tensor_of(wrap(ONE), "layer", "") is ONE

    @pytest.mark.parametrize(
        ("output", "said"),
        [
            ({"features": None, "mask": None}, "gives dict of features, mask,"),
            ({}, "gives dict of nothing"),
            ((), "gives tuple,"),
            ([], "gives list,"),
            ((None, 3), "gives tuple that begins with NoneType"),
            ([{"maps": None}], "gives list that begins with dict of maps"),
            (torch.zeros(2, dtype=torch.int64), "gives Tensor of int64"),
            (torch.zeros(2, dtype=torch.complex64), "gives Tensor of complex64"),
            (3.5, "gives float,"),
            (None, "gives NoneType"),
            ({"a": ONE, "b": TWO}, r"gives 2 tensors of floats \(neck\[a\], neck\[b\]\), and none comes first"),
            ((None, ONE, TWO), r"gives 2 tensors of floats \(neck\[1\], neck\[2\]\)"),
            ([[ONE], TWO], r"gives 2 tensors of floats \(neck\[0\]\[0\], neck\[1\]\)"),
            (dict.fromkeys("abcdefg", ONE), r"gives 7 tensors of floats \(.*neck\[e\] and 2 more\)"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_anything_else_is_refused_by_name_and_kind(self, output: object, said: str) -> None:
        with pytest.raises(LayerError, match=rf"'neck' {said}"):
            tensor_of(output, "neck", "")

    @pytest.mark.parametrize(
        ("output", "said"),
        [((ONE, TWO), r"its output has neck\[0\], neck\[1\]"), (ONE > 0, "it gives Tensor of bool")],
    )
    def test_an_item_that_a_pass_does_not_give_is_refused_with_those_that_it_gives(
        self, output: object, said: str
    ) -> None:
        with pytest.raises(LayerError, match=rf"'neck\[2\]' is not there in this forward pass: {said}"):
            tensor_of(output, "neck[2]", "[2]")


def test_a_module_may_have_brackets_in_its_name() -> None:
    assert module_name("sae[1][0]", {"sae"}) == "sae"
    assert module_name("sae[1][0]", {"sae", "sae[1]"}) == "sae[1]"
    assert module_name("sae[1]", {"sae[1]"}) == "sae[1]"
    assert module_name("other[1]", {"sae"}) == "other[1]"


class Encoder(nn.Module):
    """A sparse autoencoder's encoder, whose output `give` makes of what is before the activation, and the codes."""

    def __init__(self, give: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.linear, self.give = nn.Linear(3, 6), give

    def forward(self, inputs: Tensor) -> object:
        before = self.linear(inputs)
        return self.give(before, before.relu())


class Encoded(nn.Module):
    """Images, encoded by an encoder or several."""

    def __init__(self, *gives: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Identity(), nn.Identity())
        self.saes = nn.ModuleList(map(Encoder, gives))

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.blocks(images).mean((2, 3))
        for sae in self.saes:
            sae(pooled)
        return pooled


IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
PAIR: Callable[[Tensor, Tensor], object] = lambda before, codes: (before, codes)  # noqa: E731


def resolved(network: nn.Module, *written: str) -> tuple[str, ...]:
    return resolve(network, written, trace(network, (3, 6, 6)))


@pytest.mark.parametrize(
    ("give", "codes"),
    [
        (PAIR, "[1]"),
        (lambda before, codes: [before, None, codes], "[2]"),
        (lambda before, codes: {"before": before, "codes": codes}, "[codes]"),
        (Named, "[codes]"),
        (lambda before, codes: (before, Fields(codes, codes > 0)), "[1][codes]"),
        (lambda before, codes: (before, (None, codes)), "[1][1]"),
    ],
)
def test_what_is_recorded_is_the_item_that_is_named(give: Callable[[Tensor, Tensor], object], codes: str) -> None:
    network = Encoded(give).eval()
    traced = trace(network, (3, 6, 6))
    names = resolve(network, [f"saes[0]{codes}", "saes.0.linear"], traced)
    assert names == (f"saes.0{codes}", "saes.0.linear")
    assert (traced[names[0]].kind, traced[names[0]].shape, traced[names[0]].num_neurons) == ("Encoder", (6,), 6)
    layouts = recordable(traced, names, "mean")
    with torch.no_grad(), recorded(network, layouts, "mean") as activations:
        network(IMAGES)
        assert torch.equal(activations[names[0]], activations[names[1]].relu())


class TestNames:
    def test_an_item_follows_its_layer(self) -> None:
        traced = trace(Encoded(PAIR), (3, 6, 6))
        assert list(traced)[-4:] == ["saes.0", "saes.0[0]", "saes.0[1]", "saes.0.linear"]
        assert traced["saes.0"].items == ("saes.0[0]", "saes.0[1]")
        assert traced["saes.0"].layout == traced["saes.0[0]"].layout

    def test_a_child_comes_before_an_item(self) -> None:
        network = Encoded(PAIR)
        assert resolved(network, "blocks[0]", "saes[0]", "saes[0][0]") == ("blocks.0", "saes.0", "saes.0[0]")

    def test_a_number_counts_from_the_end_too_and_stands_for_a_field(self) -> None:
        assert resolved(Encoded(PAIR), "saes.0[-1]", "saes.0[1]") == ("saes.0[1]",)
        assert resolved(Encoded(Named), "saes.0[1]", "saes.0[-2]") == ("saes.0[codes]", "saes.0[before]")

    def test_the_only_tensor_has_the_name_of_the_layer(self) -> None:
        network = Encoded(lambda before, codes: {"codes": codes, "active": codes > 0})
        assert resolved(network, "saes.0[codes]", "saes.0") == ("saes.0",)
        assert "saes.0[codes]" not in trace(network, (3, 6, 6))

    def test_globs_choose_the_item_of_every_layer_that_has_it(self) -> None:
        network = Encoded(PAIR, Named, PAIR, lambda before, codes: codes)
        assert resolved(network, "saes.*[1]") == ("saes.0[1]", "saes.1[codes]", "saes.2[1]")
        assert resolved(network, "**[codes]") == ("saes.1[codes]",)
        assert resolved(network, "saes[-2][1]") == ("saes.2[1]",)
        assert resolved(network, "saes.[0-2][0]") == ("saes.0[0]", "saes.1[before]", "saes.2[0]")

    def test_brackets_within_a_name_may_be_both(self) -> None:
        network = Encoded(Named, lambda before, codes: codes)
        assert resolved(network, "saes[0].*[ra]") == ("saes.0.linear",)
        assert resolved(network, "saes.[0-1][codes]") == ("saes.0[codes]",)

    def test_letters_in_brackets_are_a_glob_where_no_item_has_them_for_a_name(self) -> None:
        network = nn.ModuleDict({"saec": nn.ReLU(), "saed": nn.ReLU()})
        assert resolve(network, ["sae[cd]"]) == ("saec", "saed")

    def test_an_item_comes_before_a_glob_of_letters(self) -> None:
        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.sae, self.saec = Encoder(Named), nn.Identity()

            def forward(self, images: Tensor) -> Tensor:
                self.sae(images.mean((2, 3)))
                return self.saec(images)

        assert resolved(Both(), "sae[codes]") == ("sae[codes]",)

    def test_a_module_that_is_called_like_an_item_is_meant_by_its_name(self) -> None:
        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.sae = Encoder(PAIR)
                self.add_module("sae[1]", nn.Flatten())

            def forward(self, images: Tensor) -> Tensor:
                self.sae(images.mean((2, 3)))
                return getattr(self, "sae[1]")(images)

        network = Both().eval()
        traced = trace(network, (3, 6, 6))
        assert (traced["sae[1]"].kind, traced["sae[1]"].num_neurons) == ("Flatten", 108)
        with recorded(network, recordable(traced, ["sae[1]"], "mean"), "mean") as activations:
            network(IMAGES)
            assert torch.equal(activations["sae[1]"], IMAGES.flatten(1))

    def test_an_item_that_is_not_there_is_told_those_that_are(self) -> None:
        with pytest.raises(UnknownNameError, match=r"'saes.0' gives the tensors saes.0\[0\], saes.0\[1\]"):
            resolved(Encoded(PAIR), "saes[0][2]")
        with pytest.raises(UnknownNameError, match=r"'saes.0.linear' gives one tensor or none"):
            resolved(Encoded(PAIR), "saes.0.linear[codes]")


class TestChoices:
    def test_a_choice_that_a_bare_name_makes_is_said_with_the_others(self) -> None:
        traced = trace(Encoded(PAIR), (3, 6, 6))
        [said] = choices(traced, ["saes.0", "saes.0[1]", "blocks"])
        assert said == (
            "Layer saes.0 gives 2 tensors, and the first of them, saes.0[0], is recorded. To record another, "
            "name it: saes.0[1]."
        )

    def test_nothing_is_said_where_no_other_can_be_recorded(self) -> None:
        traced = trace(Encoded(lambda before, codes: (before, codes.mean())), (3, 6, 6))
        assert traced["saes.0"].items == ("saes.0[0]", "saes.0[1]")
        assert choices(traced, ["saes.0"]) == []

    def test_of_many_layers_it_is_said_in_few_words(self) -> None:
        traced = trace(Encoded(*[PAIR] * 7), (3, 6, 6))
        said = choices(traced, [f"saes.{number}" for number in range(7)])
        assert len(said) == 5
        assert said[-1] == "So it is of 3 more layers that give several tensors."
