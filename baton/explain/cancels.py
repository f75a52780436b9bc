"""Why something was cancelled: the reasons that the engine and people write, and how to read them again."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

_BY_SOMEBODY = re.compile(r"by (?P<who>[^:\n]+?)(?:: (?P<why>.*))?", re.DOTALL)
_BY_DEPENDENCY = re.compile(r"dependency (?P<name>'.*'|\".*\") was (?P<state>discarded|cancelled)", re.DOTALL)
BY_DEPENDENCY = "dependency "
"""What the reason of a step begins with that was cancelled because of another."""
BY_RUN = "the run was cancelled"
"""The reason of a step whose run was cancelled without one."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Who cancelled a run, and why; empty where nobody said."""

    who: str
    why: str


def reason_of(who: str, why: str) -> str:
    """The reason to give to ``run.cancel`` for somebody."""
    return f"by {who}: {why}" if why else f"by {who}"


def read_reason(text: str) -> Reason:
    """Who and why, from a reason."""
    found = _BY_SOMEBODY.fullmatch(text)
    return Reason(found["who"], found["why"] or "") if found else Reason("", text)


def read_dependency(text: str) -> tuple[str, str] | None:
    """The name and the state of the dependency that a cancelled step's reason names."""
    found = _BY_DEPENDENCY.fullmatch(text)
    if found is None:
        return None
    try:
        return str(ast.literal_eval(found["name"])), found["state"]
    except (ValueError, SyntaxError):
        return found["name"], found["state"]
