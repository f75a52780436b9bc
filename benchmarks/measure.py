"""All repetitions on one database, in a process of its own, which the command starts."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import django
import psutil
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connection

from benchmarks.cluster import Cluster
from benchmarks.environment import Q_CLUSTER_VARIABLE, TUNED, with_prefetch
from benchmarks.workloads import Figures, Sizes, WrongResultError

SLOPE_ROUNDS = 3

Measured = Callable[[], Figures]


class Session:
    """One database, a number of repetitions, one side after the other."""

    def __init__(
        self, *, folder: Path, parts: Sequence[str], repeat: int, sizes: Sizes, prefetch: int, layer: str
    ) -> None:
        self.folder = folder
        self.parts = parts
        self.repeat = repeat
        self.sizes = sizes
        self.random_source = random.Random(1)
        self.is_sqlite = connection.vendor == "sqlite"
        self.raw_settings = TUNED
        self.chain_settings = TUNED | {"save_limit": 0}
        self.baton_settings = with_prefetch(prefetch)
        self.layer = layer
        self.label = ""

    def run(self) -> dict[str, Any]:
        """Measure everything and return it as JSON takes it."""
        call_command("migrate", verbosity=0)
        report = self.describe()
        report["repetitions"] = repetitions = []
        for number in range(1, self.repeat + 1):
            self.label = f"{connection.vendor} {number}/{self.repeat}"
            figures: Figures = {}
            # Neither side is always the first: what the machine does besides hits both.
            sides = [self.measure_raw, self.measure_baton]
            for measure in sides if number % 2 else reversed(sides):
                figures |= measure()
            repetitions.append(figures)
        if "SLOPE" in self.parts:
            self.label = connection.vendor
            report["slope"] = self.measure_slope()
        return report

    def describe(self) -> dict[str, Any]:
        """Say what is measured and where."""
        database: dict[str, Any] = {
            "vendor": connection.vendor,
            "CONN_MAX_AGE": connection.settings_dict["CONN_MAX_AGE"],
        }
        if self.is_sqlite:
            database["OPTIONS"] = connection.settings_dict["OPTIONS"]
            names = ["journal_mode", "synchronous"]
            ask = "PRAGMA {}"
        else:
            names = [
                "server_version",
                "fsync",
                "synchronous_commit",
                "full_page_writes",
                "shared_buffers",
                "max_connections",
            ]
            ask = "SHOW {}"
        with connection.cursor() as cursor:
            for name in names:
                cursor.execute(ask.format(name))
                database[name] = str(cursor.fetchone()[0])
        if not self.is_sqlite and "off" in (database["fsync"], database["synchronous_commit"]):
            message = "this PostgreSQL is not durable: nothing measured on it means anything"
            raise SystemExit(message)
        database["commit_ms"] = commit_milliseconds()
        clusters = {"raw": self.raw_settings, "raw Chain": self.chain_settings, "Baton": self.baton_settings}
        return {"database": database, "clusters": clusters}

    def measure_raw(self) -> Figures:
        """Measure what the chosen parts are compared with."""
        from benchmarks import raw  # noqa: PLC0415 - needs a configured Django

        figures: Figures = {"raw_commit_ms": commit_milliseconds()}
        if {"W2", "W3", "W5"} & set(self.parts):
            with self.cluster("raw", self.raw_settings) as cluster:
                raw.warm_up(cluster)
                if {"W2", "W3"} & set(self.parts):
                    figures |= self.measured("FLOOR", lambda: raw.floor(cluster, self.sizes))
                    figures |= self.measured("FLOOR, a loop", lambda: raw.floor_one_by_one(cluster, self.sizes))
                if "W5" in self.parts:
                    figures |= self.measured(
                        "W5 raw", lambda: raw.single_tasks(cluster, self.sizes, self.random_source)
                    )
        if "W1" in self.parts:
            with self.cluster("raw", self.chain_settings) as cluster:
                raw.warm_up(cluster)
                figures |= self.measured("Chain", lambda: raw.chain(cluster, self.sizes))
        return figures

    def measure_baton(self) -> Figures:
        """Measure the chosen parts."""
        from benchmarks import workflows  # noqa: PLC0415 - needs a configured Django

        sizes, figures = self.sizes, {"baton_commit_ms": commit_milliseconds()}
        # W3 comes first, as FLOOR does: memory is compared between clusters that have done nothing else.
        parts: dict[str, Callable[[Cluster], Figures]] = {
            "W3": lambda cluster: workflows.fan_in(cluster, sizes),
            "W2": lambda cluster: workflows.diamonds(cluster, sizes),
            "W1": lambda cluster: workflows.chain(cluster, sizes),
            "W5": lambda cluster: workflows.single_runs(cluster, sizes, self.random_source),
            "URGENT": lambda cluster: workflows.urgent_step(cluster, sizes),
            "PLAIN": lambda cluster: workflows.plain_tasks(cluster, sizes),
        }
        chosen = [part for part in parts if part in self.parts]
        if chosen:
            with self.cluster("baton", self.baton_settings) as cluster:
                workflows.warm_up(cluster)
                for part in chosen:
                    figures |= self.measured(part, lambda part=part: parts[part](cluster))  # type: ignore[misc]
                    workflows.wait_for_bells(cluster)
        if "W4" in self.parts:
            clean()
            figures |= self.measured("W4", lambda: workflows.big_insert(sizes))
            clean()
        if "LOCKED" in self.parts:
            figures |= self.measured("four workers", self.measure_four_workers)
        if "EVENTS" in self.parts:
            figures |= self.measure_events()
        return figures

    def measure_events(self) -> Figures:
        """Measure what it costs to send events to somebody who listens, beside the same without a channel layer."""
        from benchmarks import workflows  # noqa: PLC0415 - needs a configured Django
        from benchmarks.listener import Listener  # noqa: PLC0415 - needs a configured Django

        def silent() -> Figures:
            with self.cluster("baton", self.baton_settings) as cluster:
                workflows.warm_up(cluster)
                wide = workflows.fan_in(cluster, self.sizes)
                workflows.wait_for_bells(cluster)
                return {
                    "silent_w3_rate": wide["w3_rate"],
                    **_renamed(workflows.diamonds(cluster, self.sizes), "silent"),
                }

        def heard() -> Figures:
            with self.cluster("baton", self.baton_settings, layer=self.layer) as cluster:
                workflows.warm_up(cluster)
                with Listener(self.layer, self.folder) as listener:
                    wide = workflows.fan_in(cluster, self.sizes)
                    workflows.wait_for_bells(cluster)
                    messages = listener.messages_of(runs=1, steps=self.sizes.width + 2)
                    narrow = workflows.diamonds(cluster, self.sizes)
                    listener.messages_of(runs=self.sizes.diamonds, steps=4 * self.sizes.diamonds)
                return {
                    "heard_w3_rate": wide["w3_rate"],
                    "heard_w3_cpu_ms": wide["w3_cpu_ms"],
                    "heard_w3_messages": messages,
                    **_renamed(narrow, "heard"),
                }

        sides = [("W3, W2, no layer", silent), ("W3, W2, Redis", heard)]
        self.random_source.shuffle(sides)
        figures: Figures = {}
        for what, measure in sides:
            figures |= self.measured(what, measure)
        return figures

    def measure_four_workers(self) -> Figures:
        """Count how often four workers find the database locked; the submitter would raise at the first time."""
        from benchmarks import workflows  # noqa: PLC0415 - needs a configured Django

        with self.cluster("baton", self.baton_settings | {"workers": 4}) as cluster:
            workflows.warm_up(cluster)
            fast = workflows.chain(cluster, self.sizes)
            fast |= workflows.diamonds(cluster, self.sizes)
            fast |= workflows.fan_in(cluster, self.sizes)
        locked = cluster.log.read_text(errors="replace").count("database is locked")
        return {"locked": float(locked), "four_w2_rate": fast["w2_rate"], "four_w3_rate": fast["w3_rate"]}

    def measure_slope(self) -> dict[str, list[Figures]]:
        """Measure what a settle costs in runs of several sizes."""
        from benchmarks import slope  # noqa: PLC0415 - needs a configured Django

        slope.forget_the_disk()
        shapes: dict[str, list[Figures]] = {}
        for shape in slope.SHAPES:
            found: dict[int, list[float]] = {size: [] for size in self.sizes.slope}
            for _ in range(SLOPE_ROUNDS):
                for size in self.sizes.slope:
                    clean()
                    found[size].append(slope.settle_milliseconds(shape, size))
                    self.progress(f"a settle, {shape}, {size:,} steps", f"{found[size][-1]:.2f} ms")
            # The quietest round: what else the machine does only ever adds.
            shapes[shape] = [{"steps": float(size), "ms": min(values)} for size, values in found.items()]
        clean()
        return shapes

    @contextlib.contextmanager
    def cluster(self, name: str, q_cluster: dict[str, Any], *, layer: str = "") -> Iterator[Cluster]:
        """Run a cluster on empty tables; complain about whatever it complained about."""
        clean()
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        with Cluster(q_cluster, log=log, raw=name == "raw", layer=layer) as cluster:
            yield cluster
            complaints = [line for line in log.read_text(errors="replace").splitlines() if _is_complaint(line)]
            if complaints:
                message = f"the {name} cluster complained:\n" + "\n".join(complaints[:20])
                raise WrongResultError(message)

    def measured(self, what: str, measure: Measured) -> Figures:
        """Measure one thing and say so."""
        figures = measure()
        self.progress(what, "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        return figures

    def progress(self, what: str, outcome: str) -> None:
        """Print one line about what was measured just now."""
        print(f"{time.strftime('%H:%M:%S')}  {self.label:<15} {what:<14} {outcome}", file=sys.stderr, flush=True)


def clean() -> None:
    """Empty the tables of both libraries."""
    tables = [name for name in connection.introspection.table_names() if name.startswith(("django_q_", "baton_"))]
    connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables, allow_cascade=True))


def commit_milliseconds(times: int = 50) -> float:
    """Return what one durable single-row write costs here, so that figures of two machines can be read."""
    seconds = []
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS bench_commit (number integer)")
        for number in range(times):
            started = time.perf_counter()
            cursor.execute("INSERT INTO bench_commit VALUES (%s)", [number])
            seconds.append(time.perf_counter() - started)
        cursor.execute("DROP TABLE bench_commit")
    return statistics.median(seconds) * 1000


def describe_machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    import django_q  # noqa: PLC0415 - needs a configured Django

    return {
        "python": platform.python_version(),
        "django": django.get_version(),
        "django_q2": ".".join(str(part) for part in django_q.VERSION),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": psutil.getloadavg()[0],
    }


def _renamed(figures: Figures, side: str) -> Figures:
    return {f"{side}_{name}": figures[name] for name in ("w2_rate", "w2_cpu_ms")}


def _is_complaint(line: str) -> bool:
    return "Traceback" in line or " ERROR " in line or " CRITICAL " in line or "database is locked" in line


def main() -> None:
    """Measure what the command line says and write it as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parts", required=True)
    parser.add_argument("--repeat", type=int, required=True)
    parser.add_argument("--prefetch", type=int, required=True)
    parser.add_argument("--layer", required=True)
    options = parser.parse_args()
    # The command asks us to stop in order, so that no cluster stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    os.environ[Q_CLUSTER_VARIABLE] = json.dumps(with_prefetch(options.prefetch))
    django.setup()
    session = Session(
        folder=options.folder,
        parts=options.parts.split(","),
        repeat=options.repeat,
        sizes=Sizes(),
        prefetch=options.prefetch,
        layer=options.layer,
    )
    machine = describe_machine()
    try:
        report = {"machine": machine, **session.run()}
    except WrongResultError as exc:
        sys.exit(f"wrong result: {exc}")
    (options.folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
