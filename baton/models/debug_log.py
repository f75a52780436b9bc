"""Debug logs: what went to a provider and what came back, where capture is on."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from baton.models.fields import JSONTextField
from baton.models.node import WorkflowNode
from baton.models.run import WorkflowRun


class DebugLog(models.Model):
    """One captured call of a step; prompts are sensitive, so it has permissions and an age of its own."""

    id = models.BigAutoField(primary_key=True)
    # No constraints in the database, as for edges: retention deletes these apart from their run.
    run = models.ForeignKey(
        WorkflowRun, on_delete=models.CASCADE, related_name="debug_logs", db_constraint=False, verbose_name=_("run")
    )
    node = models.ForeignKey(
        WorkflowNode, on_delete=models.CASCADE, related_name="debug_logs", db_constraint=False, verbose_name=_("step")
    )
    attempt = models.PositiveIntegerField(_("attempt"), default=1)
    key = models.CharField(_("key"), max_length=255, blank=True, default="")
    provider = models.CharField(_("provider"), max_length=100, blank=True, default="")
    model = models.CharField(_("model"), max_length=255, blank=True, default="")
    request = JSONTextField(_("request"), null=True, blank=True)
    response = JSONTextField(_("response"), null=True, blank=True)
    upstream = JSONTextField(_("results of dependencies"), null=True, blank=True)
    duration = models.FloatField(_("duration in seconds"), null=True, blank=True)
    created_at = models.DateTimeField(_("created at"))

    class Meta:
        verbose_name = _("debug log")
        verbose_name_plural = _("debug logs")
        ordering = ("-created_at",)
        indexes = [models.Index(fields=["created_at"], name="baton_debuglog_by_time")]

    def __str__(self) -> str:
        return f"{self.model or self.key} at {self.created_at:%Y-%m-%d %H:%M:%S}"
