"""The work behind the brief: search, summary, term weights and credibility. Plain Python, no Baton in it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research.sources import Document
from research.text import sentences, terms

Source = Mapping[str, Any]
"""A document as a step's result gives it back: a dict with the fields of ``Document``."""

LEAST_RELEVANCE = 0.2
"""A document is left out if it says less than this part of what the best one says."""


def document_frequencies(documents: Sequence[Document]) -> Counter[str]:
    """Count in how many documents each term stands."""
    return Counter(term for document in documents for term in set(terms(document.text)))


def search(documents: Sequence[Document], topic: str, *, frequencies: Mapping[str, int], limit: int) -> list[Document]:
    """Find the documents that say most about a topic, best first."""
    wanted = sorted(set(terms(topic)))
    average = sum(len(document.text) for document in documents) / max(len(documents), 1)

    def relevance(document: Document) -> float:
        """Weigh by BM25, times the part of the topic that the document speaks of at all."""
        counts = Counter(terms(document.text))
        damping = 0.3 + 0.9 * len(document.text) / average
        met = [term for term in wanted if counts[term]]
        weights = [
            math.log(len(documents) / frequencies[term]) * counts[term] * 2.2 / (counts[term] + damping) for term in met
        ]
        return sum(weights) * len(met) / max(len(wanted), 1)

    scores = {document.name: relevance(document) for document in documents}
    least = max(scores.values(), default=0) * LEAST_RELEVANCE
    found = [document for document in documents if scores[document.name] > least]
    return sorted(found, key=lambda document: (-scores[document.name], document.name))[:limit]


def best_sentences(sources: Sequence[Source], topic: str, *, limit: int = 6) -> list[dict[str, str]]:
    """Choose the sentences that say most with the terms that the sources share, each once."""
    shared = Counter(term for source in sources for term in set(terms(source["text"])))
    wanted = set(terms(topic))

    def weight(sentence: str) -> float:
        words = set(terms(sentence))
        return sum(shared[word] * (3 if word in wanted else 1) for word in words) / math.sqrt(4 + len(words))

    candidates = {sentence: source["name"] for source in reversed(sources) for sentence in sentences(source["text"])}
    chosen: list[str] = []
    for sentence in sorted(candidates, key=lambda sentence: (-weight(sentence), sentence)):
        if len(chosen) < limit and not any(overlap(sentence, other) > 0.5 for other in chosen):
            chosen.append(sentence)
    return [{"sentence": sentence, "source": candidates[sentence]} for sentence in chosen]


def overlap(one: str, other: str) -> float:
    """Say which part of the shorter sentence's terms stands in the other too."""
    left, right = set(terms(one)), set(terms(other))
    return len(left & right) / max(min(len(left), len(right)), 1)


def weigh_terms(
    sources: Sequence[Source], *, frequencies: Mapping[str, int], corpus_size: int, limit: int = 12
) -> list[dict[str, Any]]:
    """Rank the terms that mark these sources off from the rest of the corpus (tf-idf)."""
    counts = Counter(term for source in sources for term in terms(source["text"]))
    spread = Counter(term for source in sources for term in set(terms(source["text"])))
    weights = {
        term: (1 + math.log(count)) * math.log(corpus_size / frequencies[term]) * spread[term] / len(sources)
        for term, count in counts.items()
    }
    ranked = sorted(weights, key=lambda term: (-weights[term], term))[:limit]
    return [{"term": term, "weight": round(weights[term], 2), "count": counts[term]} for term in ranked]


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One thing that makes a source more or less trustworthy."""

    points: int
    reason: str
    holds: Callable[[Source], bool]


def mentions(pattern: str) -> Callable[[Source], bool]:
    """Make a test for a pattern in the source's text."""
    expression = re.compile(pattern, re.IGNORECASE)
    return lambda source: bool(expression.search(source["text"]))


CRITERIA = (
    Criterion(points=15, reason="explains at length", holds=lambda source: len(source["text"].split()) >= 60),
    Criterion(points=-15, reason="says little", holds=lambda source: len(source["text"].split()) < 30),
    Criterion(points=15, reason="gives a signature", holds=lambda source: bool(source["signature"])),
    Criterion(points=10, reason="shows an example", holds=mentions(r">>>|for example|\be\.g\.")),
    Criterion(points=10, reason="names its errors", holds=mentions(r"\braises?\b|\w+Error\b")),
    Criterion(points=5, reason="names a recent Python", holds=mentions(r"\b(python|version) 3\.\d+")),
    Criterion(points=-10, reason="speaks of an old Python", holds=mentions(r"\b(python|version) ?[012]\b")),
    Criterion(points=-25, reason="speaks of a deprecation", holds=mentions(r"\bdeprecated\b|\bobsolete\b")),
    Criterion(points=-10, reason="admits to be unfinished", holds=mentions(r"\b(xxx|todo|fixme)\b|not implemented")),
)


def assess(source: Source) -> dict[str, Any]:
    """Score one source from 0 to 100 and say why."""
    met = [criterion for criterion in CRITERIA if criterion.holds(source)]
    score = max(0, min(100, 50 + sum(criterion.points for criterion in met)))
    reasons = [f"{criterion.reason} ({criterion.points:+d})" for criterion in met]
    return {"name": source["name"], "score": score, "reasons": reasons}
