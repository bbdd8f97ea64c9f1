"""What a run shows in the terminal: a bar per stage while it works, and a line when it ends."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.engine.pace import Pace
from tasks.printable import printable

#: Seconds between two lines of a stage where the output is no terminal, as in the log of a batch job.
SECONDS_BETWEEN_LINES = 30.0


class TerminalProgress:
    """An observer that draws a bar for the stage at work, or, where there is no terminal, writes a line at times."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._stages: dict[str, Pace] = {}
        self._written = 0.0
        self._bar: Progress | None = None

    def started(self, stage: str, total: int, done: int, unit: str) -> None:
        """Draws the bar."""
        self._stages[stage] = Pace(total, done, unit)
        self._written = time.monotonic()
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
        """Moves the bar, or writes a line where the last one was long ago."""
        at = self._stages[stage]
        at.now += amount
        if self._bar:
            self._bar.update(self._bar.task_ids[0], advance=amount, rate=at.rate)
        elif time.monotonic() - self._written >= SECONDS_BETWEEN_LINES and at.before + at.now < at.total:
            self._written = time.monotonic()
            self.console.print(f"{stage:<17} {at}", highlight=False)

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
