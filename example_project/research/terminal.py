"""Runs in the terminal: their steps as they move."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from django.core.management.base import OutputWrapper

from baton.models import Hold, WorkflowNode, WorkflowRun

Output = TextIO | OutputWrapper

SHAPES = {
    "pending": "·",
    "available": "○",
    "executing": "▶",
    "snoozed": "z",
    "retryable": "↻",
    "completed": "✓",
    "discarded": "✗",
    "cancelled": "-",
}
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 10


def follow(run: WorkflowRun, out: Output) -> None:
    """Show a run until it is settled, or until Ctrl-C, which leaves it running."""
    started = time.monotonic()
    hinted = False
    try:
        for _ in watch([run], out):
            idle = all(node.attempt == 0 for node in run.steps.values())
            if idle and not hinted and time.monotonic() - started > PATIENCE_SECONDS:
                out.write("No worker has taken a step yet. Is `python manage.py qcluster` running?\n")
                hinted = True
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        out.write(f"No longer watching; run {run.id} goes on.\n")


def watch(runs: Sequence[WorkflowRun], out: Output) -> Iterator[None]:
    """Show runs until all are settled; the caller decides between two looks how long to wait, and whether to go on."""
    show = Redraw(out) if out.isatty() else Lines(out)
    while True:
        for run in runs:
            run.refresh_from_db()
        show(runs)
        if all(run.state != "running" for run in runs):
            return
        yield


class Redraw:
    """The whole table, drawn over the one before."""

    def __init__(self, out: Output) -> None:
        self.out = out
        self.drawn: list[str] = []

    def __call__(self, runs: Sequence[WorkflowRun]) -> None:
        """Draw the runs as they are now, within the window: what is over its edge could not be drawn over."""
        size = shutil.get_terminal_size()
        lines = [line[: size.columns - 1] for run in runs for line in table(run)][: size.lines - 1]
        if lines != self.drawn:
            back = f"\x1b[{len(self.drawn)}F\x1b[J" if self.drawn else ""
            self.out.write(back + "".join(f"{line}\n" for line in lines))
            self.out.flush()
        self.drawn = lines


class Lines:
    """One line for each change, for logs and pipes."""

    def __init__(self, out: Output) -> None:
        self.out = out
        self.started = time.monotonic()
        self.seen: dict[int, tuple[str, int]] = {}

    def __call__(self, runs: Sequence[WorkflowRun]) -> None:
        """Write what changed since the last call."""
        elapsed = time.monotonic() - self.started
        for run in runs:
            for node in run.steps.values():
                now = (node.state, node.attempt)
                if node.state != "pending" and self.seen.get(node.pk) != now:
                    self.out.write(f"{elapsed:6.1f} s  {run.name:<15}{describe(node)}\n")
                self.seen[node.pk] = now
        self.out.flush()


def table(run: WorkflowRun) -> list[str]:
    """Draw a run as a heading and a line for each step."""
    return [f"{run.name} [{run.state}]", *(f"  {describe(node)}" for node in run.steps.values())]


def describe(node: WorkflowNode) -> str:
    """Put a step's state, name and what there is to say of it into a line."""
    return f"{SHAPES[node.state]} {node.state:<10} {node.name:<23} {remark(node)}".rstrip()


def remark(node: WorkflowNode) -> str:
    """Say what matters about a step in its state: why it failed or is held, how far it is, or how long it took."""
    if node.error:
        return f"attempt {node.attempt} of {node.max_attempts}: {node.error}" if node.attempt else node.error
    if node.state == "snoozed" and (hold := Hold.objects.filter(node=node).first()):
        return hold.reason
    if node.state == "executing" and node.progress:
        return progress_of(node)
    if node.state == "completed" and node.started_at and node.finished_at:
        return f"{(node.finished_at - node.started_at).total_seconds():.2f} s"
    return ""


def progress_of(node: WorkflowNode) -> str:
    """Write how far a body says it is."""
    current, total, message = (node.progress.get(key) for key in ("current", "total", "message"))
    return f"{current:g}{f' of {total:g}' if total else ''} {message or ''}"
