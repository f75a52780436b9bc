"""The suite's settings, with an app that plants faults in the processes that use them and records what they send."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403 - every setting but these is the suite's
from tests.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "tests.faults"]

if _url := os.environ.get("BATON_TEST_LAYER_URL"):
    CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [_url], "capacity": 10_000}}
    }
