"""What calls of language models took and cost: each call, the ledger that keeps them, and the sums on other pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _

from baton import money
from baton.admin import display
from baton.admin.base import ReadOnlyAdmin
from baton.admin.filters import ModelFilter, PriceFilter, ProviderFilter
from baton.conf import get_settings
from baton.dashboard.calls import Call, calls_of, saved_of
from baton.engine.accounts import balance, run_account
from baton.explain.words import between, duration, number
from baton.llm import stats
from baton.models import LedgerEntry, StepStat, WorkflowNode, WorkflowRun

_MOST_CALLS = 50
_NOT_SHOWN = (
    "run__meta", *(f"node__{name}" for name in (
        "args", "refs", "options", "result_json", "error", "attempt_log", "progress",
    )),
)  # fmt: skip


class _OfAStep(ReadOnlyAdmin):
    """Rows of a step."""

    list_select_related = ("run", "node")
    search_fields = ("key", "model", "provider")
    search_help_text = _("The beginning of a run's id, or a part of the key, the model or the provider")
    run_lookup = "run_id"
    ordering = ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With run and step, whose names both pages show."""
        return super().get_queryset(request).select_related("run", "node").defer(*_NOT_SHOWN)

    @admin.display(description=_("run"))
    def run_link(self, row: Any) -> Any:
        """The run."""
        return display.link_to(row.run, row.run)

    @admin.display(description=_("step"))
    def node_link(self, row: Any) -> Any:
        """The step."""
        return display.link_to(row.node, row.node.name)


@admin.register(StepStat)
class StepStatAdmin(_OfAStep):
    """Calls that were paid for, and answers that were taken from the ledger instead."""

    list_display = ("called", "model_shown", "provider", "node_link", "run_link", "tokens", "cost_shown")
    list_filter = ("from_ledger", PriceFilter, ModelFilter, ProviderFilter, "at")
    list_defer = ("unit_prices", "context", *_NOT_SHOWN)
    fieldsets = (
        (None, {"fields": ("run_link", "node_link", "attempt", "key", "provider", "model", "called", "took")}),
        (
            _("Tokens"),
            {
                "fields": (
                    "input_tokens",
                    "cached_input_tokens",
                    "cache_write_tokens",
                    "output_tokens",
                    "reasoning_tokens",
                )
            },
        ),
        (
            _("Price"),
            {
                "fields": (
                    "cost_shown",
                    "exact_cost",
                    "unpriced_because",
                    "prices_shown",
                    "price_source",
                    "price_version",
                    "context_shown",
                )
            },
        ),
        (_("Ledger"), {"fields": ("from_ledger", "count", "entry")}),
    )

    called = staticmethod(display.time(StepStat, "at"))

    @admin.display(description=_("model"), ordering="model")
    def model_shown(self, stat: StepStat) -> str:
        """The model."""
        return stat.model or display.NOTHING

    @admin.display(description=_("tokens in and out"))
    def tokens(self, stat: StepStat) -> str:
        """What went in and what came out."""
        if stat.input_tokens is None or stat.output_tokens is None:
            return _now("not told")
        return f"{number(stat.input_tokens)} / {number(stat.output_tokens)}"

    @admin.display(description=_("cost"), ordering=F("cost").desc(nulls_last=True))
    def cost_shown(self, stat: StepStat) -> str:
        """What it cost; of an answer from the ledger, what it saved."""
        shown = money.amount(stat.cost, stat.currency)
        return _now("saved {amount}").format(amount=shown) if stat.from_ledger else shown

    @admin.display(description=_("to the last digit"))
    def exact_cost(self, stat: StepStat) -> str:
        """The same, not rounded."""
        return display.NOTHING if stat.cost is None else f"{stat.cost:f} {stat.currency}"

    @admin.display(description=_("took"), ordering="duration")
    def took(self, stat: StepStat) -> str:
        """How long the call took."""
        return display.NOTHING if stat.duration is None else duration(stat.duration)

    @admin.display(description=_("unit prices"))
    def prices_shown(self, stat: StepStat) -> Any:
        """Per million tokens."""
        return display.as_json(stat.unit_prices) if stat.unit_prices else display.NOTHING

    @admin.display(description=_("context"))
    def context_shown(self, stat: StepStat) -> Any:
        """What the price may depend on."""
        return display.as_json(stat.context) if stat.context else display.NOTHING


@admin.register(LedgerEntry)
class LedgerEntryAdmin(_OfAStep):
    """The ledger. An answer is as sensitive as a prompt: it needs ``baton.view_debuglog`` besides."""

    list_display = ("key", "number", "state_shown", "model", "provider", "node_link", "run_link", "started", "took")
    list_filter = ("state", "is_call", ModelFilter, ProviderFilter, "started_at")
    list_defer = ("answer", "error", *_NOT_SHOWN)

    started = staticmethod(display.time(LedgerEntry, "started_at"))
    ended = staticmethod(display.time(LedgerEntry, "ended_at"))

    def get_fieldsets(self, request: HttpRequest, obj: LedgerEntry | None = None) -> Any:
        """What there is to see of a call; its answer for those who may see prompts."""
        parts: list[tuple[Any, tuple[str, ...]]] = [
            (None, ("run_link", "node_link", "key", "number", "state_shown", "whole_error", "provider", "model")),
            (_("Execution"), ("attempt", "fence", "started", "ended", "took", "idempotency_key")),
            (_("Unknown outcome"), ("resolution", "resolved_by", "is_retired")),
            (_("Budget"), ("reserved_shown", "is_estimate", "accounts")),
        ]
        if _may_see_answers(request):
            parts.append((_("Answer"), ("answer_type", "answer_shown")))
        return [(title, {"fields": fields}) for title, fields in parts]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Without the answers, where nobody may see them."""
        rows = super().get_queryset(request)
        return rows if _may_see_answers(request) else rows.defer("answer", *_NOT_SHOWN)

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        """Nobody looks for what an answer says by the address of the list."""
        return lookup.partition("__")[0] != "answer" and super().lookup_allowed(lookup, value, request)

    @admin.display(description=_("state"), ordering="state")
    def state_shown(self, entry: LedgerEntry) -> str:
        """What became of it."""
        return str(entry.get_state_display())

    @admin.display(description=_("took"))
    def took(self, entry: LedgerEntry) -> str:
        """How long the call took."""
        return between(entry.started_at, entry.ended_at) if entry.ended_at else display.NOTHING

    @admin.display(description=_("error"))
    def whole_error(self, entry: LedgerEntry) -> Any:
        """What went wrong."""
        return display.code(entry.error) if entry.error else display.NOTHING

    @admin.display(description=_("reserved"))
    def reserved_shown(self, entry: LedgerEntry) -> str:
        """What budgets still hold for it."""
        return display.NOTHING if entry.reserved is None else money.amount(entry.reserved, get_settings().currency)

    @admin.display(description=_("answer"))
    def answer_shown(self, entry: LedgerEntry) -> Any:
        """What came back."""
        return display.NOTHING if entry.answer is None else display.as_stored_json(entry.answer)


def money_of(run: WorkflowRun, *, names_calls: bool = True) -> Any:
    """What the calls of a run took and cost, in six queries; perhaps with each of those of unknown outcome."""
    models = stats.cost_by_model(run=run)
    if not models and run.budget is None:
        return display.NOTHING
    totals = stats.workflow_totals(run)
    currency = totals["currency"]
    _spent, reserved = balance(run_account(run.pk), using=get_settings().database)
    unknown = [Call.unknown(each) for each in stats.unknown_outcomes(run)]
    return display.rendered(
        "money.html",
        total=_sums(totals),
        budget=None if run.budget is None else money.short(run.budget, currency),
        reserved=money.short(reserved, currency) if reserved else "",
        models=[_sums(row) | {"model": row["model"] or display.NOTHING} for row in models],
        unknown=unknown[:_MOST_CALLS] if names_calls else [],
        unknown_count=number(len(unknown)) if unknown else "",
    )


def calls_shown(node: WorkflowNode) -> Any:
    """The newest calls of a step, in two queries; nothing of what they said."""
    calls = calls_of(node.run_id, node_id=node.pk, most=_MOST_CALLS)
    if not calls:
        return display.NOTHING
    return display.rendered("calls.html", calls=calls, most=_MOST_CALLS if len(calls) == _MOST_CALLS else 0)


def _sums(totals: Mapping[str, Any]) -> dict[str, Any]:
    is_known = totals["calls"] or not totals["ambiguous"]
    return {
        "calls": number(totals["calls"]),
        "input": number(totals["input_tokens"]),
        "cached": number(totals["cached_input_tokens"]),
        "output": number(totals["output_tokens"]),
        "cost": money.total(totals["cost"], totals["unpriced"], totals["currency"]) if is_known else display.NOTHING,
        "served": number(totals["served"]),
        "saved": saved_of(totals),
        "ambiguous": number(totals["ambiguous"]) if totals["ambiguous"] else "",
    }


def _may_see_answers(request: HttpRequest) -> bool:
    return request.user.has_perm("baton.view_debuglog")
