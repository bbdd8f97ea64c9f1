"""An evaluation as a table for a terminal, and as a file."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from storage.errors import TableError
from storage.files import split
from storage.tables import write_csv
from tasks.evaluation.figures import Evaluation, as_table
from tasks.printable import printable

#: How each figure is called and written.
SHOWN = {
    "top1_accuracy": ("top-1 accuracy", ".2%"),
    "top5_accuracy": ("top-5 accuracy", ".2%"),
    "mean_rank": ("mean rank", ".2f"),
    "median_rank": ("median rank", ".1f"),
    "roc_auc": ("ROC-AUC", ".3f"),
    "clip_cosine": ("CLIP cosine", ".4f"),
    "sentence_cosine": ("sentence cosine", ".4f"),
    "distinct_labels": ("distinct labels", ".0f"),
    "entropy_bits": ("entropy, bits", ".2f"),
    "interpretable": ("interpretable", ".2%"),
}
#: Endings of files that figures can be written to.
ENDINGS = (".json", ".csv")


def lines(evaluation: Evaluation) -> Iterator[Table | str]:
    """The table, then what is to be said of it."""
    known = "" if evaluation.num_known is None else f", {evaluation.num_known:,} with a known concept"
    title = f"{escape(printable(evaluation.layer))}: {evaluation.num_units:,} units{known}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("figure")
    table.add_column("value", justify="right", style="bold")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("units", justify="right")
    table.add_column("note")
    for one in evaluation.figures:
        name, form = SHOWN[one.name]
        between = f"{_number(one.low, form)} – {_number(one.high, form)}"
        has_none = one.low is None and one.high is None
        table.add_row(name, _number(one.value, form), "-" if has_none else between, f"{one.num_units:,}", one.note)
    yield table
    for note in evaluation.notes:
        yield f"Note: {escape(printable(note))}"


def check_ending(out: str) -> None:
    """Raises `TableError` where figures cannot be written to such a file."""
    if not out.lower().endswith(ENDINGS):
        raise TableError(f"--out {out}: figures are written as {' or '.join(ENDINGS)}.")


def write(evaluation: Evaluation, out: str) -> None:
    """Writes the figures as JSON or CSV, by the ending of `out`."""
    folder, name = split(out)
    if name.lower().endswith(".json"):
        folder.write_json(name, evaluation.as_json())
    else:
        write_csv(folder, name, as_table(evaluation))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
