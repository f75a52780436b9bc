"""What a once-only effect gave, as text in its entry, and back: on a replay the caller gets what it got at first."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.module_loading import import_string

from baton.exceptions import NotStorableError
from baton.values import decode, encode

JSON, BYTES, CHUNKS, TEXT = "", "bytes", "chunks", "text"
"""Kinds of answers beside the classes of pydantic models, which are named by their path."""

_MAX_PATH = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An answer as its entry holds it."""

    text: str
    kind: str = JSON
    problem: str = ""
    """Why it cannot be given back; then the text is only what a person may read."""


def write_answer(answer: Any) -> Written:
    """Write an answer of any shape. It was paid for, so this never raises and knows no limit of length."""
    if isinstance(answer, bytes):
        return Written(text=json.dumps(base64.b64encode(answer).decode()), kind=BYTES)
    try:
        if is_model(answer):
            return Written(text=encode(_dumped(answer), what="answer"), kind=_path(type(answer)))
        return Written(text=encode(answer, what="answer"))
    except NotStorableError as exc:
        return Written(text=json.dumps(_shown(answer)), kind=TEXT, problem=exc.found)
    except Exception as exc:  # noqa: BLE001 - the answer's own code
        problem = f"not readable: {type(exc).__name__}: {exc}"
        return Written(text=json.dumps(_shown(answer)), kind=TEXT, problem=problem)


def write_chunks(chunks: Sequence[Any]) -> Written:
    """Write what a stream yielded."""
    written = [write_answer(chunk) for chunk in chunks]
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
        case "chunks":
            return [_rebuilt(data, value["kinds"][index]) for index, data in value["chunks"]]
    return _rebuilt(value, kind)


def is_readable(text: str, kind: str) -> bool:
    """False for what was stored for people only."""
    return kind != TEXT and not (kind == CHUNKS and TEXT in decode(text)["kinds"])


def is_model(value: Any) -> bool:
    """True for pydantic's models, as the SDKs answer with."""
    return callable(getattr(type(value), "model_dump", None))


def same(answer: Any, rebuilt: Any) -> bool:
    """Whether a replay would give what the caller has in its hands."""
    try:
        return type(answer) is type(rebuilt) and bool(answer == rebuilt)
    except Exception:  # noqa: BLE001 - the answer's own code
        return False


def _rebuilt(data: Any, kind: str) -> Any:
    if kind in (JSON, TEXT):
        return data
    if kind == BYTES:
        return base64.b64decode(data)
    try:
        cls = import_string(kind)
    except ImportError:
        return data
    # An SDK's answer may have what its class does not foresee: then it is built as the SDK itself builds it.
    for build in ("model_validate", "construct"):
        try:
            return cls.model_validate(data) if build == "model_validate" else cls.construct(**data)
        except Exception:  # noqa: BLE001, S112 - the class's own code
            continue
    return data


def _dumped(model: Any) -> Any:
    try:
        return model.model_dump(mode="json", by_alias=True, warnings=False)
    except TypeError:  # One that looks like pydantic's and knows fewer words.
        return model.model_dump()


def _path(cls: type) -> str:
    """Where a class is; of a generic one, the class that it is made of."""
    origin = (getattr(cls, "__pydantic_generic_metadata__", None) or {}).get("origin") or cls
    path = f"{origin.__module__}.{origin.__qualname__}"
    return path if len(path) <= _MAX_PATH and "." in path else JSON


def _shown(answer: Any) -> str:
    try:
        return repr(answer)
    except Exception:  # noqa: BLE001 - the answer's own code
        return f"<{type(answer).__name__}>"
