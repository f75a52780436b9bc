"""Runs to look at."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from django.db import connection
from django.urls import reverse
from django.utils import timezone

from baton import Workflow
from baton.engine.gate import claim
from baton.engine.runner import Held, execute
from baton.models import WorkflowEdge, WorkflowNode, WorkflowRun
from baton.testing import drain
from tests import steps
from tests.dashboard.graphs import layers
from tests.factories import DebugLogFactory, StepStatFactory, WorkflowRunFactory

TABS = ("graph", "timeline", "steps", "money", "activity")
EVIL = "<script>document.title='evil'</script><img src=x onerror=\"document.title='evil'\">"


def page_of(run: WorkflowRun, view: str = "", step: str = "") -> str:
    """The address of a run's page."""
    query = {key: value for key, value in (("view", view), ("step", step)) if value}
    return reverse("admin:baton_workflowrun_change", args=[run.pk], query=query)


def list_of_runs() -> str:
    """The address of the list."""
    return reverse("admin:baton_workflowrun_changelist")


def now() -> str:
    """The address of what goes on in all runs."""
    return reverse("admin:baton_workflowrun_now")


def brief() -> WorkflowRun:
    """A run in the middle: some steps completed, one executing, the others waiting, money spent."""
    models = ("gpt-5", "sonnet-4-5", "gemini-pro")
    workflow = Workflow("research-brief", key="brief:acme", meta={"by": "maria"}, budget=Decimal("0.50"))
    workflow.add("plan", steps.value)
    for search in ("web", "papers"):
        workflow.add(f"search_{search}", steps.value, deps=["plan"])
    for model in models:
        workflow.add(f"assess[{model}]", steps.value, deps=["search_web", "search_papers"])
    workflow.add("publish", steps.value, deps=[f"assess[{model}]" for model in models])
    run = workflow.insert()
    for name in ("plan", "search_web", "search_papers", "assess[sonnet-4-5]"):
        perform(run, name)
    claim(connection, run.steps["assess[gpt-5]"].pk, worker="worker-3:12")
    StepStatFactory.create(node=run.steps["assess[gpt-5]"])
    StepStatFactory.create(node=run.steps["assess[sonnet-4-5]"], model="sonnet-4-5")
    StepStatFactory.create(node=run.steps["assess[sonnet-4-5]"], model="unheard-of", unpriced=True)
    return run


def failed() -> WorkflowRun:
    """A run of which a step was tried twice and discarded, and others were cancelled for it."""
    run = drain(
        Workflow("invoice-sync", key="invoices:monday")
        .add("fetch", steps.value.bind({"rows": list(range(20))}))
        .add("reconcile", steps.fail.bind("row 17 of 'a.csv' is bad"), deps=["fetch"], max_attempts=2)
        .add("post_ledger", steps.value, deps=["reconcile"])
        .insert()
    )
    StepStatFactory.create(node=run.steps["reconcile"])
    return run


def ingest(pages: int = 120) -> WorkflowRun:
    """A wide run, a part of which has completed."""
    workflow = Workflow("document-ingest").add("list", steps.value)
    names = [f"page[{number}]" for number in range(pages)]
    for name in names:
        workflow.add(name, steps.value, deps=["list"])
    run = workflow.add("merge", steps.value, deps=names, ignore_discarded=True).insert()
    for name in ("list", *names[:20]):
        perform(run, name)
    return run


def vast() -> WorkflowRun:
    """A run of 10,000 steps in 100 layers, of which 40 have completed and the next one is at work."""
    shape, edges = layers(100, 100)
    run = WorkflowRunFactory.create(name="reindex-catalog")
    now = timezone.now()
    done = {"state": "completed", "attempt": 1, "queued_at": now, "started_at": now, "settled_at": now}
    busy = {"state": "executing", "attempt": 1, "queued_at": now, "started_at": now, "worker": "worker-3:12"}
    states = [done] * 40 + [{**busy, "lease_until": now + timedelta(minutes=5)}] + [{"state": "pending"}] * 59
    nodes = WorkflowNode.objects.bulk_create(
        [
            WorkflowNode(
                run=run,
                name=each.name,
                step="tests.steps.value",
                n_deps=2 if index >= 100 else 0,
                n_out=2,
                remaining=2 if index >= 4100 else 0,
                changed_at=now,
                **states[index // 100],
            )
            for index, each in enumerate(shape)
        ],
        batch_size=2000,
    )
    by_id = {each.id: node for each, node in zip(shape, nodes, strict=True)}
    WorkflowEdge.objects.bulk_create(
        [WorkflowEdge(dependency=by_id[before], node=by_id[after]) for before, after in edges], batch_size=5000
    )
    return run


def evil() -> WorkflowRun:
    """A run that would like to run scripts in the browser, by every text that steps may give."""
    workflow = (
        Workflow(EVIL, key=EVIL, meta={"by": EVIL}, debug=True)
        .add(EVIL, steps.value.bind(EVIL))
        .add(f"fails {EVIL}", steps.fail.bind(EVIL), deps=[EVIL], max_attempts=1)
        .add(f"waits {EVIL}", steps.value, deps=[f"fails {EVIL}"])
        .add(f"logs {EVIL}", steps.log_text.bind(EVIL))
    )
    for number in range(12):
        workflow.add(f"{EVIL}[{number}]", steps.value.bind(EVIL), deps=[f"logs {EVIL}"])
    run = drain(workflow.insert())
    StepStatFactory.create(node=run.steps[EVIL], model=EVIL, provider=EVIL)
    StepStatFactory.create(node=run.steps[EVIL], model=f"2{EVIL}", provider=EVIL, unpriced=True, unpriced_because=EVIL)
    DebugLogFactory.create(node=run.steps[EVIL], model=EVIL, request=EVIL, response=EVIL)
    return run


def perform(run: WorkflowRun, name: str) -> None:
    """Have a step run here."""
    claimed = claim(connection, run.steps[name].pk, worker="worker-3:12")
    assert claimed is not None
    execute(connection, Held(claim=claimed), until=None)
