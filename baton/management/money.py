"""The money of a run as the terminal shows it: what its calls cost, by model and by step, and what nobody knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.utils import timezone

from baton import money
from baton.conf import get_settings
from baton.engine.accounts import balance, run_account
from baton.explain.words import clock, duration, number
from baton.llm import stats
from baton.management.terminal import Cell, cut, printable, table
from baton.models import WorkflowRun
from baton.states import Resolution
from baton.telemetry import timestamp

_SHOWN = 100
_TOKENS = ("input_tokens", "output_tokens")
_WIDEST = 40
_WARNING = "WARNING"
_OF_GROUPS = ("CALLS", "INPUT", "CACHED", "OUTPUT", "COST")
_OF_CALLS = ("AT", "STEP", "KEY", "ATTEMPT", "MODEL", "INPUT", "OUTPUT", "TOOK", "OUTCOME", "COST", "")
_RIGHT = frozenset({"CALLS", "INPUT", "CACHED", "OUTPUT", "ATTEMPT"})
_FOLLOWS = {"": "nothing has followed yet", Resolution.REPAY: "called again", Resolution.FAIL: "failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyView:
    """What the calls of a run took and cost, as it was read."""

    totals: Mapping[str, Any]
    budget: Decimal | None
    reserved: Decimal
    models: Sequence[Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]
    calls: Sequence[Mapping[str, Any]]
    unknown: Sequence[Mapping[str, Any]]
    now: datetime

    @classmethod
    def of(cls, run: WorkflowRun, *, is_whole: bool = False) -> MoneyView:
        """Read the money of a run, in nine queries.

        Args:
            run: The run.
            is_whole: Read every call, and not only the newest.
        """
        _, reserved = balance(run_account(run.pk), using=get_settings().database)
        return cls(
            totals=stats.workflow_totals(run),
            budget=run.budget,
            reserved=reserved,
            models=stats.cost_by_model(run=run),
            steps=stats.cost_by_step(run=run),
            calls=stats.steps_for_workflow(run, limit=None if is_whole else _SHOWN),
            unknown=stats.unknown_outcomes(run),
            now=timezone.now(),
        )

    def document(self) -> dict[str, Any]:
        """Everything, for programs; amounts are text, so that none is rounded."""
        return {
            "totals": _plain(self.totals),
            "budget": _plain(self.budget),
            "reserved": _plain(self.reserved),
            "models": _plain(self.models),
            "steps": _plain(self.steps),
            "calls": _plain(self.calls),
            "unknown_outcomes": _plain(self.unknown),
        }

    def lines(self) -> Iterator[list[Cell]]:
        """The totals, then what each model, each step and each call took."""
        yield from table(list(self._totals()))
        if not self.models:
            return
        for title, column, rows in (("MODEL", "model", self.models), ("STEP", "step", self.steps)):
            yield []
            yield from _aligned((title, *_OF_GROUPS), [_group(row, column) for row in rows])
        calls = [*map(self._call, self.calls), *map(self._unknown, self.unknown[:_SHOWN])]
        yield []
        yield from _aligned(_OF_CALLS, [row for _, row in sorted(calls, key=lambda each: each[0])])
        listed = sum(each["count"] if each["from_ledger"] else 1 for each in self.calls)
        more = self.totals["calls"] + self.totals["served"] - listed
        if more > 0 or len(self.unknown) > _SHOWN:
            yield [Cell("Only the newest are shown; all of them with --json.")]

    def _totals(self) -> Iterator[list[Cell]]:
        totals = self.totals
        currency = totals["currency"]
        yield [Cell("cost"), Cell(money.total(totals["cost"], totals["unpriced"], currency), _role(totals["unpriced"]))]
        if self.budget is not None or self.reserved:
            budget = "none" if self.budget is None else money.amount(self.budget, currency)
            reserved = f", {money.amount(self.reserved, currency)} of it reserved" if self.reserved else ""
            yield [Cell("budget"), Cell(f"{budget}{reserved}")]
        yield [Cell("calls"), Cell(_calls(totals))]
        yield [Cell("tokens"), Cell(_tokens(totals))]
        if self.unknown:
            count = number(len(self.unknown))
            yield [Cell("unknown"), Cell(f"{count} of unknown outcome, in no sum: they may have been paid", _WARNING)]

    def _call(self, call: Mapping[str, Any]) -> tuple[datetime, list[str]]:
        currency = call["currency"]
        if call["from_ledger"]:
            outcome, note = (
                f"from the ledger, {number(call['count'])} times" if call["count"] > 1 else "from the ledger",
                f"saved {money.amount(call['saved'], currency)}",
            )
        else:
            outcome, note = "answered", printable(call["unpriced_because"]) if call["cost"] is None else ""
        tokens = ["not told" if call[name] is None else number(call[name]) for name in _TOKENS]
        took = "" if call["duration"] is None else duration(call["duration"])
        if call["from_ledger"]:
            tokens, took = ["", ""], ""
        cost = "" if call["from_ledger"] else money.amount(call["cost"], currency)
        return call["at"], [*self._head(call, call["at"]), *tokens, took, outcome, cost, note]

    def _unknown(self, call: Mapping[str, Any]) -> tuple[datetime, list[str]]:
        currency, reserved = self.totals["currency"], call["reserved"]
        note = _FOLLOWS.get(call["resolution"], call["resolution"])
        if reserved is not None:
            note += f"; {money.amount(reserved, currency)} reserved"
        return call["started_at"], [
            *self._head(call, call["started_at"]),
            "",
            "",
            "",
            "unknown outcome",
            "unknown",
            note,
        ]

    def _head(self, call: Mapping[str, Any], at: datetime) -> list[str]:
        step, key, model = (cut(printable(call[name]), _WIDEST) for name in ("step_name", "key", "model"))
        return [clock(at, now=self.now), step, key, number(call["attempt"]), model]


def _calls(totals: Mapping[str, Any]) -> str:
    text = number(totals["calls"])
    if not totals["served"]:
        return text
    answers = "1 answer" if totals["served"] == 1 else f"{number(totals['served'])} answers"
    saved = money.total(
        totals["saved"] if totals["served"] > totals["served_unpriced"] else None,
        totals["served_unpriced"],
        totals["currency"],
    )
    return f"{text}, and {answers} from the ledger, which saved {saved}"


def _tokens(totals: Mapping[str, Any]) -> str:
    cached, written = totals["cached_input_tokens"], totals["cache_write_tokens"]
    parts = [f"{number(cached)} from a cache"] * bool(cached) + [f"{number(written)} into a cache"] * bool(written)
    reasoning = totals["reasoning_tokens"]
    of_output = [f"{number(reasoning)} of reasoning"] * bool(reasoning)
    taken, given = number(totals["input_tokens"]), number(totals["output_tokens"])
    return f"{taken} of input{_in_brackets(parts)}, {given} of output{_in_brackets(of_output)}"


def _in_brackets(parts: Sequence[str]) -> str:
    return f" ({', '.join(parts)})" if parts else ""


def _group(row: Mapping[str, Any], column: str) -> list[str]:
    cost = money.total(row["cost"], row["unpriced"], row["currency"]) if row["calls"] else ""
    counts = (row[name] for name in ("calls", "input_tokens", "cached_input_tokens", "output_tokens"))
    unknown = f"{number(row['ambiguous'])} of unknown outcome" if row["ambiguous"] else ""
    name = cut(printable(row[column]), 2 * _WIDEST)
    return [name, *map(number, counts), ", ".join(filter(None, (cost, unknown)))]


def _aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[Cell]]:
    """A table whose numbers stand at the right."""
    columns = [
        [cell.rjust(max(map(len, column))) if column[0] in _RIGHT else cell for cell in column]
        for column in zip(headings, *rows, strict=True)
    ]
    is_worth_a_look = ("unpriced", "unknown")
    return table([
        [Cell(cell, _role(any(word in cell for word in is_worth_a_look)) if place >= len(row) - 3 else "")
         for place, cell in enumerate(row)]
        for row in zip(*columns, strict=True)
    ])  # fmt: skip


def _role(is_worth_a_look: object) -> str:
    return _WARNING if is_worth_a_look else ""


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return f"{value:f}"
        case datetime():
            return timestamp(value)
        case Mapping():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
    return value
