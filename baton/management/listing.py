"""Runs as the terminal lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils import timezone

from baton.explain.words import between, number
from baton.management.terminal import Cell, cut, mark, printable, table, word
from baton.queries import RunPage, short_ids
from baton.states import SETTLED
from baton.telemetry import timestamp

_HEADINGS = ("RUN", "NAME", "KEY", "STATE", "STEPS", "INSERTED", "TOOK")
_WIDEST_NAME, _WIDEST_KEY = 40, 24


def lines_of(page: RunPage, *, width: int | None) -> Iterator[list[Cell]]:
    """A table of the runs of a page, how many there are, and how to come to the next page.

    Args:
        page: The page.
        width: How wide the terminal is; None where nothing is to be cut.
    """
    if page.runs:
        short, now = short_ids([UUID(run["id"]) for run in page.runs]), timezone.now()
        yield from table([
            [Cell(heading) for heading in _HEADINGS],
            *(_row(run, short[UUID(run["id"])], now, is_cut=width is not None) for run in page.runs),
        ])  # fmt: skip
        yield []
    yield [Cell(", ".join(f"{number(count)} {state}" for state, count in page.counts.items()))]
    if page.next:
        yield [Cell(f"Older runs: the same command with --after {page.next}")]


def document_of(page: RunPage) -> dict[str, Any]:
    """The page, for programs."""
    runs = [
        {
            **run,
            "inserted_at": timestamp(run["inserted_at"]),
            "finished_at": run["finished_at"] and timestamp(run["finished_at"]),
        }
        for run in page.runs
    ]
    return {"runs": runs, "counts": page.counts, "next": page.next}


def _row(run: Mapping[str, Any], short_id: str, now: datetime, *, is_cut: bool) -> list[Cell | list[Cell]]:
    name, key = printable(run["name"]), printable(run["key"])
    settled = sum(count for state, count in run["steps"].items() if state in SETTLED)
    return [
        Cell(short_id),
        Cell(cut(name, _WIDEST_NAME) if is_cut else name),
        Cell(cut(key, _WIDEST_KEY) if is_cut else key),
        [mark(run["state"]), Cell(" "), word(run["state"])],
        Cell(f"{number(settled)}/{number(sum(run['steps'].values()))}"),
        Cell(f"{timezone.localtime(run['inserted_at']):%Y-%m-%d %H:%M:%S}"),
        Cell(between(run["inserted_at"], run["finished_at"] or now)),
    ]
