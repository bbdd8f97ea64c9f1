"""An evaluation as a table for a terminal, and as a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from storage.errors import TableError
from storage.files import split
from storage.tables import write_csv
from tasks.evaluation.figures import Evaluation, Figure
from tasks.evaluation.halves import RANKS
from tasks.evaluation.judge import NULL_QUANTILE
from tasks.evaluation.without_truth import WithoutTruth
from tasks.printable import printable
from tasks.published import FILES, RUN

#: How each figure is called and written.
SHOWN = {
    "top1_accuracy": ("top-1 accuracy", ".2%"),
    "top5_accuracy": ("top-5 accuracy", ".2%"),
    "top1_accuracy_listed": ("top-1, concept listed", ".2%"),
    "top5_accuracy_listed": ("top-5, concept listed", ".2%"),
    "mean_rank": ("mean rank", ".2f"),
    "median_rank": ("median rank", ".1f"),
    "roc_auc": ("ROC-AUC", ".3f"),
    "clip_cosine": ("CLIP cosine", ".4f"),
    "sentence_cosine": ("sentence cosine", ".4f"),
    "distinct_labels": ("distinct labels", ".0f"),
    "entropy_bits": ("entropy, bits", ".2f"),
    "interpretable": ("interpretable", ".2%"),
}
#: Those without a truth; `how` the labels are judged stands before some of them.
HOW = {"held_out": ", held out", "in_sample": ", in sample", "given": "", "concept_images": ", concept images"}
SHOWN_WITHOUT_TRUTH = {
    **{f"{how}_correlation": (f"correlation{words}", ".3f") for how, words in HOW.items()},
    **{f"{how}_auc": (f"AUC{words}", ".3f") for how, words in HOW.items()},
    **{f"{how}_mad": (f"MAD{words}", ".2f") for how, words in HOW.items()},
    "same_first_label": ("both halves: same first label", ".1%"),
    f"overlap_of_{RANKS}": (f"both halves: {RANKS} labels in common", ".1%"),
    "rank_correlation": ("both halves: rank correlation", ".3f"),
    "label_cosine": ("both halves: CLIP cosine of labels", ".3f"),
    "above_null": (f"above the null's {NULL_QUANTILE:g}", ".1%"),
}
#: Endings of files that figures can be written to.
ENDINGS = (".json", ".csv")


def lines(evaluation: Evaluation | WithoutTruth) -> Iterator[Table | str]:
    """The tables, then what is to be said of them."""
    if isinstance(evaluation, Evaluation):
        known = "" if evaluation.num_known is None else f", {evaluation.num_known:,} with a known concept"
        yield _table(f"{evaluation.layer}: {evaluation.num_units:,} units{known}", evaluation.figures)
    else:
        for one in evaluation.layers:
            title = f"{one.layer}: {one.num_units:,} units, {evaluation.num_images:,} images"
            yield _table_without_truth(title, one.figures)
    for note in evaluation.notes:
        yield f"Note: {escape(printable(note))}"


def _table(title: str, figures: Sequence[Figure]) -> Table:
    table = _with_columns(title, "figure", "value", "95 % interval", "units", "note")
    for one in figures:
        name, form = SHOWN[one.name]
        table.add_row(name, *_value(one, form), f"{one.num_units:,}", one.note)
    return table


def _table_without_truth(title: str, figures: Sequence[Figure]) -> Table:
    table = _with_columns(title, "figure", "value", "95 % interval", "by chance", "units", "note")
    for one in figures:
        name, form = SHOWN_WITHOUT_TRUTH[one.name]
        table.add_row(name, *_value(one, form), _number(one.by_chance, form), f"{one.num_units:,}", one.note)
    return table


def _with_columns(title: str, *names: str) -> Table:
    table = Table(title=escape(printable(title)), title_justify="left", box=SIMPLE_HEAD)
    for name in names:
        is_text, is_interval = name in ("figure", "note"), name == "95 % interval"
        table.add_column(
            name,
            justify="left" if is_text else "right",
            style="bold" if name == "value" else None,
            no_wrap=is_interval,
        )
    return table


def _value(one: Figure, form: str) -> tuple[str, str]:
    has_none = one.low is None and one.high is None
    between = f"{_number(one.low, form)} – {_number(one.high, form)}"
    return _number(one.value, form), "-" if has_none else between


def check_out(out: str) -> None:
    """Raises `TableError` where figures cannot be written to such a file, or would take the place of a run's."""
    if not out.lower().endswith(ENDINGS):
        raise TableError(f"--out {out}: figures are written as {' or '.join(ENDINGS)}.")
    folder, name = split(out)
    if name in (RUN, *FILES) and folder.is_file(RUN):
        raise TableError(f"--out {out}: it is a file of a run, which figures would take the place of. Name another.")


def write(evaluation: Evaluation | WithoutTruth, out: str) -> None:
    """Writes the figures as JSON or CSV, by the ending of `out`."""
    folder, name = split(out)
    if name.lower().endswith(".json"):
        folder.write_json(name, evaluation.as_json())
    else:
        write_csv(folder, name, evaluation.as_table())


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
