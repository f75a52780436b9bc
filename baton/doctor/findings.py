"""What an examination says: a finding and its severity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

_SHOWN = 3


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """Work stands still, or is lost."""
    WARNING = "warning"
    """Work will be late, or stand still when something else happens."""
    INFO = "info"
    """Worth knowing; nothing is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found in an installation."""

    severity: Severity
    id: str
    """Fixed, for scripts; system checks keep theirs."""
    sentence: str
    """What was found."""
    fix: str
    """What to do about it."""

    @property
    def is_fault(self) -> bool:
        """True for an error or a warning."""
        return self.severity != Severity.INFO

    def as_dict(self) -> dict[str, str]:
        """The finding as JSON takes it."""
        return asdict(self)


def error(slug: str, sentence: str, *, fix: str) -> Finding:
    return Finding(severity=Severity.ERROR, id=slug, sentence=sentence, fix=fix)


def warning(slug: str, sentence: str, *, fix: str) -> Finding:
    return Finding(severity=Severity.WARNING, id=slug, sentence=sentence, fix=fix)


def info(slug: str, sentence: str, *, fix: str) -> Finding:
    return Finding(severity=Severity.INFO, id=slug, sentence=sentence, fix=fix)


def counted(count: int, noun: str) -> str:
    """``1 step``, ``1,200 steps``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def few(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
