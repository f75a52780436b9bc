"""Settings of Acme: the example project's, with a queue of its own for reading pages, and a limit for each day."""

from __future__ import annotations

from config.settings import *  # noqa: F403 - these are the example's
from config.settings import BATON, Q_CLUSTER

Q_CLUSTER["ALT_CLUSTERS"]["ocr"] = {"workers": 6, "queue_limit": 6, "timeout": 60, "retry": 240}
BATON["PRICES"]["gpt-5"] = {"input": "1.25", "output": "10"}
BATON["DAY_BUDGET"] = "2"
