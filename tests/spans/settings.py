"""The suite's settings, with an app that sets OpenTelemetry up in the workers of a cluster."""

from __future__ import annotations

from tests.settings import *  # noqa: F403 - every setting but one is the suite's
from tests.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "tests.spans"]
