"""A published run as a data set for others: its tables as Parquet and CSV, explanations as CoSy reads them, a card.

What lies in the target and is not of this, or was changed there since, is never written over unasked: the card is for
its owner to edit, who names the licence in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.completion import Completion, harm
from storage.errors import DamagedError, ForeignError
from storage.files import Folder, Written
from storage.identity import digest_of
from storage.layout import LONGEST_FILE, safe, within_limit
from storage.leases import Leases
from storage.letter_case import ignores_case, refuse_twins
from storage.tables import read_parquet, write_csv
from tasks.dataset_card import card
from tasks.publish import descriptions
from tasks.published import LABELS, REJECTS, TOP_IMAGES, read_run, read_table, refuse_run
from tasks.running import Waiting

#: Raised by one when the same run would make another data set than before.
VERSION = 1
CARD, MARKER = "README.md", "clip-dissect.json"
#: Where CoSy keeps the explanations of a method.
EXPLANATIONS = "explanations/CLIP-Dissect"
#: Files of a run that say what failed on the machine that it ran on.
NOT_FOR_OTHERS = (REJECTS,)
#: What names of files do without.
NOT_IN_NAMES = re.compile(r"[^\w.-]")
#: Files named in a message.
SHOWN = 3


@dataclass(frozen=True)
class DatasetPlan:
    """Which run goes where, and whether just this already lies there."""

    run: Folder
    to: Folder
    digest: str
    is_done: bool
    overwrite: bool


def plan_dataset(out: Folder, url: str, *, overwrite: bool = False) -> DatasetPlan:
    """What publishing the run in `out` at a URL or path takes.

    Raises `IncompleteError`, `DamagedError`, and `ForeignError` where a run has its own tables there.
    """
    run, to = read_run(out), Folder.at(url)
    refuse_run(to)
    for name in _tables(run):
        if wrong := harm(out, name, run["files"][name]):
            raise DamagedError(f"The table {out.path(name)} is not as it was written: it {wrong}. Run again.")
    tables = {name: run["files"][name] for name in _tables(run)}
    digest = digest_of({"version": VERSION, "run": run["digest"], "tables": tables, **_renamed(run)})
    return DatasetPlan(out, to, digest, _Before.of(to).is_whole(to, digest), overwrite)


@task(task_run_name="publish data set", cache_policy=NO_CACHE)
def publish_dataset(plan: DatasetPlan) -> None:
    """Writes tables, explanations and card, then the marker, which names them with their digests.

    Raises `ForeignError` where somebody else's file is in the way.
    """
    with Leases(plan.to).held(MARKER, Waiting()):
        if not _Before.of(plan.to).is_whole(plan.to, plan.digest):
            _publish(plan)


def refuse_foreign(url: str, names: Iterable[str] = (CARD, LABELS, TOP_IMAGES)) -> None:
    """Raises `ForeignError` where files of these names lie at a URL that no run has published, or were changed.

    So it does where a run has its own tables.
    """
    to = Folder.at(url)
    refuse_run(to)
    before = _Before.of(to)
    blocked = [name for name in (MARKER, *names) if to.is_file(name) and before.is_foreign(to, name)]
    if blocked:
        more = f" and {len(blocked) - SHOWN} more" if len(blocked) > SHOWN else ""
        raise ForeignError(
            f"{to.url} holds {', '.join(blocked[:SHOWN])}{more}, which no run has published there, or which was "
            "changed since. Take another folder, or write over them: `clip-dissect publish RUN URL --overwrite`."
        )


@dataclass(frozen=True)
class _Before:
    """What the marker of a target says that lies there."""

    digest: str | None
    #: What it vouches for.
    files: dict[str, Any]
    #: Names of what was to be written when its writer died.
    begun: frozenset[str]

    @classmethod
    def of(cls, to: Folder) -> _Before:
        try:
            marker = to.read_json(MARKER)
            return cls(marker["digest"], dict(marker["files"]), frozenset(marker["begun"]) | {MARKER})
        except (FileNotFoundError, DamagedError, KeyError, TypeError):
            return cls(None, {}, frozenset())  # nothing, or somebody else's

    def is_foreign(self, to: Folder, name: str) -> bool:
        if name in self.begun:
            return False
        return name not in self.files or bool(harm(to, name, self.files[name]))

    def is_whole(self, to: Folder, digest: str) -> bool:
        """Whether a data set of this digest is there. Its card may have been edited."""
        return self.digest == digest and not any(
            harm(to, name, was) for name, was in self.files.items() if name != CARD or not to.is_file(CARD)
        )


def _publish(plan: DatasetPlan) -> None:
    run, to = read_run(plan.run), plan.to
    tables = {name: read_parquet(plan.run, name, alone=True) for name in _tables(run)}
    explained = {_explanations(run, layer): layer for layer in run["layers"]}
    names = {CARD, *tables, *map(_csv, tables), *explained}
    if not plan.overwrite:
        refuse_foreign(to.url, sorted(names))
    before = _Before.of(to)
    others = {name for name in before.begun | set(before.files) if not before.is_foreign(to, name)} - {*names, MARKER}
    # Until the marker that is written last, all of these are of this, whole or not.
    to.write_json(MARKER, {"digest": None, "begun": sorted(names | others), "files": {}})
    if ignores_case(to, MARKER):
        refuse_twins(to, run["layers"], [], "Publish to another file system, or to an object store.")
    written = [*_write_tables(plan, tables)]
    labels = read_table(plan.run, LABELS)
    for name, layer in explained.items():
        written.append(write_csv(to, name, descriptions(labels[labels["layer"] == layer])))
    rows = {name: len(table) for name, table in tables.items()}
    written.append(to.write(CARD, card(run, rows, next(iter(explained))).encode()))
    for name in others:
        to.remove_file(name)  # of another run that was here
    Completion(to).mark(MARKER.removesuffix(".json"), {"digest": plan.digest, "begun": []}, written)


def _write_tables(plan: DatasetPlan, tables: dict[str, pd.DataFrame]) -> Iterator[Written]:
    """Writes tables as they are, and as CSV, where a list is JSON."""
    for name, table in tables.items():
        yield plan.to.write(name, plan.run.read(name))
        texts = table.map(lambda value: json.dumps(value.tolist()) if isinstance(value, np.ndarray) else value)
        yield write_csv(plan.to, _csv(name), texts)


def _tables(run: dict[str, Any]) -> list[str]:
    return sorted(name for name in run["files"] if name.endswith(".parquet") and name not in NOT_FOR_OTHERS)


def _csv(table: str) -> str:
    return table.removesuffix(".parquet") + ".csv"


def _renamed(run: dict[str, Any]) -> dict[str, list[str]]:
    """Files of explanations that older versions gave other names, where two layers could have one."""
    odd = [layer for layer in run["layers"] if NOT_IN_NAMES.search(layer) or safe(layer) != layer]
    return {"explanations": [_explanations(run, layer) for layer in odd]} if odd else {}


def _explanations(run: dict[str, Any], layer: str) -> str:
    """Where CoSy looks for the explanations of a layer, `layer,unit,description,similarity`: `resnet50-layer4.csv`.

    A file a layer, since its `load_explanations` takes the first row whose `unit` is the neuron's number. From the
    files `assets/explanations/CLIP-Dissect` and `src/utils.py` of its repository, lkopf/cosy.
    """
    network = run["spec"]["target"].rpartition(":")[2].partition("/")[0]
    name = f"{NOT_IN_NAMES.sub('_', network)}-{safe(layer)}"
    return f"{EXPLANATIONS}/{within_limit(name, LONGEST_FILE - len('.csv'))}.csv"
