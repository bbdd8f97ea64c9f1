"""The tables that a run publishes of its neurons beside their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor

from tasks import detailing, published
from tasks.concepts import concept_list, read_concept_embeddings
from tasks.detail_tables import inputs_table, similar_table
from tasks.detailing import NUM_SIMILAR, DetailsPlan
from tasks.dissection.neighbours import by_cosine
from tasks.inputs import linear_inputs
from tasks.labelling import LabelPlan
from tasks.models.targets import load_target

#: Inputs of a neuron that are listed, of either sign.
NUM_INPUTS = 5


def details_tables(details: DetailsPlan, labels: LabelPlan) -> dict[str, pd.DataFrame]:
    """By the names under which they are published, each of all layers."""
    concepts = _Concepts(labels)
    of_layers = {
        published.NEURONS: {layer: details.table(layer, detailing.NEURONS) for layer in details.layers},
        published.IMAGE_RANGES: {layer: _image_ranges(details, labels, layer) for layer in details.layers},
        published.SIMILAR_NEURONS: {layer: _similar_neurons(details, concepts, layer) for layer in details.layers},
        published.INPUTS: {layer: _inputs(details, labels, layer) for layer in details.layers},
    }
    return {name: _joined(tables, list(published.COLUMNS[name])) for name, tables in of_layers.items()}


def _joined(tables: dict[str, pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return _one_after_another([table.assign(layer=layer)[columns] for layer, table in tables.items()])


def _one_after_another(parts: list[pd.DataFrame]) -> pd.DataFrame:
    # A part without a row may have columns of other types.
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _image_ranges(details: DetailsPlan, labels: LabelPlan, layer: str) -> pd.DataFrame:
    table = details.table(layer, detailing.IMAGE_RANGES)
    return table.assign(image=labels.probe.paths(table["row"].to_numpy()))


def _similar_neurons(details: DetailsPlan, concepts: _Concepts, layer: str) -> pd.DataFrame:
    by_activation = details.table(layer, detailing.SIMILAR)
    by_label = _by_label(details, concepts, layer)
    return _one_after_another([by_activation.assign(by="activation"), by_label.assign(by="label")])


@dataclass(frozen=True)
class _Concepts:
    """The concepts of a run's labels, read once for all layers, and not where none compares its neurons."""

    labels: LabelPlan

    @cached_property
    def embeddings(self) -> Tensor:
        """`[C, D]`, float64."""
        return torch.from_numpy(read_concept_embeddings(self.labels.concepts, self.labels.spec)).double()

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row by concept; of a repeated one the last, which is embedded the same."""
        return {concept: row for row, concept in enumerate(concept_list(self.labels.spec).concepts)}


def _by_label(details: DetailsPlan, concepts: _Concepts, layer: str) -> pd.DataFrame:
    """By the cosine of the means of their labels' embeddings: of all ranks, for many neurons share a first label."""
    if not details.compares(layer):
        return similar_table(None)
    table = concepts.labels.labels(layer)
    first = table[table["rank"] == 1]
    named = table[~table["is_dead"]]
    E = concepts.embeddings
    V = torch.zeros(len(first), E.shape[1], dtype=torch.float64)  # [N, D]
    neurons = torch.tensor(named["neuron"].to_numpy(), dtype=torch.int64)
    V.index_add_(
        0, neurons, E[torch.tensor([concepts.rows[concept] for concept in named["concept"]], dtype=torch.int64)]
    )
    live = torch.tensor(~first["is_dead"].to_numpy())
    return similar_table(by_cosine(V, live, NUM_SIMILAR, int(details.memory * 2**30)))


def _inputs(details: DetailsPlan, labels: LabelPlan, layer: str) -> pd.DataFrame:
    """Of a layer that is linear; an input layer that is not known has no name."""
    target = load_target(labels.spec.target, labels.spec.checkpoint, labels.spec.preprocess)
    found = linear_inputs(target, details.activations, details.num_images, layer)
    if found is None:
        return inputs_table(torch.empty(0, 0), NUM_INPUTS).assign(input_layer="")
    return inputs_table(found.weight, NUM_INPUTS).assign(input_layer=found.input_layer or "")
