"""Runs to look at."""

from __future__ import annotations

from decimal import Decimal

from django.db import connection
from django.urls import reverse

from baton import Workflow
from baton.engine.gate import claim
from baton.engine.runner import Held, execute
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps
from tests.factories import StepStatFactory

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


def evil() -> WorkflowRun:
    """A run that would like to run scripts in the browser, by every text that steps may give."""
    run = drain(
        Workflow(EVIL, key=EVIL, meta={"by": EVIL})
        .add(EVIL, steps.value.bind(EVIL))
        .add(f"fails {EVIL}", steps.fail.bind(EVIL), deps=[EVIL], max_attempts=1)
        .add(f"waits {EVIL}", steps.value, deps=[f"fails {EVIL}"])
        .insert()
    )
    StepStatFactory.create(node=run.steps[EVIL], model=EVIL, provider=EVIL)
    return run


def perform(run: WorkflowRun, name: str) -> None:
    """Have a step run here."""
    claimed = claim(connection, run.steps[name].pk, worker="worker-3:12")
    assert claimed is not None
    execute(connection, Held(claim=claimed), until=None)
