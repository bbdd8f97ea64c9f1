"""Published runs side by side: read, compared layer by layer, and written as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from storage.errors import StorageError
from storage.files import Folder
from storage.runs import differences
from storage.tables import write_csv, write_parquet
from tasks import compare
from tasks.dissection.errors import UnknownNameError
from tasks.label_tables import num_distinct
from tasks.published import LABELS, TOP_IMAGES, read_run, read_table

#: How the neurons of two layers are known to correspond.
By = Literal["number", "top images", "label"]
#: Parameters that similarities depend on, beside hyperparameters: where one differs, they are of another scale.
SCALE = ("similarity", "variant", "clip", "clip_checkpoint", "prompt")
#: Columns that say where a row of the written tables is from.
MARKS = ("run", "layer_before", "layer_after")


class CompareError(StorageError, LookupError):
    """Runs that have nothing to compare."""


@dataclass(frozen=True)
class Published:
    """A published run."""

    out: str
    #: What its run.json says.
    facts: dict[str, Any]
    labels: pd.DataFrame
    top_images: pd.DataFrame

    @classmethod
    def at(cls, out: str) -> Published:
        """The run in a folder. Raises `IncompleteError` where there is none, `DamagedError`."""
        folder = Folder.at(out)
        facts = read_run(folder)
        labels, top_images = (read_table(folder, name) for name in (LABELS, TOP_IMAGES))
        for layer, of in facts["layers"].items():
            of["distinct_labels"] = num_distinct(_of(layer, labels))  # older versions counted those of dead neurons
        return cls(folder.url, facts, labels, top_images)

    @property
    def spec(self) -> dict[str, Any]:
        """Its parameters."""
        spec: dict[str, Any] = self.facts["spec"]
        return spec

    @property
    def layers(self) -> dict[str, dict[str, Any]]:
        """Counts of its layers, by name."""
        layers: dict[str, dict[str, Any]] = self.facts["layers"]
        return layers


@dataclass(frozen=True)
class Pair:
    """A layer before and one after."""

    before: str
    after: str
    by: By
    #: First labels of corresponding neurons.
    pairs: pd.DataFrame
    #: Those that are not the same.
    changed: pd.DataFrame
    #: Best match of each neuron; of layers whose neurons correspond by number too, where top images tell.
    matches: pd.DataFrame | None
    concepts: pd.DataFrame

    @property
    def name(self) -> str:
        """Both names, or the one."""
        return self.before if self.before == self.after else f"{self.before} → {self.after}"


@dataclass(frozen=True)
class Comparison:
    """Two runs, and what differs."""

    before: Published
    after: Published
    #: Parameters that are not the same.
    differing: list[str]
    layers: list[Pair]
    notes: list[str]


def compare_runs(outs: Sequence[str], layers: str | None = None) -> list[Comparison]:
    """Each run against the first; `layers` as typed, by default those that bear one name in both.

    Raises `IncompleteError` for a folder that is no run, `UnknownNameError` for a layer that a run has not,
    `CompareError` where there is no layer in common.
    """
    first, *others = map(Published.at, outs)
    return [_compare(first, other, layers) for other in others]


def layer_names(before: Mapping[str, Any], after: Mapping[str, Any], layers: str | None) -> list[tuple[str, str]]:
    """Pairs of layers: `a=b` is a before and b after, `a` bears one name in both. Raises `UnknownNameError`."""
    if layers is None:
        return [(name, name) for name in before if name in after]
    parts = [tuple(map(str.strip, part.partition("="))) for part in layers.split(",")]
    pairs = list(dict.fromkeys((one, other if equals else one) for one, equals, other in parts))
    for when, names, known in (
        ("first", [one for one, _ in pairs], before),
        ("other", [other for _, other in pairs], after),
    ):
        for name in names:
            if name not in known:
                raise UnknownNameError.of("layer", name, known, f"The {when} run has {', '.join(known)}.")
    return pairs


def write_comparisons(out: str, comparisons: Sequence[Comparison]) -> list[str]:
    """Writes changed labels, matches and concepts of all runs as CSV and Parquet; returns the URLs of the CSVs."""
    folder = Folder.at(out)
    tables: dict[str, Callable[[Pair], pd.DataFrame | None]] = {
        "changed": lambda pair: pair.changed,
        "matches": lambda pair: pair.matches,
        "concepts": lambda pair: pair.concepts,
    }
    urls = []
    for name, of in tables.items():
        parts = [_marked(one.after.out, pair, of(pair)) for one in comparisons for pair in one.layers]
        found = [part for part in parts if part is not None]
        # Layers whose neurons correspond by number, of other probe sets, have no matches.
        table = (
            pd.concat(found, ignore_index=True)
            if found
            else pd.DataFrame(columns=[*MARKS, *compare.MATCH, "label_before", "label_after"])
        )
        write_parquet(folder, f"{name}.parquet", table)
        write_csv(folder, f"{name}.csv", table)
        urls.append(folder.path(f"{name}.csv"))
    return urls


def _marked(run: str, pair: Pair, table: pd.DataFrame | None) -> pd.DataFrame | None:
    if table is None:
        return None
    marks = dict(zip(MARKS, (run, pair.before, pair.after), strict=True))
    return table.assign(**marks)[[*MARKS, *table.columns]]


def _compare(before: Published, after: Published, layers: str | None) -> Comparison:
    names = layer_names(before.layers, after.layers, layers)
    if not names:
        raise CompareError(
            f"The runs have no layer of one name: {before.out} has {', '.join(before.layers)}, and {after.out} has "
            f"{', '.join(after.layers)}. --layers {next(iter(before.layers))}={next(iter(after.layers))} says which "
            "correspond."
        )
    pairs = [_pair(before, after, *both) for both in names]
    specs = [before.spec, after.spec]
    return Comparison(before, after, differences(specs), pairs, _notes(before, after, pairs))


def _pair(before: Published, after: Published, layer: str, other: str) -> Pair:
    labels = _of(layer, before.labels), _of(other, after.labels)
    top = _of(layer, before.top_images), _of(other, after.top_images)
    by = _by(before, after, layer, other)
    is_one_probe = _is_one_probe(before, after)
    k = num_top_images(before, after)
    matches = compare.match_by_top_images(*top, k, before.facts["counts"]["images"]) if is_one_probe else None
    if by == "number":
        pairs = compare.own_overlaps(*top, k) if is_one_probe else compare.by_number(*labels)
    else:
        matches = compare.match_by_label(*labels) if matches is None else matches
        pairs = matches[matches["is_mutual"]]
    if matches is not None:
        matches = compare.with_first_labels(matches, *labels)
    first = compare.paired(pairs, *labels)
    return Pair(layer, other, by, first, compare.changed(first), matches, compare.concept_counts(*labels))


def _of(layer: str, table: pd.DataFrame) -> pd.DataFrame:
    return table[table["layer"] == layer]


def num_top_images(before: Published, after: Published) -> int:
    """So many top images a neuron have both runs."""
    return int(min(run.top_images["rank"].max() for run in (before, after)))


def _by(before: Published, after: Published, layer: str, other: str) -> By:
    is_one_network = before.spec["target"] == after.spec["target"] and layer == other
    if is_one_network and before.layers[layer]["neurons"] == after.layers[other]["neurons"]:
        return "number"
    return "top images" if _is_one_probe(before, after) else "label"


def _is_one_probe(before: Published, after: Published) -> bool:
    return bool(before.facts["digests"]["probe"] == after.facts["digests"]["probe"])


def _notes(before: Published, after: Published, pairs: Sequence[Pair]) -> list[str]:
    used = {name for pair in pairs for name in (pair.before, pair.after)}
    notes = []
    for which, run, other in (("first", before, after), ("other", after, before)):
        alone = [name for name in run.layers if name not in other.layers and name not in used]
        if alone:
            notes.append(f"Only the {which} run has {', '.join(alone)}.")
    if not _is_one_probe(before, after):
        others = [pair.name for pair in pairs if pair.by == "label"]
        matched = f" Neurons of {', '.join(others)} are matched by label alone." if others else ""
        notes.append(f"The probe sets are not the same: top images cannot be compared.{matched}")
    elif any(pair.by == "top images" for pair in pairs):
        notes.append(
            f"Neurons are matched by their top {num_top_images(before, after)} images, and labels compared of those "
            "that are each other's best match; more images (--top-images of the runs) tell neurons better apart."
        )
    if _concepts(before) != _concepts(after):
        notes.append("The concept lists are not the same: a label that is lost may not have been on offer.")
    if _scale(before) != _scale(after):
        notes.append("Similarities and margins are not of one scale: what they depend on is not the same.")
    return notes


def _concepts(run: Published) -> tuple[str, int]:
    return run.spec["concepts"], run.facts["counts"]["concepts"]


def _scale(run: Published) -> list[Any]:
    return [run.facts["hyperparameters"], *(run.spec.get(name) for name in SCALE)]
