"""The page for raters in a real browser, opened from disk."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.report.rate_page import Question, Questions, render_questions
from tasks.report.scales import ONE_TO_FIVE, YES_MAYBE_NO
from tests.test_report.devtools import Browser, Page
from tests.test_report.test_browser import HOSTILE

CONCEPTS = ("dog", "=1+1", 'a "striped" thing, red', "sky; @now")
ASKED = Questions(
    "Do the labels fit?",
    "0123456789abcdef",
    7,
    "key of these",
    YES_MAYBE_NO,
    tuple(Question(f"{i}-x{i}", concept, (40 + i, 3)) for i, concept in enumerate(CONCEPTS)),
)


@pytest.fixture
def page(running: Browser) -> Iterator[Page]:
    """A tab whose storage is its own, and empty."""
    with running.page() as it:
        yield it
        assert it.said == []


@pytest.fixture
def jpegs(thumbnails: dict[str, bytes]) -> dict[int, bytes]:
    return dict.fromkeys((3, *range(40, 50)), thumbnails["a.png"])


def written(folder: Path, asked: Questions, jpegs: dict[int, bytes]) -> Path:
    path = folder / "rate.html"
    path.write_text(render_questions(asked, jpegs), encoding="utf-8")
    return path


@pytest.fixture
def begun(page: Page, tmp_path: Path, jpegs: dict[int, bytes]) -> Page:
    """The page with its first question, rated by Ann."""
    page.open(written(tmp_path, ASKED, jpegs))
    page.type(" Ann ")
    page.press("Enter")
    return page


def answers(page: Page) -> list[dict[str, str]]:
    with page.download("#export").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def given(page: Page) -> list[str]:
    """The ratings in the order of the questions."""
    return [row["rating"] for row in answers(page)]


def test_a_description_and_its_images_are_shown_when_a_name_is_given(begun: Page) -> None:
    assert begun.text("h1#question") == "Does the description dog match this set of images?"
    assert begun.value("[...document.images].map((image) => image.alt)") == ["Image 1", "Image 2"]
    assert begun.value("[...document.images].every((image) => image.naturalWidth === 96)")
    assert begun.text("#count") == "0 of 4"
    assert begun.value("document.getElementById('begin').hidden")


def test_without_a_name_nothing_begins(page: Page, tmp_path: Path, jpegs: dict[int, bytes]) -> None:
    page.open(written(tmp_path, ASKED, jpegs))
    page.type("  ")
    page.press("Enter", "y")
    assert page.value("document.getElementById('ask').hidden")


def test_keys_rate_and_arrows_look_back_and_forth(begun: Page) -> None:
    begun.press("y", "m")
    assert begun.text("#concept") == CONCEPTS[2]
    begun.press("ArrowLeft", "ArrowLeft", "ArrowLeft")
    assert begun.text("#concept") == "dog"
    assert begun.value("document.querySelector('[aria-pressed=true]').innerText").endswith("Yes")
    begun.press("n", "ArrowRight", "N")
    assert [row["rating"] for row in answers(begun)] == ["no", "maybe", "no"]


def test_undo_takes_back_the_last_rating_wherever_it_was(begun: Page) -> None:
    begun.press("y", "m", "ArrowLeft", "ArrowLeft", "n", "u")
    assert begun.text("#concept") == "dog"
    assert given(begun) == ["maybe"]
    begun.press("u")
    assert begun.text("#concept") == CONCEPTS[1]
    assert begun.text("#count") == "0 of 4"
    begun.press("u")
    assert begun.value("document.getElementById('export').disabled")


def test_a_reload_keeps_ratings_and_goes_on_where_it_was(begun: Page) -> None:
    begun.press("y", "n")
    begun.reload()
    assert begun.text("#concept") == CONCEPTS[2]
    assert given(begun) == ["yes", "no"]


def test_the_csv_has_all_that_is_needed_and_nothing_that_a_spreadsheet_runs(begun: Page) -> None:
    begun.press("y", "n", "m", "y")
    assert begun.text("#end h1") == "All rated. Thank you."
    file = begun.download("#export-end")
    assert file.name == "ratings-Ann-01234567.csv"
    with file.open(newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    assert [row["concept"] for row in rows] == ["dog", "'=1+1", CONCEPTS[2], "sky;' @now"]
    seconds = [float(row.pop("seconds")) for row in rows]
    assert all(0 <= value < 60 for value in seconds)
    same = {"rater": "Ann", "scale": "yes-maybe-no", "run": "0123456789abcdef", "seed": "7"}
    assert rows[1] == same | {"item": "1-x1", "concept": "'=1+1", "rating": "no"}


def test_raters_of_one_browser_have_their_own_ratings(begun: Page) -> None:
    begun.press("y")
    begun.value("document.getElementById('change').click()")
    begun.value("document.getElementById('rater').select()")
    begun.type("__proto__")
    begun.press("Enter")
    assert begun.text("#concept") == "dog"
    begun.press("n")
    assert [(row["rater"], row["rating"]) for row in answers(begun)] == [("__proto__", "no")]


def test_other_questions_of_the_same_run_begin_anew(begun: Page, tmp_path: Path, jpegs: dict[int, bytes]) -> None:
    begun.press("y")
    begun.open(written(tmp_path, replace(ASKED, key="key of others"), jpegs))
    assert begun.value("document.getElementById('begin').hidden") is False


def test_five_points_are_digits(page: Page, tmp_path: Path, jpegs: dict[int, bytes]) -> None:
    page.open(written(tmp_path, replace(ASKED, scale=ONE_TO_FIVE), jpegs))
    page.type("Bo")
    page.press("Enter", "5", "1", "6", "y")
    assert given(page) == ["5", "1"]


def test_hostile_names_stay_text(page: Page, tmp_path: Path, jpegs: dict[int, bytes]) -> None:
    questions = tuple(Question(f"{i}-x", concept, (3,)) for i, concept in enumerate(HOSTILE))
    html = render_questions(replace(ASKED, title=HOSTILE[0], key=HOSTILE[1], questions=questions), jpegs)
    assert html.count("<script") == html.count("</script>") == 2
    page.open(written(tmp_path, replace(ASKED, title=HOSTILE[0], questions=questions), jpegs))
    page.type("<img src=x onerror=alert(1)>")
    page.press("Enter")
    for concept in HOSTILE:
        assert page.value("document.getElementById('concept').textContent") == concept
        page.press("y")
    assert page.value("document.title") == HOSTILE[0]
    assert page.value("document.querySelectorAll('b, script').length") == 2
    assert [row["concept"] for row in answers(page)] == list(HOSTILE)


def test_the_page_says_neither_where_images_are_from_nor_what_is_a_control(jpegs: dict[int, bytes]) -> None:
    html = render_questions(ASKED, jpegs)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert set(data) == {"run", "seed", "key", "scale", "answers", "questions", "thumbnails"}
    assert data["questions"][0] == ["0-x0", "dog", [1, 0]]  # numbers into the thumbnails, and no path
    assert not re.search(r"https?://|@import|\burl\(", html)
