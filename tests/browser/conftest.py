"""A browser, a server, and people who are logged in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest
from django.conf import settings
from django.contrib.auth.models import User

from scripts import chromium
from scripts.services import REDIS_URL
from tests.browser.server import Daphne
from tests.people import client_of, user_with
from tests.settings import HAS_UNFOLD

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response

OpenPage = Callable[..., "Page"]

PATIENCE_MILLISECONDS = 60_000
"""How long a page may take on a machine that has much else to do."""

VIEWS = ("view_workflowrun", "view_workflownode", "view_completion", "view_queuesighting", "view_stepstat")


# Playwright keeps an event loop in this thread. It ends with the package, for tests of other rooms start their own.


@pytest.fixture(scope="package")
def _daphne(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daphne]:
    with Daphne(tmp_path_factory.mktemp("daphne") / "log", env=layers()) as server:
        yield server


@pytest.fixture(scope="package")
def browser(_daphne: Daphne) -> Iterator[Browser]:
    """A Chromium, which starts while daphne does."""
    binary = chromium.found()
    if binary is None:
        pytest.skip(chromium.REMEDY)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        launched = playwright.chromium.launch(executable_path=binary, args=[*chromium.FLAGS])
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def windows(browser: Browser, _daphne: Daphne) -> Windows:
    """The browser's windows."""
    return Windows(browser, _daphne.url)


class Windows:
    """Contexts of a browser by their options, kept so that what pages have in common is loaded once."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._url = url
        self._contexts: dict[str, BrowserContext] = {}

    def open(self, session: str, **options: Any) -> Page:
        """Open an empty window; whoever has this session is logged in."""
        key = json.dumps(options, sort_keys=True)
        if key not in self._contexts:
            self._contexts[key] = self._browser.new_context(base_url=self._url, **options)
            self._contexts[key].set_default_timeout(PATIENCE_MILLISECONDS)
        context = self._contexts[key]
        context.clear_cookies()
        if session:
            context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": self._url}])
        return context.new_page()

    def close(self) -> None:
        """Close all windows and forget what pages have kept in the browser, but for its cache."""
        for context in self._contexts.values():
            for page in context.pages:
                page.evaluate("() => { try { localStorage.clear(); } catch { /* a page of nobody's has none */ } }")
                page.close()


@pytest.fixture
def server(_daphne: Daphne, transactional_db: None) -> Daphne:
    """The suite's project, served on the test database."""
    _daphne.wait_until_ready()
    return _daphne


@pytest.fixture
def problems() -> Iterator[list[str]]:
    """What browsers complained about, which must be nothing; a test that makes trouble on purpose clears it."""
    found: list[str] = []
    yield found
    assert found == [], "\n".join(found)


@pytest.fixture
def open_page(server: Daphne, windows: Windows, problems: list[str]) -> Iterator[OpenPage]:
    """Open a window at an address of the server.

    `page = open_page("/admin/", user, scheme="dark", width=390, java_script_enabled=False)`

    Nobody is logged in without a user; in windows with the same options it is the one who opened the last of them.
    Other keyword arguments are those of Playwright's `new_context`.
    """

    def open_it(
        path: str,
        user: User | None = None,
        *,
        scheme: Literal["light", "dark"] = "light",
        width: int = 1440,
        **more: Any,
    ) -> Page:
        if HAS_UNFOLD and not more.get("java_script_enabled", True):
            pytest.skip("django-unfold shows nothing without JavaScript")
        session = session_of(user) if user is not None else ""
        page = windows.open(session, color_scheme=scheme, viewport={"width": width, "height": 900}, **more)
        page.on("console", lambda message: problems.extend(complaint(message)))
        page.on("pageerror", lambda error: problems.append(f"error in {page.url}: {error}"))
        page.on("response", lambda response: problems.extend(refusal(response, server)))
        page.goto(path)
        return page

    yield open_it
    windows.close()


def layers() -> dict[str, str]:
    """What gives processes a channel layer, where this run has a Redis; elsewhere pages follow the database."""
    if settings.Q_CLUSTER.get("redis") is None:
        return {}
    # A database of its own: the broker's is emptied between tests.
    server, _, _ = os.environ[REDIS_URL].rpartition("/")
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [f"{server}/2"]}}
    return {"BATON_TEST_CHANNEL_LAYERS_SETTING": json.dumps({"default": layer})}


def session_of(user: User) -> str:
    """The key of a session in which somebody is logged in."""
    return str(client_of(user).session.session_key)


def complaint(message: ConsoleMessage) -> list[str]:
    """What stands in the console, if it is a complaint."""
    where = message.location.get("url", "")
    return [f"{message.type} in {where}: {message.text}"] if message.type in ("error", "warning") else []


def refusal(response: Response, server: Daphne) -> list[str]:
    """An answer of the server that says it failed, and what it printed."""
    return [f"{response.status} of {response.url}:\n{server.log.read_text()[-4000:]}"] if response.status >= 500 else []


@pytest.fixture
def boss(transactional_db: None) -> User:
    """Somebody who may do everything."""
    return user_with(is_superuser=True)


@pytest.fixture
def viewer(transactional_db: None) -> User:
    """Somebody who may look."""
    return user_with(*VIEWS)
