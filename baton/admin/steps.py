"""Steps: why each is where it is, what hangs on it, what it was given and what it gave; and failures by kind."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Case, Count, Max, QuerySet, When
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _

from baton.admin import deciding, display
from baton.admin.base import ReadOnlyAdmin
from baton.admin.filters import ErrorKeyFilter, QueueFilter
from baton.admin.money import calls_shown
from baton.conf import get_settings
from baton.explain.words import between, first_line, number
from baton.models import DebugLog, WorkflowNode, WorkflowRun
from baton.states import FAILED, AttemptOutcome

_MOST_LINKS = 50
_MOST_FAILURES = 100
_WINDOWS = {"1": _("last 24 hours"), "7": _("last 7 days"), "30": _("last 30 days"), "": _("all")}
_USUAL_WINDOW = "7"


@admin.register(WorkflowNode)
class WorkflowNodeAdmin(ReadOnlyAdmin):
    """Steps."""

    list_display = ("name", "run_link", "state_shown", "attempts_shown", "queue", "started", "took", "error_shown")
    list_filter = ("state", QueueFilter, ErrorKeyFilter, "settled_at")
    list_defer = ("args", "refs", "options", "result_json", "attempt_log", "progress", "run__meta")
    list_select_related = ("run",)
    search_fields = ("name", "step", "error")
    search_help_text = _("The beginning of a run's id, or a part of a name, a function or an error")
    run_lookup = "run_id"

    not_before_at = staticmethod(display.time(WorkflowNode, "not_before"))
    due = staticmethod(display.time(WorkflowNode, "due_at"))
    queued = staticmethod(display.time(WorkflowNode, "queued_at"))
    started = staticmethod(display.time(WorkflowNode, "started_at"))
    settled = staticmethod(display.time(WorkflowNode, "settled_at"))
    leased = staticmethod(display.time(WorkflowNode, "lease_until"))

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """The newest first; the steps of one run in topological order."""
        return ("id",) if "run__id__exact" in request.GET else ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With the runs, whose names both pages show."""
        return super().get_queryset(request).select_related("run")

    def get_urls(self) -> list[URLPattern]:
        """The pages of steps, and that of failures."""
        view = self.admin_site.admin_view(self.failures_view)
        return [path("failures/", view, name="baton_workflownode_failures"), *super().get_urls()]

    def get_fieldsets(self, request: HttpRequest, obj: WorkflowNode | None = None) -> Any:
        """What there is to see of a step, the answer to its state first."""
        node = obj or WorkflowNode()
        parts: list[tuple[Any, list[str], bool]] = [
            (None, ["run_link", "state_shown", "attempts_shown", "worker", "queue", "priority", "step"], True),
            (_("Error"), ["whole_error", "failures_link"], bool(node.error)),
            (_("Neighbours"), ["dependencies", "dependents"], True),
            (
                _("Times"),
                ["not_before_at", "due", "queued", "started", "settled", "took", "leased"],
                True,
            ),
            (_("Executions"), ["executions"], bool(node.attempts)),
            (_("Log"), ["log"], bool(node.pk and node.logs)),
            (_("Arguments"), ["args_shown", "refs_shown"], True),
            (_("Result"), ["result_shown", "progress_shown"], node.has_result or bool(node.progress)),
            (_("Options"), ["timeout", "ignore_discarded", "ignore_cancelled", "options_shown", "version"], True),
        ]
        if node.pk and request.user.has_perm("baton.view_stepstat") and _calls_of(node) != display.NOTHING:
            parts.insert(3, (_("Calls of language models"), ["calls_shown"], True))
        if request.user.has_perm("baton.view_debuglog"):
            parts.append((_("Debug logs"), ["debug_logs"], True))
        return [(title, {"fields": fields}) for title, fields, is_shown in parts if is_shown]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A step's page."""
        can_control = request.user.has_perm("baton.control_workflowrun") and request.user.has_perm(
            "baton.view_workflowrun"
        )
        has_questions = can_control and deciding.has_questions(object_id)
        extra = {"can_control": can_control, "has_questions": has_questions, **(extra_context or {})}
        return super().change_view(request, object_id, form_url, extra)

    # Failures ---------------------------------------------------------------------------------------------------------

    def failures_view(self, request: HttpRequest) -> HttpResponse:
        """Discarded steps, put together by what they failed with."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        days = request.GET.get("days", _USUAL_WINDOW)
        days = days if days in _WINDOWS else _USUAL_WINDOW
        # In the words of the index baton_node_error.
        failed = WorkflowNode.objects.using(get_settings().database).filter(error_key__gt="")
        if days:
            failed = failed.filter(settled_at__gte=timezone.now() - timedelta(days=int(days)))
        groups = (
            failed.order_by()
            .values("error_key")
            .annotate(count=Count("id"), functions=Count("step", distinct=True), newest=Max("settled_at"))
            .order_by("-count", "error_key")[:_MOST_FAILURES]
        )
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "title": _("Failures by kind of error"),
            "groups": [
                {
                    **group,
                    "url": display.list_of(WorkflowNode, error_key=group["error_key"]),
                    "newest": display.moment(group["newest"]),
                }
                for group in groups
            ],
            "has_list_breadcrumbs": display.HAS_LIST_BREADCRUMBS,
            "most": _MOST_FAILURES,
            "windows": [(value, label, value == days) for value, label in _WINDOWS.items()],
        }
        return TemplateResponse(request, "admin/baton/workflownode/failures.html", context)

    # Columns ----------------------------------------------------------------------------------------------------------

    @admin.display(description=_("run"), ordering="run")
    def run_link(self, node: WorkflowNode) -> Any:
        """The run."""
        return display.link(display.page_of(WorkflowRun, node.run_id), f"{node.run.name} {str(node.run_id)[:8]}")

    @admin.display(description=_("state"), ordering="state")
    def state_shown(self, node: WorkflowNode) -> Any:
        """The state."""
        return display.state(node.state, node.get_state_display())

    @admin.display(description=_("attempt"), ordering="attempt")
    def attempts_shown(self, node: WorkflowNode) -> str:
        """Which attempt of how many."""
        return _now("{attempt} of {most}").format(attempt=number(node.attempt), most=number(node.max_attempts))

    @admin.display(description=_("took"))
    def took(self, node: WorkflowNode) -> str:
        """How long the last execution has run, or did."""
        if node.started_at is None or node.attempt == 0:
            return display.NOTHING
        return between(node.started_at, node.settled_at or timezone.now()) if _has_run(node) else display.NOTHING

    @admin.display(description=_("error"), ordering="error_key")
    def error_shown(self, node: WorkflowNode) -> Any:
        """The first line of the error."""
        return display.wrapped(first_line(node.error))

    # The page of a step -----------------------------------------------------------------------------------------------

    @admin.display(description=_("error"))
    def whole_error(self, node: WorkflowNode) -> Any:
        """The error."""
        return display.code(node.error or "")

    @admin.display(description=_("the same elsewhere"))
    def failures_link(self, node: WorkflowNode) -> Any:
        """Steps that failed in the same way."""
        if not node.error_key:
            return display.NOTHING
        return display.link(display.list_of(WorkflowNode, error_key=node.error_key), node.error_key)

    @admin.display(description=_("depends on"))
    def dependencies(self, node: WorkflowNode) -> Any:
        """The steps that it waits for."""
        rows = _neighbours(node).filter(edges_out__node_id=node.pk)
        return _linked(rows, node.n_deps)

    @admin.display(description=_("dependents"))
    def dependents(self, node: WorkflowNode) -> Any:
        """The steps that wait for it."""
        return _linked(_neighbours(node).filter(edges_in__dependency_id=node.pk), node.n_out)

    @admin.display(description=_("executions"))
    def executions(self, node: WorkflowNode) -> Any:
        """Each execution."""
        return display.rendered("executions.html", executions=[_execution(each) for each in reversed(node.attempts)])

    @admin.display(description=_("log"))
    def log(self, node: WorkflowNode) -> Any:
        """What its bodies logged."""
        lines = [{**line, "at": _parsed(line.get("at"))} for line in node.logs]
        return display.rendered("log.html", lines=lines)

    @admin.display(description=_("arguments"))
    def args_shown(self, node: WorkflowNode) -> Any:
        """What it was given."""
        return display.as_json(node.args)

    @admin.display(description=_("taken from results"))
    def refs_shown(self, node: WorkflowNode) -> Any:
        """Arguments that are taken from results."""
        return display.as_json(node.refs) if node.refs else display.NOTHING

    @admin.display(description=_("result"))
    def result_shown(self, node: WorkflowNode) -> Any:
        """What it gave."""
        if not node.has_result or node.result_json is None:
            return display.NOTHING
        return display.as_stored_json(node.result_json)

    @admin.display(description=_("progress"))
    def progress_shown(self, node: WorkflowNode) -> Any:
        """How far the body said it was."""
        return display.as_json(node.progress) if node.progress else display.NOTHING

    @admin.display(description=_("options"))
    def options_shown(self, node: WorkflowNode) -> Any:
        """What was given where it was added, and has no column."""
        return display.as_json(node.options) if node.options else display.NOTHING

    @admin.display(description=_("calls"))
    def calls_shown(self, node: WorkflowNode) -> Any:
        """What they took and cost, and nothing of what they said."""
        return _calls_of(node)

    @admin.display(description=_("debug logs"))
    def debug_logs(self, node: WorkflowNode) -> Any:
        """A link to what was captured of its calls."""
        return display.link(display.list_of(DebugLog, node__id__exact=node.pk), _("Captured calls of this step"))


def _calls_of(node: WorkflowNode) -> Any:
    """The calls of a step, read once for a page."""
    if "admin_calls" not in vars(node):
        vars(node)["admin_calls"] = calls_shown(node)
    return vars(node)["admin_calls"]


def _has_run(node: WorkflowNode) -> bool:
    return node.state not in {"available", "snoozed", "retryable", "pending"}


def _neighbours(node: WorkflowNode) -> QuerySet[WorkflowNode]:
    rows = WorkflowNode.objects.using(node._state.db).filter(run_id=node.run_id)  # noqa: SLF001 - its own alias
    worst_first = Case(When(state__in=FAILED, then=0), When(settled_at__isnull=True, then=1), default=2)
    return rows.order_by(worst_first, "id").only("id", "name", "state")


def _linked(rows: QuerySet[WorkflowNode], total: int) -> Any:
    nodes = [
        {
            "url": display.page_of(WorkflowNode, each.pk),
            "name": each.name,
            "badge": display.state(each.state, each.get_state_display()),
        }
        for each in rows[:_MOST_LINKS]
    ]
    if not nodes:
        return display.NOTHING
    more = number(total - len(nodes)) if total > len(nodes) == _MOST_LINKS else ""
    return display.rendered("neighbours.html", nodes=nodes, more=more)


def _execution(entry: dict[str, Any]) -> dict[str, Any]:
    started, ended = _parsed(entry.get("started_at")), _parsed(entry.get("ended_at"))
    outcome = entry.get("outcome") or ""
    return {
        **entry,
        "queued_at": display.moment(_parsed(entry.get("queued_at"))),
        "started_at": display.moment(started),
        "took": between(started, ended or timezone.now()),
        "outcome": dict(AttemptOutcome.choices).get(outcome, outcome) or _now("executing"),
    }


def _parsed(text: Any) -> Any:
    try:
        return parse_datetime(text) if isinstance(text, str) else None
    except ValueError:
        return None
