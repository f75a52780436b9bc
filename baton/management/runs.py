"""Runs as commands name them: by the beginning of an id, no longer than is needed to tell it from the others."""

from __future__ import annotations

import argparse
import string
from collections.abc import Sequence
from uuid import UUID

from django.core.management.base import CommandError

from baton.conf import get_settings
from baton.management.terminal import printable
from baton.models import WorkflowRun

FEWEST_DIGITS = 4
_DIGITS_OF_A_UUID = 32
_SHOWN = 10


class RunLookupError(CommandError):
    """Raised when no run's id begins as was given, or several do; commands exit with 1.

    Attributes:
        prefix: What was given.
        matches: The runs whose ids begin so, at most eleven.
    """

    def __init__(self, prefix: str, matches: Sequence[WorkflowRun] = ()) -> None:
        self.prefix, self.matches = prefix, list(matches)
        super().__init__(_several(prefix, self.matches) if matches else _none(prefix))


def run_prefix(text: str) -> str:
    """The type of a command's argument that names a run: a whole id, or its first digits.

    Returns:
        The digits in lower case, without dashes.
    """
    digits = text.strip().replace("-", "").lower()
    if not set(digits) <= set(string.hexdigits) or not FEWEST_DIGITS <= len(digits) <= _DIGITS_OF_A_UUID:
        msg = f"{text!r} is no run: give its id, or the first digits of it, at least {FEWEST_DIGITS}"
        raise argparse.ArgumentTypeError(msg)
    return digits


def find_run(prefix: str) -> WorkflowRun:
    """Find the one run whose id begins so.

    Args:
        prefix: Hexadecimal digits, as ``run_prefix`` returns them.

    Raises:
        RunLookupError: There is none, or more than one.
    """
    # A range of the primary key, in its order: every database reads that from the index, also where ids are text.
    first, last = UUID(prefix.ljust(_DIGITS_OF_A_UUID, "0")), UUID(prefix.ljust(_DIGITS_OF_A_UUID, "f"))
    runs = WorkflowRun.objects.using(get_settings().database).filter(pk__gte=first, pk__lte=last)
    matches = list(runs.order_by("pk")[: _SHOWN + 1])
    if len(matches) != 1:
        raise RunLookupError(prefix, matches)
    return matches[0]


def _none(prefix: str) -> str:
    which = "has the id" if len(prefix) == _DIGITS_OF_A_UUID else "has an id that begins with"
    return f"No run {which} {prefix}. See the runs with baton_list."


def _several(prefix: str, matches: Sequence[WorkflowRun]) -> str:
    shown = [f"  {run.pk}  {printable(run.name)}  {run.state}" for run in matches[:_SHOWN]]
    if len(matches) > _SHOWN:
        shown.append("  and more")
    return "\n".join([f"Several runs have an id that begins with {prefix}. Give more digits of one of these:", *shown])
