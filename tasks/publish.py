"""Finished labels into the folder a user asked for: tables, report, the spec, and run.json last."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from prefect.assets import Asset, materialize
from prefect.cache_policies import NO_CACHE

from storage.completion import Completion, harm, vouched
from storage.files import Folder, Written
from storage.identity import digest_of
from storage.layout import Store
from storage.leases import Leases
from storage.tables import write_csv, write_parquet
from storage.whereabouts import moved_to, names_store, probe_of, store_of
from tasks.detailing import DetailsPlan
from tasks.labelling import DONE, LabelPlan
from tasks.out_folder import BEGUN, begin, end, refuse_foreign_files
from tasks.page import OLD_REPORT, write_report
from tasks.parameters import Tau
from tasks.passes import Pass
from tasks.probe_index import INDEX
from tasks.published import (
    DESCRIPTIONS,
    DETAILS,
    FILES,
    LABELS,
    LABELS_CSV,
    REJECTS,
    REPORT,
    RUN,
    SPEC,
    TOP_IMAGES,
    read_run,
    read_table,
)
from tasks.published_details import details_tables
from tasks.run_facts import run_facts, store_facts, truth_of
from tasks.running import Waiting
from tasks.spec import DissectSpec

#: Raised by one when the same labels would be published otherwise than before.
VERSION = 3
#: Characters of an asset's key.
LONGEST_ASSET = 512


@dataclass(frozen=True)
class PublishPlan:
    """What goes where, and whether it is there already."""

    spec: DissectSpec
    labels: LabelPlan
    #: None where none are asked for.
    details: DetailsPlan | None
    out: Folder
    digest: str
    is_done: bool

    @property
    def digests(self) -> dict[str, str]:
        """Of what the tables are made of."""
        return self.labels.digests | ({"details": self.details.digest} if self.details else {})

    @property
    def asset(self) -> str:
        """Key of the label tables among Prefect's assets."""
        return _asset(self.out.path(LABELS))

    @property
    def made_of(self) -> list[str | Asset]:
        """Keys of what the tables are made of: probe set, network, CLIP model or embeddings."""
        spec = self.spec
        models = {
            "targets": spec.checkpoint or spec.target,
            "clip": spec.clip_checkpoint or spec.clip,
            "embeddings": spec.image_embeddings,
        }
        named = [_asset(f"clipdissect://{kind}/{name}") for kind, name in models.items() if name]
        return [_asset(self.labels.probe.folder.url), *named]


def _asset(url: str) -> str:
    """A URL or path as Prefect's assets are named: with a scheme, of plain characters, and not long."""
    whole = url if "://" in url else f"file://{Path(url).absolute()}"
    return re.sub(r"[^\w.:/@=+-]", "_", whole)[:LONGEST_ASSET]


def plan_publication(labels: LabelPlan, spec: DissectSpec, details: DetailsPlan | None = None) -> PublishPlan:
    """Where a run's tables go, and whether just these already lie there unharmed.

    `details` are finished, as labels are.
    """
    truth = truth_of(labels, spec)
    identity = {
        "version": VERSION,
        "labels": labels.digest,
        "layers": list(labels.activations.layouts),
        "truth": digest_of({"truth": truth}) if truth else None,
        "top_images": spec.top_images,
        "tau": [spec.cut.similarity, spec.cut.null_quantile],
        # The same images may come under other names, and with other refused files.
        "index": [labels.probe.folder.sha256(name) for name in (INDEX, REJECTS)],
    }
    if details:
        identity["details"] = details.digest
    if any(labels.done(layer).facts(DONE)["num_dead"] for layer in labels.activations.layouts):
        identity["distinct_labels"] = "of live neurons"  # "(dead)" was counted as a label before
    digest = digest_of(identity)
    out = Folder.at(spec.out) if spec.out else labels.store.run(digest)
    is_done = _is_intact(out, digest, _files(details)) and not out.exists(BEGUN) and _names_store(out, labels.store)
    return PublishPlan(spec, labels, details, out, digest, is_done)


@materialize(
    "clipdissect://label-tables", by="clip-dissect", task_run_name="publish tables and report", cache_policy=NO_CACHE
)
def publish(plan: PublishPlan, passes: Sequence[Pass] = ()) -> None:
    """Writes tables, report and spec, then `run.json`, which names them all with their digests.

    `passes` are those that the run made over the images; they stand in `run.json`. Where the tables are there and
    only the store was moved, `run.json` alone is brought up to date. Raises `ForeignError` where files are in the way
    that no run wrote.
    """
    with Leases(plan.out).held(RUN, Waiting()):
        if not _is_intact(plan.out, plan.digest, _files(plan.details)):
            if plan.spec.out:
                refuse_foreign_files(plan.out, plan.labels.store.root, overwrite=plan.spec.overwrite)
            _publish(plan, passes)
        elif not _names_store(plan.out, plan.labels.store):
            _say_where(plan)
        end(plan.out)


def _publish(plan: PublishPlan, passes: Sequence[Pass]) -> None:
    started = time.perf_counter()
    layers = list(plan.labels.activations.layouts)
    labels = pd.concat([plan.labels.labels(layer) for layer in layers], ignore_index=True)
    labels.insert(
        list(labels.columns).index("null_quantile") + 1, "interpretable", interpretable(labels, plan.spec.cut)
    )
    top_images = _top_images(plan, layers)
    rejects = plan.labels.probe.rejects()
    details = details_tables(plan.details, plan.labels) if plan.details else {}
    begin(plan.out)
    plan.out.remove_file(RUN)  # until all is there again, the folder holds no finished run
    for name in DETAILS:
        if name in details:
            write_parquet(plan.out, name, details[name])
        else:
            plan.out.remove_file(name)  # of another run
    write_parquet(plan.out, LABELS, labels)
    write_csv(plan.out, LABELS_CSV, labels)
    write_csv(plan.out, DESCRIPTIONS, descriptions(labels))
    write_parquet(plan.out, TOP_IMAGES, top_images)
    write_parquet(plan.out, REJECTS, rejects)
    _write_spec(plan)
    run = run_facts(plan, layers, labels)
    run["passes"] = [one.as_row() for one in passes]
    pages = write_report(plan.out, run, plan.labels.probe.folder, labels, top_images, rejects)
    tables = [plan.out.written(name) for name in _files(plan.details) if name != REPORT]
    run["seconds"]["publish"] = round(time.perf_counter() - started, 3)
    Completion(plan.out).mark(RUN.removesuffix(".json"), run, [*tables, *pages])


def _write_spec(plan: PublishPlan) -> Written:
    spec = plan.spec.model_dump(mode="json", exclude_defaults=True)
    return plan.out.write(SPEC, yaml.safe_dump(spec).encode())


def _say_where(plan: PublishPlan) -> None:
    """Writes into spec and `run.json` where the store is now, and leaves the tables as they are."""
    run = read_run(plan.out)
    run |= {"spec": plan.spec.model_dump(mode="json")} | store_facts(plan)
    run["files"] |= vouched(plan.out, [_write_spec(plan)])
    plan.out.write_json(RUN, run)


def interpretable(labels: pd.DataFrame, tau: Tau) -> pd.Series:
    """Whether each label is above the cut-off τ (A.8); of a dead neuron none is. Null where there is no null."""
    if tau.similarity is not None:
        above = (labels["similarity"] > tau.similarity).astype("boolean")
    else:
        above = labels["null_quantile"] > tau.null_quantile
    return above & ~labels["is_dead"]


def descriptions(labels: pd.DataFrame) -> pd.DataFrame:
    """First labels as `layer,unit,description,similarity`: what other tools of the field read."""
    first = labels[labels["rank"] == 1]
    names = {"neuron": "unit", "concept": "description"}
    return first[["layer", "neuron", "concept", "similarity"]].rename(columns=names)


def republish_report(out: str, store: str | None = None) -> str:
    """Makes the report of a published run anew from its tables; returns its URL.

    `store` is the store of the run, if that was moved: from then on `run.json` says so.
    """
    folder = Folder.at(out)
    read_run(folder)  # before a folder that holds no run is locked
    with Leases(folder).held(RUN, Waiting()):
        run = read_run(folder)
        probe = probe_of(folder, run, store)
        if store:
            run = moved_to(folder, run, store_of(folder, run, store))
        tables_read = (read_table(folder, name) for name in (LABELS, TOP_IMAGES, REJECTS))
        begin(folder)
        try:
            pages = write_report(folder, run, probe, *tables_read)
        except Exception:
            end(folder)  # a process that is killed leaves it, and with it whose the half-written pages are
            raise
        tables = {name: was for name, was in run["files"].items() if not _is_of_report(name)}
        run["files"] = dict(sorted((tables | vouched(folder, pages)).items()))
        folder.write_json(RUN, run)
        end(folder)
    return folder.path(REPORT)


def _top_images(plan: PublishPlan, layers: Sequence[str]) -> pd.DataFrame:
    tables = {layer: plan.labels.top_images(layer) for layer in layers}
    shown = [
        table[table["rank"] <= plan.spec.top_images].assign(layer=layer)[["layer", *table.columns]]
        for layer, table in tables.items()
    ]
    table = pd.concat(shown, ignore_index=True)
    table.insert(3, "image", plan.labels.probe.paths(table["row"].to_numpy()))
    return table


def _files(details: DetailsPlan | None) -> set[str]:
    return {*FILES, *(DETAILS if details else ())}


def _names_store(out: Folder, store: Store) -> bool:
    """True if `run.json`, which is there and whole, says of its store that it is this one."""
    return names_store(out, read_run(out), store)


def _is_intact(out: Folder, digest: str, files: set[str]) -> bool:
    if not out.exists(RUN):
        return False
    try:
        run = read_run(out)
    except ValueError:
        return False  # torn
    tables = {name for name in run["files"] if name == REPORT or not _is_of_report(name)}
    is_this = run["digest"] == digest and tables == files and isinstance(run.get("identity"), dict)
    return is_this and not any(harm(out, name, was) for name, was in run["files"].items())


def _is_of_report(name: str) -> bool:
    return name == OLD_REPORT or name.startswith(f"{REPORT.partition('/')[0]}/")
