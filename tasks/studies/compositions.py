"""Compositional labels (paper A.4): pairs of words scored anew for a neuron, beside its single best word.

The paper joins the 100 best single words of a neuron by twos, and scores each pair as a concept (Figure 10). Here the
list is the run's with all pairs of the neuron behind it, so that words and pairs share one softmax. The best of ten
thousand pairs beats the best of a hundred words by chance too: what the same texts gain for neurons with shuffled
images stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from tasks.concepts import concept_embeddings_of, concept_list, embed_by_clip
from tasks.dissection.concepts import prompt
from tasks.dissection.metrics import mean, normal
from tasks.dissection.null import null_quantile
from tasks.finished import FinishedRun, StudyError
from tasks.labelling import LabelPlan
from tasks.scoring import concepts_of
from tasks.show import table_of
from tasks.studies import style
from tasks.studies.outcome import Outcome
from tasks.studies.strips import Strip, strips, with_strips
from tasks.studies.texts import TextScorer, text_scorer

#: Best pairs of a neuron that are written.
PAIRS_WRITTEN = 10
#: Neurons whose top images are drawn.
NEURONS_DRAWN = 6


@dataclass(frozen=True)
class CompositionsQuestion:
    """What is asked of pairs of words."""

    #: By default `sample` live ones, drawn at random.
    neurons: Sequence[int] = ()
    sample: int = 6
    #: By default the last.
    layer: str | None = None
    #: Best single words of a neuron that are joined.
    words: int = 100
    resamples: int = 1_000
    seed: int = 0


def compositions(run: FinishedRun, asked: CompositionsQuestion, told: Callable[[str], None]) -> Outcome:
    """The best pair of words of some neurons, and what it gains over the best single word.

    Raises `StudyError` where there is no text encoder, neuron or pair; `UnknownNameError`, `IncompleteError`.
    """
    layer = run.layer(asked.layer)
    first = run.first_labels[run.first_labels["layer"] == layer].set_index("neuron")
    neurons = _neurons(first, layer, asked)
    plan = run.plan_of([layer])
    _refuse_without_encoder(run, plan)
    found, pairs = [], []
    with text_scorer(plan, layer) as scorer:
        for neuron, alone in zip(neurons, scorer.listed(neurons), strict=True):
            one = _Composed.of(scorer, neuron, alone, asked.words, told)
            found.append({"neuron": neuron, "label": first.loc[neuron, "concept"], **one.row})
            pairs.append(one.best.assign(neuron=neuron)[["neuron", *one.best.columns]])
    table = pd.DataFrame(found)
    titles = {row["neuron"]: f"{row['neuron']}: {row['word']} → {row['pair']}" for row in found[:NEURONS_DRAWN]}
    images, notes = strips(run, titles, plan.top_images(layer))
    shown: list[Table | str] = [*(f"Note: {note}" for note in notes), _table(table, layer), _line(table, asked)]
    data = {"neurons": table, "pairs": pd.concat(pairs, ignore_index=True)}
    question = vars(asked) | {"neurons": neurons, "layer": layer}
    return Outcome(shown, data, partial(_draw, table, images, layer), question)


@dataclass(frozen=True)
class _Composed:
    """What pairs of words say of a neuron: its row of the table, and its best pairs `rank, pair, similarity`."""

    row: dict[str, Any]
    best: pd.DataFrame

    @classmethod
    def of(
        cls, scorer: TextScorer, neuron: int, alone: Tensor, num_words: int, told: Callable[[str], None]
    ) -> _Composed:
        """`alone` `[C]` are the neuron's similarities with the list."""
        plan, listed = scorer.plan, concept_list(scorer.plan.spec).concepts
        chosen = _best_words(listed, alone, num_words)
        texts = _pairs([listed[i] for i in chosen], listed)
        if not texts:
            raise StudyError(
                f"{plan.spec.concepts} has {len(chosen)} single words to join, and no pair of them is new. Give a "
                "list with more words."
            )
        told(f"Scoring {len(texts):,} pairs of {len(chosen)} words for neuron {neuron}")
        # Not kept in the store: whatever labels by this encoder reads all texts there.
        embeddings = torch.from_numpy(embed_by_clip(plan.spec, [prompt(plan.spec.prompt, text) for text in texts]))
        similarity, null = scorer.further(neuron, concepts_of(plan)[chosen], embeddings)
        words, pairs = similarity[: len(chosen)], similarity[len(chosen) :]
        order = torch.argsort(pairs, descending=True, stable=True)[:PAIRS_WRITTEN].tolist()
        word, gain = int(words.argmax()), pairs.amax() - words.amax()
        by_chance = null[:, len(chosen) :].amax(1) - null[:, : len(chosen)].amax(1)
        row = {
            "word": listed[chosen[word]],
            "word_similarity": float(words[word]),
            "pair": texts[order[0]],
            "pair_similarity": float(pairs[order[0]]),
            "gain": float(gain),
            "null_quantile": float(null_quantile(gain, by_chance)),
            "null_median_gain": float(by_chance.median()) if len(by_chance) else np.nan,
            "words": len(chosen),
            "pairs": len(texts),
        }
        best = {"rank": range(1, len(order) + 1), "pair": [texts[i] for i in order], "similarity": pairs[order]}
        return cls(row, pd.DataFrame(best))


def _best_words(listed: Sequence[str], similarity: Tensor, most: int) -> list[int]:
    """Rows of a list's single words, the most similar first; a word that is listed twice counts once."""
    words: dict[str, int] = {}
    for row in torch.argsort(similarity, descending=True, stable=True).tolist():
        if len(listed[row].split()) == 1:
            words.setdefault(normal(listed[row]), row)
        if len(words) == most:
            break
    return list(words.values())


def _pairs(words: Sequence[str], listed: Sequence[str]) -> list[str]:
    """All ordered pairs of different words that are no concept of the list."""
    known = set(map(normal, listed))
    texts = (f"{one} {other}" for one, other in permutations(words, 2))
    return [text for text in texts if normal(text) not in known]


def _neurons(first: pd.DataFrame, layer: str, asked: CompositionsQuestion) -> list[int]:
    live = first.index[~first["is_dead"]]
    if not len(live):
        raise StudyError(f"All neurons of {layer} are dead: none has a label.")
    for neuron in asked.neurons:
        if neuron not in first.index:
            raise StudyError(f"There is no neuron {neuron} in {layer}, whose neurons are 0 to {len(first) - 1}.")
        if neuron not in live:
            raise StudyError(f"Neuron {neuron} of {layer} is dead: it has no label. Leave it out.")
    drawn = np.random.default_rng(asked.seed).permutation(len(live))[: asked.sample]
    return list(dict.fromkeys(asked.neurons)) or live[np.sort(drawn)].tolist()


def _refuse_without_encoder(run: FinishedRun, plan: LabelPlan) -> None:
    spec = plan.spec
    if spec.concept_embeddings or not spec.clip:
        raise StudyError(
            f"The concept embeddings of {run.out.url} are a file ({spec.concept_embeddings}), and pairs of words "
            "need the text encoder that made them. Run again with --clip MODEL in place of --concept-embeddings."
        )
    if concept_embeddings_of(spec).digest != plan.concepts.digest:
        raise StudyError(
            f"The CLIP model {spec.clip_checkpoint or spec.clip} is not the one that embedded the run's concepts. "
            "Bring that back, or run again."
        )


def _table(table: pd.DataFrame, layer: str) -> Table:
    names = ["neuron", "label", "best word", "similarity", "best pair", "similarity", "gain", "above null"]
    rows = [
        [
            *(row["neuron"], row["label"], row["word"], f"{row['word_similarity']:.3f}"),
            *(row["pair"], f"{row['pair_similarity']:.3f}", f"{row['gain']:+.3f}"),
            "-" if np.isnan(row["null_quantile"]) else f"{row['null_quantile']:.1%}",
        ]
        for row in table.to_dict("records")
    ]
    return table_of(
        f"Neurons of {layer}, by words and pairs of words", names, rows, right=("neuron", *names[3::2], "gain")
    )


def _line(table: pd.DataFrame, asked: CompositionsQuestion) -> str:
    gain = mean(table["gain"].to_numpy(dtype=np.float64))
    low, high = gain.interval(asked.resamples, asked.seed)
    known = table["null_median_gain"].notna()
    null = (
        f"; with shuffled images the same texts gain {table['null_median_gain'].mean():+.3f}" if known.all() else ""
    )
    better = f"{(table['gain'] > 0).sum()} of {len(table)} neurons"
    interval = f"95 %: {low:+.3f} to {high:+.3f}"
    return f"A pair beats the best word for {better}, by {gain.value():+.3f} on average ({interval}){null}."


def _draw(table: pd.DataFrame, shown: Sequence[Strip], layer: str) -> Figure:
    figure, axes = with_strips(shown)
    both = table[["word_similarity", "pair_similarity"]].to_numpy(dtype=np.float64)
    ends = both.min(), both.max()
    axes.plot(ends, ends, color=style.GREY, linewidth=0.8, label="as good as the word")
    is_above = (table["null_quantile"] > 0.95).to_numpy(dtype=bool)
    for side, label, number in ((is_above, "gain above null:0.95", 0), (~is_above, "others", 1)):
        if side.any():
            colour, marker = style.COLOURS[number], style.MARKERS[number]
            axes.plot(both[side, 0], both[side, 1], marker, color=colour, label=label)
    for neuron, (word, pair) in zip(table["neuron"], both, strict=True):
        axes.annotate(str(neuron), (word, pair), xytext=(3, 3), textcoords="offset points", fontsize=7)
    title = f"{len(table)} neurons of {style.text(layer)}"
    axes.set(xlabel="similarity of the best word", ylabel="similarity of the best pair", title=title)
    axes.legend(loc="lower right")
    return figure
