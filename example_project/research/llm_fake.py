"""What the fake provider answers to the prompts of the brief, so that a demo without a key has something to show."""

from __future__ import annotations

import random

from fake_llm import Request

from research.llm_steps import CREDIBILITY, KEYWORDS
from research.text import sentences, terms


def answer(request: Request) -> str:
    """Answer in the model's stead: no model thinks here, words of the prompt are picked, by each model its own."""
    instruction, _, text = request.prompt.partition("\n\n")
    chance = random.Random(f"{request.model} {request.prompt}")
    if instruction == CREDIBILITY:
        return f"{chance.randint(40, 95)}. It says what it does in {len(text.split())} words."
    if instruction.startswith(KEYWORDS.partition(" in ")[0]):
        found = sorted(set(terms(text)))
        return ", ".join(chance.sample(found, min(8, len(found))))
    found = list(dict.fromkeys(sentences(text)))
    return " ".join(chance.sample(found, min(3, len(found)))) or "These texts say little."
