"""``manage.py brief``."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from research.terminal import follow
from research.workflows import research_brief


class Command(BaseCommand):
    """Write a brief on a topic."""

    help = "Writes a brief on a topic from Python's own documentation; a running qcluster does the work."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the topic."""
        parser.add_argument("topic", help='such as "priority queues"')

    def handle(self, *args: Any, topic: str, **options: Any) -> None:
        """Insert the workflow, follow it and print the brief."""
        run = research_brief(topic).insert()
        follow(run, self.stdout)
        if run.state == "failed":
            raise CommandError(run.steps["sources"].error or "the brief failed")
        if run.state == "completed":
            self.stdout.write("\n" + run.steps["brief"].result)
