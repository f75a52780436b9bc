"""A run as somebody looks at it: what every part of its page is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from baton.dashboard.estimates import Usual
from baton.dashboard.graph.layout import Direction
from baton.dashboard.known import Known
from baton.models import WorkflowNode, WorkflowRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """How somebody wants graphs drawn, and has room for."""

    direction: Direction | None = None
    """What the user chose last; nothing for who never did."""
    is_wide: bool = False
    """Whether the page is so wide that a long chain reads better from left to right, as far as is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A run as somebody looks at it."""

    run: WorkflowRun
    using: str
    view: str
    """The tab."""
    step: WorkflowNode | None
    """The step whose panel is open."""
    params: Mapping[str, str]
    """What else the address says: filters, pages."""
    known: Known
    """What was read of the run for its head."""
    usual: Usual = field(default_factory=Usual)
    """What such runs take and cost."""
    taste: Taste = field(default_factory=Taste)
    """How the reader wants graphs drawn."""
    may_act: bool = False
    may_see_prompts: bool = False
    may_see_values: bool = False
    """Arguments, results, whole errors and logs of steps: ``view_workflownode``."""
    may_see_calls: bool = False

    @property
    def without_panel(self) -> str:
        """The page's own address, with no panel even where a step would be shown unasked."""
        address = self.address(step="", group="", child="", cell="")
        return f"{address}&step=" if self.run.state == "failed" else address

    def address(self, **changes: str | None) -> str:
        """The page's own address with some of its words changed."""
        words = {**self.params, "view": self.view}
        if self.step is not None:
            words["step"] = self.step.name
        words |= {word: value for word, value in changes.items() if value is not None}
        return "?" + urlencode({word: value for word, value in words.items() if value})
