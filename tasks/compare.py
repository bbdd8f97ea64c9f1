"""Two labelled layers side by side: which neurons correspond, whose labels changed, which concepts came and went.

Everything is a function of tables as runs publish them (`labels.parquet`, `top_images.parquet`), of one layer each.
`before` and `after` are only names for the two: they may be two networks as well as two states of one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from tasks.label_tables import DEAD, SAME

#: Pairs of neurons with an image in common, counted for each such image, that are in memory at a time.
MOST_PAIRS = 1 << 22
MATCH = ("neuron_before", "neuron_after", "overlap", "null_quantile", "is_mutual")


def match_by_top_images(before: pd.DataFrame, after: pd.DataFrame, k: int, num_images: int) -> pd.DataFrame:
    """For each neuron before, the one after whose top `k` images are most the same; of equals the first one.

    `overlap` is the Jaccard index: images that both have, by all that one of them has. `null_quantile` is the share
    of neurons before that find less where the images of those after are shuffled (seeded): two networks that have
    nothing in common have best matches too. A match is mutual where the one after has no better one before. A neuron
    that shares no image with any other has none (null, overlap 0). Rows of both tables are of the same probe set,
    which has `num_images`.
    """
    one, other = _distinctive(before, k), _distinctive(after, k)
    best_before, best_after = _best_matches(one, other)
    shuffled = np.random.default_rng(0).permutation(num_images)[other["row"].to_numpy()]
    null, _ = _best_matches(one, other.assign(row=shuffled))
    every = pd.DataFrame({"neuron_before": np.sort(before["neuron"].unique())})
    by_chance = np.sort(every.merge(null, how="left")["overlap"].fillna(0.0))
    mutual = best_after[["neuron_before", "neuron_after"]].assign(is_mutual=True)
    table = every.merge(best_before, how="left").merge(mutual, how="left").fillna({"overlap": 0.0})
    table["null_quantile"] = np.searchsorted(by_chance, table["overlap"].to_numpy()) / len(by_chance)
    return _matches(table)


def match_by_label(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """For each neuron before, the one after that has the same first label with the greatest similarity.

    Of neurons with one label, only the most similar one before is matched mutually. Dead neurons and those whose
    label nobody has have none (null). `overlap` and `null_quantile` are null.
    """
    one, other = (_most_similar_first(labels) for labels in (before, after))
    best = other.drop_duplicates("concept").rename(columns={"neuron": "neuron_after"})
    table = one.merge(best[["concept", "neuron_after"]], how="left", on="concept")
    is_mutual = table["neuron_after"].notna() & ~table["concept"].duplicated()
    table = table.rename(columns={"neuron": "neuron_before"}).assign(
        overlap=np.nan, null_quantile=np.nan, is_mutual=is_mutual
    )
    dead = table["concept"] == DEAD
    table.loc[dead, "neuron_after"] = np.nan
    table.loc[dead, "is_mutual"] = False
    return _matches(table.sort_values("neuron_before"))


def own_overlaps(before: pd.DataFrame, after: pd.DataFrame, k: int) -> pd.DataFrame:
    """A row per neuron of both: the Jaccard index of its top `k` images before and after, by its number."""
    one, other = _distinctive(before, k), _distinctive(after, k)
    numbers = np.intersect1d(before["neuron"], after["neuron"])
    common = one.merge(other, on=["neuron", "row"])["neuron"].value_counts().reindex(numbers, fill_value=0)
    sizes = [of["neuron"].value_counts().reindex(numbers, fill_value=0) for of in (one, other)]
    union = (sizes[0] + sizes[1] - common).to_numpy()
    overlap = np.divide(common.to_numpy(), union, out=np.zeros(len(numbers)), where=union > 0)
    return pd.DataFrame({"neuron_before": numbers, "neuron_after": numbers, "overlap": overlap})


def by_number(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Pairs of neurons with the same number; `overlap` is null."""
    numbers = np.intersect1d(before["neuron"], after["neuron"])
    return pd.DataFrame({"neuron_before": numbers, "neuron_after": numbers, "overlap": np.nan})


def paired(pairs: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """First labels of pairs of neurons, but for those that are dead in both.

    `rank_of_old` is the rank of the label before among those after, `rank_of_new` the reverse; null where it is not
    among them.
    """
    table = pairs[["neuron_before", "neuron_after", "overlap"]]
    for when, labels in (("before", before), ("after", after)):
        first = labels.loc[labels["rank"] == 1, ["neuron", "concept", "similarity", "margin"]]
        names = {"neuron": f"neuron_{when}", "concept": f"label_{when}"}
        names |= {name: f"{name}_{when}" for name in ("similarity", "margin")}
        table = table.merge(first.rename(columns=names), on=f"neuron_{when}")
    table = _with_rank(table, "rank_of_old", "label_before", "neuron_after", after)
    table = _with_rank(table, "rank_of_new", "label_after", "neuron_before", before)
    is_dead = (table["label_before"] == DEAD) & (table["label_after"] == DEAD)
    return table[~is_dead].reset_index(drop=True)


def changed(pairs: pd.DataFrame) -> pd.DataFrame:
    """Of first labels `paired`, those that are not the same, most changed first.

    Those come first whose label before is not among those after, then by its rank there; of equals, those whose
    labels stand out most, by the sum of both margins.
    """
    table = pairs[pairs["label_before"] != pairs["label_after"]]
    clear = table[["margin_before", "margin_after"]].astype("float64").fillna(0.0).sum(axis=1)
    far = table["rank_of_old"].astype("float64").fillna(np.inf)
    order = np.lexsort((table["neuron_before"].to_numpy(), -clear.to_numpy(), -far.to_numpy()))
    return table.iloc[order].reset_index(drop=True)


def concept_counts(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """A row per first label of either: how many neurons, and which share of those that are not dead, have it.

    Sorted by how much the share changed. `change` is gained, lost, more, fewer or same, by the count.
    """
    table = pd.DataFrame(index=pd.Index([], name="concept"))
    for when, labels in (("before", before), ("after", after)):
        first = labels.loc[(labels["rank"] == 1) & (labels["concept"] != DEAD), "concept"]
        table = table.join(first.value_counts().rename(f"neurons_{when}"), how="outer")
    table = table.fillna(0).astype("int64").rename_axis("concept")
    for when in ("before", "after"):
        table[f"share_{when}"] = table[f"neurons_{when}"] / max(1, table[f"neurons_{when}"].sum())
    one, other = table["neurons_before"], table["neurons_after"]
    kinds = {"gained": one == 0, "lost": other == 0, "more": other > one, "fewer": other < one}
    table["change"] = np.select(list(kinds.values()), list(kinds), default="same")
    by = (table["share_after"] - table["share_before"]).abs()
    # To the last bits, equal differences of shares are not equal.
    return table.assign(by=-by.round(12)).sort_values(["by", "concept"]).drop(columns="by").reset_index()


def with_first_labels(matches: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Matches with the first label of both neurons; null where there is no match."""
    for when, labels in (("before", before), ("after", after)):
        first = labels.loc[labels["rank"] == 1, ["neuron", "concept"]]
        names = {"neuron": f"neuron_{when}", "concept": f"label_{when}"}
        matches = matches.merge(first.rename(columns=names), how="left", on=f"neuron_{when}")
    return matches


def _with_rank(table: pd.DataFrame, name: str, label: str, neuron: str, labels: pd.DataFrame) -> pd.DataFrame:
    ranks = labels[["neuron", "concept", "rank"]].rename(columns={"neuron": neuron, "concept": label, "rank": name})
    # A list may hold a concept twice.
    ranks = ranks[ranks[label] != DEAD].drop_duplicates([neuron, label])
    return table.merge(ranks, how="left", on=[neuron, label]).astype({name: "Int64"})


def _most_similar_first(labels: pd.DataFrame) -> pd.DataFrame:
    first = labels.loc[labels["rank"] == 1, ["neuron", "concept", "similarity"]]
    return first.sort_values(["similarity", "neuron"], ascending=[False, True])


def _distinctive(top_images: pd.DataFrame, k: int) -> pd.DataFrame:
    """`neuron` and `row` of the top `k` images, without those that others could stand for as well.

    Images that tie with the last one are there only because they come first in the probe set: a dead neuron has no
    others, and one that is active on three images but for them. Counted, they would make strangers alike.
    """
    top = top_images.loc[top_images["rank"] <= k, ["neuron", "rank", "row", "activation"]]
    top = top.sort_values(["neuron", "rank"])
    values = top["activation"].astype("float64")
    scale = values.abs().where(np.isfinite(values), 0.0)
    of = top["neuron"]
    last = values.groupby(of).transform("last")
    is_tied = ~(values > last + SAME * scale.groupby(of).transform("max"))
    is_kept = ~is_tied | (is_tied.groupby(of).transform("sum") == 1)
    return top.loc[is_kept, ["neuron", "row"]]


def _overlaps(before: pd.DataFrame, after: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Pairs of neurons that share an image, with their Jaccard index; in blocks of neurons before."""
    sizes_before, sizes_after = (of["neuron"].value_counts() for of in (before, after))
    weight = before["row"].map(after["row"].value_counts()).fillna(0)
    block = weight.groupby(before["neuron"]).sum().cumsum() // MOST_PAIRS
    for _, part in before.groupby(before["neuron"].map(block)):
        both = part.merge(after, on="row", suffixes=("_before", "_after"))
        table = both.groupby(["neuron_before", "neuron_after"]).size().rename("common").reset_index()
        size = table["neuron_before"].map(sizes_before) + table["neuron_after"].map(sizes_after)
        yield table.assign(overlap=table["common"] / (size - table["common"])).drop(columns="common")


def _best_matches(before: pd.DataFrame, after: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of each neuron before, and of each after, the one that it shares most images with; of equals the first one."""
    best_before, best_after = _nothing(), _nothing()
    for block in _overlaps(before, after):
        best_before = _best("neuron_before", best_before, block)
        best_after = _best("neuron_after", best_after, block)
    return best_before, best_after


def _best(of: str, best: pd.DataFrame, block: pd.DataFrame) -> pd.DataFrame:
    """The greatest overlap of each neuron; of equals, that with the lowest numbers."""
    table = pd.concat([best, block]).sort_values(
        ["overlap", "neuron_before", "neuron_after"], ascending=[False, True, True]
    )
    return table.drop_duplicates(of)


def _nothing() -> pd.DataFrame:
    none = np.array([], dtype=np.int64)
    return pd.DataFrame({"neuron_before": none, "neuron_after": none, "overlap": none.astype(np.float64)})


def _matches(table: pd.DataFrame) -> pd.DataFrame:
    table = table.astype({"neuron_after": "Int64", "is_mutual": "boolean"}).fillna({"is_mutual": False})
    return table[list(MATCH)].astype({"is_mutual": "bool"}).reset_index(drop=True)
