"""The runs that are looked at: inserted as anybody would, and brought to their middle as workers would leave them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connection

from baton import Workflow
from baton.models import WorkflowRun
from benchmarks import steps

LAYERS = WIDTH = 100
CELLS = 400
"""As many steps of a group have a cell of their own."""

_SETTLE = """
    UPDATE baton_workflownode n SET state = s.state, version = 2, fence = 1, attempt = s.attempt,
        queued_at = t.began - interval '0.2 s', started_at = t.began,
        settled_at = CASE WHEN s.state IN ('completed', 'discarded') THEN t.ended END,
        changed_at = CASE WHEN s.state = 'executing' THEN t.began ELSE t.ended END,
        lease_until = CASE WHEN s.state = 'executing' THEN now() + interval '1 day' END,
        due_at = CASE WHEN s.state = 'retryable' THEN now() + interval '1 day' END,
        worker = 'bench:' || n.id %% 8, has_result = s.state = 'completed',
        result_json = CASE WHEN s.state = 'completed' THEN '{"words": 412, "title": "something of some length"}' END,
        error = CASE WHEN s.state IN ('discarded', 'retryable') THEN 'ConnectTimeout: no answer in 10 s' END,
        error_key = CASE WHEN s.state = 'discarded' THEN 'ConnectTimeout: no answer in # s' ELSE '' END,
        attempt_log = CASE WHEN s.state = 'executing' THEN '[]' ELSE json_build_array(json_build_object(
            'number', s.attempt, 'worker', 'bench:' || n.id %% 8, 'queued_at', _text(t.began - interval '0.2 s'),
            'started_at', _text(t.began), 'ended_at', _text(t.ended), 'outcome', s.state,
            'error', CASE WHEN s.state = 'completed' THEN NULL ELSE 'ConnectTimeout: no answer in 10 s' END,
            'count', 1))::text END
    FROM unnest(%s::text[], %s::text[], %s::int[]) WITH ORDINALITY s(name, state, attempt, place),
        LATERAL (SELECT now() - interval '10 min' + s.place * interval '9 min' / %s) b(at),
        LATERAL (SELECT b.at, b.at + (1 + s.place %% 7) * interval '0.3 s') t(began, ended)
    WHERE n.run_id = %s AND n.name = s.name
"""

_WAITING = """
    UPDATE baton_workflownode n SET remaining = w.remaining FROM (
        SELECT e.node_id, count(*) FILTER (WHERE d.settled_at IS NULL) FROM baton_workflowedge e
        JOIN baton_workflownode d ON d.id = e.dependency_id WHERE d.run_id = %s GROUP BY e.node_id) w(id, remaining)
    WHERE n.id = w.id AND n.state = 'pending'
"""

_READY = """
    UPDATE baton_workflownode SET state = 'available', version = 1, queued_at = now() - interval '1 min',
        changed_at = now() - interval '1 min'
    WHERE run_id = %s AND state = 'pending' AND remaining = 0
"""

_BEGUN = (
    "UPDATE baton_workflowrun SET inserted_at = now() - interval '10 min' WHERE id = %s",
    "UPDATE baton_workflownode SET changed_at = now() - interval '10 min' WHERE run_id = %s AND state = 'pending'",
)

_CALLS = """
    INSERT INTO baton_stepstat (run_id, node_id, once_key, key, workflow_name, step_name, step, attempt, from_ledger,
        count, provider, model, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens,
        cost, currency, unit_prices, price_source, price_version, unpriced_because, duration, at)
    SELECT n.run_id, n.id, 'c:1', 'answer', r.name, n.name, n.step, 1, false, 1, 'openai', 'model-' || n.id %% 3,
        1000 + n.id %% 977, n.id %% 331, 0, 0, 0,
        CASE WHEN n.id %% 100 <> 7 THEN 1000000000 + n.id * 7919 END,
        CASE WHEN n.id %% 100 <> 7 THEN 'USD' ELSE '' END, '{"input": "1.25", "output": "10"}', 'PRICES', '',
        CASE WHEN n.id %% 100 = 7 THEN 'no price for this model' ELSE '' END, 1.5, n.settled_at
    FROM baton_workflownode n JOIN baton_workflowrun r ON r.id = n.run_id
    WHERE n.run_id = %s AND n.state = 'completed'
"""

_FUNCTION = """
    CREATE OR REPLACE FUNCTION _text(moment timestamptz) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
"""


def small(name: str, layers: int = 10, width: int = 3) -> WorkflowRun:
    """A small run: layers, in which each step waits for two; the first half has completed, with calls of models."""
    workflow = _layered(name, layers, width)
    run = workflow.insert()
    done = [f"s{layer}_{place}" for layer in range(layers // 2) for place in range(width)]
    _bring_on(run, done[:-1], executing=[done[-1]])
    _sql(_CALLS, [run.pk])
    return run


def fan(name: str, pages: int, *, after: int = 0) -> WorkflowRun:
    """One step, so many that wait for it, one that waits for them, and some after it; 60 of 100 ended, with calls."""
    workflow = _fan(name, pages)
    for number in range(after):
        workflow.add(
            f"after{number}",
            steps.seed.bind(number=number),
            deps=[f"after{number - 1}" if number else "merge"],
            queue=name,
        )
    run = workflow.insert()
    ended = pages * 6 // 10
    names = [f"page[{number}]" for number in range(pages)]
    lost = names[17:ended:500]
    done = [each for each in ["split", *names[:ended]] if each not in set(lost)]
    now = names[ended : ended + min(37, pages // 10)]
    _bring_on(run, done, discarded=lost, executing=now, retryable=names[-min(6, pages // 20) :])
    _sql(_CALLS, [run.pk])
    return run


def layers(name: str) -> WorkflowRun:
    """A hundred layers of a hundred steps, of which each waits for two; sixty layers and a half are done."""
    run = _layered(name, LAYERS, WIDTH).insert()
    names = [f"s{layer}_{place}" for layer in range(LAYERS) for place in range(WIDTH)]
    ended = 60 * WIDTH + WIDTH // 2
    _bring_on(run, names[:ended], executing=names[ended : ended + 4])
    return run


def groups(name: str, count: int) -> WorkflowRun:
    """Several groups of four hundred ready steps, so that each step has a cell of its own."""
    workflow = Workflow(name)
    for group in range(count):
        workflow.add(f"split{group}", steps.seed.bind(number=group), queue=name)
        names = [f"part{group}[{number}]" for number in range(CELLS)]
        for number, each in enumerate(names):
            workflow.add(each, steps.seed.bind(number=number), deps=[f"split{group}"], queue=name)
        # Its node is no cell, so it is left to a queue that nobody serves.
        workflow.add(f"merge{group}", steps.total, deps=names, queue=f"{name}-merge")
    run = workflow.insert()
    _bring_on(run, [f"split{group}" for group in range(count)])
    return run


def naps(name: str, count: int, seconds: float) -> WorkflowRun:
    """So many steps that workers can take at once, each of which keeps one busy for a moment."""
    workflow = Workflow(name)
    names = [f"nap[{number}]" for number in range(count - 1)]
    for each in names:
        workflow.add(each, steps.nap.bind(seconds=seconds))
    return workflow.add("last", steps.total, deps=names).insert()


def _fan(name: str, pages: int) -> Workflow:
    workflow = Workflow(name, meta={"by": "bench"}).add("split", steps.seed.bind(number=0), queue=name)
    names = [f"page[{number}]" for number in range(pages)]
    for number, each in enumerate(names):
        workflow.add(each, steps.seed.bind(number=number), deps=["split"], queue=name)
    return workflow.add("merge", steps.total, deps=names, ignore_discarded=True, queue=name)


def _layered(name: str, layers: int, width: int) -> Workflow:
    workflow = Workflow(name)
    for layer in range(layers):
        for place in range(width):
            before = (f"s{layer - 1}_{place}", f"s{layer - 1}_{(place + 1) % width}") if layer else ()
            workflow.add(f"s{layer}_{place}", steps.seed.bind(number=place), deps=dict.fromkeys(before), queue=name)
    return workflow


def _bring_on(
    run: WorkflowRun,
    completed: Sequence[str],
    *,
    discarded: Sequence[str] = (),
    executing: Sequence[str] = (),
    retryable: Sequence[str] = (),
) -> None:
    """Write into the rows what workers would have written until now."""
    states = [("completed", completed), ("discarded", discarded), ("executing", executing), ("retryable", retryable)]
    rows = [(name, state, 5 if state == "discarded" else 1) for state, names in states for name in names]
    names, found, attempts = (list(column) for column in zip(*rows, strict=True))
    _sql(_FUNCTION)
    _sql(_SETTLE, [names, found, attempts, len(rows), run.pk])
    for statement in (_WAITING, _READY, *_BEGUN):
        _sql(statement, [run.pk])
    run.refresh_from_db()


def _sql(statement: str, params: Sequence[Any] | None = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
