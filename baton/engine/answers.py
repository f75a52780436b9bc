"""What a once-only effect gave, as text in its entry, and back: on a replay the caller gets what it got at first."""

from __future__ import annotations

import base64
import json
import math
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from baton.engine.errors import error_message, storable_text
from baton.exceptions import NotStorableError
from baton.values import MAX_DEPTH, decode, encode

JSON, BYTES, CHUNKS, OBJECT, TEXT = "", "bytes", "chunks", "object", "text"
"""Kinds of answers beside the classes of pydantic models, which are named by their path."""

_MAX_PATH = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An answer as its entry holds it."""

    text: str
    kind: str = JSON
    problem: str = ""
    """Why it cannot be given back; then the text is only what a person may read."""
    given: Any = field(default=None, compare=False, repr=False)
    """What a replay gives, and so what the caller gets at first."""


def write_answer(answer: Any) -> Written:
    """Write an answer of any shape. It was paid for, so this never raises and knows no limit of length."""
    if isinstance(answer, bytes):
        text = json.dumps(base64.b64encode(answer).decode())
        return Written(text=text, kind=BYTES, given=read_answer(text, BYTES))
    try:
        if is_model(answer):
            return _write_model(answer)
        text = encode(answer, what="answer")
        return Written(text=text, given=decode(text))
    except NotStorableError as exc:
        return _write_object(answer, exc.found)
    except Exception as exc:  # noqa: BLE001 - the answer's own code
        return Written(text=_told(answer), kind=TEXT, problem=f"not readable: {error_message(exc)}")


def write_chunks(written: Sequence[Written]) -> Written:
    """Write what a stream yielded."""
    problem = next((each.problem for each in written if each.problem), "")
    kinds = list(dict.fromkeys(each.kind for each in written))
    rows = ",".join(f"[{kinds.index(each.kind)},{each.text}]" for each in written)
    return Written(text=f'{{"kinds":{json.dumps(kinds)},"chunks":[{rows}]}}', kind=CHUNKS, problem=problem)


def read_answer(text: str, kind: str) -> Any:
    """Read an answer back: a model by its class, where that is there and takes it, else as JSON gives it."""
    value = decode(text)
    match kind:
        case "" | "text":
            return value
        case "bytes":
            return base64.b64decode(value)
        case "object":
            return _revived(value)
        case "chunks":
            return [_rebuilt(data, value["kinds"][index]) for index, data in value["chunks"]]
    return _rebuilt(value, kind)


def is_readable(text: str, kind: str) -> bool:
    """False for what was stored for people only."""
    return kind != TEXT and not (kind == CHUNKS and TEXT in decode(text)["kinds"])


def is_model(value: Any) -> bool:
    """True for pydantic's models, as the SDKs answer with."""
    return callable(getattr(type(value), "model_dump", None))


def _rebuilt(data: Any, kind: str) -> Any:
    if kind in (JSON, TEXT):
        return data
    if kind == BYTES:
        return base64.b64decode(data)
    if kind == OBJECT:
        return _revived(data)
    try:
        cls = pkgutil.resolve_name(kind)
    except Exception:  # noqa: BLE001 - its module is gone, or raises as it is imported
        return data
    try:
        return cls.model_validate(data)
    except Exception:  # noqa: BLE001 - the class's own code
        return _constructed(cls, data)


def _constructed(cls: Any, data: Any) -> Any:
    """An SDK's answer may have what its class does not foresee: then it is built as the SDK itself builds it."""
    construct = getattr(cls, "construct", None)
    # Pydantic's own is not what an SDK does; and it is deprecated.
    if getattr(construct, "__module__", "pydantic.main") == "pydantic.main":
        return data
    try:
        return construct(**data)  # type: ignore[misc]
    except Exception:  # noqa: BLE001 - as above
        return data


def _write_model(model: Any) -> Written:
    """Write a model in the first way from which its class builds the same again, else as plain JSON."""
    kind, whole = _path(type(model)), _dumped(model)
    # What the provider did not send stays unset: a message that goes back to the provider must not gain fields.
    for how in ({"by_alias": True, "exclude_unset": True}, {"by_alias": True}, {}):
        text = encode(_dumped(model, **how), what="answer")
        given = _rebuilt(decode(text), kind)
        if is_model(given) and _dumped(given) == whole:
            return Written(text=text, kind=kind, given=given)
    text = encode(whole, what="answer")
    return Written(text=text, given=decode(text))


_ATTRIBUTES = "baton:attributes"


def _write_object(answer: Any, problem: str) -> Written:
    """Write what has attributes and is no model: it comes back as a ``SimpleNamespace``, the first time too."""
    try:
        text = encode(_flattened(answer), what="answer")
        return Written(text=text, kind=OBJECT, given=read_answer(text, OBJECT))
    except Exception:  # noqa: BLE001 - the answer's own code
        return Written(text=_told(answer), kind=TEXT, problem=problem)


def _flattened(value: Any) -> Any:
    """The same with dicts in the place of what is nothing but its attributes."""
    if type(value) is dict:
        return {key: _flattened(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_flattened(item) for item in value]
    with suppress(NotStorableError):
        encode(value)
        return value
    attributes = _attributes(value)
    if attributes is None:
        return value
    return {_ATTRIBUTES: {name: _flattened(item) for name, item in attributes.items()}}


def _attributes(value: Any) -> dict[str, Any] | None:
    """What an object consists of, with its properties and what its class says; None where that is not all of it.

    One that keeps something in private, or is read like a file or a list, has its words there: without them, a stored
    answer would be worth nothing.
    """
    found = getattr(value, "__dict__", None)
    if type(found) is not dict or isinstance(value, (type, BaseException, Iterable)) or callable(value):
        return None
    found = {**found}
    for cls in type(value).__mro__[:-1]:
        for name, member in vars(cls).items():
            is_data = isinstance(member, property) or not (callable(member) or hasattr(member, "__get__"))
            if is_data and not name.startswith("_"):
                with suppress(Exception):
                    found.setdefault(name, getattr(value, name))
    is_all = not any(name.startswith("_") for name in found) and (found or type(value) is SimpleNamespace)
    return found if is_all else None


def _revived(value: Any) -> Any:
    if isinstance(value, list):
        return [_revived(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_ATTRIBUTES}:
        return SimpleNamespace(**{name: _revived(item) for name, item in value[_ATTRIBUTES].items()})
    return {key: _revived(item) for key, item in value.items()}


def _dumped(model: Any, **how: Any) -> Any:
    try:
        return model.model_dump(mode="json", warnings=False, **how)
    except TypeError:  # One that looks like pydantic's and knows fewer words.
        return model.model_dump()


def _path(cls: type) -> str:
    """Where a class is; of a generic one, the class that it is made of."""
    origin = (getattr(cls, "__pydantic_generic_metadata__", None) or {}).get("origin") or cls
    path = f"{origin.__module__}.{origin.__qualname__}"
    return path if len(path) <= _MAX_PATH and storable_text(path) == path else JSON


def _told(answer: Any) -> str:
    """All that people can read of an answer that nobody can give back, as JSON text: it was paid for."""
    return json.dumps(_Telling().plain(answer))


class _Telling:
    """Reads any value as JSON: what JSON cannot hold as what it says of itself, and its words where that is little."""

    def __init__(self) -> None:
        self._left = 1_000_000
        self._inside: set[int] = set()

    def plain(self, value: Any) -> Any:
        if value is None or type(value) in (str, bool) or (type(value) is float and math.isfinite(value)):
            return value
        self._left -= 1
        if self._left < 0 or len(self._inside) >= MAX_DEPTH or id(value) in self._inside:
            return "…"
        self._inside.add(id(value))
        try:
            return self._parts(value)
        except Exception:  # noqa: BLE001 - the answer's own code
            return _said(value)
        finally:
            self._inside.discard(id(value))

    def _parts(self, value: Any) -> Any:
        if type(value) is int:
            return value if value.bit_length() < _LONG_NUMBER else hex(value)
        if isinstance(value, Mapping):
            # Two keys may be written the same.
            pairs = [[key if type(key) is str else _said(key), self.plain(item)] for key, item in value.items()]
            return dict(pairs) if len(dict(pairs)) == len(pairs) else pairs
        if isinstance(value, (list, tuple, AbstractSet)):
            return [self.plain(item) for item in value]
        with suppress(Exception):
            if is_model(value):
                return self.plain(value.model_dump())
        words = _attributes(value) or {name: _word(value, name) for name in _WORDS if _word(value, name)}
        return {_said(value): self.plain(words)} if words else _said(value)


_LONG_NUMBER = 10_000
_WORDS = ("text", "content", "data", "body")
"""Where the answer of a client for HTTP has what was paid for."""


def _word(value: Any, name: str) -> Any:
    with suppress(Exception):
        found = getattr(value, name, None)
        return found if isinstance(found, str | bytes) else None
    return None


def _said(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - the answer's own code
        return f"<{type(value).__name__}>"
