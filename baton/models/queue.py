"""Who was seen serving a queue, and which sweeper is at work."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class QueueSighting(models.Model):
    """A worker that answered a roll-call bell of its queue."""

    id = models.BigAutoField(primary_key=True)
    queue = models.CharField(_("queue"), max_length=100)
    host = models.CharField(_("host"), max_length=255)
    worker = models.CharField(_("worker"), max_length=255)
    seen_at = models.DateTimeField(_("seen at"))
    clock_offset = models.FloatField(
        _("clock offset"),
        null=True,
        blank=True,
        help_text=_("By how many seconds the clock of that host is ahead of the database's."),
    )

    class Meta:
        verbose_name = _("queue sighting")
        verbose_name_plural = _("queue sightings")
        constraints = [models.UniqueConstraint(fields=["queue", "host"], name="baton_sighting_queue_host")]

    def __str__(self) -> str:
        return f"{self.queue} on {self.host}"


class SweepLease(models.Model):
    """The one row that makes one sweeper at a time."""

    id = models.SmallIntegerField(primary_key=True)
    holder = models.CharField(_("holder"), max_length=255, blank=True, default="")
    until = models.DateTimeField(_("until"), null=True, blank=True)
    swept_at = models.DateTimeField(_("last complete pass"), null=True, blank=True)
    cursor = models.BigIntegerField(_("where the look for unreachable waiters stands"), default=0)

    class Meta:
        verbose_name = _("sweep lease")
        verbose_name_plural = _("sweep leases")

    def __str__(self) -> str:
        return self.holder or "free"
