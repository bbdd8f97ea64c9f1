"""What a run shows in the terminal: a bar per stage while it works, and a line when it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tasks.printable import printable


@dataclass
class _Stage:
    total: int
    before: int
    unit: str
    now: int = 0
    began: float = field(default_factory=time.perf_counter)

    @property
    def rate(self) -> str:
        per_second = self.now / max(1e-9, time.perf_counter() - self.began)
        return f"{self.now:,} {self.unit}, {per_second:,.0f}/s" if self.now else self.unit


class TerminalProgress:
    """An observer that draws a bar for the stage at work; the bar is left out where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._stages: dict[str, _Stage] = {}
        self._bar: Progress | None = None

    def started(self, stage: str, total: int, done: int, unit: str) -> None:
        """Draws the bar."""
        self._stages[stage] = _Stage(total, done, unit)
        if done == total or not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self._bar.add_task(f"{stage:<17}", total=total, completed=done, rate=unit)
        self._bar.start()

    def advanced(self, stage: str, amount: int) -> None:
        """Moves the bar."""
        at = self._stages[stage]
        at.now += amount
        if self._bar:
            self._bar.update(self._bar.task_ids[0], advance=amount, rate=at.rate)

    def noted(self, text: str) -> None:
        """Prints it, on a line of its own."""
        self.console.print(f"{'':<17} {printable(text)}", highlight=False, markup=False, emoji=False)

    def finished(self, stage: str, seconds: float) -> None:
        """Puts a line in the bar's place: what was done now, and what before."""
        if self._bar:
            self._bar.stop()
            self._bar = None
        at = self._stages.pop(stage)
        if at.before == at.total:
            text = f"nothing to do: {at.total:,} {at.unit} done before"
        else:
            text = f"{at.rate}, {seconds:.1f} s" + (f" ({at.before:,} done before)" if at.before else "")
        self.console.print(f"{stage:<17} {text}", highlight=False)
