"""Checks of how the clusters run: what they fetch ahead, how often they look, when they give up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004 - Django's name for it

from baton.checks.configured import TAG, Cluster, clusters, is_whole, listed, queues, usable_settings
from baton.conf import is_number, shown

MOST_MESSAGES = 16
MOST_MESSAGES_PER_WORKER = 4
SLOWEST_POLL = 0.2


@register(TAG)
def check_sync(**kwargs: Any) -> Iterator[CheckMessage]:
    for cluster in clusters():
        if cluster.decides("sync") and cluster.get("sync"):
            yield Error(
                f"{cluster.place('sync')} is {shown(cluster.get('sync'))}: tasks run in the caller's transaction, "
                "and the processes of a cluster share its connections.",
                hint="Remove it. In tests, run workflows with baton.testing.drain().",
                id="baton.E019",
            )


@register(TAG)
def check_prefetch_is_bounded(**kwargs: Any) -> Iterator[CheckMessage]:
    for cluster in clusters():
        limit = cluster.get("queue_limit", 1)
        if cluster.decides("queue_limit") and not (is_whole(limit) and limit >= 1):
            yield Error(
                f"{cluster.place('queue_limit')} is {shown(limit)}: a busy host would take every message of the queue.",
                hint="Set queue_limit to about the number of workers.",
                id="baton.E020",
            )


@register(TAG)
def check_guard_cycle(**kwargs: Any) -> Iterator[CheckMessage]:
    for cluster in clusters():
        cycle = cluster.get("guard_cycle", 0.5)
        if cluster.decides("guard_cycle") and not _reaches_zero(cycle):
            yield Error(
                f"{cluster.place('guard_cycle')} is {shown(cycle)}: django-q2 kills a hung worker when its timer is "
                "exactly zero, which steps of this size jump over.",
                hint="Use 0.5 (the default), 0.25 or 1.",
                id="baton.E021",
            )


@register(TAG)
def check_sweep_queue(**kwargs: Any) -> Iterator[CheckMessage]:
    settings = usable_settings()
    if settings.sweep_schedule and settings.sweep_queue not in queues():
        yield Error(
            f"BATON['SWEEP_QUEUE'] is {settings.sweep_queue!r}, a queue for which no cluster is configured.",
            hint=f"Use one of: {listed(queues())}.",
            id="baton.E022",
        )


@register(TAG)
def check_scheduler(**kwargs: Any) -> Iterator[CheckMessage]:
    settings = usable_settings()
    cluster = next((c for c in clusters() if c.name == settings.sweep_queue), clusters()[0])
    if settings.sweep_schedule and not cluster.get("scheduler", True):
        yield Error(
            f"BATON['SWEEP_SCHEDULE'] is True, but {cluster.place('scheduler')} is "
            f"{shown(cluster.get('scheduler'))}: the sweep would never run.",
            hint="Remove 'scheduler', or name a cluster that has one in BATON['SWEEP_QUEUE'].",
            id="baton.E023",
        )


@register(TAG)
def check_prefetch_is_small(**kwargs: Any) -> Iterator[CheckMessage]:
    for cluster in clusters():
        most = max(MOST_MESSAGES, MOST_MESSAGES_PER_WORKER * cluster.workers)
        for key, found in (("queue_limit", cluster.queue_limit), ("bulk", cluster.bulk)):
            if cluster.decides(key, "workers") and found > most:
                yield Warning(
                    f"{cluster.place(key)} is {found}{_origin(cluster, key)} for {_workers(cluster)}: "
                    "a host busy with long steps keeps bells that an idle one could answer.",
                    hint=f"Set {key} to about the number of workers.",
                    id="baton.W006",
                )


@register(TAG)
def check_bulk_fits(**kwargs: Any) -> Iterator[CheckMessage]:
    for cluster in clusters():
        sources = ("bulk", "workers" if cluster.get("queue_limit") is None else "queue_limit")
        if cluster.decides(*sources) and cluster.bulk > cluster.queue_limit > 0:
            yield Warning(
                f"{cluster.place('bulk')} is {cluster.bulk}, more than the queue_limit of {cluster.queue_limit}: "
                "a batch waits half unpacked until workers have made room.",
                hint="Set bulk to queue_limit or less.",
                id="baton.W007",
            )


@register(TAG)
def check_poll(**kwargs: Any) -> Iterator[CheckMessage]:
    for cluster in clusters():
        poll = cluster.get("poll", SLOWEST_POLL)
        if cluster.decides("poll") and cluster.broker in ("orm", "mongo") and is_number(poll) and poll > SLOWEST_POLL:
            yield Warning(
                f"{cluster.place('poll')} is {poll}: an idle cluster looks for bells only so often, in seconds, "
                "and every start and retry waits for it.",
                hint="Set poll to 0.2 (django-q2's default) or less; 0.05 costs little.",
                id="baton.W008",
            )


@register(TAG)
def check_retry(**kwargs: Any) -> Iterator[CheckMessage]:
    for cluster in clusters():
        retry, timeout = cluster.get("retry", 60), cluster.get("timeout")
        if not cluster.decides("retry", "timeout") or cluster.broker not in ("orm", "mongo"):
            continue
        if is_number(retry) and is_number(timeout) and timeout > 0 and retry <= timeout:
            yield Warning(
                f"{cluster.place('retry')} is {retry} and the timeout is {timeout}: a task of django-q2 is delivered "
                "again while it still runs. (Steps are not: the gate turns the second bell away.)",
                hint="Set retry above the timeout times the number of tasks that can wait in front of a worker.",
                id="baton.W009",
            )


@register(TAG)
def check_timeout(**kwargs: Any) -> Iterator[CheckMessage]:
    for cluster in clusters():
        timeout = cluster.get("timeout")
        if not cluster.decides("timeout") or timeout is None or (is_whole(timeout) and (timeout > 0 or timeout == -1)):
            continue
        yield Warning(
            f"{cluster.place('timeout')} is {shown(timeout)}: django-q2 fails or kills its own tasks for it, the "
            "scheduled sweep among them.",
            hint="Use whole seconds, at least 1, or leave it out. Steps have timeouts of their own.",
            id="baton.W010",
        )


def _origin(cluster: Cluster, key: str) -> str:
    return "" if cluster.get(key) is not None else " (django-q2's default, workers squared)"


def _workers(cluster: Cluster) -> str:
    of_cluster = "" if cluster.is_main else f" of cluster {cluster.name!r}"
    return f"{cluster.workers} {'worker' if cluster.workers == 1 else 'workers'}{of_cluster}"


def _reaches_zero(cycle: object) -> bool:
    """True when every whole number of seconds, lowered by this as a 32-bit float, passes exactly through zero."""
    return is_number(cycle) and 0 < cycle <= 1 and math.frexp(cycle)[0] == 0.5
