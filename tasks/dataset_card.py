"""The card of a data set: Markdown that says what the tables are, below YAML that says where they lie.

The form is that of dataset cards of the Hugging Face Hub: `configs` with a `config_name` and `data_files` for each
table, by which its viewer and `datasets.load_dataset` find them (hub-docs, datasets-manual-configuration.md). The
licence is left to whoever publishes.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from tasks.announce import safe
from tasks.printable import printable_lines
from tasks.published import (
    IMAGE_RANGES,
    INPUTS,
    LABELS,
    NEURONS,
    SIMILAR_NEURONS,
    TOP_IMAGES,
    possible_in_words,
)

#: What a row of each table is.
ROWS = {
    LABELS: "a label: layer, neuron and rank, best first, with its similarity and the neuron's flaws",
    TOP_IMAGES: "one of the images that activate a neuron most: layer, neuron and rank",
    NEURONS: "a neuron: moments and histogram of its activations",
    IMAGE_RANGES: "an image drawn at random from a range of a neuron's most active images",
    SIMILAR_NEURONS: "one of the neurons of the same layer that are nearest to a neuron",
    INPUTS: "one of the strongest inputs of a neuron of a linear layer, by weight",
}


def card(run: dict[str, Any], rows: Mapping[str, int], explanations: str) -> str:
    """The card of a run as `run.json` tells it, with tables of so many `rows`, and a file of `explanations`."""
    front = {
        "pretty_name": f"Neurons of {run['spec']['target']}, labelled by CLIP-Dissect",
        "tags": ["interpretability", "neurons", "clip-dissect"],
        "configs": [
            {"config_name": _stem(table), "data_files": table} | ({"default": True} if table == LABELS else {})
            for table in rows
        ],
    }
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    licence = "# license: yours to choose, by its identifier, such as cc-by-4.0"
    return printable_lines("\n".join(["---", licence, f"{head}---", "", *_lines(run, rows, explanations)])) + "\n"


def _lines(run: dict[str, Any], rows: Mapping[str, int], explanations: str) -> Iterator[str]:
    spec = run["spec"]
    yield f"# Neurons of {safe(spec['target'])}, labelled by CLIP-Dissect"
    yield ""
    yield (
        "What the neurons of a vision network stand for, in words, found without labelled data by "
        "[CLIP-Dissect](https://arxiv.org/abs/2204.10965) (Oikarinen & Weng, ICLR 2023)."
    )
    yield ""
    yield "| | |"
    yield "|---|---|"
    for what, value in _facts(run):
        yield f"| {what} | {safe(value)} |"
    yield ""
    yield "| layer | neurons | dead | interpretable | distinct labels |"
    yield "|---|---:|---:|---:|---:|"
    for layer, facts in run["layers"].items():
        numbers = [facts[what] for what in ("neurons", "dead", "interpretable", "distinct_labels")]
        yield " | ".join([f"| {safe(layer)}", *("-" if number is None else str(number) for number in numbers)]) + " |"
    yield ""
    if accuracy := run["accuracy"]:
        yield (
            f"Labels of {safe(accuracy['layer'])} are right for {accuracy['top1']:.1%} of the {accuracy['neurons']} "
            f"neurons whose concept is known{possible_in_words(accuracy)}."
        )
        yield ""
    yield "## Tables"
    yield ""
    yield "| table | rows | a row is |"
    yield "|---|---:|---|"
    for table, number in rows.items():
        yield f"| `{table}`, `{_stem(table)}.csv` | {number:,} | {ROWS.get(table, '')} |"
    yield ""
    yield (
        f"`interpretable` is whether a label is above τ = {safe(run['tau'])}. Images are named by their paths in the "
        f"probe set, which is not part of this. `{PurePosixPath(explanations).parent}` has first labels, a file for "
        "each layer, as CoSy reads them: `layer,unit,description,similarity`."
    )
    yield ""
    yield "```python"
    yield "import pandas as pd"
    yield ""
    yield f'labels = pd.read_parquet("{LABELS}")'
    yield "```"
    yield ""
    yield "```sql"
    yield f"SELECT layer, concept, count(*) FROM '{LABELS}' WHERE rank = 1 GROUP BY ALL  -- DuckDB"
    yield "```"


def _facts(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    spec, counts = run["spec"], run["counts"]
    checkpoint = f", weights {name(spec['checkpoint'])}" if spec["checkpoint"] else ""
    given = ", ".join(f"{key} {value:g}" for key, value in run["hyperparameters"].items())
    yield "Network", f"{spec['target']}{checkpoint}"
    yield "Summary of a map or tokens", ", ".join(spec["summary"])
    yield "Probe set", f"{' + '.join(map(name, spec['probe']))}: {counts['images']:,} images"
    yield "Concepts", f"{name(spec['concepts'])}: {counts['concepts']:,}, embedded as {spec['prompt']!r}"
    yield "CLIP model", name(spec["clip"]) if spec["clip"] else "embeddings of a file"
    yield "Similarity", f"{spec['similarity']} ({', '.join(filter(None, [spec['variant'], given]))})"
    yield "Made by", f"clip-dissect {run['versions'].get('clip-dissect', importlib.metadata.version('clip-dissect'))}"


def name(source: str) -> str:
    """What names a source to others: of a path or URL the last part, without the folders of this machine."""
    kind, colon, rest = source.partition(":")
    path = rest if colon and not rest.startswith("//") else source
    if "://" in path or path.startswith(("/", "~", ".")):
        path = PurePosixPath(path.partition("?")[0].rstrip("/")).name
    return f"{kind}:{path}" if colon and not rest.startswith("//") else path


def _stem(table: str) -> str:
    return table.removesuffix(".parquet")
