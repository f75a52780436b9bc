"""The suite's settings with a second database of the same kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.settings import *  # noqa: F403 - all of them
from tests.settings import DATABASES as _ONE


def _named(name: str) -> dict[str, Any]:
    database = _ONE["default"]
    folder = Path(database["TEST"]["NAME"]).parent
    return {**database, "TEST": {"NAME": str(folder / f"{name}.sqlite3") if folder.name else name}}


DATABASES = {"default": _named("test_baton_first"), "other": _named("test_baton_second")}
