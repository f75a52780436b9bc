"""The tab of money: what was spent, by model and by step, each call, and what nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _

from baton import money
from baton.conf import get_settings
from baton.explain.words import duration, number
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
    unknown: list[dict[str, Any]]
    by_model: list[dict[str, Any]]
    by_step: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    is_cut: bool
    may_see_calls: bool


def shown(look: Look) -> MoneyTab:
    """Read what the calls of a run took and cost."""
    totals = look.known.totals
    has_unknown = bool(totals["ambiguous"])
    models, steps = (stats.cost_in_run(column, look.run.pk, has_unknown=has_unknown) for column in ("model", "step"))
    calls = stats.steps_for_workflow(look.run.pk, limit=MOST_CALLS + 1) if look.may_see_calls else []
    currency, budget = totals["currency"], look.run.budget
    return MoneyTab(
        spent=money.total(totals["cost"], totals["unpriced"], currency),
        of="" if budget is None else _("of {budget}").format(budget=money.amount(budget, currency)),
        left="" if budget is None else money.amount(budget - look.known.spent - look.known.reserved, currency),
        saved=money.amount(totals["saved"], currency) if totals["served"] else "",
        served=totals["served"],
        unpriced=totals["unpriced"],
        unpriced_models=", ".join(str(row["model"]) for row in models if row["unpriced"]),
        unknown=[_unknown(each) for each in (stats.unknown_outcomes(look.run.pk) if has_unknown else ())],
        by_model=_rows(models, "model"),
        by_step=_rows(steps, "step"),
        calls=[_call(look, each) for each in calls[:MOST_CALLS]],
        is_cut=len(calls) > MOST_CALLS,
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


def _call(look: Look, call: Mapping[str, Any]) -> dict[str, Any]:
    is_served = call["from_ledger"]
    cost = money.amount(call["saved"] if is_served else call["cost"], call["currency"])
    tokens = call["input_tokens"] is not None and not is_served
    return {
        "at": call["at"],
        "step": call["step_name"],
        "address": look.address(view="steps", step=call["step_name"]),
        "model": call["model"] or "—",
        "outcome": _("from ledger") if is_served else _("ok"),
        "tokens_in": number(call["input_tokens"]) if tokens else "",
        "tokens_out": number(call["output_tokens"] or 0) if tokens else "",
        "took": "" if call["duration"] is None or is_served else duration(call["duration"]),
        "cost": _("saved {amount}").format(amount=cost) if is_served else cost,
        "is_unpriced": call["cost"] is None and not is_served,
        "note": call["unpriced_because"],
    }


def _unknown(call: Mapping[str, Any]) -> dict[str, Any]:
    held = money.amount(call["reserved"], get_settings().currency) if call["reserved"] else ""
    return {
        "at": call["started_at"],
        "step": call["step_name"],
        "key": call["key"],
        "model": call["model"] or "—",
        "held": _("{amount} reserved").format(amount=held) if held else "",
    }
