"""Step stats: what each call of a language model took and cost."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from baton.models.fields import JSONTextField, MoneyField
from baton.models.ledger import LedgerEntry
from baton.models.node import WorkflowNode
from baton.models.run import WorkflowRun


class StepStat(models.Model):
    """One call, or the answers that an attempt took from the ledger instead of paying for them."""

    id = models.BigAutoField(primary_key=True)
    # No constraints in the database, as for edges.
    run = models.ForeignKey(
        WorkflowRun, on_delete=models.CASCADE, related_name="stats", db_constraint=False, verbose_name=_("run")
    )
    node = models.ForeignKey(
        WorkflowNode,
        on_delete=models.CASCADE,
        related_name="stats",
        db_constraint=False,
        db_index=False,
        verbose_name=_("step"),
    )
    entry = models.ForeignKey(
        LedgerEntry,
        on_delete=models.SET_NULL,
        related_name="stats",
        db_constraint=False,
        db_index=False,
        null=True,
        blank=True,
        verbose_name=_("ledger entry"),
    )
    once_key = models.CharField(  # noqa: DJ001 - none is counted each time
        _("once-key"), max_length=300, null=True, blank=True, help_text=_("Counted once for each of a step.")
    )
    key = models.CharField(_("key"), max_length=255, blank=True, default="")
    workflow_name = models.CharField(_("workflow"), max_length=255)
    step_name = models.CharField(_("step"), max_length=255)
    step = models.CharField(_("function"), max_length=255)
    attempt = models.PositiveIntegerField(_("attempt"), default=1)
    from_ledger = models.BooleanField(_("from the ledger"), default=False)
    count = models.PositiveIntegerField(_("times"), default=1)
    provider = models.CharField(_("provider"), max_length=100, blank=True, default="")
    model = models.CharField(_("model"), max_length=255, blank=True, default="")
    input_tokens = models.BigIntegerField(_("input tokens"), null=True, blank=True)
    output_tokens = models.BigIntegerField(_("output tokens"), null=True, blank=True)
    cached_input_tokens = models.BigIntegerField(_("of these, read from a cache"), null=True, blank=True)
    cache_write_tokens = models.BigIntegerField(_("of these, written to a cache"), null=True, blank=True)
    reasoning_tokens = models.BigIntegerField(_("of the output, reasoning"), null=True, blank=True)
    cost = MoneyField(_("cost"), null=True, blank=True)
    currency = models.CharField(_("currency"), max_length=8, blank=True, default="")
    unit_prices = JSONTextField(_("unit prices"), null=True, blank=True)
    price_source = models.CharField(_("source of the price"), max_length=255, blank=True, default="")
    price_version = models.CharField(_("version of the price"), max_length=64, blank=True, default="")
    unpriced_because = models.CharField(_("unpriced because"), max_length=500, blank=True, default="")
    context = JSONTextField(_("context"), null=True, blank=True, help_text=_("What prices may depend on."))
    duration = models.FloatField(_("duration in seconds"), null=True, blank=True)
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("step stat")
        verbose_name_plural = _("step stats")
        ordering = ("-id",)
        constraints = [models.UniqueConstraint(fields=["node", "once_key"], name="baton_stat_once")]
        indexes = [
            models.Index(fields=["at"], name="baton_stat_by_time"),
            models.Index(fields=["id"], condition=models.Q(cost__isnull=True), name="baton_stat_unpriced"),
        ]

    def __str__(self) -> str:
        return f"{self.model or self.key} at {self.at:%Y-%m-%d %H:%M:%S}"
