"""Nodes, a row for each step of a run, and the edges between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ObjectDoesNotExist
from django.db import models
from django.utils.translation import gettext_lazy as _

from baton.exceptions import NoResultError
from baton.models.fields import JSONTextField
from baton.models.run import WorkflowRun
from baton.states import StepState
from baton.values import decode

if TYPE_CHECKING:
    from datetime import datetime

KEPT_EXECUTIONS = 50
"""How many executions a row remembers."""

_SETTLED_STATES = ("completed", "discarded", "cancelled")


class WorkflowNodeQuerySet(models.QuerySet["WorkflowNode"]):
    """Nodes, asked for in words."""

    def of_workflow(self, run_id: Any) -> WorkflowNodeQuerySet:
        """The steps of one run."""
        return self.filter(run_id=run_id)

    def unsettled(self) -> WorkflowNodeQuerySet:
        """Steps that may still change; in the words of the index ``baton_node_unsettled``."""
        return self.filter(settled_at__isnull=True)

    def ready(self) -> WorkflowNodeQuerySet:
        """Steps that a worker may take now; in the words of the index ``baton_node_ready``."""
        return self.filter(state=StepState.AVAILABLE)


class WorkflowNode(models.Model):
    """A step of a run: everything a person asks about it is in this row."""

    id = models.BigAutoField(primary_key=True)
    # No constraint in the database: a row that is written twice in a transaction, as a kept step is, would have its run
    # locked and checked each time.
    run = models.ForeignKey(
        WorkflowRun,
        on_delete=models.CASCADE,
        related_name="nodes",
        db_index=False,
        db_constraint=False,
        verbose_name=_("run"),
    )
    name = models.CharField(_("name"), max_length=255)
    step = models.CharField(_("step"), max_length=255, help_text=_("The registered name of the function."))
    state = models.CharField(_("state"), max_length=16, choices=StepState, default=StepState.PENDING)
    version = models.PositiveIntegerField(
        _("version"), default=0, db_default=0, help_text=_("Rises with every visible change.")
    )
    fence = models.PositiveIntegerField(
        _("fence"), default=0, db_default=0, help_text=_("Rises whenever the step changes hands.")
    )
    attempt = models.PositiveIntegerField(_("attempt"), default=0, db_default=0)
    max_attempts = models.PositiveIntegerField(_("attempts at most"), default=5)
    queue = models.CharField(_("queue"), max_length=100, default="default")
    priority = models.IntegerField(_("priority"), default=0, help_text=_("Smaller runs first."))
    remaining = models.PositiveIntegerField(_("unsettled dependencies"), default=0)
    n_deps = models.PositiveIntegerField(_("dependencies"), default=0)
    n_out = models.PositiveIntegerField(_("dependents"), default=0)
    ignore_cancelled = models.BooleanField(_("ignores cancelled dependencies"), default=False)
    ignore_discarded = models.BooleanField(_("ignores discarded dependencies"), default=False)
    args = JSONTextField(_("arguments"), default=dict)
    refs = JSONTextField(_("references"), default=list, help_text=_("Arguments taken from results."))
    options = JSONTextField(_("options"), default=dict, help_text=_("What was given at add and has no column."))
    timeout = models.FloatField(_("timeout in seconds"), null=True, blank=True)
    has_result = models.BooleanField(_("has a result"), default=False, db_default=False)
    result_json = models.TextField(_("result"), null=True, blank=True)  # noqa: DJ001 - none is not an empty text
    error = models.TextField(_("error"), null=True, blank=True)  # noqa: DJ001 - the API says None
    error_key = models.CharField(
        _("kind of error"),
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text=_("What a discarded step failed with, without numbers and names, so that failures can be grouped."),
    )
    progress = JSONTextField(_("progress"), null=True, blank=True)
    attempt_log = JSONTextField(_("executions"), default=list, db_default=[])
    not_before = models.DateTimeField(_("not before"), null=True, blank=True)
    due_at = models.DateTimeField(_("due at"), null=True, blank=True)
    queued_at = models.DateTimeField(_("ready since"), null=True, blank=True)
    started_at = models.DateTimeField(_("started at"), null=True, blank=True)
    settled_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    changed_at = models.DateTimeField(_("changed at"), null=True, blank=True)
    lease_until = models.DateTimeField(_("lease until"), null=True, blank=True)
    worker = models.CharField(_("worker"), max_length=255, blank=True, default="", db_default="")
    hook_due = models.CharField(_("hook due"), max_length=16, blank=True, default="", db_default="")
    fan_group = models.CharField(_("fan-out"), max_length=255, blank=True, default="")
    fan_index = models.PositiveIntegerField(_("index in the fan-out"), null=True, blank=True)

    objects = WorkflowNodeQuerySet.as_manager()

    class Meta:
        verbose_name = _("step")
        verbose_name_plural = _("steps")
        ordering = ("id",)
        constraints = [
            models.UniqueConstraint(fields=["run", "name"], name="baton_node_name_in_run"),
            models.CheckConstraint(
                condition=(models.Q(settled_at__isnull=True) & ~models.Q(state__in=_SETTLED_STATES))
                | (models.Q(settled_at__isnull=False) & models.Q(state__in=_SETTLED_STATES)),
                name="baton_node_settled_has_time",
            ),
        ]
        # One index for each predicate, asked in the same words: a partial index over a list of states is implied by
        # each of them, and after ANALYZE the planner takes it for the claim and reads the whole ready list.
        indexes = [
            models.Index(
                fields=["queue", "priority", "id"], condition=models.Q(state="available"), name="baton_node_ready"
            ),
            models.Index(fields=["queue", "due_at"], condition=models.Q(due_at__isnull=False), name="baton_node_due"),
            models.Index(
                fields=["lease_until"], condition=models.Q(lease_until__isnull=False), name="baton_node_lease"
            ),
            models.Index(fields=["run"], condition=models.Q(settled_at__isnull=True), name="baton_node_unsettled"),
            models.Index(
                fields=["id"],
                condition=models.Q(remaining__gt=0, settled_at__isnull=True),
                name="baton_node_waiting",
            ),
            models.Index(fields=["id"], condition=models.Q(hook_due__gt=""), name="baton_node_hook"),
            models.Index(
                fields=["error_key", "settled_at"], condition=models.Q(error_key__gt=""), name="baton_node_error"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.state})"

    @property
    def is_settled(self) -> bool:
        """True when the step never changes again, except by an explicit re-run."""
        return self.settled_at is not None

    @property
    def finished_at(self) -> datetime | None:
        """When the step was settled."""
        return self.settled_at

    @property
    def result(self) -> Any:
        """The stored result.

        Raises:
            NoResultError: The step is not completed, or returned nothing.
        """
        if not self.has_result or self.result_json is None:
            raise NoResultError(self.name, self.state)
        return decode(self.result_json)

    def explain(self) -> str:
        """Why the step is where it is, in a sentence: what it waits for, when it runs again, how it ended."""
        from baton.explain import explain_step  # noqa: PLC0415 - what explains stands above the models

        return explain_step(self)

    @property
    def logs(self) -> list[dict[str, Any]]:
        """What its bodies wrote to ``ctx.logger``: the newest two hundred lines, the oldest first."""
        try:
            return list(self.step_log.lines)
        except ObjectDoesNotExist:
            return []

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The newest fifty executions, an entry for each, as the reference of the node row tells."""
        entries = list(self.attempt_log)
        if self.state == StepState.EXECUTING:
            entries.append(
                {
                    "number": self.attempt,
                    "worker": self.worker,
                    "queued_at": _text(self.queued_at),
                    "started_at": _text(self.started_at),
                    "ended_at": None,
                    "outcome": None,
                    "error": None,
                    "count": 1,
                }
            )
        return entries[-KEPT_EXECUTIONS:]


class WorkflowEdge(models.Model):
    """A dependency: ``node`` waits for ``dependency``."""

    id = models.BigAutoField(primary_key=True)
    # No constraints in the database. When the row of a dependency is deleted, the edge stays and the sweep sees it; and
    # PostgreSQL, which keeps the plan of its check from when the table was small, would read all nodes for each edge.
    node = models.ForeignKey(
        WorkflowNode,
        on_delete=models.CASCADE,
        related_name="edges_in",
        db_index=False,
        db_constraint=False,
        verbose_name=_("step"),
    )
    dependency = models.ForeignKey(
        WorkflowNode,
        on_delete=models.DO_NOTHING,
        related_name="edges_out",
        db_index=False,
        db_constraint=False,
        verbose_name=_("dependency"),
    )

    class Meta:
        verbose_name = _("dependency")
        verbose_name_plural = _("dependencies")
        constraints = [models.UniqueConstraint(fields=["dependency", "node"], name="baton_edge_dependents")]
        indexes = [models.Index(fields=["node", "dependency"], name="baton_edge_dependencies")]

    def __str__(self) -> str:
        return f"{self.node_id} waits for {self.dependency_id}"


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
