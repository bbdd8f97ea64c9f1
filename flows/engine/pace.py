"""How far a stage is, how fast it goes, and when it will have ended, in words."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

#: Seconds of the units that a time left is given in, the longest first.
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclass
class Pace:
    """A stage of `total` units, of which `before` were done before it began and `now` since then."""

    total: int
    before: int
    unit: str
    now: int = 0
    began: float = field(default_factory=time.perf_counter)

    @property
    def per_second(self) -> float:
        """Units that were done a second, since the stage began."""
        return self.now / max(1e-9, time.perf_counter() - self.began)

    @property
    def rate(self) -> str:
        """What was done now: `48 images, 41/s`."""
        return f"{self.now:,} {self.unit}, {_rate(self.per_second)}" if self.now else self.unit

    def __str__(self) -> str:
        """`12,800 of 50,000 images, 41/s, 15 min left`; no rate where nothing is known of it."""
        done = self.before + self.now
        text = f"{done:,} of {self.total:,} {self.unit}"
        if self.now <= 0 or done >= self.total:
            return text
        return f"{text}, {_rate(self.per_second)}, {time_left((self.total - done) / self.per_second)} left"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:,.1f}/s"


def time_left(seconds: float) -> str:
    """A time in one or two units: `40 s`, `15 min`, `2 h 5 min`, `3 d 4 h`."""
    left = max(1, round(seconds))
    if left >= 60:
        left = -(-left // 60) * 60
    parts: list[str] = []
    for length, name in UNITS:
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {name}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)
