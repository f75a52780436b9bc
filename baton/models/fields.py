"""JSON kept as ASCII text, so that every string that Python can hold is the same on every database."""

from __future__ import annotations

from typing import Any

from django.db import models

from baton.values import decode, encode


class JSONTextField(models.TextField):  # type: ignore[type-arg] # not subscriptable at run time
    """A value in JSON text; ``jsonb`` would refuse NUL and lone surrogates after the work was done."""

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Any:
        """Decode what the row holds."""
        return None if value is None else decode(value)

    def to_python(self, value: Any) -> Any:
        """Take values as they are: text in JSON is a value too."""
        return value

    def get_prep_value(self, value: Any) -> str | None:
        """Encode for the row."""
        return None if value is None else encode(value)
