"""What the checks read: a project's settings, whatever they hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import cpu_count
from typing import Any, TypeGuard

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import load_backend

from baton.conf import Settings, get_settings, is_number

TAG = "baton"
DEFAULT_QUEUE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The settings of one cluster of django-q2, as its processes merge them."""

    name: str
    own: dict[Any, Any] = field(default_factory=dict)
    """Its entry in ``ALT_CLUSTERS``; for the main cluster, everything."""
    base: dict[Any, Any] = field(default_factory=dict)
    """What the main cluster says, which holds where the entry is silent."""

    @property
    def is_main(self) -> bool:
        """True for the cluster that runs without ``Q_CLUSTER_NAME``."""
        return self.own is self.base

    def get(self, key: str, default: Any = None) -> Any:
        return self.own.get(key, self.base.get(key, default))

    def decides(self, *keys: str) -> bool:
        """True when one of these settings is this cluster's own, so that no fault is told twice."""
        return self.is_main or any(key in self.own for key in keys)

    def place(self, key: str) -> str:
        """Where a setting of this cluster is written."""
        if key in self.own and not self.is_main:
            return f"Q_CLUSTER['ALT_CLUSTERS'][{self.name!r}][{key!r}]"
        return f"Q_CLUSTER[{key!r}]"

    @property
    def broker(self) -> str:
        """Which broker django-q2 builds: asked in its order, Redis when nothing is said."""
        if isinstance(self.get("sqs"), dict) and not self.get("broker_class") and not self.get("iron_mq"):
            return "sqs"
        kinds = ("broker_class", "iron_mq", "orm", "mongo")
        return next((kind for kind in kinds if self.get(kind)), "redis")

    @property
    def workers(self) -> int:
        workers = self.get("workers")
        return workers if is_whole(workers) and workers > 0 else cpu_count()

    @property
    def queue_limit(self) -> int:
        """How many messages wait in a host; 0 where that is not a number or depends on the machine."""
        limit = self.get("queue_limit", self.workers**2 if self.get("workers") else 0)
        return limit if is_whole(limit) else 0

    @property
    def bulk(self) -> int:
        """How many messages are fetched at once; Redis and MongoDB know only one."""
        bulk = self.get("bulk", 1)
        return bulk if is_whole(bulk) and self.broker not in ("redis", "mongo") else 1


def clusters() -> list[Cluster]:
    """The main cluster, then those of ``ALT_CLUSTERS``."""
    configured = getattr(django_settings, "Q_CLUSTER", {})
    base = configured if isinstance(configured, dict) else {}
    alternatives = base.get("ALT_CLUSTERS")
    others = alternatives if isinstance(alternatives, dict) else {}
    return [
        Cluster(name=DEFAULT_QUEUE, own=base, base=base),
        *(
            Cluster(name=name, own=own, base=base)
            for name, own in others.items()
            if isinstance(name, str) and isinstance(own, dict)
        ),
    ]


def queues() -> set[str]:
    """Every queue that a step may name."""
    return {DEFAULT_QUEUE} | named_queues()


def named_queues() -> set[str]:
    """Every queue that a cluster is configured for under its own name."""
    main, *others = clusters()
    names = [main.get("name"), main.get("cluster_name"), *(cluster.name for cluster in others)]
    return {name for name in names if isinstance(name, str) and name}


def usable_settings() -> Settings:
    """Baton's settings; the defaults while a fault in them is reported by its own check."""
    try:
        return get_settings()
    except ImproperlyConfigured:
        return Settings()


def databases() -> dict[str, dict[Any, Any]]:
    configured = getattr(django_settings, "DATABASES", {})
    if not isinstance(configured, dict):
        return {}
    return {
        alias: database
        for alias, database in configured.items()
        if isinstance(alias, str) and isinstance(database, dict)
    }


def databases_in_use() -> dict[str, dict[Any, Any]]:
    """The databases of Baton's tables and of the broker."""
    main = clusters()[0]
    aliases = [usable_settings().database, *([main.get("orm")] if main.broker == "orm" else [])]
    return {alias: databases()[alias] for alias in aliases if is_alias(alias)}


def is_alias(value: object) -> bool:
    return isinstance(value, str) and value in databases()


def options_of(database: dict[Any, Any]) -> dict[Any, Any]:
    options = database.get("OPTIONS")
    return options if isinstance(options, dict) else {}


def vendor_of(database: dict[Any, Any]) -> str | None:
    """The kind of a database, None where its backend cannot be loaded."""
    engine = database.get("ENGINE")
    return _vendor_of_engine(engine) if isinstance(engine, str) else None


@cache
def _vendor_of_engine(engine: str) -> str | None:
    try:
        vendor = load_backend(engine).DatabaseWrapper.vendor
    except Exception:  # noqa: BLE001 - Django reports a backend that cannot be loaded
        return None
    return vendor if isinstance(vendor, str) else None


def is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and is_number(value)


def listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


def joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
