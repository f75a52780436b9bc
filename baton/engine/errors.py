"""Errors as text: one line for people, and the key that puts like failures together."""

from __future__ import annotations

import re

KEY_LENGTH = 200

_QUOTED = re.compile(r"""(['"`])(?:(?!\1).)*\1""")
_IDENTIFIER = re.compile(
    r"\b0x[0-9a-fA-F]+\b|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b|\b[0-9a-fA-F]{16,}\b"
)
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def error_message(error: BaseException) -> str:
    """One line for people: the class where it tells something, and the message."""
    text = storable_text(_text_of(error))
    name = type(error).__name__
    if is_ours(error):
        return text
    return f"{name}: {text}" if text else name


def storable_text(text: str) -> str:
    """Text that every database takes: no NUL, no half of a surrogate pair, not endless."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()[:10_000]


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error whose text raises still failed the step
        return ""


def is_ours(error: BaseException) -> bool:
    """True for an error of Baton's own, whose message says it all."""
    return type(error).__module__.startswith("baton.")


def error_key(message: str | None) -> str:
    """What a message has in common with others of its kind: its first line, without what is quoted or counted."""
    line = (message or "").strip().split("\n", 1)[0]
    for pattern, word in ((_QUOTED, "…"), (_IDENTIFIER, "…"), (_NUMBER, "#")):
        line = pattern.sub(word, line)
    return " ".join(line.split())[:KEY_LENGTH]
