"""The parts of the benchmark, each of which adds figures by name."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse

from baton.dashboard.changes import run_socket
from baton.models import WorkflowNode, WorkflowRun
from benchmarks.cluster import Cluster, cpu_seconds
from benchmarks.dashboard import browser, runs, table
from benchmarks.dashboard.changing import Changing
from benchmarks.dashboard.lateness import lateness, percentile
from benchmarks.dashboard.readers import Readers
from benchmarks.dashboard.site import Answer, Site
from benchmarks.dashboard.table import PAGES, REAL_PAGES
from benchmarks.environment import Q_CLUSTER_VARIABLE
from benchmarks.workloads import Figures

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request

FIRST_TIMES, LATER_TIMES, TAB_TIMES, PAINT_TIMES = 3, 9, 5, 5
EVENTS_A_SECOND, CHANGES_A_SECOND = 100.0, 1000.0
SCREEN_GROUPS, TORRENT_GROUPS = 3, 4
LATE_SECONDS = 5.0
"""How long after the last change the page may still show it."""
ALONE_SECONDS, BESIDE_SECONDS = 10.0, 20.0
NAP_SECONDS = 0.035
"""Two workers that nap so long do about fifty steps and a hundred events a second, and leave daphne a core."""


class Session:
    """One database with the runs that are looked at."""

    def __init__(self, folder: Path, *, layer: str, seconds: float) -> None:
        self.folder = folder
        self.layer = layer
        self.seconds = seconds
        self.session = ""
        self.runs: dict[str, WorkflowRun] = {}

    def prepare(self) -> None:
        """Make the tables, somebody who may look, and the runs."""
        call_command("migrate", verbosity=0)
        client = Client()
        client.force_login(User.objects.create_superuser("bench"))
        self.session = str(client.session.session_key)
        self.runs = {
            "nine": runs.small("nine", 3, 3),
            "thirty": runs.small("thirty"),
            "wide": runs.fan("wide", runs.CELLS, after=3),
            "fan": runs.fan("fan", 9_998),
            "layers": runs.layers("layers"),
        }
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
        say("two runs of 10,000 steps and three small ones are there")

    # The server ------------------------------------------------------------------------------------------------------

    def server(self, figures: Figures) -> None:
        """Times and queries of pages, and how many bytes they have."""
        with self.site() as site:
            for run in self.runs.values():
                site.get(page_of(run))  # imports, templates
            for name in (*table.BIG, "thirty"):
                figures |= self._views(site, name)
                say(f"{name}: " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items() if name in key))
            for name, run in self.runs.items():
                answer = site.get(page_of(run))
                figures |= {f"{name}_kb": len(answer.body) / 1000, f"{name}_zipped_kb": answer.zipped / 1000}
            for kind in ("css", "js"):
                files = [site.get(path).body for path in loaded(site, self.runs["fan"], kind)]
                figures[f"{kind}_kb"] = sum(map(len, files)) / 1000
                figures[f"{kind}_zipped_kb"] = len(gzip.compress(b"".join(files))) / 1000
                figures[f"{kind}_sent_kb"] = sum(len(gzip.compress(each)) for each in files) / 1000

    def _views(self, site: Site, name: str) -> Figures:
        run = self.runs[name]
        step = run.nodes.filter(state="executing").order_by("id")[:1].get().name
        figures: Figures = {}

        def measure(key: str, times: int, *, afresh: bool = False, **words: str) -> list[Answer]:
            answers, cpu = [], site.cpu_seconds()
            for turn in range(times + (not afresh)):
                if afresh:
                    site.forget()
                answer = site.get(page_of(run, **words))
                if afresh or turn:
                    answers.append(answer)
            figures[f"{name}_{key}_ms"] = statistics.median(each.seconds for each in answers) * 1000
            # Unlike the time, it hardly depends on what else the machine does.
            figures[f"{name}_{key}_cpu_ms"] = (site.cpu_seconds() - cpu) / (times + (not afresh)) * 1000
            figures[f"{name}_{key}_queries"] = max(each.queries for each in answers)
            return answers

        measure("first", FIRST_TIMES, afresh=True)
        answers = measure("later", LATER_TIMES)
        answers += measure("step", TAB_TIMES, step=step)
        figures[f"{name}_rows"] = max(each.rows for each in answers)
        for tab in table.TABS:
            if tab != "money" or name != "layers":
                measure(tab, TAB_TIMES, view=tab)
        return figures

    # The browser -----------------------------------------------------------------------------------------------------

    def paint(self, figures: Figures) -> None:
        """When pages are painted, how many elements they have, and how fast cells are restyled."""
        with self.site() as site, browser.started() as chromium:
            window = browser.Window(chromium, site)
            window.timings(page_of(self.runs["nine"]))  # styles and scripts are kept from here on
            for name in ("thirty", *table.BIG):
                path = page_of(self.runs[name])
                window.timings(path)
                found = [window.timings(path) for _ in range(PAINT_TIMES)]
                for key in found[0]:
                    figures[f"{name}_{key}"] = statistics.median(each[key] for each in found)
                firsts = []
                for _ in range(FIRST_TIMES if name in table.BIG else 0):
                    site.forget()
                    firsts.append(window.timings(path)["painted"])
                if firsts:
                    figures[f"{name}_painted_first_ms"] = statistics.median(firsts)
                say(f"{name}: first paint {figures[f'{name}_paint']:.0f}, graph {figures[f'{name}_painted']:.0f} ms")
            for name in ("thirty", *table.BIG):
                for key in ("paint", "paint_after", "painted"):
                    figures[f"{name}_{key}_ms"] = figures.pop(f"{name}_{key}")
            figures["restyle_ms"] = self._restyle(window.open(page_of(self.runs["wide"])))
            complain(window)

    def _restyle(self, page: Page) -> float:
        found = page.evaluate("states => batonProbe.restyle(states)", ["completed", "executing"] * 5)
        if found["count"] < runs.CELLS:
            raise RuntimeError(f"only {found['count']} cells were restyled")
        return float(statistics.median(found["took"][1:]))

    def frames(self, figures: Figures) -> None:
        """How long scripts run in a frame, and what pages gain in memory."""
        with self.site(self.layer) as site, browser.started() as chromium:
            window = browser.Window(chromium, site)
            for name in table.BIG:
                page = window.open(page_of(self.runs[name]), live=True)
                with browser.Frames(page) as frames:
                    browser.zoom_and_pan(page)
                figures |= _told(f"{name}_zoom", frames)
                page.close()
                # A page asks for itself again some seconds after it was opened, and then the more seldom, the longer
                # that takes: this one does so while it is watched.
                page = window.open(page_of(self.runs[name]), live=True)
                session = window.context.new_cdp_session(page)
                asked: list[str] = []
                page.on("request", functools.partial(_note_request, asked))
                them = Changing(
                    self.folder, name, rate=EVENTS_A_SECOND, seconds=self.seconds, layer=self.layer, how=["--again"]
                )
                with browser.Frames(page) as frames, them:
                    page.wait_for_timeout(1000 * min(5.0, self.seconds / 3))
                    before = browser.heap_megabytes(session)
                    while not them.is_over:
                        page.wait_for_timeout(200)
                    figures[f"{name}_heap_mb"] = browser.heap_megabytes(session) - before
                # Applying what comes back is the dearest thing a page does.
                if "fetch" not in asked:
                    raise RuntimeError("the page did not ask for itself again meanwhile; give it more --seconds")
                figures |= _told(f"{name}_update", frames)
                say(f"{name}: {them.found()['rate']:.0f} events/s, heap {figures[f'{name}_heap_mb']:+.1f} MB")
                page.close()
            complain(window)

    # From commit to screen -------------------------------------------------------------------------------------------

    def screen(self, figures: Figures) -> None:
        """How long a change takes to the screen, told by Redis and found in the database."""
        with browser.started() as chromium:
            for way, layer in (("redis", self.layer), ("database", "")):
                run = runs.groups(way, SCREEN_GROUPS)
                seconds = SCREEN_GROUPS * runs.CELLS * 2 / EVENTS_A_SECOND
                with self.site(layer) as site:
                    figures |= self._to_screen(run, browser.Window(chromium, site), seconds=seconds / 2)

    def torrent(self, figures: Figures) -> None:
        """The same with ten times as many changes, and what a socket carries then."""
        with browser.started() as chromium, self.site(self.layer) as site:
            run = runs.groups("torrent", TORRENT_GROUPS)
            seconds = TORRENT_GROUPS * runs.CELLS * 2 / CHANGES_A_SECOND
            with self._readers(site, run, 1, pictures=False) as readers:
                figures |= self._to_screen(run, browser.Window(chromium, site), seconds=seconds, many=True)
                counts = readers.read()
        # A message ends the time since the one before: the first of them is not counted.
        lasted = counts["last_at"] - counts["first_at"]
        share = (counts["messages"] - 1) / counts["messages"]
        figures |= {
            "torrent_kb": counts["bytes"] * share / lasted / 1000,
            "torrent_messages": counts["messages"] * share / lasted,
        }

    def _to_screen(self, run: WorkflowRun, window: browser.Window, *, seconds: float, many: bool = False) -> Figures:
        """Join what was committed with what was seen.

        A process of its own changes steps and notes for each change the step's id, its state, and when it was
        committed. The page notes for each cell when it was painted with a state. Both read this machine's clock. A
        change counts as seen when its step's cell shows its state or, since a page shows only the newest, a later one;
        one that is never seen counts as endlessly late.
        """
        page = window.open(page_of(run), live=True)
        cells = page.evaluate("batonProbe.follow()")
        if cells % runs.CELLS or not cells:
            raise RuntimeError(f"{cells} cells of the graph show one step each, which is not what was drawn")
        rate, layer, how = CHANGES_A_SECOND if many else EVENTS_A_SECOND, window.site.layer, ["--many"] * many
        with Changing(self.folder, run.name, rate=rate, seconds=seconds, layer=layer, how=how) as them:
            seen = []
            while not them.is_over:
                page.wait_for_timeout(200)
                seen += browser.seen_so_far(page)
        found = them.found()
        page.wait_for_timeout(1000 * LATE_SECONDS)
        late = sorted(lateness(found["changes"], seen + browser.seen_so_far(page)))
        complain(window)
        window.close()
        way = run.name
        figures = {
            f"{way}_p95_ms": percentile(late, 0.95) * 1000,
            f"{way}_p50_ms": percentile(late, 0.5) * 1000,
            f"{way}_max_ms": late[-1] * 1000,
            f"{way}_unseen": float(sum(map(math.isinf, late))),
            f"{way}_events": float(len(late)),
            f"{way}_rate": found["rate"],
        }
        say(f"{way}: " + "  ".join(f"{key.removeprefix(way)[1:]} {value:.0f}" for key, value in figures.items()))
        if figures[f"{way}_unseen"]:
            say(f"{way}: {figures[f'{way}_unseen']:.0f} of {len(late)} changes were never seen")
        return figures

    # Many pages ------------------------------------------------------------------------------------------------------

    def pages(self, figures: Figures) -> None:
        """What fifty open pages of one run cost the server, and what the workers."""
        run = runs.naps("naps", 10_000, NAP_SECONDS)
        q_cluster = json.loads(os.environ[Q_CLUSTER_VARIABLE])
        with contextlib.ExitStack() as stack:
            site = stack.enter_context(self.site(self.layer))
            log = self.folder / "cluster.log"
            cluster = stack.enter_context(Cluster(q_cluster, log=log, layer=self.layer))
            _wait_for(lambda: _settled(run) > 50, cluster)
            alone = [self._phase(run, site, cluster, ALONE_SECONDS, time.sleep)]
            with self._readers(site, run, PAGES) as readers:
                beside = self._phase(run, site, cluster, BESIDE_SECONDS, time.sleep)
                with browser.started() as chromium:
                    window = browser.Window(chromium, site)
                    pages = [window.open(page_of(run), live=True) for _ in range(REAL_PAGES)]
                    shown = [page.inner_text("[data-progress]") for page in pages]
                    real = self._phase(
                        run, site, cluster, ALONE_SECONDS, lambda seconds: pages[0].wait_for_timeout(1000 * seconds)
                    )
                    if any(page.inner_text("[data-progress]") == text for page, text in zip(pages, shown, strict=True)):
                        raise RuntimeError("a real page among the others stood still")
                    complain(window)
                counts = readers.read()
            time.sleep(1)
            alone.append(self._phase(run, site, cluster, ALONE_SECONDS, time.sleep))
            cluster.assert_alive()
        if counts["closed"]:
            raise RuntimeError(f"{counts['closed']} sockets of {PAGES} were closed")
        quiet = {key: statistics.mean(phase[key] for phase in alone) for key in beside}
        figures |= {
            "pages_cores": beside["cores"],
            "pages_real_cores": real["cores"],
            "pages_rate": beside["rate"],
            "pages_events": beside["rate"] * 2,
            "pages_rate_ratio": beside["rate"] / quiet["rate"],
            "pages_cpu_ms": beside["cpu_ms"],
            "pages_cpu_ratio": beside["cpu_ms"] / quiet["cpu_ms"],
            "pages_messages": counts["messages"],
            "pages_pictures": counts["pictures"],
        }

    def _phase(
        self, run: WorkflowRun, site: Site, cluster: Cluster, seconds: float, pause: Callable[[float], None]
    ) -> Figures:
        """What workers and daphne do in some seconds."""
        tree = cluster.tree()
        started, settled, web, workers = time.monotonic(), _settled(run), site.cpu_seconds(), cpu_seconds(tree)
        pause(seconds)
        seconds, count = time.monotonic() - started, _settled(run) - settled
        figures = {
            "seconds": seconds,
            "rate": count / seconds,
            "cpu_ms": (cpu_seconds(tree) - workers) / count * 1000,
            "cores": (site.cpu_seconds() - web) / seconds,
        }
        say("pages: " + "  ".join(f"{key} {value:.3g}" for key, value in figures.items()))
        return figures

    # Common ----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def site(self, layer: str = "") -> Iterator[Site]:
        """A daphne that somebody is logged in to."""
        with Site(self.folder / "daphne.log", session=self.session, layer=layer) as site:
            yield site

    def _readers(self, site: Site, run: WorkflowRun, count: int, *, pictures: bool = True) -> Readers:
        return Readers(site, self.folder, page=page_of(run), socket=run_socket(run.pk), count=count, pictures=pictures)


def page_of(run: WorkflowRun, **words: str) -> str:
    """The address of a run's page."""
    return reverse("admin:baton_workflowrun_change", args=[run.pk], query=words or None)


def loaded(site: Site, run: WorkflowRun, kind: str) -> list[str]:
    """The addresses of Baton's style sheets or modules that a run's page loads with its graph."""
    html = site.get(page_of(run)).body.decode()
    found = list(dict.fromkeys(re.findall(rf'(?:href|src)="(/static/baton/{kind}/[^"]+)"', html)))
    for path in found:
        names = re.findall(r'from "\./([^"]+)"', site.get(path).body.decode())
        found += [each for name in dict.fromkeys(names) if (each := f"/static/baton/{kind}/{name}") not in found]
    return found


def complain(window: browser.Window) -> None:
    """Raise where a page raised."""
    if window.complaints:
        raise RuntimeError("; ".join(window.complaints[:3]))


def say(text: str) -> None:
    """Print one line about what was measured just now."""
    print(f"{time.strftime('%H:%M:%S')}  load {psutil.getloadavg()[0]:.1f}  {text}", file=sys.stderr, flush=True)


def _told(key: str, frames: browser.Frames) -> Figures:
    worst = f": {frames.worst}" if frames.worst else ""
    say(f"{key}: scripts ran {frames.script_ms:.0f} ms in the longest frame{worst}")
    return {f"{key}_script_ms": frames.script_ms, f"{key}_frame_ms": frames.frame_ms}


def _note_request(asked: list[str], request: Request) -> None:
    asked.append(request.resource_type)


def _settled(run: WorkflowRun) -> int:
    return WorkflowNode.objects.filter(run=run, settled_at__isnull=False).count()


def _wait_for(condition: Callable[[], bool], cluster: Cluster) -> None:
    while not condition():
        cluster.assert_alive()
        time.sleep(0.05)
