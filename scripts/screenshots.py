"""``make screenshots``: the pictures of the README and the documentation, in light and dark.

Real workers run the scenes of ``scripts/scenes/acme.py`` under the example project, and Chromium looks at them. The
pictures go to ``docs/images/``, or to the folder that is named; with ``--all`` there is one of every page.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

from scripts import chromium, demo
from scripts.processes import ROOT, say

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from baton.models import WorkflowRun

IMAGES = ROOT / "docs" / "images"
SCENES = ROOT / "scripts" / "scenes"
SHOWN = ("run-graph", "run-timeline", "fan-out-graph", "failed-timeline", "money", "runs", "now")
"""Of which pages the documentation has pictures."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDTH, HEIGHT = 1440, 1180
SETTLING_MS = 500
CONTENT = ".b-columns, #result_list, .b-now-page"
PATIENCE_SECONDS = 120
SETTINGS = "acme_settings"
QUEUES = ("default", "llm", "ocr")
"""Who has workers here; nobody serves the queue for mail."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pictures; the exit code is 0 if all of them were made."""
    parser = argparse.ArgumentParser(prog="make screenshots", description="The documentation's pictures.")
    parser.add_argument("folder", nargs="?", type=Path, default=IMAGES, help="where they go (default: docs/images)")
    parser.add_argument("--all", action="store_true", help="of every page, not only those that the documentation shows")
    options = parser.parse_args(argv)
    binary = chromium.found()
    if binary is None:
        say(chromium.REMEDY)
        return 1
    stop = demo.StopRequest()
    try:
        with demo.Stage(stop) as stage:
            take_pictures(stage, binary, options.folder, names=None if options.all else SHOWN)
    except demo.StoppedError as stopped:
        return 128 + stopped.signum
    except demo.DemoError as problem:
        say(f"No pictures: {problem}")
        return 1
    return 0


def take_pictures(stage: demo.Stage, binary: Path, folder: Path, *, names: Collection[str] | None) -> None:
    """Start everything, wait until there is something to see, and look."""
    port = demo.web_port(None)
    demo.configure(stage, SimpleNamespace(postgres=False, redis=False, llm=False))  # type: ignore[arg-type]
    os.environ["PYTHONPATH"] += os.pathsep + str(SCENES)
    os.environ |= {"EXAMPLE_DEBUG": "1", "DJANGO_SETTINGS_MODULE": SETTINGS}
    sys.path.insert(0, str(SCENES))
    demo.set_up_database()
    stage.start("qcluster")
    for queue in QUEUES[1:]:
        stage.start("qcluster", Q_CLUSTER_NAME=queue)
    stage.start("runserver", "--noreload", f"127.0.0.1:{port}")
    say("The scenes are played; this takes about two minutes")
    runs = play(stage)
    wait_for(stage, lambda: answers(port), "the pages")

    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - of a group that not everybody has

    folder.mkdir(parents=True, exist_ok=True)
    session = session_of_maria()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=[*chromium.FLAGS])
        camera = Camera(browser, f"http://127.0.0.1:{port}", session)
        for name, address in addresses(runs).items():
            if names is not None and name not in names:
                continue
            for scheme in SCHEMES:
                stage.pause()
                picture = folder / f"{name}-{scheme}.png"
                camera.take(address, scheme, picture)
                say(f"{picture.name} ({picture.stat().st_size // 1024} kB)")
        browser.close()


def play(stage: demo.Stage) -> dict[str, WorkflowRun]:
    """Insert the runs, and wait until each of them is as it should be seen."""
    import acme  # type: ignore[import-not-found]  # noqa: PLC0415 - on the path now, and Django is loaded

    from baton import q2  # noqa: PLC0415 - Django is loaded now

    for queue in QUEUES:
        # The sweep does this each minute.
        q2.call_the_roll(queue, using="default")
    failed = acme.invoice_sync()
    done = acme.brief("brief:globex")
    acme.digest("price-list", "prices:2026-11", by="maria")
    cancelled = acme.thumbnails()
    held = acme.newsletter()
    wait_for(stage, lambda: completed(cancelled) > 1, "the batch that is cancelled")
    cancelled.cancel("wrong bucket")
    wait_for(stage, lambda: fresh(failed).is_settled and fresh(done).is_settled, "the first runs")
    acme.digest("weekly-digest", "digest:2026-w47", by="schedule", queue="mail")
    wide = acme.document_ingest()
    wait_for(stage, lambda: completed(wide) > 150, "the pages of the wide run")
    running = acme.brief(hangs=True)
    wait_for(stage, lambda: completed(running) >= 6, "the brief")
    return {"run": running, "fan-out": wide, "failed": failed, "done": done, "cancelled": cancelled, "held": held}


def addresses(runs: dict[str, Any]) -> dict[str, str]:
    """Which pages there are pictures of, by the name of the picture."""
    from django.urls import reverse  # noqa: PLC0415 - Django is loaded now

    def page(run: str, **words: str) -> str:
        return reverse("admin:baton_workflowrun_change", args=[runs[run].pk]) + "?" + urlencode(words)

    return {
        # What changes soonest comes first.
        "fan-out-graph": page("fan-out"),
        "runs": reverse("admin:baton_workflowrun_changelist"),
        "now": reverse("admin:baton_workflowrun_now"),
        "fan-out-timeline": page("fan-out", view="timeline"),
        "fan-out-steps": page("fan-out", view="steps"),
        "run-graph": page("run", step="assess[gpt-5]"),
        "run-timeline": page("run", view="timeline"),
        "failed-graph": page("failed"),
        "failed-timeline": page("failed", view="timeline", step="reconcile"),
        "held-graph": page("held"),
        "money": page("done", view="money"),
        "activity": page("done", view="activity"),
    }


@dataclass(frozen=True, slots=True)
class Camera:
    """A browser in which somebody is logged in."""

    browser: Browser
    site: str
    session: str

    def take(self, address: str, scheme: Literal["light", "dark"], picture: Path) -> None:
        """Take a picture of a page, once it is live."""
        size: Any = {"width": WIDTH, "height": HEIGHT}
        context = self.browser.new_context(base_url=self.site, color_scheme=scheme, viewport=size)
        context.add_cookies([{"name": "sessionid", "value": self.session, "url": self.site}])
        page = context.new_page()
        page.goto(address)
        page.locator("[data-connection=open], [data-connection=finished]").first.wait_for(timeout=20_000)
        page.wait_for_timeout(SETTLING_MS)
        below = page.evaluate(f"document.querySelector({CONTENT!r}).getBoundingClientRect().bottom")
        page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": WIDTH, "height": min(HEIGHT, int(below) + 8)})
        context.close()


def session_of_maria() -> str:
    """Log somebody in; return the key of the session."""
    from django.contrib.auth import get_user_model  # noqa: PLC0415 - Django is loaded now
    from django.test import Client  # noqa: PLC0415

    client = Client()
    client.force_login(get_user_model().objects.create_superuser("maria"))
    return str(client.session.session_key)


def fresh(run: WorkflowRun) -> WorkflowRun:
    """The run as it is now."""
    run.refresh_from_db()
    return run


def completed(run: WorkflowRun) -> int:
    """How many of its steps have completed."""
    return int(run.progress["states"].get("completed", 0))


def answers(port: int) -> bool:
    """Whether the pages are served."""
    # A proxy set for the outer world would be asked for this machine too.
    with contextlib.suppress(URLError, OSError):
        return bool(build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/admin/login/").status)
    return False


def wait_for(stage: demo.Stage, condition: Callable[[], bool], what: str) -> None:
    """Wait until it is true, while all is well."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        stage.pause()
        if time.monotonic() > deadline:
            raise demo.DemoError(f"{what} did not come to pass in {PATIENCE_SECONDS} s.")


if __name__ == "__main__":
    sys.exit(main())
