"""The tab of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baton.dashboard.page import Look


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTab:
    """What the tab shows."""

    svg: str


def shown(look: Look) -> GraphTab:
    """Draw the graph of a run."""
    return GraphTab(svg="")
