"""Checks of the registered steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004 - Django's name for it

from baton.checks.configured import TAG, databases, joined, listed, queues, usable_settings, vendor_of
from baton.registry import RegisteredStep, all_steps, duplicates, import_failures


@register(TAG)
def check_step_names(**kwargs: Any) -> Iterator[CheckMessage]:
    for name, paths in duplicates().items():
        yield Error(
            f"Two steps are registered as {name!r}: {joined(paths)}.",
            hint="Give one of them another name with @step(name=...).",
            id="baton.E010",
        )


@register(TAG)
def check_step_modules(**kwargs: Any) -> Iterator[CheckMessage]:
    for module, failure in import_failures().items():
        yield Error(
            f"{module} could not be imported, so its steps cannot run: {failure}",
            hint="Correct the module; the log has the traceback.",
            id="baton.E011",
        )


@register(TAG)
def check_async_steps(**kwargs: Any) -> Iterator[CheckMessage]:
    for step in all_steps():
        if step.is_async and step.options.atomic:
            yield Error(
                f"Step {step.name!r} is async and atomic, and Django has no transactions in async code.",
                hint="Remove atomic=True, or make the body a plain function.",
                id="baton.E012",
            )


@register(TAG)
def check_queues_of_steps(**kwargs: Any) -> Iterator[CheckMessage]:
    users: dict[str, list[str]] = {}
    for step in all_steps():
        users.setdefault(step.options.queue, []).append(step.name)
    for queue, names in sorted(users.items()):
        if queue not in queues():
            yield Error(
                f"No cluster is configured for the queue {queue!r} of {_few(names)}.",
                hint=f"Add {queue!r} to Q_CLUSTER['ALT_CLUSTERS'] and run a qcluster with Q_CLUSTER_NAME={queue}, "
                f"or use one of: {listed(queues())}.",
                id="baton.E013",
            )


@register(TAG)
def check_atomic_steps_on_sqlite(**kwargs: Any) -> Iterator[CheckMessage]:
    settings = usable_settings()
    if vendor_of(databases().get(settings.database, {})) != "sqlite":
        return
    for step in all_steps():
        if step.options.atomic and not step.is_async and not _is_shorter_than(step, settings.lease_seconds):
            yield Warning(
                f"Step {step.name!r} is atomic and may hold SQLite's only write lock longer than its lease.",
                hint=f"Give it a timeout below BATON['LEASE_SECONDS'] ({settings.lease_seconds:g}), such as "
                f"@step(atomic=True, timeout={settings.lease_seconds / 3:g}).",
                id="baton.W003",
            )


def _is_shorter_than(step: RegisteredStep, seconds: float) -> bool:
    return step.options.timeout is not None and step.options.timeout < seconds


def _few(names: list[str], most: int = 3) -> str:
    some = ", ".join(repr(name) for name in sorted(names)[:most])
    return some if len(names) <= most else f"{some} and {len(names) - most} more"
