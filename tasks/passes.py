"""What a pass over images spent its time on, and what it was bound by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

#: What the time of a pass goes into. Stages run side by side, so their seconds may be more than those of the pass.
STAGES = ("reading", "decoding", "embedding", "recording", "writing")
#: A pass whose models wait longer than this share of their time is bound by what feeds them.
BOUND = 0.3


@dataclass(frozen=True)
class Pass:
    """One task's pass over some images."""

    work: str
    num_images: int
    #: From its start to its end.
    duration: float
    #: Of work by stage, summed over threads; `waiting` of models for images, `queueing` for the device.
    seconds: dict[str, float] = field(hash=False)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.num_images / max(self.duration, 1e-9)

    def as_row(self) -> dict[str, Any]:
        """A row of a table: images, images a second, and the share of its work that each stage was."""
        row = {"work": self.work, "images": self.num_images, "images/s": round(self.rate, 1)}
        return row | {stage: f"{share:.0%}" for stage, share in shares([self]).items()}


def shares(passes: Sequence[Pass]) -> dict[str, float]:
    """The share of all work that each stage was, of those that there were."""
    seconds = {stage: sum(one.seconds.get(stage, 0.0) for one in passes) for stage in STAGES}
    total = sum(seconds.values())
    return {stage: value / total for stage, value in seconds.items() if total and value}


def described(passes: Sequence[Pass]) -> str:
    """Shares of the work in words, and where models waited for images, what to do."""
    found = shares(passes)
    text = ", ".join(f"{stage} {share:.0%}" for stage, share in found.items())
    active = sum(one.duration - one.seconds.get("queueing", 0.0) for one in passes)
    waiting = sum(one.seconds.get("waiting", 0.0) for one in passes)
    if waiting <= BOUND * active:
        return text
    if found.get("reading", 0.0) > found.get("decoding", 0.0):
        return (
            f"{text}. Bound by reading: put the shards nearer to the machine, or read more side by side (--workers)."
        )
    return (
        f"{text}. Bound by decoding: `--resize 256` stores smaller images once for all later passes, and more cores "
        "decode more."
    )
