"""Completions: the ending of a round of a run, inserted once by whoever finds nothing unsettled."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from baton.models.fields import JSONTextField
from baton.models.run import WorkflowRun
from baton.states import WorkflowOutcome


class Completion(models.Model):
    """How a round of a run ended; the constraint makes one inserter, and the inserter announces."""

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(
        WorkflowRun, on_delete=models.CASCADE, related_name="completions", db_index=False, verbose_name=_("run")
    )
    round = models.PositiveIntegerField(_("round"), default=1)
    outcome = models.CharField(_("outcome"), max_length=16, choices=WorkflowOutcome)
    failed_steps = JSONTextField(_("failed steps"), default=list)
    failed_count = models.PositiveIntegerField(_("failed"), default=0)
    total_count = models.PositiveIntegerField(_("steps"), default=0)
    finished_at = models.DateTimeField(_("finished at"))
    announced_at = models.DateTimeField(_("announced at"), null=True, blank=True)

    class Meta:
        verbose_name = _("completion")
        verbose_name_plural = _("completions")
        ordering = ("-finished_at",)
        constraints = [models.UniqueConstraint(fields=["run", "round"], name="baton_completion_once_a_round")]
        indexes = [
            models.Index(
                fields=["finished_at"],
                condition=models.Q(announced_at__isnull=True),
                name="baton_completion_unannounced",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.run_id} {self.outcome}"
