"""Runs: what goes on in them, and the two things that people do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from math import ceil
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import Case, Count, F, QuerySet, When, Window
from django.db.models.functions import Length, RowNumber
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from baton import money
from baton.admin import acting, deciding, display
from baton.admin.base import ReadOnlyAdmin
from baton.admin.filters import NameFilter
from baton.admin.money import money_of
from baton.conf import get_settings
from baton.dashboard import changes
from baton.dashboard.calls import costs_of
from baton.dashboard.calls_csv import answer_with_csv
from baton.dashboard.graph_tab import taste_of
from baton.dashboard.known import step_that_asks, with_known
from baton.dashboard.now import now_page
from baton.dashboard.page import run_page
from baton.dashboard.shown import permission_needed, who
from baton.dashboard.strip import strip_of
from baton.explain.cancels import BY_DEPENDENCY
from baton.explain.words import between, first_line, number
from baton.models import Completion, Hold, StepStat, WorkflowNode, WorkflowRun
from baton.states import FAILED, RunState, StepState

_LARGEST_META = 4000
_LONGEST_ID = 40


@admin.register(WorkflowRun)
class WorkflowRunAdmin(ReadOnlyAdmin):
    """Runs."""

    list_display = ("name_shown", "state_shown", "progress_shown", "inserted", "took", "cost")
    list_filter = ("state", NameFilter, "inserted_at")
    list_defer = ("meta",)
    search_fields = ("name", "key")
    search_help_text = _("The beginning of an id, or a part of a name or key")
    run_lookup = "id"
    ordering = ("-inserted_at", "-id")
    actions = ("cancel_runs", "retry_runs")
    fieldsets = (
        (
            None,
            {"fields": ("state_shown", "progress_shown", "steps_by_state", "inserted", "finished", "took", "endings")},
        ),
        (_("Money"), {"fields": ("money_shown",)}),
        (_("Identity"), {"fields": ("id", "name", "key", "round", "meta_shown")}),
        (_("Options"), {"fields": ("ignore_discarded", "ignore_cancelled", "debug", "trace")}),
    )

    finished = staticmethod(display.time(WorkflowRun, "finished_at"))

    def has_control_permission(self, request: HttpRequest) -> bool:
        """Who may cancel and retry."""
        return self.has_view_permission(request) and request.user.has_perm("baton.control_workflowrun")

    def get_urls(self) -> list[URLPattern]:
        """The pages of a run, and those that ask before they act."""
        return [
            self._page("now/", self.now_view, "now"),
            self._page("<uuid:run_id>/changes/", self.changes_view, "changes"),
            self._page("<uuid:run_id>/calls.csv", self.calls_view, "calls"),
            self._page("<uuid:run_id>/cancel/", self.cancel_view, "cancel"),
            self._page("<uuid:run_id>/budget/", self.budget_view, "budget"),
            self._page("<uuid:run_id>/decide/", self.decide_view, "decide"),
            self._page("<uuid:run_id>/retry/", self.retry_view, "retry"),
            *super().get_urls(),
        ]

    def _page(self, address: str, view: Callable[..., HttpResponseBase], name: str) -> URLPattern:
        """A page of ours, which says in the admin's frame what somebody lacks who may not see it."""

        @wraps(view)
        def shown(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
            try:
                return view(request, **kwargs)
            except PermissionDenied as exc:
                return self._refused(request, exc)

        return path(address, self.admin_site.admin_view(shown), name=f"baton_workflowrun_{name}")

    def _refused(self, request: HttpRequest, why: PermissionDenied) -> HttpResponse:
        if not why.args:
            raise why
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Not allowed"),
            "sentence": str(why),
            "opts": self.opts,
            "has_list_breadcrumbs": display.HAS_LIST_BREADCRUMBS,
            "media": self.media,
        }
        return TemplateResponse(request, "admin/baton/refused.html", context, status=403)

    def get_fieldsets(self, request: HttpRequest, obj: WorkflowRun | None = None) -> Any:
        """What there is to see of a run; each of its calls for those who may see them."""
        money = ("money_shown", "calls_link") if request.user.has_perm("baton.view_stepstat") else ("sums_shown",)
        return [
            (title, {"fields": money} if "money_shown" in options["fields"] else options)
            for title, options in super().get_fieldsets(request, obj)
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A run's page."""
        can_control = self.has_control_permission(request)
        run = self.get_object(request, unquote(object_id))
        extra: dict[str, Any] = {"can_control": can_control, "can_retry": can_control}
        if run is not None and self.has_view_permission(request, run):
            extra["step_that_asks"] = step_that_asks(run) if can_control else ""
            if not request.GET.get("everything"):
                extra |= self._dashboard(request, run, can_control=can_control)
        return super().change_view(request, object_id, form_url, extra | (extra_context or {}))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> WorkflowRun | None:
        """A run, with what its page shows beside it; Django's own view asks for it a second time."""
        kept: dict[Any, WorkflowRun | None] = vars(request).setdefault("_baton_runs", {})
        if from_field is not None:
            return super().get_object(request, object_id, from_field)
        if object_id not in kept:
            is_id = _is_id(object_id)
            kept[object_id] = with_known(self.get_queryset(request), UUID(object_id)).first() if is_id else None
        return kept[object_id]

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        """Who follows a link to a run that is no more is told why it may be gone, on the list of those that are."""
        days = get_settings().retention_days
        told = gettext("There is no run {id}. Somebody may have removed it.").format(
            id=unquote(object_id)[:_LONGEST_ID]
        )
        if days is not None:
            kept = ngettext(
                "There is no run {id}. Retention removes runs {days} day after their end.",
                "There is no run {id}. Retention removes runs {days} days after their end.",
                ceil(days),
            )
            told = kept.format(id=unquote(object_id)[:_LONGEST_ID], days=f"{days:g}")
        self.message_user(request, told, messages.WARNING)
        return HttpResponseRedirect(display.list_of(WorkflowRun))

    def _dashboard(self, request: HttpRequest, run: WorkflowRun, *, can_control: bool) -> dict[str, Any]:
        page = run_page(
            run,
            request.GET.dict(),
            taste_of(request),
            may_act=can_control,
            may_see_prompts=request.user.has_perm("baton.view_debuglog"),
            may_see_values=request.user.has_perm("baton.view_workflownode"),
            may_see_calls=request.user.has_perm("baton.view_stepstat"),
        )
        has_failed = any(part.state in FAILED for part in page.header.bar.parts)
        return {
            "page": page,
            "can_retry": can_control and has_failed,
            "title": run.name,
            "subtitle": None,
            "changes_url": reverse("admin:baton_workflowrun_changes", args=[run.pk], current_app=self.admin_site.name),
            "socket_path": changes.run_socket(run.pk),
        }

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list; who may not act and tries is told so, not that nothing was chosen."""
        if request.POST.get("action") in self.actions and not self.has_control_permission(request):
            return self._refused(request, PermissionDenied(permission_needed("control_workflowrun")))
        if not all(map(_is_id, request.POST.getlist(ACTION_CHECKBOX_NAME))):
            raise BadRequest("What was chosen are no ids of runs.")
        if request.method == "GET" and self.has_view_permission(request):
            title = self.opts.verbose_name_plural.capitalize()  # type: ignore[union-attr] # a lazy text is one
            extra_context = {
                "title": title,
                "strip": strip_of(),
                "runs_socket": changes.runs_socket(),
                **(extra_context or {}),
            }
        answer = super().changelist_view(request, extra_context)
        listed = getattr(answer, "context_data", None) or {}
        if "cl" in listed and "Baton-As-Of" in request.headers:
            listed["new_runs"] = changes.new_runs(listed["cl"].queryset, request.headers["Baton-As-Of"])
        return answer

    def now_view(self, request: HttpRequest) -> HttpResponse:
        """What an operator must do this minute."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Now"),
            "opts": self.opts,
            "now": now_page(),
            "runs_socket": changes.runs_socket(),
        }
        context |= {"has_list_breadcrumbs": display.HAS_LIST_BREADCRUMBS, "media": self.media}
        return TemplateResponse(request, "admin/baton/workflowrun/now.html", context)

    def changes_view(self, request: HttpRequest, run_id: UUID) -> HttpResponse:
        """What changed in a run, for pages without a socket."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return changes.answered(request, run_id)

    def calls_view(self, request: HttpRequest, run_id: UUID) -> StreamingHttpResponse:
        """The calls of a run as a table, for those who may see them."""
        if not (self.has_view_permission(request) and request.user.has_perm("baton.view_stepstat")):
            raise PermissionDenied(permission_needed("view_stepstat"))
        if not self.get_queryset(request).filter(pk=run_id).exists():
            raise Http404
        return answer_with_csv(request, run_id)

    # Acting -----------------------------------------------------------------------------------------------------------

    @admin.action(description=_("Cancel the selected runs"), permissions=["control"])
    def cancel_runs(self, request: HttpRequest, queryset: QuerySet[WorkflowRun]) -> HttpResponse | None:
        """Cancel what was chosen in the list."""
        return acting.cancel(self, request, queryset)

    @admin.action(description=_("Retry the selected runs"), permissions=["control"])
    def retry_runs(self, request: HttpRequest, queryset: QuerySet[WorkflowRun]) -> HttpResponse | None:
        """Retry what was chosen in the list."""
        return acting.retry(self, request, queryset)

    def cancel_view(self, request: HttpRequest, run_id: Any) -> HttpResponse:
        """Cancel one run, from its page."""
        return acting.of_one(self, request, run_id, acting.cancel)

    def retry_view(self, request: HttpRequest, run_id: Any) -> HttpResponse:
        """Retry one run, from its page."""
        return acting.of_one(self, request, run_id, acting.retry)

    def budget_view(self, request: HttpRequest, run_id: Any) -> HttpResponse:
        """Give one run another budget, from its page."""
        return deciding.change_budget(self, request, run_id)

    def decide_view(self, request: HttpRequest, run_id: Any) -> HttpResponse:
        """Decide on calls of unknown outcome, from the page of the run or the step."""
        return deciding.decide(self, request, run_id)

    # Columns ----------------------------------------------------------------------------------------------------------

    def complete_page(self, rows: Sequence[WorkflowRun]) -> None:
        """Read how far the runs of a page are, what went wrong in them, what they cost and who waits: six queries."""
        states = endings_of([run for run in rows if run.is_settled])
        states |= states_of([run for run in rows if run.pk not in states])
        failures = failures_of([run for run in rows if run.state == RunState.FAILED])
        costs = costs_of([run.pk for run in rows], using=_alias(rows)) if rows else {}
        people, holds = people_of(rows), holds_of([run for run in rows if not run.is_settled])
        for run in rows:
            vars(run)["admin_cost"] = costs.get(run.pk, (None, 0))
            vars(run)["admin_by"] = people.get(run.pk, "")
            vars(run)["admin_hold"] = holds.get(run.pk, "")
            vars(run)["admin_states"] = states.get(run.pk, {})
            vars(run)["admin_failure"] = failures.get(run.pk, "")

    @admin.display(description=_("run"), ordering="name")
    def name_shown(self, run: WorkflowRun) -> Any:
        """The name, and below it the key, or without one the beginning of the id; on a phone the state."""
        below = run.key or str(run.pk)[:8]
        narrow = format_html('<span class="baton b-narrow">{}{}</span>', _badge(run), _needs(run, _("needs you")))
        return format_html(
            '<span class="baton b-to">{}</span><span class="baton b-below">{}</span>{}', run.name, below, narrow
        )

    @admin.display(description=_("state"), ordering="state")
    def state_shown(self, run: WorkflowRun) -> Any:
        """The state, and below it the way to the step that needs a person."""
        step = vars(run).get("admin_hold", "")
        url = f"{display.page_of(WorkflowRun, run.pk)}?{urlencode({'step': step})}"
        return format_html("{}{}", _badge(run), _needs(run, display.link(url, _("needs you"))))

    @admin.display(description=_("progress"))
    def progress_shown(self, run: WorkflowRun) -> Any:
        """How far it is; below, what matters most, and of a failed or cancelled run why."""
        states = vars(run).get("admin_states")
        return display.progress_bar(run.progress["states"] if states is None else states, below=self._trouble(run))

    def _trouble(self, run: WorkflowRun) -> SafeString | None:
        """The first failure, or why it was cancelled."""
        is_cancelled = run.state == RunState.CANCELLED
        text = first_line(run.cancel_reason) if is_cancelled else vars(run).get("admin_failure", "")
        tone = "" if is_cancelled else " b-discarded"
        return format_html('<span class="baton b-trouble{}">{}</span>', tone, text) if text else None

    @admin.display(description=_("started"), ordering="inserted_at")
    def inserted(self, run: WorkflowRun) -> Any:
        """When it was inserted, and below it by whom."""
        by = vars(run).get("admin_by", "")
        below = format_html('<span class="baton b-below">{}</span>', by) if by else ""
        return format_html("{}{}", display.short_moment(run.inserted_at), below)

    @admin.display(description=_("took"))
    def took(self, run: WorkflowRun) -> Any:
        """How long it has run, or did."""
        words = between(run.inserted_at, run.finished_at or timezone.now())
        since = "" if run.is_settled else format_html(' data-since="{}"', run.inserted_at.isoformat())
        return format_html('<span class="baton b-time b-end"{}>{}</span>', since, words)

    @admin.display(description=_("cost"))
    def cost(self, run: WorkflowRun) -> Any:
        """What its calls cost; below, its budget and how many calls have no price."""
        spent, unpriced = vars(run).get("admin_cost", (None, 0))
        currency = get_settings().currency
        if spent is None and not unpriced and run.budget is None:
            return format_html('<span class="baton b-cost">{}</span>', display.NOTHING)
        shown = display.NOTHING if spent is None and not unpriced else money.amount(spent, currency)
        parts = [format_html("{}", shown)]
        if run.budget is not None:
            of = gettext("of {budget}").format(budget=money.short(run.budget, currency))
            parts.append(format_html('<span class="b-below">{}</span>', of))
        if unpriced:
            lacks = gettext("+ {count} unpriced").format(count=number(unpriced))
            parts.append(format_html('<span class="b-unpriced">{}</span>', lacks))
        return format_html(
            '<span class="baton b-cost">{}</span>', format_html_join("", "{}", ((each,) for each in parts))
        )

    @admin.display(description=_("steps"))
    def steps_by_state(self, run: WorkflowRun) -> Any:
        """Links to the steps, by state."""
        states = run.progress["states"]
        chips = [
            {
                "url": display.list_of(WorkflowNode, run__id__exact=run.pk, state__exact=state.value),
                "badge": display.state(state.value, f"{number(states[state])} {state.label}"),
            }
            for state in StepState
            if states.get(state)
        ]
        everything = display.list_of(WorkflowNode, run__id__exact=run.pk)
        return display.rendered("steps_by_state.html", chips=chips, everything=everything)

    @admin.display(description=_("meta"))
    def meta_shown(self, run: WorkflowRun) -> Any:
        """What the caller gave along."""
        return display.as_json(run.meta) if run.meta else display.NOTHING

    @admin.display(description=_("calls of language models"))
    def money_shown(self, run: WorkflowRun) -> Any:
        """What they took and cost."""
        return money_of(run)

    @admin.display(description=_("calls of language models"))
    def sums_shown(self, run: WorkflowRun) -> Any:
        """The same without any single call."""
        return money_of(run, names_calls=False)

    @admin.display(description=_("each of them"))
    def calls_link(self, run: WorkflowRun) -> Any:
        """A link to them."""
        return display.link(display.list_of(StepStat, run__id__exact=run.pk), _("All calls of this run"))

    @admin.display(description=_("endings"))
    def endings(self, run: WorkflowRun) -> Any:
        """How each round ended."""
        rows = [
            display.link_to(each, f"{_('round')} {each.round}: {each.get_outcome_display()}")
            for each in run.completions.order_by("round").defer("failed_steps")
        ]
        return display.joined(rows) or display.NOTHING


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _badge(run: WorkflowRun) -> SafeString:
    return display.state(run.state, run.get_state_display())


def _needs(run: WorkflowRun, words: Any) -> SafeString | str:
    if not vars(run).get("admin_hold"):
        return ""
    return format_html(
        '<span class="baton b-needs"><svg class="b-icon" aria-hidden="true"><use href="#b-person"></use></svg>'
        "{}</span>",
        words,
    )


def states_of(runs: Sequence[WorkflowRun]) -> dict[Any, dict[str, int]]:
    """The counts of steps by state."""
    found: dict[Any, dict[str, int]] = {}
    if not runs:
        return found
    rows = WorkflowNode.objects.using(_alias(runs)).filter(run__in=[run.pk for run in runs]).order_by()
    for run_id, state, count in rows.values_list("run_id", "state").annotate(Count("id")):
        found.setdefault(run_id, {})[state] = count
    return found


def endings_of(runs: Sequence[WorkflowRun]) -> dict[Any, dict[str, int]]:
    """The same of settled runs in which all steps completed, as was noted at their end: the steps need not be read."""
    if not runs:
        return {}
    rows = Completion.objects.using(_alias(runs)).filter(run__in=[run.pk for run in runs]).order_by("round")
    noted = {run_id: ending for run_id, *ending in rows.values_list("run_id", "total_count", "failed_count")}
    return {run_id: {StepState.COMPLETED.value: total} for run_id, (total, failed) in noted.items() if not failed}


def failures_of(runs: Sequence[WorkflowRun]) -> dict[Any, str]:
    """The step that failed first in each run, with its error."""
    if not runs:
        return {}
    # What was cancelled for another step's sake is never the first.
    follows = Case(When(error__startswith=BY_DEPENDENCY, then=1), default=0)
    rank = Window(RowNumber(), partition_by=F("run_id"), order_by=[follows, F("settled_at"), F("id")])
    failed = (
        WorkflowNode.objects.using(_alias(runs))
        .filter(run__in=[run.pk for run in runs], state__in=FAILED)
        .order_by()
        .annotate(rank=rank)
        .filter(rank=1)
    )
    return {
        run_id: f"{name}: {first_line(error)}" for run_id, name, error in failed.values_list("run_id", "name", "error")
    }


def people_of(runs: Sequence[WorkflowRun]) -> dict[Any, str]:
    """Who inserted each run, where the caller said so in a ``meta`` that is not large."""
    if not runs:
        return {}
    rows = WorkflowRun.objects.using(_alias(runs)).filter(pk__in=[run.pk for run in runs]).order_by()
    small: Iterable[tuple[Any, Any]] = (
        rows.alias(size=Length("meta")).filter(size__lt=_LARGEST_META).values_list("pk", "meta")
    )
    return {pk: who(meta) for pk, meta in small}


def holds_of(runs: Sequence[WorkflowRun]) -> dict[Any, str]:
    """The step of each run that has waited for a person or for money longest."""
    if not runs:
        return {}
    rows = Hold.objects.using(_alias(runs)).filter(run__in=[run.pk for run in runs]).order_by("-since")
    return dict(rows.values_list("run_id", "node__name"))


def _alias(runs: Sequence[WorkflowRun]) -> str | None:
    return runs[0]._state.db  # noqa: SLF001 - its own alias
