"""Accounts: what of a budget is spent and what is reserved by calls under way."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from django.db import models
from django.utils.translation import gettext_lazy as _

from baton.conf import get_settings
from baton.models.fields import MoneyField
from baton.models.run import WorkflowRun


class BudgetAccount(models.Model):
    """The money of one run, one step or one day. What may be spent stands with the run or in the settings."""

    name = models.CharField(_("name"), max_length=64, primary_key=True, help_text=_("run:…, step:… or day:…"))
    spent = MoneyField(_("spent"), default=0)
    reserved = MoneyField(_("reserved"), default=0)

    class Meta:
        verbose_name = _("budget account")
        verbose_name_plural = _("budget accounts")

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def of_today() -> str:
        """The name of the account of this day of UTC."""
        return f"day:{datetime.now(UTC):%Y-%m-%d}"

    def limit(self, *, using: str) -> Decimal | None:
        """What may be spent from it now; None where it has no limit, or none any more."""
        settings = get_settings()
        match self.name.partition(":"):
            case "run", _, run_id:
                runs = WorkflowRun.objects.using(using).filter(pk=run_id)
                return runs.values_list("budget", flat=True).first()
            case "step", _, _node_id:
                return settings.step_budget
        return settings.day_budget if self.name == self.of_today() else None
