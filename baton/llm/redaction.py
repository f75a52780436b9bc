"""What may be kept of a call: without secrets, as JSON, not too long. Every part of a debug log comes from here."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import logging
import math
import re
import traceback
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from operator import methodcaller
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils.functional import Promise
from django.utils.module_loading import import_string

from baton.conf import get_settings
from baton.values import MAX_DEPTH, MAX_INT_DIGITS

logger = logging.getLogger("baton.llm")

REMOVED = "removed by redaction"
"""Stands where a secret stood."""
HOOK_FAILED = "not kept: the function of REDACT_HOOK failed"
"""Stands for a part that the project's own function was to look at and did not."""
NOT_READABLE = "not kept: it could not be read"
"""Stands for a part that nobody could look at."""

# Half of what a row holds: the stack of a body may be used up a good deal.
_MAX_DEPTH = MAX_DEPTH // 2
_TOO_LONG_INT = 10**MAX_INT_DIGITS
_LONG_DATA = 1_000
_DATA_SHOWN = 40
# How far into the items of a list one text is looked for in pieces: a chunk of a stream is not deeper.
_PIECE_DEPTH = 8
# How many times what a row holds is read: secrets and pictures that are taken out make room for what follows them.
_MARGIN = 2
_LONG_LINE = 1_000


def redacted(kind: str, value: Any) -> Any:
    """What is kept of a part of a call.

    Args:
        kind: ``request``, ``response`` or ``upstream``, which the function of ``REDACT_HOOK`` is told.
        value: Anything.

    Returns:
        Plain JSON of at most ``CAPTURE_MAX_CHARS`` characters.
    """
    settings = get_settings()
    most = settings.capture_max_chars
    rules = _rules(settings.redact_keys, settings.redact_patterns, most * _MARGIN)
    try:
        read = _Reading(most * _MARGIN).plain(value)
        kept = rules.applied(read)
        if settings.redact_hook is not None:
            # What it returns may be anything, and may hold what was taken out before.
            read = _Reading(most * _MARGIN).plain(_asked(settings.redact_hook, kind, kept))
            kept = rules.applied(read)
        return _cut(kept, most, read)
    except RecursionError:
        # The stack was nearly used up when we were called.
        return NOT_READABLE


def redacted_line(text: str) -> str:
    """What is kept of a short text, such as a key or the name of a model."""
    settings = get_settings()
    return _rules(settings.redact_keys, settings.redact_patterns, _LONG_LINE).text(text)


def _asked(path: str, kind: str, kept: Any) -> Any:
    try:
        return import_string(path)(kind, kept)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - it is the project's code
        # Where it failed, but not with what words: those may quote the secret.
        where = "".join(traceback.format_tb(exc.__traceback__))
        logger.error("%s (REDACT_HOOK) raised %s, so the %s is not kept.\n%s", path, type(exc).__name__, kind, where)  # noqa: TRY400
        return HOOK_FAILED


class _Said(str):
    """What an object says of itself: nobody knows where in a line of it a value ends."""

    __slots__ = ()


_TEXTS: dict[type, Callable[[Any], str]] = {
    datetime: methodcaller("isoformat"),
    date: methodcaller("isoformat"),
    time: methodcaller("isoformat"),
    timedelta: str,
    Decimal: str,
    UUID: str,
    Promise: str,
}


_SCALARS = frozenset({str, int, float, bool, type(None)})


class _Reading:
    """Reads any value as JSON has it: what JSON cannot hold as what it says of itself, what holds itself once.

    It ends after so many characters: what comes then would be cut off anyhow.
    """

    def __init__(self, most: int) -> None:
        self._left, self._at_most = most, most // 4
        self._inside: set[int] = set()

    def plain(self, value: Any) -> Any:
        kind = type(value)
        self._left -= 1
        if kind in _SCALARS:
            return self._scalar(value)
        if self._left < 0 or len(self._inside) >= _MAX_DEPTH:
            return "…"
        if id(value) in self._inside:
            return "(a container that holds itself)"
        self._inside.add(id(value))
        try:
            return self._converted(value, kind)
        except Exception:  # noqa: BLE001 - the value's own code; its error may quote anything
            return f"({kind.__name__}, which could not be read)"
        finally:
            self._inside.discard(id(value))

    def _converted(self, value: Any, kind: type) -> Any:  # noqa: C901, PLR0911, PLR0912 - a line for each kind of value
        if issubclass(kind, Enum):
            return self.plain(value.value)
        if issubclass(kind, str):
            return self._scalar(str.__str__(value))
        if issubclass(kind, Mapping):
            return self._dict(value.items())
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._dict(zip(kind._fields, value, strict=False))
        if issubclass(kind, (list, tuple, AbstractSet, deque)):
            items = list(value)
            if len(items) == 2 and isinstance(items[0], bytes):
                # A header, perhaps: only its name tells that the other is a secret.
                items[0] = _name(items[0])
            return self._list(items)
        if issubclass(kind, (bytes, bytearray, memoryview)):
            return f"<{memoryview(value).nbytes:,} bytes>"
        if issubclass(kind, (int, float)):
            return self._scalar(int.__int__(value) if issubclass(kind, int) else float.__float__(value))
        for base, text_of in _TEXTS.items():
            if issubclass(kind, base):
                return text_of(value)
        if callable(getattr(kind, "model_dump", None)):
            return self.plain(_dumped(value))
        if dataclasses.is_dataclass(kind):
            return self._dict((field.name, getattr(value, field.name)) for field in dataclasses.fields(kind))
        if issubclass(kind, QuerySet):
            # What it says of itself would be a query.
            return f"<{kind.__name__} of {value.model._meta.label}>"  # noqa: SLF001 - Django's own name
        if issubclass(kind, BaseException):
            return _Said(f"{kind.__name__}: {value}")
        return _Said(repr(value))

    def _dict(self, items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        contents = _Contents()
        for key, item in list(items):
            if self._left < 0:
                contents.put("…", "…")
                break
            name = _name(key)
            self._left -= len(name)
            contents.put(name, self.plain(item))
        return contents.items

    def _list(self, items: list[Any]) -> list[Any]:
        contents = []
        for item in items:
            if self._left < 0:
                contents.append("…")
                break
            contents.append(self.plain(item))
        return contents

    def _scalar(self, value: Any) -> Any:
        if isinstance(value, str):
            # A long text may turn out to be a secret, of which nothing is kept.
            self._left -= min(len(value if len(value) <= _LONG_DATA else _shortened(value)), self._at_most)
            return value
        if isinstance(value, int):
            self._left -= value.bit_length() // 3
        return value if value is None or isinstance(value, bool) else _number(value)


def _name(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return str.__str__(key) if isinstance(key, str) else _Said(key)


class _Contents:
    """A dict in the making: two keys may read the same once they are text, or once they are redacted."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self._numbers: dict[str, int] = {}

    def put(self, name: str, value: Any) -> None:
        """Add a value under a name of its own."""
        number, wanted = self._numbers.get(name, 1), name
        while name in self.items:
            number += 1
            name = f"{wanted} ({number})"
        self._numbers[wanted] = number
        self.items[name] = value


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    return value if -_TOO_LONG_INT < value < _TOO_LONG_INT else f"(a number of {value.bit_length():,} bits)"


def _dumped(model: Any) -> Any:
    for options in ({"warnings": False}, {}):
        try:
            return model.model_dump(**options)
        except Exception:  # noqa: BLE001, S112 - the next way may do
            continue
    return _Said(repr(model))


@lru_cache(maxsize=16)
def _rules(keys: tuple[str, ...], patterns: tuple[re.Pattern[str], ...], most: int) -> _Rules:
    return _Rules(keys, patterns, most)


Span = tuple[int, int]


class _Rules:
    """``REDACT_KEYS`` and ``REDACT_PATTERNS``, applied to plain JSON."""

    def __init__(self, keys: tuple[str, ...], patterns: tuple[re.Pattern[str], ...], most: int) -> None:
        self._patterns = patterns
        self._most = most
        self._keys = frozenset(_folded(key) for key in keys)
        self._wild = re.compile(
            "|".join(map(fnmatch.translate, sorted(key for key in self._keys if "*" in key))) or "$^"
        )
        # Hyphens and underscores may stand anywhere in a name, or not at all.
        names = "|".join("[-_ ]?".join(map(_letter, key)) for key in sorted(self._keys, key=len, reverse=True) if key)
        self._named = re.compile(_NAMED.replace("NAME", names)) if names else None

    def applied(self, value: Any) -> Any:
        """The same without what the keys and patterns name."""
        if isinstance(value, str):
            return self.text(value, is_said=isinstance(value, _Said))
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, list):
            return self._list(value)
        if self._patterns and value is not None and not isinstance(value, bool) and self._matches(str(value)):
            return REMOVED
        return value

    def text(self, text: str, *, is_said: bool = False) -> str:
        """A text without them, also where it is JSON."""
        text = self._inside_json(text)
        if len(text) > self._most:
            text = self._beginning(text)
        text = _without(text, self._spans(text, is_said=is_said))
        return _shortened(text) if len(text) > _LONG_DATA else text

    def _is_secret(self, key: Any) -> bool:
        if not isinstance(key, str):
            return False
        name = _folded(key)
        return name in self._keys or self._wild.match(name) is not None

    def _dict(self, value: dict[str, Any]) -> dict[str, Any]:
        contents = _Contents()
        # As some write headers: {"name": "authorization", "value": "…"}.
        is_named = any(self._is_secret(value.get(each)) for each in ("name", "key"))
        for key, item in value.items():
            is_secret = self._is_secret(key) or (is_named and key == "value")
            contents.put(self.text(key), REMOVED if is_secret else self.applied(item))
        return contents.items

    def _list(self, value: list[Any]) -> list[Any]:
        # As others write them: ["authorization", "…"].
        if len(value) == 2 and self._is_secret(value[0]):
            return [value[0], REMOVED]
        return [self.applied(item) for item in self._without_pieces(value)]

    def _inside_json(self, text: str) -> str:
        if text.lstrip()[:1] not in ("{", "[", '"'):
            return text
        try:
            value = json.loads(text, object_pairs_hook=_all_of)
        except ValueError:
            return text
        except RecursionError:
            return NOT_READABLE
        kept = self.applied(value if len(text) <= self._most else _Reading(self._most).plain(value))
        return text if kept == value else json.dumps(kept, ensure_ascii=False)

    def _beginning(self, text: str) -> str:
        """What may be kept of a text that is too long. Names are looked for in that alone: it would take too long."""
        text = _shortened(_without(text, self._matches(text)))
        return text if len(text) <= self._most else f"{text[: self._most]}…"

    def _matches(self, text: str) -> list[Span]:
        found = (match.span() for pattern in self._patterns for match in pattern.finditer(text))
        return [(start, end) for start, end in found if end > start]

    def _spans(self, text: str, *, is_said: bool = False) -> list[Span]:
        """Where the secrets of a text are. All are found before one is taken out, for they may overlap."""
        spans = self._matches(text)
        if self._named is not None:
            spans += _values(text, self._named.finditer(text), is_said=is_said)
        return [span for span in spans if not _is_removed(text, *span)]

    def _without_pieces(self, items: list[Any]) -> list[Any]:
        """The items of a list without secrets that only show when their texts are joined, as a stream's chunks are."""
        pieces: dict[tuple[Any, ...], list[tuple[int, str]]] = {}
        for index, item in enumerate(items):
            for path, text in _texts(item, ()):
                pieces.setdefault(path, []).append((index, text))
        items = [*items]
        for path, found in pieces.items():
            if len({text for _, text in found}) > 1:
                for index, text in self._mended(found):
                    items[index] = _replaced(items[index], path, text)
        return items

    def _mended(self, found: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """The pieces that must change, with what becomes of them."""
        joined = "".join(text for _, text in found)
        spans = self._spans(joined)
        if not spans:
            return
        begin = 0
        for _, text in found:
            spans += [(start + begin, end + begin) for start, end in self._spans(text)]
            begin += len(text)
        ahead = deque(_merged(spans))
        begin = 0
        for index, text in found:
            end = begin + len(text)
            while ahead and ahead[0][1] <= begin:
                ahead.popleft()
            inside = list(_before(end, ahead))
            if any(span[0] < begin or span[1] > end for span in inside):
                yield index, _cut_out(text, begin, inside)
            begin = end


# What stands before a secret in a text: a name and a colon or an equals sign, or a name in quotes and another text.
# In a URL also Google's "key", a word that elsewhere says nothing, and what stands before a host.
# As many backslashes as text in text in text has; a text of nothing else would be looked through from each of them.
_NAMED = r"""(?ix)
    (?: (?P<quote>\\{0,63}["']) (?:NAME) (?P=quote) \s*
        (?: [:=]\s* | ,\s* (?: (?P=quote) value (?P=quote) \s*:\s* )? (?=[bru]?\\{0,63}["']) )
    | (?<![\w-]) (?:NAME) \s*[:=]\s*
    | [?&]key=
    | ://[^\s/?:@]*:(?=[^\s/?@]+@)
    ) (?=\S)"""
_QUOTED = re.compile(r"""[bru]{0,2}(?P<quote>\\*["'])(?:.*?(?<!\\)(?P=quote)|[^\n]*)""", re.DOTALL | re.IGNORECASE)
_SCHEME = re.compile(r"""(?:basic|bearer|digest|token)\s+(?=[^\s,;&"'<>)}\]])""", re.IGNORECASE)
_BARE = re.compile(r"""[^\s,;&"'<>)}\]]+""")
_DATA_URL = re.compile(rf"data:[\w.+-]+/[\w.+-]+[^,\s\"']{{0,100}};base64,[\w+/=%-]{{{_LONG_DATA - 100},}}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_decoder = json.JSONDecoder()


def _letter(letter: str) -> str:
    return r"\w{0,40}" if letter == "*" else re.escape(letter)


def _folded(key: str) -> str:
    return re.sub(r"[-_ ]", "", key.casefold())


def _all_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with every value that the text gives to a key, also where it gives it twice."""
    contents: dict[str, Any] = {}
    for key, value in pairs:
        contents[key] = [contents[key], value] if key in contents else value
    return contents


def _before(end: int, spans: Iterable[Span]) -> Iterator[Span]:
    for span in spans:
        if span[0] >= end:
            return
        yield span


def _values(text: str, names: Iterable[re.Match[str]], *, is_said: bool) -> Iterator[Span]:
    """Where the values of names are; what follows one that ends with the text is part of it."""
    ends = _Ends(text)
    for name in names:
        end = ends.of_value(name, is_said=is_said)
        yield name.end(), end
        if end == len(text):
            return


class _Ends:
    """Where values end, asked from the left to the right: a word or a line full of names is looked through once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._word = self._line = 0

    def of_value(self, name: re.Match[str], *, is_said: bool) -> int:
        """The end of the value after a name."""
        at = name.end()
        if self._text[at] in "{[":
            try:
                return _decoder.raw_decode(self._text, at)[1]
            except (ValueError, RecursionError):
                return len(self._text)
        if quoted := _QUOTED.match(self._text, at):
            return quoted.end()
        return self._of_line(at) if is_said and name["quote"] is None and ":" in name.group() else self._of_word(at)

    def _of_word(self, at: int) -> int:
        scheme = _SCHEME.match(self._text, at)
        at = at if scheme is None else scheme.end()
        if at >= self._word:
            match = _BARE.match(self._text, at)
            self._word = at if match is None else match.end()
        return self._word

    def _of_line(self, at: int) -> int:
        if at > self._line or not self._line:
            end = self._text.find("\n", at)
            self._line = len(self._text) if end < 0 else end
        return self._line


def _is_removed(text: str, start: int, end: int) -> bool:
    """Whether a secret stood there, with quotes around it; the value of a name is then the first word of it."""
    if text.startswith(REMOVED, start):
        return end <= start + len(REMOVED)
    return end - start < _LONG_LINE and text[start:end].strip("\\\"'") == REMOVED


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def _without(text: str, spans: list[Span]) -> str:
    return _cut_out(text, 0, _merged(spans)) if spans else text


def _cut_out(text: str, begin: int, spans: list[Span]) -> str:
    """A text, which begins at a number, without spans; one that began before the text is replaced there."""
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at : max(0, start - begin)], REMOVED if start >= begin else ""]
        at = end - begin
    return "".join([*parts, text[at:]])


def _texts(item: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """The texts in an item, with where they are."""
    if isinstance(item, str):
        yield path, item
    elif isinstance(item, (dict, list)) and len(path) < _PIECE_DEPTH:
        for key, value in item.items() if isinstance(item, dict) else enumerate(item):
            yield from _texts(value, (*path, key))


def _replaced(item: Any, path: tuple[Any, ...], text: str) -> Any:
    if not path:
        return text
    copy = item.copy()
    copy[path[0]] = _replaced(copy[path[0]], path[1:], text)
    return copy


def _shortened(text: str) -> str:
    """A text without the bulk of images and the like."""
    if _BASE64.fullmatch(text) and all(re.search(kind, text) for kind in ("[a-z]", "[A-Z]", "[0-9]")):
        return _beginning(text, "base64")
    return _DATA_URL.sub(lambda match: _beginning(match.group(), "data URL"), text)


def _beginning(text: str, what: str) -> str:
    return f"{text[:_DATA_SHOWN]}… ({what} of {len(text):,} characters)"


def _cut(value: Any, most: int, read: Any) -> Any:
    """A value, or the beginning of its text where that is too long, and how long it was when it was read."""
    length = len(json.dumps(value))
    if length <= most:
        return value
    length = max(length, len(json.dumps(read)))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    note = f" … (cut: {length:,} characters of JSON)"
    room = most - len(json.dumps(note))
    # A character takes one to twelve of ASCII JSON.
    fitting = bisect_right(range(min(len(text), most)), room, key=lambda end: len(json.dumps(text[:end])))
    return text[: fitting - 1] + note
