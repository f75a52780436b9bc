"""A process that changes steps of a run at a given pace, and notes when each change was committed.

Either one by one, through the very moves of a worker: claim, announce, run, settle, announce. Or many at once, as many
workers together would: one transaction in a tenth of a second, and the same announcements.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.cluster import ROOT
from benchmarks.environment import LAYER_VARIABLE
from benchmarks.workloads import check_equal

IN_HAND = 8
"""How many steps execute at once."""
TOGETHER_SECONDS = 0.1
CLAIM, SETTLE = "executing", "completed"

_CLAIM_MANY = """
    UPDATE baton_workflownode SET state = 'executing', attempt = 1, version = version + 1, fence = fence + 1,
        worker = 'bench:1', started_at = clock_timestamp(), changed_at = clock_timestamp(),
        lease_until = clock_timestamp() + interval '1 min'
    WHERE id IN (SELECT id FROM baton_workflownode WHERE state = 'available' AND queue = %s ORDER BY id LIMIT %s)
    RETURNING id, run_id, name, step, attempt, version
"""
_SETTLE_MANY = """
    UPDATE baton_workflownode SET state = 'completed', version = version + 1, fence = fence + 1, lease_until = NULL,
        settled_at = clock_timestamp(), changed_at = clock_timestamp(), has_result = true, result_json = '1'
    WHERE id = ANY (%s)
    RETURNING id, run_id, name, step, attempt, version
"""
# The database itself says when it committed what last changed a row.
_SETTLED_AT = """
    SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float FROM baton_workflownode
    WHERE id = ANY (%s) AND state = 'completed'
"""
# As a re-run does: what was settled is ready again, and what still waits for it waits for one more.
_AGAIN = """
    WITH again AS (
        UPDATE baton_workflownode SET state = 'available', version = version + 1, fence = fence + 1, settled_at = NULL,
            has_result = false, result_json = NULL, queued_at = clock_timestamp(), changed_at = clock_timestamp()
        WHERE id = %s RETURNING id)
    UPDATE baton_workflownode SET remaining = remaining + 1
    WHERE state = 'pending' AND id IN (SELECT node_id FROM baton_workflowedge WHERE dependency_id = (TABLE again))
"""


class Changing:
    """The process; ``changes`` after the ``with`` block, or after it has ended by itself."""

    def __init__(
        self, folder: Path, queue: str, *, rate: float, seconds: float, layer: str = "", how: Sequence[str] = ()
    ) -> None:
        """Say what it changes.

        Args:
            folder: What it notes goes there.
            queue: Of the steps.
            rate: So many changes a second.
            seconds: So long, or until all steps of the queue are settled.
            layer: The address of the channel layer.
            how: ``--many`` at once, or ``--again`` with steps that it has settled, when no other is left.
        """
        self.out = folder / f"changes-{queue}.json"
        words = [queue, str(self.out), "--rate", str(rate), "--seconds", str(seconds), *how]
        self.command = [sys.executable, "-m", "benchmarks.dashboard.changing", *words]
        self.environment = {**os.environ, LAYER_VARIABLE: layer}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self.command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self.process is not None
        if exc_info[0] is not None:
            self.process.terminate()
        self.process.wait()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        assert self.process is not None
        return self.process.poll() is not None

    def found(self) -> dict[str, Any]:
        """What it did: ``changes`` as id, state and time of commit, and how many there were a second."""
        assert self.process is not None
        if self.process.wait():
            raise RuntimeError(f"what changes steps ended with {self.process.returncode}")
        found: dict[str, Any] = json.loads(self.out.read_text(encoding="ascii"))
        return found


def change_one_by_one(queue: str, rate: float, seconds: float, *, again: bool) -> list[tuple[int, str, float]]:
    """Claim and settle steps of a queue by turns, so many changes a second."""
    from baton.engine.gate import claim_next, worker_name  # noqa: PLC0415 - needs a configured Django
    from baton.engine.runner import Held, database, execute  # noqa: PLC0415
    from baton.engine.transitions import Transition, announce  # noqa: PLC0415

    connection = database()
    held: deque[Held] = deque()
    changes: list[tuple[int, str, float]] = []
    settled: deque[int] = deque()

    def settle() -> None:
        one = held.popleft()
        execute(connection, one, until=None)
        settled.append(one.claim.node_id)

    due = time.monotonic()
    ends = due + seconds
    while time.monotonic() < ends:
        claim = claim_next(connection, queue, worker=worker_name())
        if claim is None:
            if held:  # it may make others ready
                settle()
            elif again and settled:
                with connection.cursor() as cursor:
                    for node_id in [settled.popleft() for _ in range(min(IN_HAND, len(settled)))]:
                        cursor.execute(_AGAIN, [node_id])
            else:
                break
            continue
        # As `take` does. The claim has just been committed, and nobody has been told of it yet.
        changes.append((claim.node_id, CLAIM, time.time()))
        announce([Transition.executing(claim)])
        held.append(Held(claim=claim))
        due += 1 / rate
        _sleep_until(due)
        if len(held) > IN_HAND:
            settle()
            due += 1 / rate
            _sleep_until(due)
    while held:
        settle()
    with connection.cursor() as cursor:
        cursor.execute(_SETTLED_AT, [list(settled)])
        rows = cursor.fetchall()
    check_equal("steps that completed", len(rows), len(settled))
    return changes + [(node_id, SETTLE, at) for node_id, at in rows]


def change_many(queue: str, rate: float, seconds: float) -> list[tuple[int, str, float]]:
    """Claim and settle many steps of a queue in each tenth of a second."""
    from django.db import connection, transaction  # noqa: PLC0415 - needs a configured Django

    from baton.engine.transitions import Transition, announce  # noqa: PLC0415
    from baton.states import StepState  # noqa: PLC0415

    share = max(1, round(rate * TOGETHER_SECONDS / 2))
    changes: list[tuple[int, str, float]] = []
    held: list[int] = []
    due = time.monotonic()
    ends = due + seconds
    while time.monotonic() < ends or held:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_SETTLE_MANY, [held])
            rows = [(*row, SETTLE) for row in cursor.fetchall()]
            held = []
            if time.monotonic() < ends:
                cursor.execute(_CLAIM_MANY, [queue, share])
                claimed = [(*row, CLAIM) for row in cursor.fetchall()]
                held = [row[0] for row in claimed]
                rows += claimed
        now = time.time()
        changes += [(row[0], row[6], now) for row in rows]
        announce(
            [
                Transition(
                    run_id=run_id,
                    workflow_name=queue,
                    node_id=node_id,
                    step_name=name,
                    step=step,
                    state=StepState(state),
                    attempt=attempt,
                    version=version,
                )
                for node_id, run_id, name, step, attempt, version, state in rows
            ]
        )
        if not rows:
            break
        due += TOGETHER_SECONDS
        _sleep_until(due)
    return changes


def _sleep_until(due: float) -> None:
    time.sleep(max(0.0, due - time.monotonic()))


def main() -> None:
    """Change steps, and write down when."""
    parser = argparse.ArgumentParser()
    parser.add_argument("queue")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--many", action="store_true")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()

    import django  # noqa: PLC0415

    django.setup()
    started = time.monotonic()
    if options.many:
        changes = change_many(options.queue, options.rate, options.seconds)
    else:
        changes = change_one_by_one(options.queue, options.rate, options.seconds, again=options.again)
    rate = len(changes) / (time.monotonic() - started)
    options.out.write_text(json.dumps({"changes": changes, "rate": rate}), encoding="ascii")


if __name__ == "__main__":
    main()
