"""The executions of a step so far, in words: what failed, what ran out of time, where a worker vanished."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton.explain.words import closed, first_line, listed, number, paragraph
from baton.models import WorkflowNode
from baton.states import AttemptOutcome, StepState

Entry = Mapping[str, Any]

_FAILURES = frozenset({AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT, AttemptOutcome.WORKER_LOST})
_CLASS = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)(?::\s|$)")


def executions(node: WorkflowNode) -> list[Entry]:
    """The executions of this round: a re-run begins at attempt 1 again, and the log goes on."""
    entries = node.attempt_log if isinstance(node.attempt_log, list) else []
    following = node.attempt if node.state == StepState.EXECUTING else node.attempt + 1
    found: list[Entry] = []
    for entry in reversed(entries):
        count = entry.get("number") or 0
        is_nap = entry.get("outcome") == AttemptOutcome.SNOOZED and count == following
        if count >= following and not is_nap:
            break
        found.insert(0, entry)
        following = count
    return found


def last_execution(node: WorkflowNode) -> Entry:
    """The newest execution of this round; empty where there was none."""
    found = executions(node)
    return found[-1] if found else {}


def failed_attempt(node: WorkflowNode) -> str:
    """A sentence on the attempt that failed last."""
    last = last_execution(node)
    count, most = number(node.attempt), number(node.max_attempts)
    error = first_line(node.error)
    match last.get("outcome"):
        case AttemptOutcome.WORKER_LOST:
            return _("In attempt {attempt} of {most} the worker {worker} vanished.").format(
                attempt=count, most=most, worker=last.get("worker") or "?"
            )
        case AttemptOutcome.TIMED_OUT:
            if node.timeout is None:
                return _("Attempt {attempt} of {most} ran out of time.").format(attempt=count, most=most)
            return _("Attempt {attempt} of {most} ran out of time after {limit} s.").format(
                attempt=count, most=most, limit=f"{node.timeout:g}"
            )
    if not error:
        return _("Attempt {attempt} of {most} failed.").format(attempt=count, most=most)
    if _CLASS.match(error):
        text = _("Attempt {attempt} of {most} failed with {error}")
    else:
        text = _("Attempt {attempt} of {most} failed: {error}")
    return closed(text.format(attempt=count, most=most, error=error))


def failed_alike(node: WorkflowNode) -> bool:
    """True when all attempts ended with the same error, which the last has told."""
    kinds = {(entry.get("outcome"), error_class(entry.get("error"))) for entry in executions(node)}
    return len(kinds) == 1 and kinds <= {(AttemptOutcome.FAILED, error_class(node.error))}


def history(node: WorkflowNode, *, but_last: bool, only_rounds: bool = False) -> str:
    """A sentence on the failed attempts so far, or nothing where there were none.

    Args:
        node: The step.
        but_last: Leave the newest execution out, which was told already.
        only_rounds: Leave all of this round out.
    """
    entries = executions(node)
    if only_rounds:
        return _earlier_rounds(node)
    if but_last:
        entries = entries[:-1]
    failures = [entry for entry in entries if entry.get("outcome") in _FAILURES]
    parts = [*_failed(failures), *_timed_out(failures), *_vanished(failures), *_napped(entries)]
    text = "; ".join(parts)
    return paragraph(closed(text[0].upper() + text[1:]) if text else "", _earlier_rounds(node))


def error_class(error: str | None) -> str:
    """The class that a message names, or nothing."""
    found = _CLASS.match(first_line(error))
    return found[1] if found else ""


def _failed(failures: Sequence[Entry]) -> list[str]:
    failed = [entry for entry in failures if entry["outcome"] == AttemptOutcome.FAILED]
    if len(failed) == 1:
        found = error_class(failed[0].get("error"))
        if found:
            return [_("attempt {attempt} ended with {error}").format(attempt=failed[0]["number"], error=found)]
        return [_("attempt {attempt} failed").format(attempt=failed[0]["number"])]
    classes = Counter(error_class(entry.get("error")) for entry in failed)
    return [
        (
            ngettext("{count} attempt ended with {error}", "{count} attempts ended with {error}", count)
            if found
            else ngettext("{count} attempt failed", "{count} attempts failed", count)
        ).format(count=number(count), error=found)
        for found, count in classes.most_common()
    ]


def _timed_out(failures: Sequence[Entry]) -> list[str]:
    numbers = _numbers(failures, AttemptOutcome.TIMED_OUT)
    if not numbers:
        return []
    return [
        ngettext("attempt {attempts} ran out of time", "attempts {attempts} ran out of time", len(numbers)).format(
            attempts=listed(numbers)
        )
    ]


def _vanished(failures: Sequence[Entry]) -> list[str]:
    numbers = _numbers(failures, AttemptOutcome.WORKER_LOST)
    if not numbers:
        return []
    return [
        ngettext(
            "in attempt {attempts} the worker vanished", "in attempts {attempts} the worker vanished", len(numbers)
        ).format(attempts=listed(numbers))
    ]


def _napped(entries: Sequence[Entry]) -> list[str]:
    naps = sum(entry.get("count") or 1 for entry in entries if entry.get("outcome") == AttemptOutcome.SNOOZED)
    if not naps:
        return []
    return [
        ngettext("it asked {count} time to run again later", "it asked {count} times to run again later", naps).format(
            count=number(naps)
        )
    ]


def _earlier_rounds(node: WorkflowNode) -> str:
    entries = node.attempt_log if isinstance(node.attempt_log, list) else []
    earlier = entries[: len(entries) - len(executions(node))]
    count = sum(entry.get("count") or 1 for entry in earlier)
    if not count:
        return ""
    return ngettext(
        "Before its run was retried it ran {count} time.", "Before its run was retried it ran {count} times.", count
    ).format(count=number(count))


def _numbers(failures: Sequence[Entry], outcome: AttemptOutcome) -> list[str]:
    return [number(entry["number"]) for entry in failures if entry["outcome"] == outcome]
