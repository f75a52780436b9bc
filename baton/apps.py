"""Wiring."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BatonConfig(AppConfig):
    """Baton as a Django app."""

    name = "baton"
    verbose_name = _("Baton")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks and every app's steps."""
        from baton import checks  # noqa: F401, PLC0415 - importing registers them
        from baton.conf import connect_settings  # noqa: PLC0415
        from baton.registry import autodiscover  # noqa: PLC0415

        connect_settings()
        autodiscover()
