"""Wiring."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class BatonConfig(AppConfig):
    """Baton as a Django app."""

    name = "baton"
    verbose_name = _("Baton")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks and every app's steps."""
        import baton.engine.runner  # noqa: F401, PLC0415 - before a cluster forks, so that its workers share the memory
        from baton import checks, events  # noqa: F401, PLC0415 - importing the checks registers them
        from baton.conf import connect_settings  # noqa: PLC0415
        from baton.registry import autodiscover  # noqa: PLC0415

        connect_settings()
        connect_tracing()
        events.connect()
        autodiscover()
        post_migrate.connect(keep_sweep_schedule, sender=self, dispatch_uid="baton.sweep_schedule")


def connect_tracing() -> None:
    """Let OpenTelemetry measure the sweep, where it is installed: one pass a minute is worth a receiver."""
    from baton import telemetry, tracing  # noqa: PLC0415

    if tracing.is_wanted():
        telemetry.sweep_finished.connect(tracing.measure_sweep, dispatch_uid="baton.tracing")
        telemetry.sweep_failed.connect(tracing.count_failed_part, dispatch_uid="baton.tracing")
        telemetry.rows_pruned.connect(tracing.count_pruned, dispatch_uid="baton.tracing")


def keep_sweep_schedule(using: str, **_kwargs: object) -> None:
    """Keep the sweep's django-q2 schedule as ``SWEEP_SCHEDULE`` says: one row, however often ``migrate`` runs."""
    from baton.conf import get_settings  # noqa: PLC0415
    from baton.q2 import keep_schedule  # noqa: PLC0415

    settings = get_settings()
    keep_schedule(
        function="baton.sweep.scheduled_sweep",
        seconds=settings.sweep_seconds,
        queue=settings.sweep_queue,
        wanted=settings.sweep_schedule,
        using=using,
    )
