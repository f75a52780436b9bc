"""A browser, a server, and people who are logged in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.test import Client

from scripts import chromium
from scripts.services import REDIS_URL
from tests.browser.server import Daphne

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Response

OpenPage = Callable[..., "Page"]

VIEWS = ("view_workflowrun", "view_workflownode", "view_completion", "view_queuesighting", "view_stepstat")


# Playwright keeps an event loop in this thread. It ends with the package, for tests of other rooms start their own.


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium."""
    binary = chromium.found()
    if binary is None:
        pytest.skip(chromium.REMEDY)
    from playwright.sync_api import sync_playwright

    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        launched = playwright.chromium.launch(executable_path=binary, args=[*chromium.FLAGS])
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def _daphne(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daphne]:
    with Daphne(tmp_path_factory.mktemp("daphne") / "log", env=layers()) as server:
        yield server


@pytest.fixture
def server(_daphne: Daphne, transactional_db: None) -> Daphne:
    """The suite's project, served on the test database."""
    return _daphne


@pytest.fixture
def problems() -> Iterator[list[str]]:
    """What browsers complained about, which must be nothing; a test that makes trouble on purpose clears it."""
    found: list[str] = []
    yield found
    assert found == [], "\n".join(found)


@pytest.fixture
def open_page(server: Daphne, browser: Browser, problems: list[str]) -> Iterator[OpenPage]:
    """Open a window at an address of the server.

    `page = open_page("/admin/", user, scheme="dark", width=390, java_script_enabled=False)`

    Nobody is logged in without a user. Other keyword arguments are those of Playwright's `new_context`.
    """
    contexts = []

    def open_it(
        path: str,
        user: User | None = None,
        *,
        scheme: Literal["light", "dark"] = "light",
        width: int = 1440,
        **more: Any,
    ) -> Page:
        context = browser.new_context(
            base_url=server.url, color_scheme=scheme, viewport={"width": width, "height": 900}, **more
        )
        contexts.append(context)
        context.set_default_timeout(20_000)
        context.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        if user is not None:
            context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session_of(user), "url": server.url}])
        page = context.new_page()
        page.on("console", lambda message: problems.extend(complaint(message)))
        page.on("pageerror", lambda error: problems.append(f"error in {page.url}: {error}"))
        page.on("response", lambda response: problems.extend(refusal(response, server)))
        page.goto(path)
        return page

    yield open_it
    for context in contexts:
        context.close()


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
    client = Client()
    client.force_login(user)
    return str(client.session.session_key)


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
    return User.objects.create_superuser("boss")


@pytest.fixture
def viewer(transactional_db: None) -> User:
    """Somebody who may look."""
    return person(*VIEWS)


def person(*permissions: str) -> User:
    """A member of staff with these permissions."""
    user = User.objects.create(username=f"user{User.objects.count()}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions, content_type__app_label="baton"))
    return user
