"""A run as the terminal shows it: its head, its graph, and what has changed since."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from baton.conf import get_settings
from baton.explain.words import between, clock, listed, number
from baton.management.drawing import Group, Waits, draw, folded, in_levels
from baton.management.terminal import Cell, cut, mark, printable, table, width_of, word
from baton.models import WorkflowNode, WorkflowRun
from baton.queries import as_event, edges_of
from baton.states import SETTLED, StepState
from baton.telemetry import timestamp

_PAUSE_SECONDS = 0.5
_REST_FOR_EACH_SECOND_OF_READING = 10
_SHOWN_OF_A_GROUP = 3
_SHOWN_DEPENDENCIES = 3
_WIDEST_NAME = 48
_HEADINGS = ("STEP", "STATE", "ATTEMPT", "STARTED", "TOOK", "")
_UNSAID = frozenset({StepState.PENDING, StepState.AVAILABLE})
_TOLD_OF_A_GROUP = (StepState.DISCARDED, StepState.RETRYABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run and its steps, as they were read."""

    run: WorkflowRun
    nodes: Sequence[WorkflowNode]
    waits: Waits
    now: datetime

    @classmethod
    def of(cls, run: WorkflowRun) -> View:
        """Read the steps of a run, in two queries."""
        nodes = list(_nodes(run).order_by("id"))
        for node in nodes:
            node.run = run
        return cls(run=run, nodes=nodes, waits=edges_of(run.pk), now=timezone.now())

    def head(self, *, width: int | None) -> list[list[Cell]]:
        """Which run it is, how far it is, and what there is to say of it."""
        run = self.run
        headline = printable(run.headline())
        return [
            [mark(run.state), Cell(f" {printable(run.name)}  {run.pk}")],
            [Cell(self._standing())],
            *([Cell(line)] for line in (textwrap.wrap(headline, width) if width else [headline])),
        ]

    def graph(self, *, width: int | None) -> list[list[Cell]]:
        """The steps, with lanes that show what waits for what; with words where the graph is too wide for lanes."""
        lines = self._with_lanes(width) or self._with_words(width)
        return table(lines)

    def document(self) -> dict[str, Any]:
        """Everything, for programs."""
        run = self.run
        names = {node.pk: node.name for node in self.nodes}
        return {
            "run": {
                "id": str(run.pk),
                "name": run.name,
                "key": run.key,
                "state": str(run.state),
                "round": run.round,
                "inserted_at": timestamp(run.inserted_at),
                "finished_at": _moment(run.finished_at),
                "cancelled_at": _moment(run.cancelled_at),
                "cancel_reason": run.cancel_reason,
                "headline": run.headline(),
                "steps": self._counts(),
            },
            "steps": [
                {
                    **as_event(node),
                    "dependencies": [names[each] for each in self.waits.get(node.pk, ()) if each in names],
                    "queue": node.queue,
                    "max_attempts": node.max_attempts,
                    "due_at": _moment(node.due_at),
                    "queued_at": _moment(node.queued_at),
                    "started_at": _moment(node.started_at),
                    "finished_at": _moment(node.settled_at),
                    "worker": node.worker,
                    "progress": node.progress,
                    "attempts": node.attempts,
                }
                for node in self.nodes
            ],
        }

    def _counts(self) -> dict[str, int]:
        counts = Counter(str(node.state) for node in self.nodes)
        return {state: counts[state] for state in StepState.values if state in counts}

    def _standing(self) -> str:
        run, counts = self.run, self._counts()
        settled = sum(count for state, count in counts.items() if state in SETTLED)
        how = "in" if run.is_settled else "for"
        parts = [
            f"{run.state} {how} {between(run.inserted_at, run.finished_at or self.now)}",
            f"{number(settled)} of {number(len(self.nodes))} steps settled",
            f"inserted at {clock(run.inserted_at, now=self.now)}",
        ]
        if run.key is not None:
            parts.append(f"key {printable(run.key)}")
        if run.round > 1:
            parts.append(f"round {run.round}")
        return ", ".join(parts)

    # The graph ----------------------------------------------------------------------------------------------

    def _with_lanes(self, width: int | None) -> list[list[Sequence[Cell]]]:
        rows = draw(self.nodes, self.waits)
        if rows is None:
            return []
        margin = len(rows[0].below) if rows else 0
        lines = [_headings(Cell(" " * (margin + 1)))]
        for row in rows:
            lanes = [Cell(row.before), mark(row.group.state), Cell(f"{row.behind} ")]
            lines.append(self._line_of_group(row.group, lanes, width))
            lines += self._lines_of_members(row.group, [Cell(f"{row.below} ")], width)
        return lines

    def _with_words(self, width: int | None) -> list[list[Sequence[Cell]]]:
        lines = [[[Cell("LEVEL")], *_headings()[:-1], [Cell("AFTER")], [Cell("")]]]
        level = -1
        for group in in_levels(self.nodes, self.waits):
            *columns, note = self._line_of_group(group, [mark(group.state), Cell(" ")], width)
            shown = "" if group.level == level else str(group.level + 1)
            lines.append([[Cell(shown)], *columns, [Cell(_names(group.waits_for))], note])
            members = self._lines_of_members(group, [], width)
            lines += [[[Cell("")], *line[:-1], [Cell("")], line[-1]] for line in members]
            level = group.level
        return lines

    def _line_of_group(self, group: Group, lanes: list[Cell], width: int | None) -> list[Sequence[Cell]]:
        if len(group.nodes) == 1:
            return self._line_of_step(group.nodes[0], lanes, width)
        started = [node.started_at for node in group.nodes if node.started_at]
        ended = [node.settled_at for node in group.nodes if node.settled_at]
        end = max(ended) if len(ended) == len(group.nodes) else self.now
        return [
            [*lanes, Cell(_name(group.name, width))],
            [Cell(f"{number(len(group.nodes))} steps")],
            [],
            [Cell(clock(min(started), now=self.now) if started else "")],
            [Cell(between(min(started), end) if started else "")],
            [Cell(", ".join(f"{number(count)} {state}" for state, count in group.states.items()))],
        ]

    def _lines_of_members(self, group: Group, lanes: list[Cell], width: int | None) -> Iterator[list[Sequence[Cell]]]:
        """The steps of a group of many that went wrong."""
        if len(group.nodes) == 1:
            return
        for state in _TOLD_OF_A_GROUP:
            found = [node for node in group.nodes if node.state == state]
            for node in found[:_SHOWN_OF_A_GROUP]:
                yield self._line_of_step(node, [*lanes, Cell("  "), mark(state), Cell(" ")], width)
            rest = len(found) - _SHOWN_OF_A_GROUP
            if rest > 0:
                yield [[*lanes, Cell(f"    and {number(rest)} more")], [word(state)], [], [], [], []]

    def _line_of_step(self, node: WorkflowNode, lanes: list[Cell], width: int | None) -> list[Sequence[Cell]]:
        return [
            [*lanes, Cell(_name(node.name, width))],
            [word(node.state)],
            [Cell(_attempt(node))],
            [Cell(clock(node.started_at, now=self.now) if node.started_at else "")],
            [Cell(_took(node, self.now))],
            [Cell(_note(node, self.now))],
        ]


def follow(view: View) -> Iterator[View]:
    """Wait for the end of a run, and look at it again every half second, three queries each time.

    Yields:
        The run with the steps that have changed their state since; last of all when the run is settled.
    """
    run = view.run
    seen = {node.pk: (str(node.state), node.fence) for node in view.nodes}
    was_settled = run.is_settled
    while not was_settled:
        began = time.monotonic()
        run.refresh_from_db()
        was_settled = run.is_settled
        found = {
            node_id: (str(state), fence) for node_id, state, fence in _nodes(run).values_list("id", "state", "fence")
        }
        changed = [node_id for node_id, mark_of in found.items() if seen.get(node_id) != mark_of]
        seen = found
        nodes = list(_nodes(run).filter(pk__in=changed).order_by("changed_at", "id")) if changed else []
        yield View(run=run, nodes=nodes, waits={}, now=timezone.now())
        if not was_settled:
            time.sleep(max(_PAUSE_SECONDS, _REST_FOR_EACH_SECOND_OF_READING * (time.monotonic() - began)))


def changes(view: View, *, name_width: int) -> Iterator[list[Cell]]:
    """A line for each step that has changed, or for many alike; nothing of those that wait."""
    for part in folded([node for node in view.nodes if node.state not in _UNSAID]):
        node = part[-1]
        name = cut(printable(Group(nodes=part, level=0, waits_for=()).name), _WIDEST_NAME)
        padding = " " * (name_width - width_of(name))
        said = [f"{number(len(part))} steps"] if len(part) > 1 else [_attempt(node), _took(node, view.now)]
        said += [_note(node, view.now)] if len(part) == 1 else []
        yield [
            Cell(f"{clock(node.changed_at, now=view.now)}  "),
            mark(node.state),
            Cell(f" {name}{padding}  "),
            word(node.state),
            Cell("".join(f"  {text}" for text in said if text)),
        ]


def name_width(view: View) -> int:
    """How wide the names of a run's steps are."""
    return max((width_of(cut(printable(node.name), _WIDEST_NAME)) for node in view.nodes), default=0)


def _nodes(run: WorkflowRun) -> Any:
    return (
        WorkflowNode.objects.using(get_settings().database)
        .of_workflow(run.pk)
        .defer("args", "refs", "options", "result_json")
    )


# Words ----------------------------------------------------------------------------------------------------------


def _headings(*lanes: Cell) -> list[Sequence[Cell]]:
    first, *others = _HEADINGS
    return [[*lanes, Cell(first)], *([Cell(heading)] for heading in others)]


def _name(name: str, width: int | None) -> str:
    return printable(name) if width is None else cut(printable(name), _WIDEST_NAME)


def _names(groups: Sequence[Group]) -> str:
    names = [printable(group.name) for group in groups[:_SHOWN_DEPENDENCIES]]
    if rest := len(groups) - len(names):
        names.append(f"{number(rest)} more")
    return listed(names)


def _attempt(node: WorkflowNode) -> str:
    return f"{node.attempt}/{node.max_attempts}" if node.attempt else ""


def _took(node: WorkflowNode, now: datetime) -> str:
    if node.started_at is None:
        return ""
    if node.state == StepState.EXECUTING:
        return between(node.started_at, now)
    return between(node.started_at, node.settled_at) if node.settled_at else ""


def _note(node: WorkflowNode, now: datetime) -> str:
    note = ""
    match node.state:
        case StepState.PENDING if node.n_deps > 1:
            note = f"waits for {number(node.remaining)} of {number(node.n_deps)}"
        case StepState.AVAILABLE if node.queued_at:
            note = f"ready for {between(node.queued_at, now)} in queue {printable(node.queue)}"
        case StepState.EXECUTING:
            note = ", ".join(filter(None, (f"on {printable(node.worker)}", _progress(node))))
        case StepState.SNOOZED:
            note = f"until {clock(node.due_at, now=now)}" if node.due_at else "held"
        case StepState.RETRYABLE:
            note = f"again at {clock(node.due_at, now=now)}: {printable(node.error)}"
        case StepState.DISCARDED | StepState.CANCELLED:
            note = printable(node.error)
    return note


def _progress(node: WorkflowNode) -> str:
    told = node.progress
    if not isinstance(told, dict):
        return ""
    text = str(told.get("current"))
    if told.get("total") is not None:
        text += f" of {told['total']}"
    return printable(f"{text}: {told['message']}" if told.get("message") else text)


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)
