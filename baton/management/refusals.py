"""How commands refuse: a sentence and exit code 1, or with ``--json`` a document that says the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError

from baton.conf import get_settings
from baton.exceptions import BatonError
from baton.explain.words import closed, first_line
from baton.management.terminal import printable


@contextmanager
def refusals(command: BaseCommand, *, as_json: bool) -> Iterator[None]:
    """Tell what Baton or the database raises in the block in the command's way."""
    try:
        yield
    except (BatonError, CommandError, DatabaseError) as exc:
        sentence = _sentence(exc)
        if not as_json:
            raise CommandError(sentence if isinstance(exc, CommandError) else printable(sentence)) from exc
        command.stdout.write(json.dumps({"ok": False, "error": sentence}))
        raise SystemExit(1) from exc


def _sentence(exc: Exception) -> str:
    if not isinstance(exc, DatabaseError):
        return str(exc)
    what = closed(first_line(str(exc)) or type(exc).__name__)
    return f"The database {get_settings().database!r} refused: {what} See what is wrong with baton_doctor."
