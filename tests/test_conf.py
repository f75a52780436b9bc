from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from baton.conf import YEAR, Settings, find_faults, get_settings

REFERENCE = Path(__file__).parent.parent / "docs" / "reference" / "settings.md"
KEYS = sorted(item.name.upper() for item in fields(Settings))
SECONDS = [key for key in KEYS if key.endswith("_SECONDS")]

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def refusal_of(baton: Any) -> str:
    with override_settings(BATON=baton), pytest.raises(ImproperlyConfigured) as refused:
        get_settings()
    return str(refused.value)


def test_without_the_setting_every_key_has_its_default(settings):
    settings.BATON = {}  # of a deletion nobody is told
    del settings.BATON

    assert get_settings() == Settings()
    assert get_settings() == Settings(
        database="default",
        lease_seconds=15.0,
        heartbeat_seconds=None,
        timeout_grace_seconds=5.0,
        max_result_chars=1_000_000,
        bell_seconds=0.3,
        max_bells=None,
        ready_seconds=2.0,
        sweep_schedule=False,
        sweep_seconds=60.0,
        sweep_queue="default",
        sweep_resident=False,
    )


def test_every_key_is_read_in_upper_case(settings):
    settings.BATON = {
        "DATABASE": "baton",
        "PREPARED_STATEMENTS": False,
        "LEASE_SECONDS": 9.5,
        "HEARTBEAT_SECONDS": 2.5,
        "TIMEOUT_GRACE_SECONDS": 0.5,
        "MAX_RESULT_CHARS": 10,
        "BELL_SECONDS": 0.0,
        "MAX_BELLS": 7,
        "READY_SECONDS": 0.25,
        "SWEEP_SCHEDULE": True,
        "SWEEP_SECONDS": 120.5,
        "SWEEP_QUEUE": "slow",
        "SWEEP_RESIDENT": True,
        "RETENTION_DAYS": 30.0,
        "DEBUG_LOG_RETENTION_DAYS": 0.5,
        "PRUNE_LIMIT": 500,
        "CHANNEL_LAYER": None,
        "OPENTELEMETRY": False,
        "LLM_QUEUE": "models",
        "CURRENCY": "EUR",
        "PRICES": {
            "ours": {"input": Decimal(1), "output": Decimal("2.5"), "cached_input": 0, "cache_write": Decimal(3)}
        },
        "PRICING": "shop.prices.Ours",
        "STEP_BUDGET": Decimal("0.5"),
        "DAY_BUDGET": 20,
        "CAPTURE": True,
        "CAPTURE_MAX_CHARS": 100,
        "REDACT_KEYS": ("ssn",),
        "REDACT_PATTERNS": (re.compile("sk-[a-z]+"),),
        "REDACT_HOOK": "shop.redaction.clean",
    }

    assert sorted(settings.BATON) == KEYS
    read = get_settings()
    assert {key: getattr(read, key.lower()) for key in KEYS} == settings.BATON


def test_settings_are_read_once_until_they_change(settings):
    settings.BATON = {"MAX_BELLS": 3}
    first = get_settings()

    assert get_settings() is first
    with override_settings(BATON={"MAX_BELLS": 4}):
        assert get_settings().max_bells == 4
    assert get_settings() == first


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        get_settings().max_bells = 3  # type: ignore[misc]


@pytest.mark.parametrize("key", SECONDS)
def test_an_int_is_taken_for_seconds_and_becomes_a_float(settings, key):
    settings.BATON = {key: 12}

    read = getattr(get_settings(), key.lower())

    assert read == 12.0
    assert type(read) is float


def test_the_heartbeat_is_a_third_of_the_lease_unless_it_is_set(settings):
    settings.BATON = {"LEASE_SECONDS": 30}
    assert get_settings().heartbeat_interval == 10.0

    settings.BATON = {"LEASE_SECONDS": 30, "HEARTBEAT_SECONDS": 2}
    assert get_settings().heartbeat_interval == 2.0


@pytest.mark.parametrize("baton", [None, 3, "DATABASE", ["DATABASE"]])
def test_anything_but_a_dict_is_refused(baton):
    assert refusal_of(baton).startswith("The setting BATON is ")


@pytest.mark.parametrize(
    ("key", "likely"),
    [("LEASE_SECOND", "LEASE_SECONDS"), ("lease_seconds", "LEASE_SECONDS"), ("SWEEP_SHEDULE", "SWEEP_SCHEDULE")],
)
def test_an_unknown_key_is_refused_with_the_likely_one(key, likely):
    assert refusal_of({key: 1}) == f"BATON[{key!r}] is not a setting of Baton. Did you mean {likely!r}?"


@pytest.mark.parametrize("key", ["PIZZA", "", 3, None, ("DATABASE",)])
def test_a_key_that_resembles_none_is_refused_with_the_list(key):
    assert refusal_of({key: 1}) == (
        f"BATON[{key!r}] is not a setting of Baton. Remove it. The settings are: {', '.join(KEYS)}."
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATABASE", None, "is None. It must be a string that is not empty."),
        ("DATABASE", "", "is '' (str). It must be a string that is not empty."),
        ("DATABASE", b"default", "is b'default' (bytes). It must be a string that is not empty."),
        ("LEASE_SECONDS", "15", "is '15' (str). It must be a number, above 0 and at most 31622400."),
        ("LEASE_SECONDS", True, "is True. It must be a number, above 0 and at most 31622400."),
        ("LEASE_SECONDS", None, "is None. It must be a number, above 0 and at most 31622400."),
        ("LEASE_SECONDS", 0, "is 0 (int). It must be a number, above 0 and at most 31622400."),
        ("LEASE_SECONDS", -0.5, "is -0.5 (float). It must be a number, above 0 and at most 31622400."),
        ("LEASE_SECONDS", float("nan"), "is nan (float). It must be a number, above 0 and at most 31622400."),
        ("LEASE_SECONDS", float("inf"), "is inf (float). It must be a number, above 0 and at most 31622400."),
        ("LEASE_SECONDS", YEAR + 1, "is 31622401.0 (float). It must be a number, above 0 and at most 31622400."),
        ("LEASE_SECONDS", 10**400, f"is 1{'0' * 79}... (int). It must be a number, above 0 and at most 31622400."),
        ("HEARTBEAT_SECONDS", 0, "is 0 (int). It must be None or a number, above 0 and at most 31622400."),
        ("TIMEOUT_GRACE_SECONDS", -1, "is -1 (int). It must be a number, at least 0 and at most 31622400."),
        ("MAX_RESULT_CHARS", 0, "is 0 (int). It must be a whole number, at least 1."),
        ("MAX_RESULT_CHARS", 1e6, "is 1000000.0 (float). It must be a whole number, at least 1."),
        ("BELL_SECONDS", -0.1, "is -0.1 (float). It must be a number, at least 0 and at most 31622400."),
        ("MAX_BELLS", 0, "is 0 (int). It must be None or a whole number, at least 1."),
        ("MAX_BELLS", False, "is False. It must be None or a whole number, at least 1."),
        ("READY_SECONDS", [2], "is [2] (list). It must be a number, at least 0 and at most 31622400."),
        ("SWEEP_SCHEDULE", 1, "is 1 (int). It must be True or False."),
        ("SWEEP_SCHEDULE", None, "is None. It must be True or False."),
        ("SWEEP_SECONDS", 0, "is 0 (int). It must be a number, above 0 and at most 31622400."),
        ("SWEEP_QUEUE", 7, "is 7 (int). It must be a string that is not empty."),
        ("SWEEP_RESIDENT", "yes", "is 'yes' (str). It must be True or False."),
    ],
)
def test_a_value_of_the_wrong_type_or_size_is_refused(key, value, message):
    assert refusal_of({key: value}) == f"BATON[{key!r}] {message}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("PRICES", [], "is [] (list): [] (list) is no dict."),
        ("PRICES", {"m": 1}, "the price of 'm' is 1 (int), which is no dict."),
        ("PRICES", {"": {}}, "a model is '' (str), which is no text."),
        ("PRICES", {"m": {"input": 1}}, "the price of 'm' has no 'output'."),
        (
            "PRICES",
            {"m": {"input": 1, "output": 1, "cached": 1}},
            "the price of 'm' has 'cached'; it may have input, output, cached_input, cache_write.",
        ),
        (
            "PRICES",
            {"m": {"input": 0.5, "output": 1}},
            "of the price of 'm', 0.5 (float) is no exact amount.",
        ),
        ("CURRENCY", "", "is '' (str): '' (str) is no code of letters."),
        ("CURRENCY", "US dollars", "'US dollars' (str) is no code of letters."),
        ("CURRENCY", None, "is None: None is no code of letters."),
        ("STEP_BUDGET", 0.5, "is 0.5 (float): 0.5 (float) is no exact amount."),
        ("STEP_BUDGET", True, "is True: True is no exact amount."),
        ("DAY_BUDGET", "lots", "is 'lots' (str): 'lots' (str) is no amount."),
        ("DAY_BUDGET", "NaN", "is 'NaN' (str): 'NaN' (str) is not from 0 to 9,000,000."),
        ("DAY_BUDGET", -1, "is -1 (int): -1 (int) is not from 0 to 9,000,000."),
        ("DAY_BUDGET", Decimal("9000000.01"), "is not from 0 to 9,000,000."),
        ("REDACT_KEYS", "password", "is 'password' (str): 'password' (str) is no list."),
        ("REDACT_KEYS", [3], "is [3] (list): one is 3 (int), which is no text."),
        ("REDACT_PATTERNS", ["("], "'(' is no regular expression: "),
    ],
)
def test_money_and_redaction_that_cannot_be_meant_are_refused(key, value, message):
    refusal = refusal_of({key: value})

    assert refusal.startswith(f"BATON[{key!r}] is ")
    assert message in refusal


def test_amounts_are_read_exactly_from_text_and_whole_numbers(settings):
    settings.BATON = {"PRICES": {"m": {"input": "0.15", "output": 1}}, "STEP_BUDGET": "2.50", "DAY_BUDGET": 20}

    read = get_settings()

    assert read.prices == {"m": {"input": Decimal("0.15"), "output": Decimal(1)}}
    assert (read.step_budget, read.day_budget) == (Decimal("2.5"), Decimal(20))
    assert {type(amount) for amount in read.prices["m"].values()} == {Decimal}


def test_a_heartbeat_that_comes_after_the_lease_has_ended_is_refused():
    assert refusal_of({"HEARTBEAT_SECONDS": 15}) == (
        "BATON['HEARTBEAT_SECONDS'] is 15 while the lease is 15.0 seconds long. It must be smaller than "
        "BATON['LEASE_SECONDS'], best a third of it: a lease that is not renewed in time is taken away."
    )


def test_every_fault_is_named_at_once():
    refusal = refusal_of({"LEASE_SECONDS": -1, "MAX_BELLS": "two", "PIZZA": 1})

    assert [line.split(" ")[0] for line in refusal.splitlines()] == [
        "BATON['PIZZA']",
        "BATON['LEASE_SECONDS']",
        "BATON['MAX_BELLS']",
    ]


def test_a_value_that_cannot_show_itself_is_refused_all_the_same():
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError

    assert refusal_of({"DATABASE": Shy()}) == "BATON['DATABASE'] is <Shy> (Shy). It must be a string that is not empty."


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), anything, max_size=4) | anything)
def test_whatever_the_setting_holds_is_either_refused_or_usable(baton):
    faults = find_faults(baton)

    if faults:
        assert all(str(fault).startswith(("BATON[", "The setting BATON is ")) for fault in faults)
    else:
        with override_settings(BATON=baton):
            assert isinstance(get_settings(), Settings)


@pytest.mark.parametrize("item", fields(Settings), ids=lambda item: item.name)
def test_every_setting_is_in_the_reference_with_its_default(item):
    key = item.name.upper()
    is_number = isinstance(item.default, int | float) and not isinstance(item.default, bool)
    shown_default = f"{item.default:_}" if is_number else str(item.default)
    if isinstance(item.default, str):
        shown_default = f'"{item.default}"'

    text = REFERENCE.read_text()

    row = next(line for line in text.splitlines() if line.startswith(f"| [`{key}`]"))
    assert f"`{shown_default}`" in row
    assert f"### `{key}`" in text


def test_the_reference_names_no_setting_that_is_not_there():
    headings = [line.strip("#` ") for line in REFERENCE.read_text().splitlines() if line.startswith("### `")]

    assert sorted(headings) == KEYS
