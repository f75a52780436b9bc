"""The provider as a process of its own: prints its address, ends with SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import json
import signal

from fake_llm.invoice import PRICES
from fake_llm.server import FakeProvider


def main() -> None:
    """Answer until told to stop."""
    parser = argparse.ArgumentParser(prog="fake_llm", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="where to listen (default: a free port)")
    parser.add_argument(
        "--prices", type=json.loads, default=PRICES, metavar="JSON", help="per million tokens, by model"
    )
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="until every answer (default: 0)")
    parser.add_argument("--honours-keys", action="store_true", help="a repeated Idempotency-Key is not charged again")
    options = parser.parse_args()
    # Blocked before any thread starts, so that none but sigwait gets them.
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        provider = FakeProvider(
            prices=options.prices, delay=options.delay, honours_keys=options.honours_keys, port=options.port
        )
    except (OSError, OverflowError) as problem:
        parser.error(f"port {options.port} cannot be used ({problem}). Give another, or none for a free one.")
    with provider:
        print(provider.url, flush=True)
        signal.sigwait(stops)


if __name__ == "__main__":
    main()
