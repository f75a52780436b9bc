"""Checks of how messages reach the clusters: which of them exist, and through which broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004 - Django's name for it
from django.utils.module_loading import import_string

from baton.checks.configured import TAG, clusters, databases, is_alias, listed, named_queues, usable_settings
from baton.conf import shown, shown_plainly

# What each kind of broker reads; one of the project's own may read anything.
KEYS_OF_BROKERS = {
    "iron_mq": ["iron_mq"],
    "sqs": ["sqs"],
    "orm": ["orm"],
    "mongo": ["mongo", "mongo_db"],
    "redis": ["redis", "django_redis"],
}
BROKER_KEYS = ["broker_class", *(key for keys in KEYS_OF_BROKERS.values() for key in keys)]

BROKERS_WITHOUT_DELAY = {"redis": "Redis", "sqs": "Amazon SQS", "iron_mq": "IronMQ", "mongo": "MongoDB"}


@register(TAG)
def check_clusters_are_dicts(**kwargs: Any) -> Iterator[CheckMessage]:
    configured = getattr(django_settings, "Q_CLUSTER", {})
    alternatives = configured.get("ALT_CLUSTERS", {}) if isinstance(configured, dict) else {}
    places = {"Q_CLUSTER": configured, "Q_CLUSTER['ALT_CLUSTERS']": alternatives}
    if isinstance(alternatives, dict):
        places |= {f"Q_CLUSTER['ALT_CLUSTERS'][{shown_plainly(name)}]": own for name, own in alternatives.items()}
    for place, value in places.items():
        if not isinstance(value, dict):
            yield Error(f"{place} is {shown(value)}.", hint="Make it a dict of django-q2's settings.", id="baton.E014")


@register(TAG)
def check_cluster_of_this_process(**kwargs: Any) -> Iterator[CheckMessage]:
    name = os.environ.get("Q_CLUSTER_NAME")
    if name and name not in named_queues():
        yield Error(
            f"The environment says Q_CLUSTER_NAME={name}, and Q_CLUSTER['ALT_CLUSTERS'] has no such cluster.",
            hint=f"Add {name!r} to ALT_CLUSTERS, or unset the variable for the cluster that serves the default queue.",
            id="baton.E015",
        )


@register(TAG)
def check_brokers_can_be_imported(**kwargs: Any) -> Iterator[CheckMessage]:
    for problem, hint in _missing_brokers():
        yield Error(problem, hint=hint, id="baton.E016")


def _missing_brokers() -> Iterator[tuple[str, str]]:
    for cluster in clusters():
        path = cluster.get("broker_class")
        if not path or not cluster.decides("broker_class"):
            continue
        try:
            import_string(path)
        except Exception as exc:  # noqa: BLE001 - whatever a foreign module raises is what is reported
            yield (
                f"{cluster.place('broker_class')} is {shown(path)}, which cannot be imported: {exc}",
                "Give the dotted path of a broker class.",
            )
    if clusters()[0].broker == "redis" and find_spec("redis") is None:
        yield (
            "The broker of django-q2 is Redis, as it is where Q_CLUSTER names none, and no client of it is installed.",
            "Set Q_CLUSTER['orm'] to the alias of Baton's database, or install 'baton-workflows[redis]'.",
        )


@register(TAG)
def check_brokers_agree(**kwargs: Any) -> Iterator[CheckMessage]:
    main, *others = clusters()
    for cluster in others:
        decisive = {key for kind in (main.broker, cluster.broker) for key in KEYS_OF_BROKERS.get(kind, BROKER_KEYS)}
        differing = [key for key in BROKER_KEYS if key in decisive and cluster.get(key) != main.get(key)]
        if differing:
            yield Error(
                f"Cluster {cluster.name!r} has another broker than the rest: {cluster.place(differing[0])} "
                f"is not what Q_CLUSTER[{differing[0]!r}] says.",
                hint="Set the broker once, at the top of Q_CLUSTER: a process sends the messages for every queue "
                "through the broker of its own cluster.",
                id="baton.E017",
            )


@register(TAG)
def check_broker_database(**kwargs: Any) -> Iterator[CheckMessage]:
    main = clusters()[0]
    alias = main.get("orm")
    if main.broker == "orm" and not is_alias(alias):
        yield Error(
            f"{main.place('orm')} is {shown(alias)}, which is not in DATABASES.",
            hint=f"Use one of: {listed(databases()) or 'none is configured'}.",
            id="baton.E018",
        )


@register(TAG)
def check_outbox(**kwargs: Any) -> Iterator[CheckMessage]:
    main = clusters()[0]
    alias, ours = main.get("orm"), usable_settings().database
    if main.broker == "orm" and is_alias(alias) and alias != ours:
        yield Warning(
            f"{main.place('orm')} is {alias!r} while Baton's tables are in {ours!r}: bells cannot join the transaction "
            "that makes steps ready, and async_task() inside atomic() loses what the transaction wrote.",
            hint="Set both to the same alias.",
            id="baton.W004",
        )


@register(TAG)
def check_due_times(**kwargs: Any) -> Iterator[CheckMessage]:
    settings, broker = usable_settings(), clusters()[0].broker
    if broker in BROKERS_WITHOUT_DELAY and not (settings.sweep_resident or settings.sweep_schedule):
        yield Warning(
            f"The broker is {BROKERS_WITHOUT_DELAY[broker]}, which cannot deliver at a due time: "
            "retries, snoozes and lost bells wait for a sweep, and none is configured.",
            hint="Keep 'manage.py baton_sweep --watch --interval 1' running and set BATON['SWEEP_RESIDENT'] = True, "
            "or accept delays of a minute and more with BATON['SWEEP_SCHEDULE'] = True.",
            id="baton.W005",
        )
