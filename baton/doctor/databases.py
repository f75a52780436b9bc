"""The databases: reachable, migrated, and not growing without bound."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from baton import q2
from baton.doctor.findings import Finding, counted, error, few, info, warning
from baton.doctor.visit import Visit
from baton.models import DebugLog, WorkflowNode, WorkflowRun

MANY_ROWS = 1_000_000
_GRACE = timedelta(hours=1)


def look_at_database(visit: Visit) -> Iterator[Finding]:
    """Connect to every database that the engine needs, and ask it something."""
    for alias in sorted({visit.alias, *q2.databases()}):
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")
        except Exception as exc:  # noqa: BLE001 - whatever a driver raises is what is reported
            yield error(
                "database-unreachable",
                f"The database {alias!r} does not answer: {_reason(exc)}",
                fix=f"Start it, or correct DATABASES[{alias!r}].",
            )
            if alias != visit.alias:
                continue
            return
        if alias == visit.alias:
            visit.works.add("database")


def look_at_migrations(visit: Visit) -> Iterator[Finding]:
    """Find migrations that are not applied."""
    lacking: dict[str, list[str]] = {}
    for app, aliases in {"baton": {visit.alias}, "django_q": q2.databases()}.items():
        for alias in sorted(aliases):
            executor = MigrationExecutor(connections[alias])
            targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == app]
            plan = executor.migration_plan(targets)
            if names := [f"{app}.{migration.name}" for migration, _ in plan if migration.app_label == app]:
                lacking.setdefault(alias, []).extend(names)
    for alias, names in lacking.items():
        option = "" if alias == "default" else f" --database {alias}"
        verb = "is" if len(names) == 1 else "are"
        yield error(
            "migration-missing",
            f"{counted(len(names), 'migration')} {verb} not applied to the database {alias!r}: {few(names)}.",
            fix=f"Run: python manage.py migrate{option}",
        )
    if not lacking:
        visit.works.add("tables")


def look_at_sizes(visit: Visit) -> Iterator[Finding]:
    """Compare what is there with what retention promises."""
    settings = visit.settings
    if settings.retention_days is None:
        yield from _unbounded(visit)
    else:
        before = visit.now - timedelta(days=settings.retention_days) - _GRACE
        runs = WorkflowRun.objects.using(visit.alias).settled().filter(finished_at__lt=before)
        yield from _behind(runs.count(), "run", "ended", "RETENTION_DAYS", settings.retention_days)
    if settings.debug_log_retention_days is not None:
        before = visit.now - timedelta(days=settings.debug_log_retention_days) - _GRACE
        logs = DebugLog.objects.using(visit.alias).filter(created_at__lt=before)
        yield from _behind(
            logs.count(), "debug log", "written", "DEBUG_LOG_RETENTION_DAYS", settings.debug_log_retention_days
        )


def _behind(count: int, noun: str, began: str, setting: str, days: float) -> Iterator[Finding]:
    if count:
        yield warning(
            "retention-behind",
            f"{counted(count, noun)} {began} more than {days:g} days ago "
            f"{'is' if count == 1 else 'are'} still there, although BATON['{setting}'] is {days:g}.",
            fix="See that the sweep runs, raise BATON['PRUNE_LIMIT'] or sweep more often. "
            "By hand: python manage.py baton_sweep --prune",
        )


def _unbounded(visit: Visit) -> Iterator[Finding]:
    rows = _estimated_steps(visit)
    if rows >= MANY_ROWS:
        yield info(
            "rows-unbounded",
            f"There are about {rows:,} steps, and nothing deletes the old ones: BATON['RETENTION_DAYS'] is None.",
            fix="Set BATON['RETENTION_DAYS'] to the days for which you want to look back.",
        )


def _estimated_steps(visit: Visit) -> int:
    """How many steps there are, without counting them."""
    if visit.connection.vendor == "postgresql":
        with visit.connection.cursor() as cursor:
            cursor.execute("SELECT reltuples FROM pg_class WHERE oid = 'baton_workflownode'::regclass")
            return int(cursor.fetchone()[0])
    ids = WorkflowNode.objects.using(visit.alias).values_list("id", flat=True)
    first, last = ids.order_by("id").first(), ids.order_by("-id").first()
    return 0 if first is None or last is None else last - first + 1


def _reason(exc: Exception) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__
