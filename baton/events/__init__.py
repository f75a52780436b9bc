"""Events: what the signals tell, sent on to groups of a channel layer, for pages and services that follow runs.

The engine knows nothing of it. With no channel layer configured nothing is connected, and nothing is imported from
Channels, which need not be installed.
"""

from __future__ import annotations

from baton.events.consumers import WorkflowEventsMixin
from baton.events.messages import all_group, workflow_group
from baton.events.receivers import connect

__all__ = ["WorkflowEventsMixin", "all_group", "connect", "workflow_group"]
