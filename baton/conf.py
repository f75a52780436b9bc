"""The ``BATON`` setting as one typed object."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from functools import cache
from types import NoneType
from typing import Any, TypeGuard, get_args, get_type_hints

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

# The longest time that every database can add to its clock, and longer than any of these settings is good for.
YEAR = 366 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The numbers a setting may hold."""

    above: float | None = None
    """Must be greater than this."""
    least: float | None = None
    """Must be this or greater."""
    most: float | None = None
    """Must be this or smaller."""

    def admit(self, number: float) -> bool:
        """True when the number lies within."""
        return (
            (self.above is None or number > self.above)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
        )

    def __str__(self) -> str:
        words = {"above": self.above, "at least": self.least, "at most": self.most}
        return " and ".join(f"{word} {bound:.12g}" for word, bound in words.items() if bound is not None)


def _seconds(default: float | None, *, above: float | None = None, least: float | None = None) -> Any:
    return field(default=default, metadata={"bounds": Bounds(above=above, least=least, most=YEAR)})


def _days(default: float | None) -> Any:
    return field(default=default, metadata={"bounds": Bounds(least=0, most=36_600)})


def _count(default: int | None, *, least: int) -> Any:
    return field(default=default, metadata={"bounds": Bounds(least=least)})


MAX_AMOUNT = Decimal(9_000_000)
"""The largest amount of money that a row holds, in any currency."""
PRICE_KINDS = ("input", "output", "cached_input", "cache_write")
"""What a price can be of, each per million tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a setting that is no plain number, text or flag may hold."""

    wanted: str
    """In words."""
    read: Callable[[Any], Any]
    """Converts the value, or raises ``ValueError`` with what is wrong with it."""


def amount(value: Any) -> Decimal:
    """An amount of money, exactly.

    Args:
        value: A ``Decimal``, an ``int``, or text such as ``"2.50"``.

    Raises:
        ValueError: It is something else, a float for instance, or is not from 0 to nine million.
    """
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise ValueError(f"{shown(value)} is no exact amount")  # noqa: TRY004 - one error for every fault
    try:
        exact = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{shown(value)} is no amount") from None
    if not exact.is_finite() or not 0 <= exact <= MAX_AMOUNT:
        raise ValueError(f"{shown(value)} is not from 0 to {MAX_AMOUNT:,}")
    return exact


def _optional_amount(value: Any) -> Decimal | None:
    return None if value is None else amount(value)


def _prices(value: Any) -> dict[str, dict[str, Decimal]]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{shown(value)} is no dict")  # noqa: TRY004 - one error for every fault of a setting
    return {_text_of(model, "a model"): _price(model, price) for model, price in value.items()}


def _price(model: str, price: Any) -> dict[str, Decimal]:
    if not isinstance(price, Mapping):
        raise ValueError(f"the price of {model!r} is {shown(price)}, which is no dict")  # noqa: TRY004 - as above
    unknown = [kind for kind in price if kind not in PRICE_KINDS]
    if unknown:
        raise ValueError(
            f"the price of {model!r} has {shown_plainly(unknown[0])}; it may have {', '.join(PRICE_KINDS)}"
        )
    missing = [kind for kind in ("input", "output") if kind not in price]
    if missing:
        raise ValueError(f"the price of {model!r} has no {missing[0]!r}")
    try:
        return {kind: amount(each) for kind, each in price.items()}
    except ValueError as exc:
        raise ValueError(f"of the price of {model!r}, {exc}") from None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text_of(each, "one") for each in _items(value))


def _patterns(value: Any) -> tuple[re.Pattern[str], ...]:
    try:
        return tuple(each if _is_pattern(each) else re.compile(_text_of(each, "one")) for each in _items(value))
    except re.error as exc:
        raise ValueError(f"{exc.pattern!r} is no regular expression: {exc}") from None


def _is_pattern(value: Any) -> TypeGuard[re.Pattern[str]]:
    return isinstance(value, re.Pattern) and isinstance(value.pattern, str)


def _items(value: Any) -> Iterable[Any]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError(f"{shown(value)} is no list")  # noqa: TRY004 - as above
    return value


def _currency(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[A-Za-z]{1,8}", value):
        raise ValueError(f"{shown(value)} is no code of letters")
    return value


def _text_of(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} is {shown(value)}, which is no text")
    return value


_AMOUNT = ("None or an amount, as text, int or Decimal", _optional_amount)


def _shaped(default: Any, wanted: str, read: Callable[[Any], Any]) -> Any:
    return field(default=default, metadata={"shape": Shape(wanted=wanted, read=read)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the dict ``BATON`` says, with the defaults filled in. Its keys are these names in upper case."""

    database: str = "default"
    """The alias of the database that holds Baton's tables (default ``"default"``)."""
    lease_seconds: float = _seconds(15.0, above=0)
    """How long a worker without a sign of life keeps a step before the sweep takes it, in seconds (default 15.0)."""
    heartbeat_seconds: float | None = _seconds(None, above=0)
    """How often the lease of a running step is renewed, in seconds (default ``None``: a third of the lease)."""
    timeout_grace_seconds: float = _seconds(5.0, least=0)
    """How long a step's lease is still renewed once its timeout has passed, in seconds (default 5.0)."""
    max_result_chars: int = _count(1_000_000, least=1)
    """The longest JSON text stored for a result or for a step's arguments, in characters (default 1,000,000)."""
    prepared_statements: bool = True
    """Whether PostgreSQL keeps the plans of Baton's statements, a bool (default ``True``); set ``False`` behind a
    PgBouncer older than 1.21 in transaction mode."""
    bell_seconds: float = _seconds(0.3, least=0)
    """How long one bell goes on taking steps before it lets other tasks through, in seconds (default 0.3)."""
    max_bells: int | None = _count(None, least=1)
    """How many bells are rung at once for a queue, a count (default ``None``: as many as the queue has workers)."""
    ready_seconds: float = _seconds(2.0, least=0)
    """How long a step may be ready before the sweep rings a bell for it, in seconds (default 2.0)."""
    sweep_schedule: bool = False
    """Whether Baton keeps one django-q2 schedule that runs its sweep, a bool (default ``False``)."""
    sweep_seconds: float = _seconds(60.0, above=0)
    """The interval of that schedule, in seconds (default 60.0)."""
    sweep_queue: str = "default"
    """The queue in which that schedule runs the sweep (default ``"default"``)."""
    sweep_resident: bool = False
    """Whether you keep ``baton_sweep --watch`` running; Baton's checks take your word, a bool (default ``False``)."""

    retention_days: float | None = _days(None)
    """How old a settled run may get before a sweep deletes all of it, in days (default ``None``: nothing is)."""
    debug_log_retention_days: float | None = _days(None)
    """How old a debug log may get, also that of a live run, in days (default ``None``: it goes with its run)."""
    prune_limit: int = _count(10_000, least=1)
    """How many rows of a table one pass of the sweep deletes at most, a count (default 10,000)."""
    channel_layer: str | None = "default"
    """The alias of the channel layer that events are sent to; ``None`` sends none (default ``"default"``, used where
    Channels is installed and that alias is configured)."""
    opentelemetry: bool = True
    """Whether spans and metrics are made where OpenTelemetry is installed, a bool (default ``True``)."""

    llm_queue: str = "llm"
    """The queue of ``llm_step``, where a cluster of that name is configured; else they run in ``"default"`` (default
    ``"llm"``)."""
    currency: str = _shaped("USD", 'the code of a currency, such as "EUR"', _currency)
    """What money is counted in: the code of a currency (default ``"USD"``)."""
    prices: dict[str, dict[str, Decimal]] | None = _shaped(  # noqa: RUF009 - a field
        None, 'a dict such as {"gpt-5": {"input": "1.25", "output": "10"}}, prices as text or Decimal', _prices
    )
    """What models cost: ``{model: {"input": …, "output": …, "cached_input": …, "cache_write": …}}``, each per million
    tokens in ``CURRENCY`` (default ``None``: no model of the project's own)."""
    pricing: str = "baton.llm.pricing.DefaultPricing"
    """The dotted path of the class that prices a call (default ``"baton.llm.pricing.DefaultPricing"``: ``PRICES``, then
    genai-prices where that is installed)."""
    step_budget: Decimal | None = _shaped(None, *_AMOUNT)  # noqa: RUF009 - a field
    """What the calls of one step may cost at most, an amount in ``CURRENCY`` (default ``None``: no limit)."""
    day_budget: Decimal | None = _shaped(None, *_AMOUNT)  # noqa: RUF009 - a field
    """What the calls of all runs together may cost in a day of UTC, an amount in ``CURRENCY`` (default ``None``: no
    limit)."""
    capture: bool = False
    """Whether requests, responses and upstream results of every call are kept as debug logs, a bool (default
    ``False``)."""
    capture_max_chars: int = _count(100_000, least=100)
    """How long each of the three may be in a debug log, in characters of JSON (default 100,000)."""
    redact_keys: tuple[str, ...] = _shaped(
        (
            "*access_key",
            "*api_key",
            "*apikey",
            "*authorization",
            "*cookie",
            "*password",
            "*private_key",
            "*secret",
            "*secret_key",
            "*token",
        ),
        "a list of names of keys",
        _texts,
    )
    """Names of keys whose values never reach a debug log, in any case; ``*`` stands for anything (default: what ends in
    access_key, api_key, apikey, authorization, cookie, password, private_key, secret, secret_key or token)."""
    redact_patterns: tuple[re.Pattern[str], ...] = _shaped((), "a list of regular expressions", _patterns)
    """Regular expressions; what they match in any text never reaches a debug log (default: none)."""
    redact_hook: str | None = None
    """The dotted path of a function that is given what is about to be kept, and returns what is kept instead (default
    ``None``)."""

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between two renewals of a lease."""
        return self.lease_seconds / 3 if self.heartbeat_seconds is None else self.heartbeat_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingFault:
    """One thing that is wrong with the ``BATON`` setting."""

    problem: str
    """The key and what was found."""
    fix: str
    """What is wanted."""

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}"


@cache
def get_settings() -> Settings:
    """Return the project's settings of Baton, read once.

    Raises:
        ImproperlyConfigured: The dict has an unknown key or an unusable value; every fault is named.
    """
    configured = getattr(django_settings, "BATON", {})
    if faults := find_faults(configured):
        raise ImproperlyConfigured("\n".join(map(str, faults)))
    return Settings(**{key.lower(): _converted(key, value) for key, value in configured.items()})


def find_faults(configured: object) -> list[SettingFault]:
    """List everything that is wrong with a value of the ``BATON`` setting."""
    if not isinstance(configured, dict):
        return [
            SettingFault(
                problem=f"The setting BATON is {shown(configured)}.",
                fix="Make it a dict of Baton's settings, or remove it to use the defaults.",
            )
        ]
    return [*_faulty_keys(configured), *_faulty_values(configured), *_slow_heartbeat(configured)]


def connect_settings() -> None:
    """Read the settings again after ``override_settings`` and its like have changed them."""
    setting_changed.connect(_forget_settings, dispatch_uid="baton.conf")


def _forget_settings(*, setting: str, **kwargs: Any) -> None:
    if setting == "BATON":
        get_settings.cache_clear()


def _faulty_keys(configured: dict[Any, Any]) -> Iterator[SettingFault]:
    known = [item.name.upper() for item in fields(Settings)]
    for key in configured:
        if key in known:
            continue
        # Spelling in lower case is the likeliest slip, and difflib counts every letter of it as different.
        close = get_close_matches(str(key).upper(), known, n=1) if isinstance(key, str) else []
        yield SettingFault(
            problem=f"BATON[{shown_plainly(key)}] is not a setting of Baton.",
            fix=f"Did you mean {close[0]!r}?" if close else f"Remove it. The settings are: {', '.join(sorted(known))}.",
        )


def _faulty_values(configured: dict[Any, Any]) -> Iterator[SettingFault]:
    hints = get_type_hints(Settings)
    for item in fields(Settings):
        key = item.name.upper()
        if key not in configured:
            continue
        shape: Shape | None = item.metadata.get("shape")
        if shape is not None:
            yield from _misshapen(key, configured[key], shape)
            continue
        bounds = item.metadata.get("bounds", Bounds())
        if not _fits(configured[key], hints[item.name], bounds):
            yield SettingFault(
                problem=f"BATON[{key!r}] is {shown(configured[key])}.",
                fix=f"It must be {_wanted(hints[item.name], bounds)}.",
            )


def _misshapen(key: str, value: Any, shape: Shape) -> Iterator[SettingFault]:
    try:
        shape.read(value)
    except ValueError as exc:
        yield SettingFault(problem=f"BATON[{key!r}] is {shown(value)}: {exc}.", fix=f"It must be {shape.wanted}.")


def _slow_heartbeat(configured: dict[Any, Any]) -> Iterator[SettingFault]:
    lease = configured.get("LEASE_SECONDS", Settings().lease_seconds)
    heartbeat = configured.get("HEARTBEAT_SECONDS")
    if is_number(lease) and is_number(heartbeat) and lease > 0 and heartbeat >= lease:
        yield SettingFault(
            problem=f"BATON['HEARTBEAT_SECONDS'] is {heartbeat!r} while the lease is {lease!r} seconds long.",
            fix="It must be smaller than BATON['LEASE_SECONDS'], best a third of it: "
            "a lease that is not renewed in time is taken away.",
        )


def _fits(value: object, hint: Any, bounds: Bounds) -> bool:
    kinds = _kinds(hint)
    if value is None or isinstance(value, bool):
        return type(value) in kinds
    if isinstance(value, str):
        return str in kinds and value != ""
    if isinstance(value, int | float):
        suits = float in kinds or (int in kinds and isinstance(value, int))
        return suits and is_number(value) and bounds.admit(value)
    return False


def _kinds(hint: Any) -> tuple[type, ...]:
    return get_args(hint) or (hint,)


def is_number(value: object) -> TypeGuard[float]:
    """True for a finite number that a float can hold; a bool is not a number here."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _converted(key: str, value: Any) -> Any:
    shape = next((item.metadata.get("shape") for item in fields(Settings) if item.name == key.lower()), None)
    if shape is not None:
        return shape.read(value)
    is_seconds = float in _kinds(get_type_hints(Settings)[key.lower()])
    return float(value) if is_seconds and value is not None else value


def _wanted(hint: Any, bounds: Bounds) -> str:
    names = {str: "a string that is not empty", bool: "True or False", int: "a whole number", float: "a number"}
    name = next(names[kind] for kind in _kinds(hint) if kind is not NoneType)
    wanted = f"{name}, {bounds}" if str(bounds) else name
    return f"None or {wanted}" if NoneType in _kinds(hint) else wanted


def shown(value: object) -> str:
    """Show a value with its type, as short as a message needs it."""
    if value is None or isinstance(value, bool):
        return repr(value)
    return f"{shown_plainly(value)} ({type(value).__name__})"


def shown_plainly(value: object, limit: int = 80) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a settings file may hold anything, also what cannot show itself
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[:limit]}..."
