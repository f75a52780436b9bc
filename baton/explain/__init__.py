"""Why a step or a run is where it is, in sentences: what the commands, the admin and the dashboard show."""

from __future__ import annotations

from baton.explain.runs import explain_run
from baton.explain.steps import explain_step

__all__ = ["explain_run", "explain_step"]
