"""Runs: one insertion of a workflow, from its first step to its ending."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from django.db import connections, models, transaction
from django.utils.translation import gettext_lazy as _

from baton.conf import amount, get_settings
from baton.exceptions import StepNotFoundError, WaitInTransactionError
from baton.models.fields import JSONTextField, MoneyField
from baton.states import SETTLED, RunState, StepState

if TYPE_CHECKING:
    from baton.engine.accounts import Balance
    from baton.engine.retry import RetryPlan
    from baton.models.node import WorkflowNode

_POLL_SECONDS = (0.002, 0.1)
_CHANGEABLE = frozenset({"budget", "allow_unpriced", "meta", "debug"})
"""What of a run is not the workers' to write."""


class WorkflowRunQuerySet(models.QuerySet["WorkflowRun"]):
    """Runs, asked for in words."""

    def running(self) -> WorkflowRunQuerySet:
        """Runs whose ending is not noted yet."""
        return self.filter(state=RunState.RUNNING)

    def settled(self) -> WorkflowRunQuerySet:
        """Runs that have ended."""
        return self.exclude(state=RunState.RUNNING)


class WorkflowRun(models.Model):
    """A workflow that was inserted."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(_("name"), max_length=255)
    key = models.CharField(_("key"), max_length=255, null=True, blank=True)  # noqa: DJ001 - no key is not an empty key
    state = models.CharField(_("state"), max_length=16, choices=RunState, default=RunState.RUNNING)
    round = models.PositiveIntegerField(_("round"), default=1, help_text=_("Raised by each explicit re-run."))
    meta = JSONTextField(_("meta"), default=dict, blank=True)
    debug = models.BooleanField(_("debug"), default=False)
    ignore_cancelled = models.BooleanField(_("ignores cancelled dependencies"), default=False)
    ignore_discarded = models.BooleanField(_("ignores discarded dependencies"), default=False)
    inserted_at = models.DateTimeField(_("inserted at"))
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    cancelled_at = models.DateTimeField(_("cancelled at"), null=True, blank=True)
    cancel_reason = models.TextField(_("reason of the cancel"), blank=True, default="")
    budget = MoneyField(
        _("budget"),
        null=True,
        blank=True,
        help_text=_("What its calls of language models may cost, in the currency of the settings."),
    )
    allow_unpriced = models.BooleanField(
        _("allows unpriced models"),
        default=False,
        db_default=False,
        help_text=_("Whether a run with a budget may call models that have no price."),
    )
    trace = models.CharField(
        _("trace"),
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text=_("The W3C trace context of whoever inserted it."),
    )

    objects = WorkflowRunQuerySet.as_manager()

    class Meta:
        verbose_name = _("workflow run")
        verbose_name_plural = _("workflow runs")
        ordering = ("-inserted_at",)
        constraints = [
            models.UniqueConstraint(
                fields=["name", "key"], condition=models.Q(state="running"), name="baton_run_key_while_running"
            ),
        ]
        indexes = [
            models.Index(fields=["state", "inserted_at", "id"], name="baton_run_by_state"),
            models.Index(fields=["name", "inserted_at", "id"], name="baton_run_by_name"),
            models.Index(fields=["inserted_at", "id"], name="baton_run_by_time"),
            models.Index(fields=["finished_at"], condition=models.Q(finished_at__isnull=False), name="baton_run_ended"),
        ]
        permissions = [("control_workflowrun", _("Can control runs"))]

    def __str__(self) -> str:
        return f"{self.name} · {str(self.id)[:8]}"

    def save(
        self,
        *,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """Write what may be changed of a run: ``budget``, ``allow_unpriced``, ``meta`` and ``debug``.

        Everything else belongs to the workers, who write it meanwhile; it is written only where ``update_fields`` names
        it. A new budget readies the steps that were held for want of it, in the same transaction; None lifts the limit.

        Args:
            force_insert: As in Django.
            force_update: As in Django.
            using: As in Django.
            update_fields: What to write; by default what may be changed.

        Raises:
            TypeError: The budget is a float, or something else that is no exact amount.
            ValueError: The budget is negative, or more than nine million.
        """
        options: dict[str, Any] = {"force_insert": force_insert, "force_update": force_update, "using": using}
        if self._state.adding or force_insert:
            self.budget = _budget(self.budget)
            super().save(**options, update_fields=update_fields)
            return
        changed = _CHANGEABLE - self.get_deferred_fields() if update_fields is None else set(update_fields)
        if "budget" not in changed:
            super().save(**options, update_fields=changed)
            return
        from baton.engine.accounts import change_budget  # noqa: PLC0415 - the engine stands above the models

        self.budget = _budget(self.budget)
        alias = using or self._state.db or get_settings().database
        with transaction.atomic(using=alias):
            change_budget(connections[alias], self.pk, self.budget)
            super().save(**options, update_fields=changed)

    @property
    def is_settled(self) -> bool:
        """True once the run's ending is noted."""
        return self.state != RunState.RUNNING

    @property
    def steps(self) -> Steps:
        """The steps by name, each read afresh when it is asked for."""
        return Steps(self)

    @property
    def progress(self) -> dict[str, Any]:
        """How far the run is.

        Returns:
            ``total`` and ``settled`` (counts of steps) and ``states`` (a count for each state that occurs).
        """
        rows = self.nodes.order_by().values_list("state").annotate(models.Count("id"))
        states = {str(StepState(state)): count for state, count in rows}
        settled = sum(count for state, count in states.items() if state in SETTLED)
        return {"total": sum(states.values()), "settled": settled, "states": states}

    def wait(self, timeout: float | None = None) -> str:
        """Block until the run is settled, and refresh it.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Returns:
            The outcome, which is ``completed``, ``failed`` or ``cancelled``.

        Raises:
            TimeoutError: The run was still running after ``timeout``.
            WaitInTransactionError: Called inside a transaction, where nothing of the run can start.
        """
        started = time.monotonic()
        while True:
            self.refresh_from_db()
            if self.is_settled:
                return str(self.state)
            if connections[self._state.db or get_settings().database].in_atomic_block:
                raise WaitInTransactionError
            waited = time.monotonic() - started
            if timeout is not None and waited >= timeout:
                progress = self.progress
                msg = (
                    f"Run {self.id} ({self.name}) is still running after {timeout:g} s: "
                    f"{progress['settled']} of {progress['total']} steps are settled, {progress['states']}."
                )
                raise TimeoutError(msg)
            pause = min(_POLL_SECONDS[1], max(_POLL_SECONDS[0], waited / 20))
            time.sleep(pause if timeout is None else min(pause, timeout - waited))

    def balance(self) -> Balance:
        """What of the budget is spent, reserved and left, and how much of that nobody knows for certain."""
        from baton.engine.accounts import balance_of  # noqa: PLC0415 - the engine stands above the models

        return balance_of(self)

    def cancel(self, reason: str = "") -> bool:
        """Settle everything unsettled as cancelled, at once.

        A running body is told by ``ctx.is_cancelled``, and what it returns is dropped. Hooks are not called.

        Args:
            reason: Kept with the run and as the error of each step.

        Returns:
            Whether there was anything to cancel; False on a settled run, which stays as it is.
        """
        from baton.engine.cancel import cancel_run  # noqa: PLC0415 - the engine stands above the models

        cancelled = cancel_run(self.pk, reason=reason)
        self.refresh_from_db()
        return cancelled

    @overload
    def retry(
        self, from_step: str | Enum | None = None, *, dry_run: Literal[False] = False, new_answers: bool = False
    ) -> Self: ...

    @overload
    def retry(
        self, from_step: str | Enum | None = None, *, dry_run: Literal[True], new_answers: bool = False
    ) -> RetryPlan: ...

    @overload
    def retry(
        self, from_step: str | Enum | None = None, *, dry_run: bool, new_answers: bool = False
    ) -> Self | RetryPlan: ...

    def retry(
        self, from_step: str | Enum | None = None, *, dry_run: bool = False, new_answers: bool = False
    ) -> Self | RetryPlan:
        """Run the failed part of a settled run again, with everything that hangs on it, as another round of the run.

        The failed part is every discarded and every cancelled step. What comes after one of them runs again, too, also
        where it ignored the failure and completed. All other steps keep their results, and their bodies do not run.
        Attempts start at 1, and a second ending follows. Answers of language models that are stored are given again.

        Args:
            from_step: Run this step and everything after it again instead, whether or not it failed. What waits for
                another failed step, which does not run again, stays as it is.
            dry_run: Change nothing, and return the plan.
            new_answers: Ask language models anew, and pay again, in the steps that run again.

        Returns:
            The run, refreshed; with ``dry_run`` the plan, with the names of the steps in ``reruns`` and ``keeps``.

        Raises:
            RunNotSettledError: The run has not ended yet.
            StepNotFoundError: The run has no step of that name.
            NothingToRetryError: Nothing failed and no step is named, or nothing of it could run.
            KeyInUseError: Another unsettled run of the same name has the key of this one.
        """
        from baton.engine.retry import retry_run  # noqa: PLC0415 - the engine stands above the models

        name = None if from_step is None else str(getattr(from_step, "value", from_step))
        plan = retry_run(self.pk, from_step=name, dry_run=dry_run, new_answers=new_answers)
        if dry_run:
            return plan
        self.refresh_from_db()
        return self

    def headline(self) -> str:
        """What is going on in the run, or how it ended, in a sentence or two: what it waits for and what to do."""
        from baton.explain import explain_run  # noqa: PLC0415 - what explains stands above the models

        return explain_run(self)


class Steps(Mapping[str, "WorkflowNode"]):
    """The nodes of a run by step name; nothing is kept between two look-ups."""

    def __init__(self, run: WorkflowRun) -> None:
        self._run = run

    def __getitem__(self, name: str | Enum) -> WorkflowNode:
        name = _text(name)
        node = self._named(name).first()
        if node is None:
            raise StepNotFoundError(name, run=self._run.pk)
        return node

    def __contains__(self, name: object) -> bool:
        return self._named(_text(name)).exists()

    def get(self, name: str | Enum, default: Any = None) -> Any:
        """The node of that name, or the default."""
        try:
            return self[name]
        except StepNotFoundError:
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._run.nodes.order_by("id").values_list("name", flat=True))

    def items(self) -> Any:
        """Names and nodes in topological order, in one query."""
        return {node.name: node for node in self._run.nodes.order_by("id")}.items()

    def values(self) -> Any:
        """Nodes in topological order, in one query."""
        return {node.name: node for node in self._run.nodes.order_by("id")}.values()

    def __len__(self) -> int:
        return self._run.nodes.count()

    def __repr__(self) -> str:
        return f"<steps of run {self._run.pk}: {', '.join(self)}>"

    def _named(self, name: str) -> models.QuerySet[WorkflowNode]:
        # Text that no database stores names no step; asked for it, a database raises.
        if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
            return self._run.nodes.none()
        return self._run.nodes.filter(name=name)


def _text(name: object) -> str:
    return str(getattr(name, "value", name))


def _budget(value: Any) -> Decimal | None:
    try:
        return None if value is None else amount(value)
    except ValueError as exc:
        msg = f'The budget of a run: {exc}. Give a Decimal or text, such as Decimal("2.00").'
        raise (TypeError if not isinstance(value, Decimal | int | str) else ValueError)(msg) from None
