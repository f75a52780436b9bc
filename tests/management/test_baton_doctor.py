from __future__ import annotations

import json

import pytest

from baton import Workflow
from tests import steps
from tests.conftest import StartCluster
from tests.processes import Manage

pytestmark = pytest.mark.slow


@pytest.mark.broker
def test_good_installation_has_no_finding(manage: Manage, real_cluster: StartCluster):
    real_cluster()
    real_cluster(queue="slow")
    assert Workflow("x").add("a", steps.nothing, queue="slow").insert().wait(timeout=20) == "completed"
    manage("baton_sweep")

    told = manage("baton_doctor", check=False)
    print(told)
    told = manage("baton_doctor", "--json", check=False)

    assert json.loads(told.stdout) == {"ok": True, "findings": []}
    assert (told.returncode, told.stderr) == (0, "")
