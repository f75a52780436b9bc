"""Accounts: what of a budget is spent and what is reserved by calls under way."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from baton.models.fields import MoneyField


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
