"""Fixtures of the tests of faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.processes import Manage

QUICK = {"LEASE_SECONDS": 2.0, "READY_SECONDS": 0.5, "TIMEOUT_GRACE_SECONDS": 1.0}
"""What happens after seconds, happens after less here."""

Sweeper = Callable[..., None]


@pytest.fixture
def sweeper(manage: Manage) -> Sweeper:
    """Start a resident sweep in a process of its own, as one would beside every cluster."""

    def start(**environment: Any) -> None:
        manage.start("baton_sweep", "--watch", "--interval", "0.3", **{"baton": QUICK, **environment})

    return start
