"""A search is read in Python as the report's own script reads it: both are held to the same examples."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.report import page
from tasks.report.search import BLANKS, Search

CONCEPTS = ["dog", "Hot Dog", 'a "dog" in quotes', "cat", "ÉCOLE", "#17", '""', "ΣΑΣ", "İstanbul", " dog"]
#: What is typed, and which concepts it finds; None where it asks for no text.
TYPED: list[tuple[str, list[str] | None]] = [
    ("dog", ["dog", "Hot Dog", 'a "dog" in quotes', " dog"]),
    ("DOG ", ["dog", "Hot Dog", 'a "dog" in quotes', " dog"]),
    ('"dog"', ["dog"]),
    (' "DOG"\ufeff', ["dog"]),
    ('" dog"', [" dog"]),
    ('"hot dog"', ["Hot Dog"]),
    ('"do"', []),
    ('"dog', ['a "dog" in quotes']),
    ('""', ['""']),
    ('"""', []),
    ('""""', ['""']),
    ("école", ["ÉCOLE"]),
    ("#1", None),
    (" #17 ", None),
    ("# 17", []),
    ("#1٧", []),
    ("σας", ["ΣΑΣ"]),
    ("i\u0307stanbul", ["İstanbul"]),
    ("zebra", []),
    ("\x1fdog", []),
    ('"a\nb"', []),
    ("", None),
    ("   ", None),
]


@pytest.mark.parametrize(("typed", "found"), TYPED, ids=ascii)
def test_what_is_typed_finds_these(typed: str, found: list[str] | None) -> None:
    search = Search.of(typed)
    if found is None:
        assert search.neuron is not None or search.text == ""
    else:
        assert [name for name, hit in zip(CONCEPTS, search.hits(CONCEPTS), strict=True) if hit] == found


def test_a_number_sign_and_a_number_is_a_neuron() -> None:
    assert Search.of(" #17 ") == Search(neuron=17)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_report_s_script_finds_the_same() -> None:
    script = (Path(page.__file__).parent / "search.js").read_text()
    program = (
        f"{script}\nconst found = {json.dumps([typed for typed, _ in TYPED])}.map((typed) => "
        f"hits({{ concepts: {json.dumps(CONCEPTS)} }}, typed));\n"
        "console.log(JSON.stringify(found.map((flags) => flags && [...flags])));"
        f"console.log(JSON.stringify({json.dumps(BLANKS)}.trim() === ''));"
    )
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    by_script, blanks = map(json.loads, done.stdout.splitlines())
    for (typed, found), flags in zip(TYPED, by_script, strict=True):
        names = None if flags is None else [name for name, hit in zip(CONCEPTS, flags, strict=True) if hit]
        assert names == found, ascii(typed)
    assert blanks
