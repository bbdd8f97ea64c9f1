"""Concepts that the probe set has no images of (paper 4.5): whether their neurons get their name all the same.

The paper labels ResNet-50 by CIFAR-100, which has no dog and no bird in it, and finds the right breed for 46 of 118
dog neurons and the right species for 22 of 59 bird neurons. What is absent is told by the classes of the images:
nobody knows what else is on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from tasks.concepts import concept_list
from tasks.dissection.metrics import accuracy, mean, right_ranks
from tasks.evaluation.shown_concepts import concept_key as key
from tasks.finished import FinishedRun, StudyError
from tasks.labelling import LabelPlan
from tasks.relabel import aside, of_images, steps
from tasks.show import table_of
from tasks.studies.absent_figure import draw, examples
from tasks.studies.absent_groups import Group, Truth, classes_of, folds, of_lists
from tasks.studies.outcome import Outcome
from tasks.studies.strips import strips

ABSENT, PRESENT = "absent", "present"
ALL = "all"
#: First labels among which the right one is looked for.
TOPS = (1, 5)


@dataclass(frozen=True)
class AbsentQuestion:
    """What is asked of absent concepts."""

    #: Lists of concepts, each left out as a group; by default the classes of the images, in `folds` groups.
    absent: Sequence[str] = ()
    folds: int = 2
    #: By default the last.
    layer: str | None = None
    #: True concepts (`read_truth`); by default those that the run was given.
    truth: str | None = None
    #: Neurons that are shown with their top images.
    examples: int = 4
    resamples: int = 1_000
    seed: int = 0


def absent_concepts(run: FinishedRun, asked: AbsentQuestion, told: Callable[[str], None]) -> Outcome:
    """Labels of a layer's neurons without the images of their own concepts, beside those with all images.

    The layer is labelled anew of the stored embeddings and activations of the other images. Raises `StudyError`,
    `ConceptError`, `UnknownNameError`, `IncompleteError`.
    """
    layer = run.layer(asked.layer)
    truth = run.truth(layer, asked.truth)
    if not truth:
        raise StudyError(f"The true concepts of {layer} are not known. Give them with --truth, as to `evaluate`.")
    plan = run.plan_of([layer])
    if plan.activations.kept == "top":
        raise StudyError(
            "The run kept top images alone (--activations top), and what else activates a neuron is not known. Run "
            "again with --activations float16 or float32."
        )
    classes = classes_of(plan.probe)
    groups = of_lists(asked.absent) or folds(classes, truth, asked.folds, asked.seed)
    parts, left_out, notes = [], {}, []
    for group in groups:
        rows = group.rows_without(classes)
        left_out[group.name] = len(classes) - len(rows)
        neurons = _neurons(group, truth, layer)
        if not len(rows):
            raise StudyError(
                f"All images are of {group.name}: without them there is nothing to label by. Leave out fewer "
                "concepts: more --folds, or a shorter --absent LIST."
            )
        if not left_out[group.name]:
            notes.append(f"No image's class is a concept of {group.name}: the labels are those of the run.")
            parts.append(_judged(group, neurons, truth, plan.labels(layer), plan.top_images(layer), None))
            continue
        told(f"Labelling {layer} without the {left_out[group.name]:,} images of {group.name}")
        with aside(of_images(plan, rows)) as without:
            for _ in steps(without):
                pass
            top = without.top_images(layer)
            top["row"] = rows.numpy()[top["row"]]
            parts.append(_judged(group, neurons, truth, without.labels(layer), top, plan.labels(layer)))
    neurons_table = pd.concat([judged for judged, _ in parts], ignore_index=True)
    counts = _counts(neurons_table, groups, left_out, plan, asked)
    titles = examples(neurons_table, asked.examples, asked.seed)
    images, note = strips(run, titles, pd.concat([top for _, top in parts]).drop_duplicates(["neuron", "rank"]))
    shown: list[Table | str] = [*(f"Note: {one}" for one in [*notes, *note]), _table(counts, layer)]
    data = {"groups": counts, "neurons": neurons_table}
    return Outcome(shown, data, partial(draw, counts, images), vars(asked) | {"layer": layer})


def _neurons(group: Group, truth: Truth, layer: str) -> list[int]:
    neurons = group.neurons(truth)
    if not neurons:
        raise StudyError(
            f"No neuron of {layer} detects a concept of {group.name} ({', '.join(group.concepts[0])}, …) by what is "
            "known of them. Write them as the true concepts are: --truth, or that of the run."
        )
    return neurons


def _judged(
    group: Group,
    neurons: list[int],
    truth: Truth,
    labels: pd.DataFrame,
    top_images: pd.DataFrame,
    with_them: pd.DataFrame | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per neuron of a group, and the neurons' top images by which they are labelled.

    `label`, `rank` of the right label (null beyond the ranks that there are), `within` (the label is a concept of
    the group) and `similarity` are without the group's images; `present_…` with them, null where there are none.
    """
    columns = {"group": group.name, "neuron": neurons, "truth": [" | ".join(truth[neuron]) for neuron in neurons]}
    columns |= _labelled(group, neurons, truth, labels)
    absent = dict.fromkeys(("label", "rank", "within", "similarity"), [None] * len(neurons))
    present = absent if with_them is None else _labelled(group, neurons, truth, with_them)
    columns |= {f"present_{name}": values for name, values in present.items()}
    types = {"rank": "Int64", "within": "boolean", "similarity": "Float64", "label": "string"}
    table = pd.DataFrame(columns)
    table = table.astype({name: types[name.removeprefix("present_")] for name in table.columns[3:]})
    return table, top_images[top_images["neuron"].isin(neurons)]


def _labelled(group: Group, neurons: list[int], truth: Truth, labels: pd.DataFrame) -> dict[str, list[Any]]:
    of = labels[labels["neuron"].isin(neurons)].sort_values(["neuron", "rank"])
    ranked = of[~of["is_dead"]].groupby("neuron")["concept"].agg(list).to_dict()
    ranks = right_ranks([ranked.get(neuron, []) for neuron in neurons], [truth[neuron] for neuron in neurons])
    first = of[of["rank"] == 1].set_index("neuron").loc[neurons]
    return {
        "label": first["concept"].tolist(),
        "rank": [int(rank) if np.isfinite(rank) else None for rank in ranks],
        "within": [key(label) in group.keys for label in first["concept"]],
        "similarity": first["similarity"].tolist(),
    }


def _counts(
    neurons: pd.DataFrame, groups: Sequence[Group], left_out: dict[str, int], plan: LabelPlan, asked: AbsentQuestion
) -> pd.DataFrame:
    """A row per group, and one of all, without its images and with them: how many neurons get their name."""
    listed = [key(concept) for concept in concept_list(plan.spec).concepts]
    rows = []
    for name in [*(group.name for group in groups), *([ALL] if len(groups) > 1 else [])]:
        of = neurons[(neurons["group"] == name) | (name == ALL)]
        concepts = frozenset().union(*(group.keys for group in groups if name in (group.name, ALL)))
        row = {"group": name, "neurons": len(of), "images_left_out": left_out.get(name)}
        row |= {
            "within_by_chance": sum(concept in concepts for concept in listed) / len(listed) if name != ALL else None
        }
        for images, prefix in ((ABSENT, ""), (PRESENT, "present_")):
            if of[f"{prefix}label"].notna().all():
                rows.append(row | {"images": images} | _shares(of, prefix, asked))
    return pd.DataFrame(rows).astype({"images_left_out": "Int64", "within_by_chance": "Float64"})


def _shares(of: pd.DataFrame, prefix: str, asked: AbsentQuestion) -> dict[str, Any]:
    ranks = of[f"{prefix}rank"].to_numpy(dtype=np.float64, na_value=np.inf)
    statistics = {f"top{top}": accuracy(ranks, top) for top in TOPS}
    statistics["within"] = mean(of[f"{prefix}within"].to_numpy(dtype=bool))
    shares: dict[str, Any] = {"right": int((ranks <= 1).sum())}
    for name, statistic in statistics.items():
        low, high = statistic.interval(asked.resamples, asked.seed)
        shares |= {name: statistic.value(), f"{name}_low": low, f"{name}_high": high}
    return shares


def _table(counts: pd.DataFrame, layer: str) -> Table:
    names = ["group", "its images", "right", "top-1", "95 %", "top-5", "within the group", "95 %", "by chance"]
    rows = [
        [
            row["group"],
            f"{row['images_left_out']:,} left out"
            if row["images"] == ABSENT and row["group"] != ALL
            else row["images"],
            f"{row['right']:,} of {row['neurons']:,}",
            *(f"{row['top1']:.1%}", f"{row['top1_low']:.1%}–{row['top1_high']:.1%}", f"{row['top5']:.1%}"),
            *(f"{row['within']:.1%}", f"{row['within_low']:.1%}–{row['within_high']:.1%}"),
            "-" if pd.isna(row["within_by_chance"]) else f"{row['within_by_chance']:.1%}",
        ]
        for row in counts.to_dict("records")
    ]
    return table_of(f"Neurons of {layer} without the images of their concepts", names, rows, right=names[2:])
