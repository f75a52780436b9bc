"""What the tests of the dashboard share."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.people import client_with


@pytest.fixture
def viewer() -> Client:
    """Somebody who may look at runs."""
    return client_with("view_workflowrun")
