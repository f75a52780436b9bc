"""The tab of money: what was spent, by model and by step, each call, and what nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from baton import money
from baton.dashboard.calls import Call, calls_of, saved_of
from baton.dashboard.look import Look
from baton.dashboard.shown import admin_address, not_known, permission_needed
from baton.explain.words import number
from baton.llm import stats

MOST_CALLS = 200
_MOST_NAMED_STEPS = 300
_MOST_ROWS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyTab:
    """What the tab shows."""

    left: str
    """What of the budget is left, and what calls under way or without a price keep of it; empty without a budget."""
    at_end: str
    """About what it costs at the end; empty where nobody knows."""
    basis: str
    saved: str
    served: int
    unpriced: int
    unpriced_models: str
    unknown: int
    """How many calls nobody knows the outcome of."""
    by_model: list[dict[str, Any]]
    by_step: list[dict[str, Any]]
    more_steps: int
    """How many of the cheaper steps are not listed."""
    calls: list[tuple[Call, str]]
    """The newest first, each with the address of its step."""
    count: str
    csv: str
    """The address of all calls as a table; empty for who may not see them."""
    needed: str
    """What somebody lacks who may not."""


def shown(look: Look) -> MoneyTab:
    """Read what the calls of a run took and cost."""
    run, totals = look.run, look.known.totals
    has_unknown = bool(totals["ambiguous"])
    # In a large run, the steps of one function together.
    column = "step_name" if look.known.steps <= _MOST_NAMED_STEPS else "step"
    models, steps = (stats.cost_in_run(each, run.pk, has_unknown=has_unknown) for each in ("model", column))
    calls: list[Call] = []
    if look.may_see_calls:
        calls = calls_of(run.pk, most=MOST_CALLS)[::-1]
    currency, budget = totals["currency"], run.budget
    at_end = look.usual.cost_at_end_of(run, totals)
    return MoneyTab(
        left="" if budget is None else _left(budget, look, currency),
        at_end="" if at_end is None else money.amount(at_end, currency),
        basis=look.usual.basis_of_cost,
        saved=saved_of(totals),
        served=totals["served"],
        unpriced=totals["unpriced"],
        unpriced_models=", ".join(str(row["model"] or not_known()) for row in models if row["unpriced"]),
        unknown=totals["ambiguous"],
        by_model=_rows(models, "model"),
        by_step=[
            {**row, "address": look.address(step=row["name"]) if column == "step_name" else ""}
            for row in _rows(steps[:_MOST_ROWS], column)
        ],
        more_steps=max(0, len(steps) - _MOST_ROWS),
        calls=[(each, look.address(step=each.step)) for each in calls],
        count=_count(len(calls)),
        csv=admin_address("workflowrun_calls", run.pk) if look.may_see_calls else "",
        needed="" if look.may_see_calls else permission_needed("view_stepstat"),
    )


def _count(listed: int) -> str:
    if listed == MOST_CALLS:
        return _("the newest {count}").format(count=number(listed))
    return number(listed)


def _left(budget: Decimal, look: Look, currency: str) -> str:
    spent, reserved = look.known.spent, look.known.reserved
    left = money.short(budget - spent - reserved, currency)
    if not reserved:
        return _("{left} left").format(left=left)
    return _("{reserved} reserved, {left} left").format(reserved=money.short(reserved, currency), left=left)


def _rows(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    whole = sum((row["cost"] or Decimal(0) for row in found), Decimal(0))
    return [
        {
            "name": row[name] or not_known(),
            "calls": number(row["calls"]),
            "tokens_in": number(row["input_tokens"]),
            "tokens_out": number(row["output_tokens"]),
            "cost": _paid(row),
            "is_unpriced": bool(row["unpriced"] or row["ambiguous"]),
            "width": f"{100 * (row['cost'] or 0) / whole:.1f}%" if whole else "0%",
            "share": f"{100 * row['cost'] / whole:.0f} %" if whole and row["cost"] is not None else "",
        }
        for row in found
    ]


def _paid(row: dict[str, Any]) -> str:
    """What calls cost; of those of unknown outcome it is only said that there are some, for they were not free."""
    cost = money.total(row["cost"], row["unpriced"], row["currency"])
    if not row["ambiguous"]:
        return cost
    unknown = _("{count} of unknown outcome").format(count=number(row["ambiguous"]))
    return f"{cost}, {unknown}" if row["calls"] else unknown
