"""What the tests of the dashboard share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.cache import cache
from django.test import Client

from tests.people import client_with


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    """Pages keep for some seconds what they read."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def viewer() -> Client:
    """Somebody who may look at runs."""
    return client_with("view_workflowrun")
