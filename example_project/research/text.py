"""What the steps know of English: sentences and terms."""

from __future__ import annotations

import re

COMMON_WORDS = """
a about above across after all also always an and any are arg argument as at be because been before being between both
but by call called can cannot class could default define did do does doing done each either else etc even example
false first following for from function get given gives goes had has have he her here how however if in instance
instead into is it its itself just kwarg last like made make may method might more most must name new no none nor not
note now object of on once one only optional or other otherwise out over own parameter pass passed perhaps per raise
raised raises return returned returning returns same see self set several shall should since so some specified string
such take than that the their them then there therefore these they this those though three through thus to too true
two type under unless until up upon use used uses using usually value very via was way we well were what when where
whether which while who whose why will with within without would yet you your
"""

STOP_WORDS = frozenset(COMMON_WORDS.split())
"""Words that say nothing of what a text is about, some of them only so in documentation of code."""

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'`])")
CODE_OR_LIST = re.compile(r"^\s*(>>>|\.\.\.|[-*=~+|#]|\d+[.)]|\w+\(|:\w+|@)|\s{3,}\S|  -- ", re.MULTILINE)


def sentences(text: str) -> list[str]:
    """Split prose into sentences, leaving out code, lists, tables and headings."""
    paragraphs = re.split(r"\n\s*\n", text)
    prose = [" ".join(paragraph.split()) for paragraph in paragraphs if not CODE_OR_LIST.search(paragraph)]
    found = [sentence.strip() for paragraph in prose for sentence in SENTENCE_END.split(paragraph)]
    return [sentence for sentence in found if is_whole(sentence)]


def is_whole(sentence: str) -> bool:
    """True for something that reads as a sentence, not as a fragment or a label."""
    return sentence[:1].isupper() and sentence.endswith((".", "!", "?")) and 6 <= len(sentence.split()) <= 40


def terms(text: str) -> list[str]:
    """List the words of a text that carry meaning, lower case and singular, in their order."""
    words = re.findall(r"[a-z][a-z_]{2,}", text.lower())
    return [singular(word) for word in words if word not in STOP_WORDS]


def singular(word: str) -> str:
    """Drop a plural's ending: ``threads`` and ``thread`` are one term."""
    if len(word) > 4 and word.endswith("ies") and word != "series":
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "as")):
        return word[:-1]
    return word
