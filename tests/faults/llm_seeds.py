"""What a seed stands for: the steps of a run, their calls, what goes wrong with them, and where a worker is struck."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass, replace
from decimal import Decimal

from fake_llm import Failure

from tests.faults.llm_places import OF_NO_CALL, Place, Strike
from tests.faults.llm_steps import EFFECT, KINDS, STREAM, Call

KILL, STOP = int(signal.SIGKILL), int(signal.SIGSTOP)

BUDGET = Decimal(50)
OVERRUN_SECONDS = 1.5

_MODELS = {
    "chat": ("gpt-4o", "gpt-4o-mini"),
    "responses": ("gpt-5-mini", "gpt-4o"),
    "messages": ("claude-haiku-4-5", "claude-sonnet-4-6"),
}
_TOKENS = {
    "chat": "cached={cached} reasoning={reasoning}",
    "responses": "cached={cached} reasoning={reasoning}",
    "messages": "cached={cached} cache_write={cache_write}",
}
_REFUSALS = (429, 500, 503, 529)
_NO_STOP = {Place.BEFORE_CHARGE}
"""A process that goes on would find that it was refused for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """A step of a run."""

    name: str
    is_async: bool
    calls: list[Call]
    strikes: list[Strike]
    timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run as its seed wants it."""

    seed: int
    steps: list[PlannedStep]
    failures: list[Failure]
    budget: Decimal | None
    pays_again: bool
    """What is answered where a person is asked."""


def plan_of(seed: int, *, may_stop: bool) -> Plan:
    """The run of a seed; seeds that follow each other are struck at one place after the other.

    Args:
        seed: Any whole number.
        may_stop: Whether a process may also be stopped for longer than its lease.
    """
    draw = random.Random(seed)
    place = list(Place)[seed % len(Place)]
    names = ["first", "second"][: draw.choice((1, 1, 2))]
    budget = BUDGET if place is Place.IN_INTENT or draw.random() < 0.2 else None
    needs = _needs(place)
    policy = None if needs.is_followed else draw.choices((None, "fail", "ask"), (8, 1, 1))[0]
    steps, failures = [], []
    for name in names:
        is_struck = name == names[-1]
        calls = [
            _call(draw, f"#{seed}.{name}.{index}.", f"call {index}", needs if is_struck and index == 1 else _Needs())
            for index in range(1, draw.choice((1, 2, 3)) + 1)
        ]
        calls = [
            replace(call, policy=policy, max_cost=None if budget is None or call.kind == EFFECT else "0.50")
            for call in calls
        ]
        strikes = _strikes(draw, seed, [call.key for call in calls], may_stop=may_stop) if is_struck else []
        step = PlannedStep(name=name, is_async=draw.random() < 0.4, calls=calls, strikes=strikes)
        for index, call in enumerate(calls):
            wanted = needs.trouble if is_struck and index == 0 else ""
            calls[index], step, found = _troubled(draw, wanted, call, step)
            failures += found
        steps.append(step)
    return Plan(seed=seed, steps=steps, failures=failures, budget=budget, pays_again=draw.random() < 0.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Needs:
    """What the struck call must be like for the place to be reached."""

    is_stream: bool = False
    is_paid: bool = False
    trouble: str = ""
    is_followed: bool = False
    """The place is reached in the second execution only, behind another strike."""


def _needs(place: Place) -> _Needs:
    match place:
        case Place.BETWEEN_CHUNKS:
            return _Needs(is_stream=True, is_paid=True, trouble="none")
        case Place.BEFORE_NOTE | Place.AFTER_NOTE:
            return _Needs(is_paid=True, trouble="some")
        case Place.AFTER_MARK | Place.BEFORE_SERVED | Place.AFTER_SERVED:
            return _Needs(is_paid=True, trouble="none", is_followed=True)
        case Place.BEFORE_CHARGE | Place.AFTER_CHARGE | Place.BEFORE_USAGE | Place.IN_STORE | Place.IN_INTENT:
            return _Needs(is_paid=True)
    return _Needs()


def _call(draw: random.Random, prompt: str, key: str, needs: _Needs) -> Call:
    kinds = [kind for kind in KINDS if kind.endswith(STREAM) or not needs.is_stream]
    kind = draw.choice(kinds if needs.is_paid else [*kinds, EFFECT])
    api = kind.removesuffix(STREAM)
    if kind != EFFECT:
        prompt += f" [fake input={{input}} output={{output}} {_TOKENS[api]}]".format(
            input=draw.randint(1500, 5000),
            output=draw.randint(60, 900),
            cached=draw.choice((0, draw.randint(1, 900))),
            cache_write=draw.choice((0, draw.randint(1, 600))),
            reasoning=draw.choice((0, draw.randint(1, 60))),
        )
    leaves = kind.endswith(STREAM) and not needs.is_stream and draw.random() < 0.3
    return Call(
        key=key,
        kind=kind,
        model=draw.choice(_MODELS.get(api, ("",))),
        prompt=prompt,
        leaves_after=draw.randint(1, 3) if leaves else 0,
        is_repeated=not leaves and draw.random() < 0.2,
    )


def _strikes(draw: random.Random, seed: int, keys: list[str], *, may_stop: bool) -> list[Strike]:
    place = list(Place)[seed % len(Place)]
    # Every third round of the places is one of stopped processes.
    usual = STOP if may_stop and seed // len(Place) % 3 == 1 and place not in _NO_STOP else KILL
    strikes = []
    if place is Place.AFTER_MARK:
        strikes.append(_strike(draw.choice((Place.AFTER_CHARGE, Place.BEFORE_STORE)), keys[0], usual))
    elif place in (Place.BEFORE_SERVED, Place.AFTER_SERVED):
        strikes.append(_strike(draw.choice((Place.AFTER_STORE, Place.IN_SETTLE)), keys[0], KILL))
    strikes.append(_strike(place, keys[0], usual))
    if draw.random() < 0.3:
        strikes.append(_strike(draw.choice(list(Place)), draw.choice(keys), KILL))
    return strikes


def _strike(place: Place, key: str, number: int) -> Strike:
    return Strike(place=place, key="" if place in OF_NO_CALL else key, signal=number)


def _troubled(draw: random.Random, kind: str, call: Call, step: PlannedStep) -> tuple[Call, PlannedStep, list[Failure]]:
    """What goes wrong with a call besides, at the provider's."""
    if call.kind == EFFECT or kind == "none" or (not kind and draw.random() < 0.6):
        return call, step, []
    about = call.prompt.partition(" ")[0]
    trouble = draw.choice(
        ("refuse", "refuse", "refuse twice", "gateway", "drop", "free drop", "cut", "garble", "late", "overrun")
    )
    match trouble:
        case "refuse" | "refuse twice":
            times = 2 if trouble == "refuse twice" else 1
            failures = [
                Failure("refuse", status=draw.choice(_REFUSALS), prompt=about, retry_after=0.1, retry_after_form="ms")
                for _ in range(times)
            ]
        case "gateway":
            failures = [Failure("refuse", status=502, prompt=about)]
        case "drop" | "free drop":
            failures = [Failure("drop", charged=trouble == "drop", prompt=about)]
        case "cut" | "garble":
            failures = [Failure(trouble, prompt=about)]
        case "late":
            call = replace(call, timeout=1.0)
            failures = [Failure("delay", seconds=3.0, prompt=about)]
        case _:
            step = replace(step, timeout=OVERRUN_SECONDS)
            failures = [Failure("delay", seconds=5.0, prompt=about)]
    return call, step, failures
