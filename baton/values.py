"""What may be stored: arguments and results as ASCII JSON text, the same on every database."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from operator import methodcaller
from typing import Any
from uuid import UUID

from django.db.models import Model, QuerySet
from django.utils.duration import duration_iso_string
from django.utils.functional import LazyObject, Promise

from baton.exceptions import NotStorableError

MAX_INT_DIGITS = 4300
"""How long an int may be: what Python itself reads back unless told otherwise."""
MAX_DEPTH = 200
"""How deep containers may lie in each other, so that every reader has stack enough for them."""


def encode(value: Any, *, limit: int | None = None, what: str = "value") -> str:
    """Write a value as ASCII JSON text.

    Args:
        value: Dicts with string keys, lists, tuples, text, finite numbers, booleans and None; also dates, times,
            durations, ``Decimal``, ``UUID``, lazy text, enum members, dataclasses and pydantic models.
        limit: How many characters the text may have.
        what: How an error names the value.

    Raises:
        NotStorableError: The value holds something that JSON cannot hold, or the text is too long.
    """
    text = _text_of_plain(value, limit)
    if text is None:
        text = _text_by_walk(value, limit, what)
    if limit is not None and len(text) > limit:
        raise NotStorableError(what, _too_long(f"{len(text):,} characters long as JSON", limit))
    return text


def decode(text: str) -> Any:
    """Read back what :func:`encode` wrote, as JSON gives it."""
    return json.loads(text)


_TOO_LONG_INT = 10**MAX_INT_DIGITS
_SCALARS = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple})
_KEYS = frozenset({str})
# Without a limit it takes this many containers before shared ones count as too many.
_MAX_CONTAINERS = 1_000_000
# What the text says of a container at least, such as "[]" or "{}".
_MIN_CONTAINER_CHARS = 2


class _Refusal(Exception):  # noqa: N818 - becomes a NotStorableError once the path is known
    def __init__(self, found: str) -> None:
        self.found = found
        super().__init__(found)


def _from_datetime(value: datetime) -> str:
    text = value.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def _from_time(value: time) -> str:
    if value.utcoffset() is not None:
        raise _Refusal("a time with a time zone, which has no meaning without its date: give a datetime")
    return value.isoformat()


# As Django's JSON encoder writes them, but with the microseconds. A datetime is a date too, so it stands first.
_WRITERS: dict[type, Callable[[Any], str]] = {
    datetime: _from_datetime,
    date: methodcaller("isoformat"),
    time: _from_time,
    timedelta: duration_iso_string,
    Decimal: str,
    UUID: str,
    Promise: str,
}
_PLAIN = _SCALARS | _CONTAINERS | _WRITERS.keys()


def _write(value: Any) -> str:
    return _WRITERS[type(value)](value)


_encoder = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":"), default=_write)


def _text_of_plain(value: Any, limit: int | None) -> str | None:
    """Encode in C what consists of nothing but plain types; None where that is not certain or fails."""
    if sys.get_int_max_str_digits() != MAX_INT_DIGITS:
        return None
    try:
        return _encoder.encode(value) if _is_plain(value, _max_containers(limit)) else None
    except (_Refusal, TypeError, ValueError, RuntimeError):
        # The walk finds out where and why.
        return None


def _is_plain(value: Any, max_containers: int) -> bool:
    """Whether a value has nothing but plain types in it, looked at level by level.

    The types themselves are compared: the C encoder would write keys that are no strings, and take any ``str`` in an
    enum's dress for text.
    """
    level: list[Any] = [(value,)]
    seen = 0
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for container in level:
            items = container
            if type(container) is dict:
                if not _KEYS.issuperset(map(type, container)):
                    return False
                items = container.values()
            kinds = set(map(type, items))
            if not kinds <= _SCALARS:
                if not kinds <= _PLAIN:
                    return False
                below += [item for item in items if type(item) in _CONTAINERS]
        seen += len(below)
        if not below:
            return True
        if seen > max_containers:
            return False
        level = below
    return False


def _text_by_walk(value: Any, limit: int | None, what: str) -> str:
    walk = _Walk(_max_containers(limit))
    try:
        return _encoder.encode(walk.plain(value))
    except _Refusal as exc:
        raise NotStorableError(walk.path(what), exc.found) from None
    except _TooDeep:
        raise NotStorableError(what, f"nested more than {MAX_DEPTH} levels deep") from None
    except _TooMany:
        raise NotStorableError(what, _too_long("far too long", limit)) from None
    except RecursionError:
        raise NotStorableError(what, "nested too deep for what is left of the stack") from None
    except Exception as exc:
        # The value's own code failed: a property, an iterator, a lazy text.
        raise NotStorableError(walk.path(what), f"not readable: {type(exc).__name__}: {exc}") from exc


class _TooDeep(Exception):  # noqa: N818
    """Containers lie deeper in each other than is allowed; the path would be too long to read."""


class _TooMany(Exception):  # noqa: N818
    """So many containers that the text would be too long whatever is in them."""


class _Walk:
    """Turns a value into plain types, item by item; where it stops, it knows the path."""

    def __init__(self, max_containers: int) -> None:
        self._at: list[str | int] = []
        self._inside: set[int] = set()
        self._left = max_containers

    def path(self, what: str) -> str:
        """Where the walk is, without its middle when it is long."""
        keys = [f"[{_shown(key)}]" for key in self._at]
        return what + "".join(
            keys if len(keys) <= _MAX_PATH else [*keys[: _MAX_PATH // 2], "…", *keys[-_MAX_PATH // 2 :]]
        )

    def plain(self, value: Any) -> Any:
        kind = type(value)
        if kind is str or kind is bool or value is None:
            return value
        # Questions go to the type, not to isinstance(): a lazy object claims to be what it will become.
        if issubclass(kind, Enum):
            return self.plain(value.value)
        if issubclass(kind, (str, int, float)):
            return _scalar(value, kind)
        if issubclass(kind, dict):
            return self._dict(value, value.items())
        if issubclass(kind, (list, tuple)):
            return self._list(value)
        return self._converted(value, kind)

    def _converted(self, value: Any, kind: type) -> Any:
        for base, writer in _WRITERS.items():
            if issubclass(kind, base):
                return writer(value)
        if callable(getattr(kind, "model_dump", None)):
            return self._model(value)
        if dataclasses.is_dataclass(kind):
            return self._dict(value, ((field.name, getattr(value, field.name)) for field in dataclasses.fields(kind)))
        raise _Refusal(_unknown(value, kind))

    def _dict(self, holder: Any, items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        self._enter(holder)
        contents: dict[str, Any] = {}
        for key, item in items:
            name = _checked_key(key)
            self._at.append(name)
            if name in contents:
                raise _Refusal("there twice: two keys of the dict are written the same")
            contents[name] = self.plain(item)
            self._at.pop()
        self._leave(holder)
        return contents

    def _list(self, holder: Iterable[Any]) -> list[Any]:
        self._enter(holder)
        contents = []
        for index, item in enumerate(holder):
            self._at.append(index)
            contents.append(self.plain(item))
            self._at.pop()
        self._leave(holder)
        return contents

    def _model(self, model: Any) -> Any:
        self._enter(model)
        try:
            dumped = model.model_dump(mode="json")
        except TypeError:  # One that looks like pydantic's and knows no mode.
            dumped = model.model_dump()
        contents = self.plain(dumped)
        self._leave(model)
        return contents

    def _enter(self, holder: Any) -> None:
        if id(holder) in self._inside:
            raise _Refusal("a container that holds itself")
        if len(self._inside) == MAX_DEPTH:
            raise _TooDeep
        if not self._left:
            raise _TooMany
        self._left -= 1
        self._inside.add(id(holder))

    def _leave(self, holder: Any) -> None:
        self._inside.remove(id(holder))


def _checked_key(key: Any) -> str:
    if issubclass(type(key), str):
        return str.__str__(key)
    shown = f"the key {key!r}" if key is None or type(key) in {bool, int, float} else "a key"
    raise _Refusal(f"a dict with {shown} of type {type(key).__name__}: keys must be str")


def _scalar(value: Any, kind: type) -> str | int | float:
    """The plain content of a text or number, whatever its class makes of ``str()`` and ``int()``."""
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, float):
        number = float.__float__(value)
        if not math.isfinite(number):
            raise _Refusal(f"{number!r}, a float that JSON does not have")
        return number
    integer = int.__int__(value)
    if not -_TOO_LONG_INT < integer < _TOO_LONG_INT:
        raise _Refusal(f"an int of more than {MAX_INT_DIGITS:,} digits")
    return integer


_MAX_PATH = 12

# What to do instead, by type; the first that fits.
_ADVICE: list[tuple[tuple[type, ...], str]] = [
    ((LazyObject,), "give what is inside it"),
    ((Model,), "give its primary key"),
    ((set, frozenset), "make it a list, sorted if its order matters"),
    ((bytes, bytearray, memoryview), "decode it to text, or store it elsewhere and give its name"),
    ((Awaitable,), "await it"),
    ((Mapping,), "make it a dict"),
    ((Iterator, Collection, QuerySet), "make it a list"),
]


def _unknown(value: Any, kind: type) -> str:
    named = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if issubclass(kind, type):
        return f"the class {value.__qualname__}, which JSON cannot hold: give an instance or a name"
    advice = next((text for bases, text in _ADVICE if issubclass(kind, bases)), "")
    return f"of type {named}, which JSON cannot hold" + (f": {advice}" if advice else "")


def _shown(key: str | int) -> str:
    text = json.dumps(key)
    return text if len(text) <= 60 else text[:50] + '…"'


def _max_containers(limit: int | None) -> int:
    return _MAX_CONTAINERS if limit is None else limit // _MIN_CONTAINER_CHARS


def _too_long(found: str, limit: int | None) -> str:
    return found if limit is None else f"{found}: at most {limit:,} characters are stored (MAX_RESULT_CHARS)"
