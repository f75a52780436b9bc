"""A provider of language models that costs nothing: real wire formats on loopback, an invoice, failures on command.

with FakeProvider() as provider, openai.OpenAI(base_url=provider.openai_url, api_key="any", max_retries=0) as client:
    client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}])
    print(provider.invoice.total())
"""

from fake_llm.failures import Failure
from fake_llm.invoice import PRICES, Charge, Invoice, Tokens
from fake_llm.server import FakeProvider
from fake_llm.wire import Request

__all__ = ["PRICES", "Charge", "Failure", "FakeProvider", "Invoice", "Request", "Tokens"]
