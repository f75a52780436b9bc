"""Steps that do what a test gives them to do; for tests in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from baton import Workflow, llm
from baton.testing import drain

BODY: list[Callable[[Any], Any]] = []


@llm.llm_step(backoff=0)
def does(ctx: Any) -> Any:
    return BODY[-1](ctx)


@llm.llm_step(backoff=0)
async def adoes(ctx: Any) -> Any:
    return await BODY[-1](ctx)


def inserted(body: Callable[[Any], Any], *, step: Any = does, **options: Any) -> Any:
    """A run of one step, "a", which does that; the last body that was given is that of all."""
    BODY[:] = [body]
    return Workflow("w").add("a", step, **options).insert()


def did(body: Callable[[Any], Any], *, step: Any = does, **options: Any) -> Any:
    """The same, drained."""
    return drain(inserted(body, step=step, **options))
