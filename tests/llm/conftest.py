from __future__ import annotations

import os

# Opt-in: `make test-local-model` brings a real model along.
collect_ignore = [] if "BATON_TEST_LOCAL_MODEL" in os.environ else ["test_local_model.py"]
