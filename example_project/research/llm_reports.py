"""What the brief of the models ends in, as Markdown: the brief, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from baton.llm.stats import cost_by_model, unknown_outcomes, workflow_totals
from baton.models import WorkflowRun


def write_llm_brief(
    topic: str,
    *,
    sources: Mapping[str, Any],
    summary: str,
    keywords: Sequence[str],
    credibility: Sequence[Mapping[str, Any]],
) -> str:
    """Write the research brief: what is said, in which words, and by whom."""
    found, searched = len(sources["documents"]), sources["corpus_size"]
    lines = [
        f"# {topic[:1].upper()}{topic[1:]}",
        "",
        f"From {found} of {searched} texts in Python {sources['python']}'s own documentation, read by language models.",
        "",
        "## Summary",
        "",
        summary,
        "",
        "## Keywords",
        "",
        ", ".join(keywords),
        "",
        "## Sources by credibility",
        "",
        *(f"- `{verdict['name']}`: {verdict['reason']}" for verdict in credibility),
    ]
    return "\n".join(lines) + "\n"


def write_money(run: WorkflowRun) -> str:
    """Write what the calls of a run took and cost, what was not paid twice, and what nobody can know."""
    totals = workflow_totals(run)
    rows = [*cost_by_model(run=run), {"model": "total", **totals}]
    saved = {"cost": totals["saved"], "currency": totals["currency"]}
    unknown = unknown_outcomes(run)
    lines = [
        "# The money",
        "",
        f"{'model':<22}{'calls':>6}{'input':>9}{'output':>9}{'cost':>18}",
        *(
            f"{row['model']:<22}{row['calls']:>6}{row['input_tokens']:>9}{row['output_tokens']:>9}{price_of(row):>18}"
            for row in rows
        ),
        "",
        f"- budget: {'none' if run.budget is None else money(run.budget, totals['currency'])}",
        f"- calls without a price: {totals['unpriced']}",
        f"- answers from the ledger, not paid for again: {totals['served']}, saved {price_of(saved)}",
        f"- calls of which nobody can know whether they were paid for: {len(unknown)}",
        *(f"  - {entry['step_name']}, {entry['key']} ({entry['model']})" for entry in unknown),
    ]
    return "\n".join(lines) + "\n"


def price_of(row: Mapping[str, Any]) -> str:
    """Write what the calls of a row cost."""
    return "no price" if row["cost"] is None else money(row["cost"], row["currency"])


def money(amount: Decimal, currency: str) -> str:
    """Write an amount to its last digit."""
    return f"{amount.normalize():f} {currency}"
