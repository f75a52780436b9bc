from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.llm import scripted

# Opt-in: `make test-local-model` brings a real model along.
collect_ignore = [] if "BATON_TEST_LOCAL_MODEL" in os.environ else ["test_local_model.py"]

PRICES = {
    "gpt-4o": {"input": "2.50", "output": "10", "cached_input": "1.25"},
    "fixed": {"input": "0", "output": "1000"},
}


@pytest.fixture
def prices(settings) -> None:
    """The prices of two models, and nobody else's."""
    settings.BATON = {**settings.BATON, "PRICES": PRICES, "CURRENCY": "EUR"}


@pytest.fixture(autouse=True)
def empty_script() -> Iterator[None]:
    yield
    left = [*scripted.SCRIPT, *scripted.AFTER]
    for each in (scripted.SCRIPT, scripted.CALLS, scripted.AFTER):
        each.clear()
    assert not left, "the script of a test was not played to its end"
