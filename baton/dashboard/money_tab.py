"""The tab of money: what was spent, by model and by step, each call, and what nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _

from baton import money
from baton.dashboard.calls import Call, calls_of
from baton.explain.words import number
from baton.llm import stats

if TYPE_CHECKING:
    from baton.dashboard.page import Look

MOST_CALLS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyTab:
    """What the tab shows."""

    spent: str
    of: str
    left: str
    saved: str
    served: int
    unpriced: int
    unpriced_models: str
    unknown: int
    """How many calls nobody knows the outcome of."""
    by_model: list[dict[str, Any]]
    by_step: list[dict[str, Any]]
    calls: list[tuple[Call, str]]
    """The newest first, each with the address of its step."""
    most: int
    """How many calls are shown where that may not be all; else 0."""
    may_see_calls: bool


def shown(look: Look) -> MoneyTab:
    """Read what the calls of a run took and cost."""
    totals = look.known.totals
    has_unknown = bool(totals["ambiguous"])
    models, steps = (stats.cost_in_run(column, look.run.pk, has_unknown=has_unknown) for column in ("model", "step"))
    calls: list[Call] = []
    if look.may_see_calls:
        calls = calls_of(look.run.pk, most=MOST_CALLS, has_unknown=has_unknown)[::-1]
    currency, budget = totals["currency"], look.run.budget
    return MoneyTab(
        spent=money.total(totals["cost"], totals["unpriced"], currency),
        of="" if budget is None else _("of {budget}").format(budget=money.amount(budget, currency)),
        left="" if budget is None else money.amount(budget - look.known.spent - look.known.reserved, currency),
        saved=money.amount(totals["saved"], currency) if totals["served"] else "",
        served=totals["served"],
        unpriced=totals["unpriced"],
        unpriced_models=", ".join(str(row["model"]) for row in models if row["unpriced"]),
        by_model=_rows(models, "model"),
        by_step=_rows(steps, "step"),
        unknown=totals["ambiguous"],
        calls=[(each, look.address(view="steps", step=each.step)) for each in calls],
        most=MOST_CALLS if len(calls) == MOST_CALLS else 0,
        may_see_calls=look.may_see_calls,
    )


def _rows(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    whole = sum((row["cost"] or Decimal(0) for row in found), Decimal(0))
    return [
        {
            "name": row[name] or "—",
            "calls": number(row["calls"]),
            "tokens_in": number(row["input_tokens"]),
            "tokens_out": number(row["output_tokens"]),
            "cost": money.total(row["cost"], row["unpriced"], row["currency"]),
            "is_unpriced": bool(row["unpriced"]),
            "width": f"{100 * (row['cost'] or 0) / whole:.1f}%" if whole else "0%",
            "share": f"{100 * (row['cost'] or 0) / whole:.0f} %" if whole else "",
        }
        for row in found
    ]
