"""``manage.py ingest``."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from research.terminal import follow
from research.workflows import ingest


class Command(BaseCommand):
    """Read a folder of files."""

    help = "Reads the files of a folder; a running qcluster does the work."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the folder."""
        parser.add_argument("folder", type=Path, help="such as sample_files")

    def handle(self, *args: Any, folder: Path, **options: Any) -> None:
        """Insert the workflow, follow it and print what was read."""
        if not folder.is_dir():
            msg = f"{folder} is not a folder"
            raise CommandError(msg)
        run = ingest(folder).insert()
        follow(run, self.stdout)
        if run.state != "running":
            self.stdout.write("\n" + run.steps["tally"].result)
        if run.state == "failed":
            msg = "not every file could be read: the reasons are above"
            raise CommandError(msg)
