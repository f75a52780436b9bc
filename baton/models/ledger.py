"""The ledger: every once-only effect of a step, from its intent to its answer; and the steps that are held."""

from __future__ import annotations

from uuid import UUID, uuid5

from django.db import models
from django.utils.translation import gettext_lazy as _

from baton.models.fields import MoneyField
from baton.models.node import WorkflowNode
from baton.models.run import WorkflowRun
from baton.states import EntryState, HoldKind, Resolution, StepState


class LedgerEntry(models.Model):
    """One try of an effect that is not to happen twice: a call that was paid for, a mail that was sent.

    A key of a step has an entry for each time its function was called; the first answer there is stands for all.
    """

    id = models.BigAutoField(primary_key=True)
    # No constraints in the database, as for edges.
    run = models.ForeignKey(
        WorkflowRun, on_delete=models.CASCADE, related_name="ledger", db_constraint=False, verbose_name=_("run")
    )
    node = models.ForeignKey(
        WorkflowNode,
        on_delete=models.CASCADE,
        related_name="ledger",
        db_constraint=False,
        db_index=False,
        verbose_name=_("step"),
    )
    key = models.CharField(_("key"), max_length=255)
    number = models.PositiveIntegerField(_("number"), default=1, help_text=_("Which call of this key it is, from 1."))
    is_call = models.BooleanField(_("is a call of a language model"), default=False)
    policy = models.CharField(
        _("policy"),
        max_length=8,
        blank=True,
        default="",
        help_text=_("What follows it, should its outcome be unknown."),
    )
    state = models.CharField(_("state"), max_length=16, choices=EntryState, default=EntryState.CALLING)
    resolution = models.CharField(_("resolution"), max_length=8, choices=Resolution, blank=True, default="")
    resolved_by = models.CharField(_("resolved by"), max_length=255, blank=True, default="")
    is_retired = models.BooleanField(
        _("is retired"), default=False, help_text=_("Its answer is no longer used: a re-run asked for new ones.")
    )
    fence = models.PositiveIntegerField(_("fence"), default=0, help_text=_("Of the execution that called."))
    attempt = models.PositiveIntegerField(_("attempt"), default=1)
    provider = models.CharField(_("provider"), max_length=100, blank=True, default="")
    model = models.CharField(_("model"), max_length=255, blank=True, default="")
    answer = models.TextField(_("answer"), null=True, blank=True)  # noqa: DJ001 - none is not an empty text
    answer_type = models.CharField(_("type of the answer"), max_length=255, blank=True, default="")
    error = models.TextField(_("error"), blank=True, default="")
    reserved = MoneyField(
        _("reserved"), null=True, blank=True, help_text=_("What budgets still hold for it, until its cost is known.")
    )
    accounts = models.CharField(_("accounts"), max_length=255, blank=True, default="", help_text=_("Where."))
    is_estimate = models.BooleanField(_("reserved an estimate"), default=False)
    started_at = models.DateTimeField(_("started at"))
    ended_at = models.DateTimeField(_("ended at"), null=True, blank=True)

    class Meta:
        verbose_name = _("ledger entry")
        verbose_name_plural = _("ledger entries")
        ordering = ("-id",)
        constraints = [models.UniqueConstraint(fields=["node", "key", "number"], name="baton_entry_once")]
        indexes = [
            models.Index(fields=["started_at"], condition=models.Q(state="calling"), name="baton_entry_calling"),
            models.Index(fields=["run", "id"], condition=models.Q(state="ambiguous"), name="baton_entry_ambiguous"),
        ]

    def __str__(self) -> str:
        return f"{self.key} ({self.state})"

    def is_unknown(self, state: str, fence: int) -> bool:
        """Whether nobody knows its outcome, by the state and the fence of its step: :func:`unknown_outcome` of one."""
        is_over = state != StepState.EXECUTING or fence != self.fence
        return self.state == EntryState.AMBIGUOUS or (self.state == EntryState.CALLING and is_over)

    @property
    def idempotency_key(self) -> str:
        """What a provider is told, so that it can see that a call is a repetition; empty once the call is retired."""
        if self.is_retired:
            return ""
        retired = LedgerEntry.objects.using(self._state.db).filter(node=self.node_id, key=self.key, is_retired=True)
        return idempotency_key(self.run_id, self.node_id, self.key, retired=retired.count())


def unknown_outcome() -> models.Q:
    """Entries of unknown outcome: those that are marked, and those whose execution is over and that nobody marked yet.

    In the words of the indexes baton_entry_ambiguous and baton_entry_calling.
    """
    is_over = ~models.Q(node__state=StepState.EXECUTING) | ~models.Q(node__fence=models.F("fence"))
    return models.Q(state=EntryState.AMBIGUOUS) | (models.Q(state=EntryState.CALLING) & is_over)


def idempotency_key(run_id: UUID, node_id: int, key: str, *, retired: int = 0) -> str:
    """The same for every call of a key of a step, until a re-run asks for another answer.

    Args:
        run_id: The run.
        node_id: The step.
        key: The key.
        retired: How many calls of the key are not used any more.
    """
    return str(uuid5(run_id, f"{node_id} {key}" + (f" {retired}" if retired else "")))


class Hold(models.Model):
    """A snoozed step that waits for money or for a person, not for a time."""

    node = models.OneToOneField(
        WorkflowNode,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="hold",
        db_constraint=False,
        verbose_name=_("step"),
    )
    run = models.ForeignKey(
        WorkflowRun, on_delete=models.CASCADE, related_name="holds", db_constraint=False, verbose_name=_("run")
    )
    kind = models.CharField(_("kind"), max_length=16, choices=HoldKind)
    account = models.CharField(
        _("account"), max_length=64, blank=True, default="", help_text=_("Whose money it waits for, or entry:…")
    )
    amount = MoneyField(_("amount"), null=True, blank=True, help_text=_("What it wants to reserve."))
    reason = models.TextField(_("reason"), blank=True, default="")
    since = models.DateTimeField(_("since"))

    class Meta:
        verbose_name = _("hold")
        verbose_name_plural = _("holds")
        indexes = [models.Index(fields=["account", "node"], name="baton_hold_by_account")]

    def __str__(self) -> str:
        return f"step {self.node_id}: {self.kind}"
