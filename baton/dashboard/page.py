"""A run's page: which tab, which step, and what each part of it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from baton.conf import get_settings
from baton.dashboard import activity_tab, graph_tab, money_tab, steps_tab, timeline_tab
from baton.dashboard.estimates import usual_kept
from baton.dashboard.header import Header, header_of
from baton.dashboard.known import known_of
from baton.dashboard.look import Look, Taste
from baton.dashboard.panel import Panel, panel_of
from baton.models import WorkflowNode, WorkflowRun
from baton.telemetry import timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """A tab and the link to it."""

    name: str
    label: Any
    address: str
    is_open: bool
    count: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything that a run's page shows."""

    look: Look
    as_of: str
    """The database's time of reading: what changed since is asked for."""
    header: Header
    tabs: list[Tab]
    tab: Any
    """What the open tab shows."""
    template: str
    panel: Panel | None
    unknown_step: str = ""
    """A step that the address names and the run does not have."""
    extra: dict[str, Any] = field(default_factory=dict)


_TABS: dict[str, tuple[Promise | str, Callable[[Look], Any]]] = {
    "graph": (_("Graph"), graph_tab.shown),
    "timeline": (_("Timeline"), timeline_tab.shown),
    "steps": (_("Steps"), steps_tab.shown),
    "money": (_("Money"), money_tab.shown),
    "activity": (_("Activity"), activity_tab.shown),
}


def run_page(
    run: WorkflowRun,
    params: Mapping[str, str],
    taste: Taste = Taste(),  # noqa: B008 - it never changes
    **permissions: bool,
) -> Page:
    """Read everything that a run's page shows.

    Args:
        run: The run.
        params: What the address asks for: ``view``, ``step``, and the words of the tabs.
        taste: How the reader wants graphs drawn.
        permissions: The fields of :class:`Look` that begin with ``may_``.
    """
    using = run._state.db or get_settings().database  # noqa: SLF001 - its own alias
    known = known_of(run)
    usual = usual_kept(run)
    header = header_of(run, known, usual)
    views = [view for view in _TABS if view != "money" or header.has_calls]
    view = params.get("view", "")
    view = view if view in views else views[0]
    asked = params.get("step", "")
    # Who closed the panel, or chose a group of the graph, does not want the step that would be shown otherwise.
    is_open = bool(asked) or not ("step" in params or params.get("group"))
    step = _step(run, using, asked, is_held=known.is_held) if is_open else None
    rest = {word: value for word, value in params.items() if word not in ("view", "step", "direction")}
    look = Look(
        run=run,
        using=using,
        view=view,
        step=step,
        params=rest,
        known=known,
        usual=usual,
        taste=taste,
        **permissions,
    )
    return Page(
        look=look,
        as_of=timestamp(known.now),
        header=header,
        tabs=[_tab(each, look, header) for each in views],
        tab=_TABS[view][1](look),
        template=f"baton/dashboard/{view}.html",
        panel=None if step is None else panel_of(look, step),
        unknown_step=asked if asked and step is None else "",
    )


def _tab(view: str, look: Look, header: Header) -> Tab:
    words = {"view": view} | ({"step": look.step.name} if look.step is not None else {})
    return Tab(
        name=view,
        label=_TABS[view][0],
        address="?" + urlencode(words),
        is_open=view == look.view,
        count=f"{header.bar.total:,}" if view == "steps" else "",
    )


def _step(run: WorkflowRun, using: str, name: str, *, is_held: bool) -> WorkflowNode | None:
    """The step that the address names, else the one that matters most: what failed first, or waits for a person."""
    nodes = WorkflowNode.objects.using(using).of_workflow(run.pk).select_related("step_log")
    if name:
        return None if "\0" in name else nodes.filter(name=name).first()
    if run.state == "failed":
        return nodes.filter(state="discarded").order_by("settled_at", "id").first()
    if is_held:
        return nodes.filter(hold__isnull=False).order_by("hold__since", "id").first()
    return None
