"""Step logs: what a body wrote to ``ctx.logger``, kept with its step."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from baton.models.fields import JSONTextField
from baton.models.node import WorkflowNode


class StepLog(models.Model):
    """The newest lines of a step's log, over all its executions; a row apart, for the step's own is written often."""

    node = models.OneToOneField(
        WorkflowNode,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="step_log",
        db_constraint=False,
        verbose_name=_("step"),
    )
    fence = models.PositiveIntegerField(
        _("fence"), default=0, help_text=_("Of the execution that wrote last; an older one writes no more.")
    )
    lines = JSONTextField(_("lines"), default=list, help_text=_("The oldest first: at, level, attempt, message."))
    changed_at = models.DateTimeField(_("changed at"))

    class Meta:
        verbose_name = _("step log")
        verbose_name_plural = _("step logs")

    def __str__(self) -> str:
        return f"log of step {self.node_id}"
