"""What calls cost: to the last digit, or not at all and in words why."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import Any

import anthropic
import genai_prices
import openai
import pytest
from django.test import override_settings
from fake_llm import PRICES as PRICES_OF_THE_FAKE
from fake_llm import FakeProvider
from hypothesis import given
from hypothesis import strategies as st

from baton.conf import MAX_AMOUNT
from baton.llm.pricing import EXTRAS, DefaultPricing, Quote, Usage, price
from baton.llm.usage import read_usage, usage_of_chunks

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
MINE = {"input": "2.50", "output": "10", "cached_input": "1.25", "cache_write": "3.125"}
HERE = "tests.llm.test_pricing"


def usage(model: str = "mine", *, input_tokens: int = 1000, output_tokens: int = 100, **others: Any) -> Usage:
    return Usage(model=model, input_tokens=input_tokens, output_tokens=output_tokens, at=AT, **others)


@pytest.fixture(autouse=True)
def _prices(settings):
    settings.BATON = {"PRICES": {"mine": MINE}}


# The project's table -------------------------------------------------------------------------------------------------


def test_model_of_the_table_is_priced_in_exact_decimals_with_the_unit_prices_and_their_source():
    quote = price(usage(cached_input_tokens=400, cache_write_tokens=100, reasoning_tokens=50))

    # 500 at 2.50, 400 at 1.25, 100 at 3.125 and 100 at 10, a million each.
    assert quote == Quote(
        cost=Decimal("0.0030625"),
        currency="USD",
        unit_prices={"input": "2.50", "output": "10", "cached_input": "1.25", "cache_write": "3.125"},
        source="PRICES",
    )


counts = st.integers(0, 10**9)
amounts = st.decimals(0, 10_000, places=6)


@given(counts, counts, counts, counts, st.tuples(amounts, amounts, amounts, amounts))
def test_cost_is_the_exact_sum_whatever_the_counts_and_prices(fresh, cached, written, output, prices):
    kinds = ("input", "cached_input", "cache_write", "output")
    exact = sum(
        Fraction(each) * count for each, count in zip(prices, (fresh, cached, written, output), strict=True)
    ) / Fraction(10**6)

    with override_settings(BATON={"PRICES": {"mine": dict(zip(kinds, prices, strict=True))}}):
        quote = price(
            usage(
                input_tokens=fresh + cached + written,
                cached_input_tokens=cached,
                cache_write_tokens=written,
                output_tokens=output,
            )
        )

    if exact > MAX_AMOUNT:
        assert quote.cost is None
    else:
        assert Fraction(quote.cost) == exact


def test_cost_of_finer_prices_is_rounded_half_to_even_at_the_twelfth_place(settings):
    settings.BATON = {"PRICES": {"mine": {"input": "0.0000005", "output": "0.0000015"}}}

    assert price(usage(input_tokens=1, output_tokens=0)).cost == 0
    assert price(usage(input_tokens=0, output_tokens=1)).cost == Decimal("0.000000000002")


def test_body_s_own_decimal_context_does_not_touch_the_price():
    with localcontext() as context:
        context.prec = 2
        quote = price(usage(input_tokens=1_234_567))

    assert quote.cost == Decimal("3.0874175")


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o",
        "gpt-4o-2024-08-06",
        "gpt-4o-20240806",
        "gpt-4o@20240806",
        "openai/gpt-4o",
        "openai:gpt-4o",
        "openai/gpt-4o-2024-08-06",
        "openrouter/openai/gpt-4o-2024-08-06",
        "models/gpt-4o",
    ],
)
def test_dated_and_prefixed_names_find_the_model(settings, model):
    settings.BATON = {"PRICES": {"gpt-4o": MINE}}

    assert price(usage(model)).cost == Decimal("0.0035")


@pytest.mark.parametrize(
    "model",
    ["gpt-4o-mini", "gpt-4", "my-gpt-4o", "gpt-4o-2024-13-06", "gpt-4o-2024-0806", "gpt-4o-20240806-x", "GPT-4O",
     "ft:gpt-4o", "ft:gpt-4o-2024-08-06", "ft:gpt-4o-2024-08-06:me::id", "somebody/gpt-4o", "gpt-4o:free"],
)  # fmt: skip
def test_other_names_do_not_find_the_model(settings, model):
    settings.BATON = {"PRICES": {"gpt-4o": MINE}, "CURRENCY": "EUR"}

    assert price(usage(model)) == Quote(currency="EUR", reason=f"no price for model {model!r}")


def test_name_in_full_is_found_before_the_one_without_its_date(settings):
    dear = {"input": "5", "output": "15"}
    settings.BATON = {"PRICES": {"gpt-4o": MINE, "gpt-4o-2024-05-13": dear, "azure.ai.openai/gpt-4": dear}}

    assert price(usage("gpt-4o-2024-05-13")).cost == Decimal("0.0065")
    assert price(usage("gpt-4o-2024-08-06")).cost == Decimal("0.0035")
    assert price(usage("gpt-4", provider="azure.ai.openai")).cost == Decimal("0.0065")


def test_table_is_asked_before_genai_prices(settings):
    settings.BATON = {"PRICES": {"gpt-4o": {"input": "1", "output": "1"}}}

    quote = price(usage("gpt-4o-2024-08-06", provider="openai"))

    assert (quote.cost, quote.source) == (Decimal("0.0011"), "PRICES")


def test_free_model_costs_nothing_which_is_a_price(settings):
    settings.BATON = {"PRICES": {"mine": {"input": 0, "output": 0}}}

    quote = price(usage())

    assert (quote.cost, quote.reason) == (Decimal(0), "")


# Failures of others --------------------------------------------------------------------------------------------------


def test_unknown_model_has_no_price_instead_of_the_price_zero():
    assert price(usage("nobody-knows-it", provider="openai")) == Quote(
        currency="USD", reason="no price for model 'nobody-knows-it'"
    )


def test_cache_hits_are_not_charged_in_full():
    full, hit = price(usage()), price(usage(cached_input_tokens=1000))

    assert full.cost - hit.cost == Decimal("0.00125")


@pytest.mark.parametrize(
    ("cached", "kind"),
    [(usage(cached_input_tokens=1), "cached_input"), (usage(cache_write_tokens=1), "cache_write")],
    ids=["read", "written"],
)
def test_cached_tokens_without_a_price_of_their_own_are_not_charged_in_full(settings, cached, kind):
    settings.BATON = {"PRICES": {"mine": {"input": "2.50", "output": "10"}}}

    assert price(cached) == Quote(currency="USD", source="PRICES", reason=f"no {kind} price for 'mine'")
    assert price(usage()).cost == Decimal("0.0035")


def test_cached_tokens_are_not_charged_in_full_where_genai_prices_would():
    quote = price(usage("gpt-4", provider="openai", cached_input_tokens=400))

    assert (quote.cost, quote.source, quote.reason) == (None, "genai-prices", "no cached_input price for 'gpt-4'")


def test_tokens_that_genai_prices_has_no_price_for_are_not_free():
    assert price(usage("whisper-1", provider="openai")).reason == "no input price for 'whisper-1'"
    assert price(usage("claude-opus-4-5", provider="anthropic", context={"input_audio_tokens": 5})).reason == (
        "no input_audio_tokens price for 'claude-opus-4-5'"
    )


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_the_table_cannot_price_is_not_free(extra):
    assert price(usage(context={extra: 1})).reason == f"no {extra} price for 'mine'"


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"cached_input_tokens": 700, "cache_write_tokens": 301},
         "of 1000 input tokens, 700 cannot be cached and 301 written to a cache"),
        ({"reasoning_tokens": 101}, "of 100 output tokens, 101 cannot be reasoning"),
        ({"cached_input_tokens": -1}, "a count of tokens is negative"),
        ({"context": {"unreadable": ["cached_input_tokens"]}}, "the answer's cached_input_tokens cannot be read"),
    ],
)  # fmt: skip
def test_counts_that_contradict_each_other_have_no_price(counts, reason):
    assert price(usage(**counts)) == Quote(currency="USD", reason=reason)


def test_model_without_a_name_has_no_price():
    assert price(usage("")).reason == "the model is not known"


def test_prices_of_what_the_providers_clients_answer_are_those_of_the_invoice(settings):
    settings.BATON = {"PRICES": PRICES_OF_THE_FAKE}
    spent = "[fake input=123457 output=4321 cached=65432 reasoning=1234]"
    written = "[fake input=123457 output=4321 cached=65432 cache_write=777 reasoning=1234]"
    options: Any = {"include_usage": True}

    with (
        FakeProvider(served_as={"gpt-4o-mini": "gpt-4o-mini-2024-07-18"}) as provider,
        openai.OpenAI(base_url=provider.openai_url, api_key="none", max_retries=0) as of_openai,
        anthropic.Anthropic(base_url=provider.url, api_key="none", max_retries=0) as of_anthropic,
    ):
        said: Any = [{"role": "user", "content": spent}]
        also: Any = [{"role": "user", "content": written}]
        chat, messages = of_openai.chat.completions, of_anthropic.messages
        used = [
            read_usage(chat.create(model="gpt-4o-mini", messages=said), at=AT),
            usage_of_chunks(chat.create(model="gpt-4o", messages=said, stream=True, stream_options=options), at=AT),
            read_usage(of_openai.responses.create(model="gpt-5-mini", input=spent), at=AT),
            usage_of_chunks(of_openai.responses.create(model="gpt-5-mini", input=spent, stream=True), at=AT),
            read_usage(messages.create(model="claude-haiku-4-5", max_tokens=99, messages=also), at=AT),
            usage_of_chunks(
                messages.create(model="claude-sonnet-4-6", max_tokens=99, messages=also, stream=True), at=AT
            ),
        ]

    assert [price(each).cost for each in used] == [charge.cost for charge in provider.invoice.charges]


# genai-prices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "model", "cost"),
    [
        ("openai", "gpt-4o", "0.0035"),
        ("openai", "gpt-4o-2024-08-06", "0.0035"),
        ("openai", "openai/gpt-4o", "0.0035"),
        ("", "gpt-4o", "0.0035"),
        ("", "openai/gpt-4o", "0.0035"),
        ("azure.ai.openai", "gpt-4o", "0.0035"),
        ("anthropic", "claude-sonnet-4-20250514", "0.0045"),
        ("", "anthropic:claude-sonnet-4-20250514", "0.0045"),
        ("openai", "anthropic/claude-sonnet-4-20250514", "0.0045"),
        ("gcp.gemini", "gemini-2.5-flash", "0.00055"),
        ("gcp.gemini", "models/gemini-2.5-flash", "0.00055"),
    ],
)
def test_known_models_are_priced_by_genai_prices(provider, model, cost):
    quote = price(usage(model, provider=provider))

    assert (quote.cost, quote.currency) == (Decimal(cost), "USD")
    assert (quote.source, quote.version) == ("genai-prices", genai_prices.__version__)


def test_cached_tokens_have_their_own_price_there_and_unit_prices_are_kept():
    quote = price(usage("gpt-4o", provider="openai", cached_input_tokens=400))

    assert quote.cost == Decimal("0.003")
    assert quote.unit_prices == {"input": "2.5", "output": "10", "cached_input": "1.25"}


def test_price_that_depends_on_the_length_of_the_input_is_the_one_that_holds():
    short = price(usage("claude-sonnet-4-5", provider="anthropic", input_tokens=200_000, output_tokens=0))
    long = price(usage("claude-sonnet-4-5", provider="anthropic", input_tokens=200_001, output_tokens=0))

    assert (short.cost, short.unit_prices["input"]) == (Decimal("0.6"), "3")
    assert (long.cost, long.unit_prices["input"]) == (Decimal("1.200006"), "6")


def test_searches_and_long_lived_caches_have_their_prices_there():
    context = {"cache_write_1h_tokens": 50, "web_searches": 3}

    quote = price(usage("claude-opus-4-5", provider="anthropic", cache_write_tokens=100, context=context))

    # 900 at 5, 50 at 6.25, 50 at 10, 100 at 25, and three searches at a hundredth.
    assert quote.cost == Decimal("0.0378125")
    assert quote.unit_prices["cache_write_1h_tokens"] == "10"
    assert quote.unit_prices["web_searches"] == "10"


def test_tokens_of_images_have_their_price_there_where_the_model_has_one():
    images = {"output_image_tokens": 90}

    painter = price(usage("gemini-2.5-flash-image", provider="gcp.gemini", context=images))
    reader = price(usage("gpt-4o", provider="openai", context={"input_image_tokens": 900}))

    # 1000 at 0.30, 10 at 2.50 and 90 at 30; to the other an image is as good as text.
    assert (painter.cost, painter.unit_prices["output_image_tokens"]) == (Decimal("0.003025"), "30")
    assert reader.cost == Decimal("0.0035")
    assert price(usage(context=images)).cost == Decimal("0.0035")


def test_price_heeds_what_the_request_was_made_with():
    def cost(**context: str) -> Decimal | None:
        return price(usage("gpt-5.4", provider="openai", context=context)).cost

    assert (cost(), cost(service_tier="default"), cost(service_tier="flex")) == (
        Decimal("0.004"),
        Decimal("0.004"),
        Decimal("0.002"),
    )


def test_request_made_in_a_way_that_genai_prices_does_not_know_is_not_charged_the_usual_price():
    quote = price(usage("gpt-4", provider="openai", context={"service_tier": "flex"}))

    assert (quote.cost, quote.reason) == (None, "no price for 'gpt-4' with service_tier 'flex'")


def test_server_of_one_s_own_is_not_charged_what_another_takes_for_the_same_model():
    assert price(usage("gpt-4o", provider="local")).reason == "no price for model 'gpt-4o'"
    assert price(usage("openai/gpt-4o", provider="local")).reason == "no price for model 'openai/gpt-4o'"


def test_contradiction_that_genai_prices_finds_is_the_reason():
    context = {"input_audio_tokens": 900}

    quote = price(usage("gemini-2.5-flash", provider="gcp.gemini", cached_input_tokens=400, context=context))

    assert quote.cost is None
    assert quote.reason.startswith("genai-prices: ")


def test_genai_prices_counts_in_dollars_and_is_not_asked_for_anything_else(settings):
    settings.BATON = {"CURRENCY": "EUR"}

    assert price(usage("gpt-4o", provider="openai")) == Quote(currency="EUR", reason="no price for model 'gpt-4o'")


def test_without_genai_prices_there_is_no_price(monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)

    assert price(usage("gpt-4o", provider="openai")) == Quote(currency="USD", reason="no price for model 'gpt-4o'")
    assert price(usage()).cost == Decimal("0.0035")


@pytest.mark.slow
def test_django_with_baton_loads_neither_genai_prices_nor_a_provider_s_client():
    look = """
import sys
import django
django.setup()
import baton.llm.pricing, baton.llm.usage
print(sorted({"genai_prices", "openai", "anthropic"} & set(sys.modules)))
"""

    assert subprocess.check_output([sys.executable, "-c", look], text=True) == "[]\n"


# The project's class -------------------------------------------------------------------------------------------------


class ByTheSecond:
    """A class as a project writes one."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def cost(self, usage: Usage) -> Decimal | None:
        match usage.model:
            case "mine":
                return Decimal("0.25") * int(usage.context.get("seconds", 1))
            case _:
                return None


class Discounted(DefaultPricing):
    """A class that takes something off ours."""

    def cost(self, usage: Usage) -> Decimal | None:
        full = super().cost(usage)
        return None if full is None else full / 2


class Annotated(DefaultPricing):
    """A class that tells more than ours."""

    def quote(self, usage: Usage) -> Quote:
        return Quote(cost=Decimal(1), source="our contract\x00", version="7" * 99, unit_prices={"call": 1})  # type: ignore[dict-item]


class Returning:
    """A class that returns what it is told to."""

    value: Any = None

    def cost(self, usage: Usage) -> Any:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


class NotMade:
    """A class that cannot be made."""

    def __init__(self) -> None:
        raise ConnectionError("no prices today")


def use(settings: Any, name: str, **others: Any) -> None:
    settings.BATON = {"PRICES": {"mine": MINE}, "PRICING": f"{HERE}.{name}"} | others


def test_class_of_the_project_is_asked_and_named_as_the_source(settings):
    use(settings, "ByTheSecond", CURRENCY="EUR")

    assert price(usage(context={"seconds": 3})) == Quote(
        cost=Decimal("0.75"), currency="EUR", source=f"{HERE}.ByTheSecond"
    )
    assert price(usage("gpt-4o", provider="openai")) == Quote(
        currency="EUR", source=f"{HERE}.ByTheSecond", reason="no price for model 'gpt-4o'"
    )


def test_class_of_the_project_is_made_once_until_the_settings_change(settings):
    ByTheSecond.made = 0
    use(settings, "ByTheSecond")

    assert [price(usage()).cost for _ in range(3)] == [Decimal("0.25")] * 3
    assert ByTheSecond.made == 1
    use(settings, "ByTheSecond", CURRENCY="EUR")
    price(usage())
    assert ByTheSecond.made == 2


def test_class_that_is_derived_from_ours_is_asked_for_its_own_cost(settings):
    use(settings, "Discounted")
    assert price(usage()) == Quote(cost=Decimal("0.00175"), currency="USD", source=f"{HERE}.Discounted")

    use(settings, "Annotated")
    assert price(usage()) == Quote(
        cost=Decimal(1), currency="USD", source="our contract\ufffd", version="7" * 64, unit_prices={"call": "1"}
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (0.5, "says 0.5 (float), which is no Decimal"),
        (1, "says 1 (int), which is no Decimal"),
        (True, "says True, which is no Decimal"),
        ("0.5", "says '0.5' (str), which is no Decimal"),
        (Quote(), "says Quote("),
        (Decimal("NaN"), "says Decimal('NaN') (Decimal), which is no number"),
        (Decimal("sNaN"), "says Decimal('sNaN') (Decimal), which is no number"),
        (Decimal("Infinity"), "says Decimal('Infinity') (Decimal), which is no number"),
        (Decimal("-0.01"), "says Decimal('-0.01') (Decimal), which is negative"),
        (Decimal(9_000_001), "says Decimal('9000001') (Decimal), which is more than a row holds"),
        (Decimal("1E+999999"), "says Decimal('1E+999999') (Decimal), which is more than a row holds"),
        (KeyError("price\x00"), "raised KeyError: 'price"),
        (RuntimeError("x" * 999), "raised RuntimeError: xxx"),
        (RecursionError(), "raised RecursionError"),
        (SystemExit(3), "raised SystemExit: 3"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_class_that_raises_or_returns_no_amount_gives_a_reason_and_no_price(
    settings, monkeypatch, caplog, value, problem
):
    use(settings, "Returning")
    monkeypatch.setattr(Returning, "value", value)

    with caplog.at_level(logging.ERROR, logger="baton.llm"):
        quotes = [price(usage()) for _ in range(3)]

    for quote in quotes:
        assert (quote.cost, quote.currency, quote.source) == (None, "USD", f"{HERE}.Returning")
        assert quote.reason.startswith(f"{HERE}.Returning {problem}")
        assert len(quote.reason) <= 500
        assert "\x00" not in quote.reason
    assert len(caplog.records) == 1, "once for each kind of fault"


@pytest.mark.parametrize("value", [Decimal("-0"), Decimal("0E-30"), Decimal("1E-30")], ids=str)
def test_next_to_nothing_is_nothing(settings, monkeypatch, value):
    use(settings, "Returning")
    monkeypatch.setattr(Returning, "value", value)

    assert str(price(usage()).cost) == "0"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (f"{HERE}.NotMade", "ConnectionError: no prices today"),
        (f"{HERE}.Nothing", "ImportError: "),
        ("nowhere.Pricing", "ModuleNotFoundError: "),
        ("Pricing", "ImportError: "),
        (f"{HERE}.HERE", "TypeError: "),
    ],
)
def test_class_that_cannot_be_had_gives_a_reason_and_no_price(settings, caplog, path, reason):
    settings.BATON = {"PRICING": path}

    quotes = [price(usage()) for _ in range(2)]

    for quote in quotes:
        assert quote.cost is None
        assert quote.reason.startswith(f"BATON['PRICING'] is {path!r}, which cannot be used: {reason}")
    assert len(caplog.records) == 1


def test_settings_that_cannot_be_read_give_a_reason_and_no_price(settings):
    settings.BATON = {"PRICES": {"mine": {"input": 0.5, "output": 1}}}

    quote = price(usage())

    assert quote.cost is None
    assert quote.reason.startswith("the price could not be found out: ImproperlyConfigured: BATON['PRICES'] is ")


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)


@given(
    st.sampled_from(["mine", "gpt-4o", "openai/gpt-4", "claude-sonnet-4-5", "gemini-2.5-flash"]) | anything,
    st.sampled_from(["openai", "anthropic", "gcp.gemini", ""]) | anything,
    st.tuples(*[st.integers(-5, 300_000) | anything] * 5),
    st.dictionaries(
        st.sampled_from(["service_tier", "speed", "web_searches", "input_audio_tokens", "unreadable"]) | st.text(),
        anything,
        max_size=3,
    )
    | anything,
)
def test_price_never_raises_and_is_an_amount_or_has_a_reason(model, provider, tokens, context):
    quote = price(
        Usage(
            model=model,
            provider=provider,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            cached_input_tokens=tokens[2],
            cache_write_tokens=tokens[3],
            reasoning_tokens=tokens[4],
            at=AT,
            context=context,
        )
    )

    if quote.cost is None:
        assert quote.reason
    else:
        assert quote.cost.quantize(Decimal("1E-12"), rounding=ROUND_HALF_EVEN) == quote.cost >= 0
