"""How commands refuse: a sentence and exit code 1, or with ``--json`` a document that says the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import BaseCommand, CommandError

from baton.exceptions import BatonError


@contextmanager
def refusals(command: BaseCommand, *, as_json: bool) -> Iterator[None]:
    """Tell what Baton raises in the block in the command's way."""
    try:
        yield
    except (BatonError, CommandError) as exc:
        if not as_json:
            raise CommandError(str(exc)) from exc
        command.stdout.write(json.dumps({"ok": False, "error": str(exc)}))
        raise SystemExit(1) from exc
