"""What people rate, and what their ratings come to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from flows.__main__ import cli
from flows.engine.rating_commands import SCALE_NAMES
from storage.errors import IncompleteError
from storage.verify import verify
from tasks.published import LABELS
from tasks.rate import RATE, Sampling, write_rate_page
from tasks.rated_items import Item, drawn
from tasks.ratings import COLUMNS, RatingsError, agreement, rated, read_ratings
from tasks.report.scales import SCALES
from tests.test_tasks.stores import Filled

RUN, SEED = "0123abcd", 4
ITEMS = tuple(Item(layer, i // 3, i % 3, f"concept {i}", False) for i, layer in enumerate(["b"] * 3 + ["a"] * 3))
CONTROLS = tuple(Item("b", 0, i, "another", True) for i in (3, 4))

Write = Callable[..., str]


def layer_of(num_neurons: int, dead: tuple[int, ...] = (), layer: str = "x") -> pd.DataFrame:
    """First labels and second ones."""
    rows = [
        {"layer": layer, "neuron": i, "rank": rank, "concept": f"{i % 7} {rank}", "is_dead": i in dead}
        for i in range(num_neurons)
        for rank in (1, 2)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A rater's CSV, as the page gives it, with changes of its columns."""

    def write_(rater: str, ratings: list[str], items: tuple[Item, ...] = ITEMS, **columns: Any) -> str:
        rows = [
            {
                "rater": rater,
                "item": item.sealed(RUN, SEED, number),
                "concept": item.concept,
                "rating": rating,
                "seconds": "2.5",
                "scale": "yes-maybe-no",
                "run": RUN,
                "seed": str(SEED),
            }
            for number, (item, rating) in enumerate(zip(items, ratings, strict=False))
        ]
        path = tmp_path / f"{rater}-{len(list(tmp_path.iterdir()))}.csv"
        pd.DataFrame(rows, columns=list(COLUMNS)).assign(**columns).to_csv(path, index=False)
        return str(path)

    return write_


def test_every_live_neuron_is_as_likely_and_none_comes_twice() -> None:
    labels = layer_of(20, dead=(3, 5))
    seen: list[int] = []
    for seed in range(200):
        neurons = [item.neuron for item in drawn(labels, ["x"], 6, 0, seed)]
        assert len(set(neurons)) == 6
        seen += neurons
    counts = np.bincount(seen, minlength=20)
    assert counts[[3, 5]].tolist() == [0, 0]
    assert counts[counts > 0].min() > 30 and counts.max() < 110  # 67 are expected


def test_a_draw_is_that_of_its_seed_and_more_neurons_are_those_of_fewer_and_others() -> None:
    labels = pd.concat([layer_of(30), layer_of(30, layer="y")])
    few, again, many = (set(drawn(labels, ["x", "y"], number, 0, 1)) for number in (5, 5, 12))
    assert few == again and few < many
    assert few != set(drawn(labels, ["x", "y"], 5, 0, 2))
    mixed = [item.layer for item in drawn(labels, ["x", "y"], 12, 0, 1)]
    assert mixed != sorted(mixed)


def test_controls_are_other_neurons_with_labels_that_are_not_theirs() -> None:
    labels = layer_of(40)
    items = drawn(labels, ["x"], 20, 10, 0)
    controls = {item.neuron: item.concept for item in items if item.is_control}
    assert len(controls) == 10
    assert not set(controls) & {item.neuron for item in items if not item.is_control}
    own = {neuron: f"{neuron % 7} 1" for neuron in range(40)}
    assert all(concept != own[neuron] and concept in own.values() for neuron, concept in controls.items())
    assert all(item.concept == own[item.neuron] for item in items if not item.is_control)
    # A small layer has no neurons left, and one of a single label has no other.
    assert sum(item.is_control for item in drawn(layer_of(6), ["x"], 50, 4, 0)) == 4
    assert not any(item.is_control for item in drawn(layer_of(6).assign(concept="same"), ["x"], 50, 4, 0))


def test_a_sealed_item_tells_nothing_and_opens_only_for_its_run_and_seed() -> None:
    item = Item("layer4.2", 3, 17, "dog", True)
    word = item.sealed(RUN, SEED, 12)
    assert Item.opened(word, "dog", RUN, str(SEED)) == item
    plain = Item("layer4.2", 3, 17, "dog", False).sealed(RUN, SEED, 12)
    assert len(word) == len(plain) and word != plain
    for run, seed, changed in ((RUN, "5", word), ("ffff", str(SEED), word), (RUN, str(SEED), "13" + word[2:])):
        with pytest.raises(ValueError):
            Item.opened(changed, "dog", run, seed)


def test_the_page_of_a_run_asks_for_what_is_drawn_and_names_no_file(filled: Filled) -> None:
    said = list(write_rate_page(str(filled.out), Sampling("yes-maybe-no", 2, 1, 5)))
    page = (filled.out / RATE).read_text()
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    items = [Item.opened(word, concept, data["run"], str(data["seed"])) for word, concept, _ in data["questions"]]
    labels = pd.read_parquet(filled.out / LABELS)
    assert tuple(items) == drawn(labels, ["conv", "head"], 2, 1, 5)
    num_controls = sum(item.is_control for item in items)
    assert said == [f"4 neurons and {num_controls} controls to rate: {filled.out / RATE}"]
    top = pd.read_parquet(filled.out / "top_images.parquet")
    asked = [len(images) for *_, images in data["questions"]]
    assert asked == [10] * len(items)
    assert (
        len(data["thumbnails"])
        == top.set_index(["layer", "neuron"])
        .loc[list({(item.layer, item.neuron) for item in items}), "row"]
        .nunique()
    )
    assert not any(Path(image).name in page for image in top["image"])
    assert data["run"] == json.loads((filled.out / "run.json").read_text())["digest"]


def test_a_run_of_dead_neurons_has_nothing_to_rate(filled: Filled) -> None:
    labels = pd.read_parquet(filled.out / LABELS)
    labels.assign(is_dead=True).to_parquet(filled.out / LABELS)
    with pytest.raises(IncompleteError, match=r"All neurons of the run in .* are dead"):
        list(write_rate_page(str(filled.out), Sampling("1-5", 2, 0, 0)))
    assert not (filled.out / RATE).exists()


def test_means_are_those_of_table_5_over_raters_and_neurons(write: Write) -> None:
    files = [write("Ann", ["yes", "maybe", "no", "yes", "yes", "no"]), write("Bo", ["yes", "yes", "yes"])]
    table = read_ratings(files).table
    of_b = rated(table[table["layer"] == "b"], 500, 0)
    assert (of_b.num_neurons, of_b.num_ratings, of_b.mean) == (3, 6, 4.5 / 6)
    assert (of_b.low, of_b.high) == (0.5, 1.0)  # the third neuron alone, and the first
    assert rated(table, 500, 0).mean == pytest.approx(6.5 / 9)
    assert rated(table, 500, 0) == rated(table, 500, 0)
    assert table.groupby("layer")["layer_number"].first().to_dict() == {"a": 1, "b": 0}


def test_agreement_is_of_labels_that_two_rated_and_leaves_controls_out(write: Write) -> None:
    items = (*ITEMS[:4], *CONTROLS)
    ratings = read_ratings(
        [
            write("Ann", ["yes", "maybe", "no", "yes", "no", "no"], items),
            write("Bo", ["yes", "no", "yes"], items),
            write("Cy", ["yes", "yes", "yes", "yes"], CONTROLS),
        ]
    )
    found = agreement(ratings)
    assert (found.num_items, found.equal, found.opposite) == (3, pytest.approx(1 / 3), pytest.approx(1 / 3))
    # Of 2, 1 and 3 ratings no, maybe and yes; δ² is 2.25, 12.25 and 4, and 90 in all.
    assert found.alpha == pytest.approx(1 - 5 * (2.25 + 12.25) / 90)


def test_a_concept_that_looks_like_nothing_or_a_number_stays_what_it_is(write: Write) -> None:
    items = tuple(Item("b", 0, i, concept, False) for i, concept in enumerate(("null", "007", "nan", 'a,"b"')))
    table = read_ratings([write("None", ["yes"] * 4, items)]).table
    assert table["concept"].tolist() == ["null", "007", "nan", 'a,"b"']
    assert set(table["rater"]) == {"None"}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown column": ({"mood": "good"}, "has columns rater, .*, mood, and ratings have rater, item"),
    "rating off the scale": ({"rating": ["yes", "5"]}, "line 3: the rating '5' is none of yes, maybe, no"),
    "unknown scale": ({"scale": "0-10"}, "there is no scale '0-10', but yes-maybe-no, 1-5"),
    "item of nowhere": ({"item": ["0-AAAA", "1-zzz"]}, "line 2: '0-AAAA' is no item of run 0123abcd by seed 4"),
    "another seed": ({"seed": "9"}, "is no item of run 0123abcd by seed 9"),
    "seconds": ({"seconds": "long"}, "line 2: 'long' is no number of seconds"),
    "two runs": ({"run": [RUN, "beef"]}, f"more than one run: {RUN} in .*, beef in .*csv"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_csv_is_told_with_file_line_and_what_was_expected(write: Write, name: str) -> None:
    columns, message = BAD[name]
    with pytest.raises(RatingsError, match=message):
        read_ratings([write("Ann", ["yes", "no"], **columns)])


def test_a_file_that_is_none_is_told(write: Write, tmp_path: Path) -> None:
    (tmp_path / "page.csv").write_bytes(b"\xff\xfe\x00")
    for file, message in (("nowhere.csv", "There is no file"), ("page.csv", "is no CSV")):
        with pytest.raises(RatingsError, match=message):
            read_ratings([str(tmp_path / file)])
    with pytest.raises(RatingsError, match="holds no rating"):
        read_ratings([write("Ann", [])])


def test_a_file_given_twice_is_told(write: Write) -> None:
    files = [write("Ann", ["yes", "no"]), write("Ann", ["no"])]
    with pytest.raises(RatingsError, match=r"Ann-1.csv, line 2: Ann rates the item a second time"):
        read_ratings(files)


def test_the_commands_make_a_page_and_print_the_tables(filled: Filled, write: Write) -> None:
    def invoke(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(cli, list(arguments))
        assert result.exit_code == status, result.output
        return result.output

    assert str(filled.out / RATE) in invoke("rate", str(filled.out), "--scale", "1-5", "--neurons", "1")
    answers = ["5", "4", "2", "5", "4", "1", "1", "2"]
    file = write("Ann [x]", answers, (*ITEMS, *CONTROLS), scale="1-5")
    told = invoke("evaluate", "--ratings", file, write("Bo", ["5", "4", "1"], scale="1-5"))
    assert re.search(r"b +3 +6 +3\.500 +1\.500–5\.000 +2 +1\.500", told)
    assert re.search(r"a +3 +3 +3\.333 +\d\.\d+–\d\.\d+ +0 +- +-", told)
    assert re.search(r"all +6 +9 +3\.444", told)
    assert "Ann [x]: 8 ratings, 2.5 seconds each (median)" in told
    assert "on 3 labels that two or more rated: 66.7% of pairs equal, 0.0% 1 against 5" in told
    message = invoke("evaluate", "--ratings", file, "--run", str(filled.out), status=1)
    digest = json.loads((filled.out / "run.json").read_text())["digest"]
    assert f"is of run {RUN}, and {filled.out} holds run {digest}" in message


def test_the_command_offers_all_scales() -> None:
    assert tuple(SCALES) == SCALE_NAMES


def test_a_page_in_the_folder_of_a_run_in_the_store_is_no_foreign_file(filled: Filled, small_groups: None) -> None:
    [run] = filled.store.glob("runs/*/run.json")
    list(write_rate_page(str(run.parent), Sampling("1-5", 2, 0, 0)))
    assert (run.parent / RATE).exists()
    assert verify(str(filled.store)).problems == {}
