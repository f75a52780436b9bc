from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from baton import Workflow
from baton.models import (
    BudgetAccount,
    Completion,
    DebugLog,
    Hold,
    LedgerEntry,
    QueueSighting,
    StepLog,
    StepStat,
    SweepLease,
    WorkflowEdge,
    WorkflowNode,
    WorkflowRun,
)
from baton.testing import drain
from tests import steps

MODELS = [
    WorkflowRun,
    WorkflowNode,
    WorkflowEdge,
    Completion,
    DebugLog,
    QueueSighting,
    StepLog,
    SweepLease,
    LedgerEntry,
    StepStat,
    Hold,
    BudgetAccount,
]
TABLES = {model._meta.db_table for model in MODELS}
INDEXES = {index.name for model in MODELS for index in model._meta.indexes}


@pytest.mark.django_db
def test_migrations_say_all_that_the_models_say():
    call_command("makemigrations", "baton", check=True, dry_run=True, verbosity=0)


def tables() -> set[str]:
    return {name for name in connection.introspection.table_names() if name.startswith("baton_")}


def indexes() -> set[str]:
    with connection.cursor() as cursor:
        return {name for table in tables() for name in connection.introspection.get_constraints(cursor, table)}


@pytest.fixture
def _migrated_again(transactional_db):
    """Whatever a test does to the tables, the next one finds them."""
    yield
    call_command("migrate", verbosity=0)


@pytest.mark.usefixtures("_migrated_again")
@pytest.mark.django_db(transaction=True)
def test_migrations_go_from_nothing_to_the_newest_and_back_to_nothing():
    names = [name for app, name in MigrationLoader(connection).disk_migrations if app == "baton"]
    assert tables() == TABLES

    call_command("migrate", "baton", "zero", verbosity=0)
    assert tables() == set()

    for name in sorted(names):
        call_command("migrate", "baton", name, verbosity=0)
    assert tables() == TABLES
    assert indexes() >= INDEXES
    assert drain(Workflow("x").add("a", steps.nothing).insert()).state == "completed"

    call_command("migrate", "baton", "zero", verbosity=0)
    assert tables() == set()


@pytest.mark.django_db
def test_hot_tables_are_indexed_as_the_models_say():
    assert indexes() >= INDEXES


def test_names_of_indexes_and_constraints_begin_with_the_app_s():
    named = [each.name for model in MODELS for each in [*model._meta.indexes, *model._meta.constraints]]

    assert all(name.startswith("baton_") for name in named)
    assert len(named) == len(set(named))
