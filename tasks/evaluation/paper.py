"""What the paper measured, as runs that can be made again: Tables 1 to 3.

Source: T. Oikarinen and T.-W. Weng, CLIP-Dissect, ICLR 2023 (arXiv 2204.10965v4), Tables 1, 2 and 3; top-5 accuracy,
ROC-AUC and mean rank of SoftWPMI are those of the authors' published runs. Rows of other methods are left out: their
labels are tables for `clip-dissect evaluate`. Shares are from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Probe sets.
IMAGENET, BRODEN, CIFAR100 = "imagenet-val", "broden", "cifar100-train"
#: Concept lists.
BRODEN_NAMES, IMAGENET_NAMES = "broden-names", "imagenet-names"
WORDS_3K, WORDS_10K, WORDS_20K = "3k", "10k", "20k"
#: Networks.
RESNET50, PLACES = "resnet50", "resnet18-places365"
#: Published re-runs differ by about so much.
DRIFT = {"clip_cosine": 5e-4, "sentence_cosine": 5e-4, "top1_accuracy": 5e-3}


@dataclass(frozen=True)
class Cell:
    """A run, and the figures that were published of it, by their names in an evaluation."""

    network: str
    probe: tuple[str, ...]
    concepts: str
    similarity: str
    published: Mapping[str, float]

    @property
    def name(self) -> str:
        """What it is called in tables, and the folder of the run."""
        return f"{'+'.join(self.probe)} {self.concepts} {self.similarity}".replace(" ", ".")

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what has to be given for it."""
        return (self.network, *self.probe, self.concepts)


def _table1() -> tuple[Cell, ...]:
    published = {
        ((IMAGENET,), BRODEN_NAMES): (0.7393, 0.4201),
        ((IMAGENET,), WORDS_3K): (0.7456, 0.4161),
        ((IMAGENET,), WORDS_10K): (0.7661, 0.4696),
        ((IMAGENET,), WORDS_20K): (0.7900, 0.5257),
        ((IMAGENET,), IMAGENET_NAMES): (0.9902, 0.9746),
        ((CIFAR100,), WORDS_20K): (0.7300, 0.3664),
        ((BRODEN,), WORDS_20K): (0.7407, 0.3945),
        ((IMAGENET, BRODEN), WORDS_20K): (0.7900, 0.5233),
    }
    return tuple(
        Cell(RESNET50, probe, concepts, "soft_wpmi", {"clip_cosine": clip, "sentence_cosine": sentence})
        for (probe, concepts), (clip, sentence) in published.items()
    )


def _table2() -> tuple[Cell, ...]:
    published = {"top1_accuracy": 0.5805, "top5_accuracy": 0.8614, "clip_cosine": 0.9106, "sentence_cosine": 0.7024}
    return (Cell(PLACES, (BRODEN,), BRODEN_NAMES, "soft_wpmi", published),)


def _table3() -> tuple[Cell, ...]:
    probes = ((CIFAR100,), (BRODEN,), (IMAGENET,), (IMAGENET, BRODEN))
    cosine = {
        "cos": (0.2761, 0.2153, 0.2823, 0.2584),
        "rank_reorder": (0.3250, 0.3857, 0.4901, 0.5040),
        "wpmi": (0.3460, 0.3878, 0.5302, 0.5267),
        "soft_wpmi": (0.3664, 0.3945, 0.5257, 0.5233),
    }
    top1 = {
        "cos": (0.085, 0.057, 0.159, 0.114),
        "rank_reorder": (0.363, 0.575, 0.898, 0.899),
        "wpmi": (0.238, 0.471, 0.870, 0.869),
        "soft_wpmi": (0.462, 0.705, 0.950, 0.954),
    }
    of_soft_wpmi = {
        "top5_accuracy": (0.794, 0.900, 0.989, 0.990),
        "roc_auc": (0.667, 0.786, 0.921, 0.917),
        "mean_rank": (8.6, 4.8, 1.2, 1.2),
    }
    cells = []
    for similarity in cosine:
        for i, probe in enumerate(probes):
            more = {name: values[i] for name, values in of_soft_wpmi.items()} if similarity == "soft_wpmi" else {}
            named = {"top1_accuracy": top1[similarity][i]} | more
            cells.append(Cell(RESNET50, probe, WORDS_20K, similarity, {"sentence_cosine": cosine[similarity][i]}))
            cells.append(Cell(RESNET50, probe, IMAGENET_NAMES, similarity, named))
    return tuple(cells)


TABLES: Mapping[str, tuple[Cell, ...]] = {"table1": _table1(), "table2": _table2(), "table3": _table3()}
