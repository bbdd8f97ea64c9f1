"""What passes spent their time on, in words and numbers."""

from __future__ import annotations

from tasks.passes import Pass, described, shares

BUSY = Pass(
    "images 0-99", 100, 4.0, {"reading": 0.5, "decoding": 1.0, "recording": 2.0, "writing": 0.5, "waiting": 0.2}
)
HUNGRY = Pass("images 100-199", 100, 4.0, {"reading": 0.5, "decoding": 7.0, "embedding": 0.5, "waiting": 3.0})
FAR = Pass("images 200-299", 100, 4.0, {"reading": 3.5, "decoding": 0.4, "embedding": 0.1, "waiting": 3.5})


def test_shares_are_of_all_work_and_only_stages_that_there_were() -> None:
    assert shares([BUSY]) == {"reading": 0.125, "decoding": 0.25, "recording": 0.5, "writing": 0.125}
    assert shares([BUSY, HUNGRY]) == {
        "reading": 1 / 12,
        "decoding": 8 / 12,
        "embedding": 0.5 / 12,
        "recording": 2 / 12,
        "writing": 0.5 / 12,
    }
    assert shares([]) == {}


def test_models_that_do_not_wait_are_bound_by_nothing_else() -> None:
    assert described([BUSY]) == "reading 12%, decoding 25%, recording 50%, writing 12%"


def test_what_models_wait_for_is_said_with_what_to_do() -> None:
    assert "Bound by decoding: `--resize 256`" in described([HUNGRY])
    assert "Bound by reading" in described([FAR])


def test_time_in_the_queue_for_a_device_is_not_of_the_pass() -> None:
    queued = Pass("images 0-9", 10, 40.0, {**HUNGRY.seconds, "queueing": 36.0})
    assert "Bound by decoding" in described([queued])


def test_a_row_has_the_rate_and_the_shares() -> None:
    assert BUSY.as_row() == {
        "work": "images 0-99",
        "images": 100,
        "images/s": 25.0,
        "reading": "12%",
        "decoding": "25%",
        "recording": "50%",
        "writing": "12%",
    }
