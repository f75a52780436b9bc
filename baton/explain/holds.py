"""Why a step is held: for want of money, or of a person's word; and what to do."""

from __future__ import annotations

import shlex
from datetime import datetime
from functools import partial

from django.utils.translation import gettext as _

from baton import money
from baton.conf import get_settings
from baton.explain.words import clock, closed, code, paragraph
from baton.models import BudgetAccount, Hold, LedgerEntry
from baton.models.fields import SMALLEST
from baton.states import HoldKind

AN_ID = 8
"""How many digits of a run's id a command is told."""


def why_held(hold: Hold, *, step: str, using: str, now: datetime) -> str:
    """Why a step is held, and what to do about it.

    Args:
        hold: What it waits for.
        step: Its name.
        using: The alias of the database.
        now: The time.
    """
    if hold.kind == HoldKind.QUESTION:
        waits = _("Waits for a person since {time}. No worker is held.").format(time=clock(hold.since, now=now))
        return paragraph(waits, what_is_asked(hold, step=step, using=using))
    return paragraph(_("Held: {why}").format(why=what_is_lacking(hold, using=using)), what_to_raise(hold))


def what_is_asked(hold: Hold, *, step: str, using: str) -> str:
    """What a person is to decide, and how."""
    entry_id = hold.account.partition(":")[2]
    keys = LedgerEntry.objects.using(using).filter(pk=entry_id) if entry_id.isdigit() else LedgerEntry.objects.none()
    key = keys.values_list("key", flat=True).first()
    if key is None:
        asked = closed(hold.reason)
    else:
        asked = _("Nobody knows whether its call {key} was answered and paid.").format(key=f"“{key}”")
    how = _("Call again with {pay}, or discard the step with {fail}.")
    command = f"manage.py baton_resolve {str(hold.run_id)[:AN_ID]} {shlex.quote(step)}"
    return paragraph(asked, how.format(pay=code(f"{command} --pay"), fail=code("--fail")))


def what_is_lacking(hold: Hold, *, using: str) -> str:
    """How much the budget leaves, by which a step is held, and how much it wants; one sentence without its subject."""
    account = BudgetAccount.objects.using(using).filter(pk=hold.account).first() or BudgetAccount(name=hold.account)
    most = account.limit(using=using)
    if most is None:
        return _("for a budget that is there no more; the sweep lets it go on.")
    left = most - (account.spent or 0) - (account.reserved or 0)
    currency = get_settings().currency
    told_alike = hold.amount is not None and money.short(left, currency) == money.short(hold.amount, currency)
    shown = partial(money.exact if told_alike else money.short, currency=currency)
    texts = {
        "run": _("the budget of {budget} leaves {left}"),
        "step": _("the budget of {budget} for a step leaves {left}"),
    }
    told = texts.get(hold.account.partition(":")[0], _("the budget of {budget} for a day leaves {left}")).format(
        budget=shown(most), left=shown(left)
    )
    if account.reserved:
        told = _("{told}, with {reserved} of it reserved").format(told=told, reserved=shown(account.reserved))
    if hold.amount is None:
        return _("{told}, and nobody can tell what the call may cost.").format(told=told)
    if left >= hold.amount:
        return _("{told}, which is enough now; the sweep lets it go on.").format(told=told)
    if hold.amount == SMALLEST:
        # Held before its body: what it would call is not known yet.
        return closed(told)
    return _("{told}, and the call may cost {amount}.").format(told=told, amount=shown(hold.amount))


def what_to_raise(hold: Hold) -> str:
    """What lets a step go on that is held for want of money."""
    match hold.account.partition(":")[0]:
        case "run":
            command = f"manage.py baton_budget {str(hold.run_id)[:AN_ID]} AMOUNT"
            return _("Raise it: {command}").format(command=code(command))
        case "step":
            return _("Raise {setting}.").format(setting=code("BATON['STEP_BUDGET']"))
    return _("It goes on with the next day of UTC, or where {setting} is raised.").format(
        setting=code("BATON['DAY_BUDGET']")
    )
