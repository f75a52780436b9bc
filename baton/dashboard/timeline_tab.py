"""The tab of the timeline: when each step waited and ran, and what was spent meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baton.dashboard.page import Look


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineTab:
    """What the tab shows."""

    rows: list[dict[str, Any]]


def shown(look: Look) -> TimelineTab:
    """Read when the steps of a run waited and ran."""
    return TimelineTab(rows=[])
