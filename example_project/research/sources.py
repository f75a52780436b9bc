"""The corpus: the documentation strings of Python's standard library."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

NAMES_OF_MODULES = """
abc argparse array ast asyncio base64 bisect calendar cmath codecs collections concurrent.futures configparser
contextlib contextvars copy csv dataclasses datetime decimal difflib dis email.message enum fnmatch fractions functools
glob gzip hashlib heapq hmac html http.client http.cookies http.server importlib.resources inspect io ipaddress
itertools json logging logging.handlers math mimetypes multiprocessing.pool multiprocessing.shared_memory operator os
pathlib pickle pprint queue random re sched secrets selectors shelve shlex shutil signal smtplib socket socketserver
sqlite3 ssl statistics string struct subprocess tarfile tempfile textwrap threading time timeit tokenize traceback
tracemalloc types typing unittest unittest.mock urllib.parse urllib.request uuid venv warnings weakref
xml.etree.ElementTree zipfile zlib zoneinfo
"""

MODULES = NAMES_OF_MODULES.split()
"""Which modules are read, in this order, so that every run finds the same documents."""

FEWEST_WORDS = 20
"""A shorter text says too little to be a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What the documentation strings say of one thing."""

    name: str
    """Where it is found, such as ``threading.Thread``."""
    kind: str
    """``module``, ``class`` or ``function``."""
    signature: str
    """How it is called; empty where Python cannot say."""
    text: str


def documents_of(module_name: str) -> list[Document]:
    """Read what a module says of itself, and of each class and function that it offers."""
    module = import_module(module_name)
    subjects = [(module_name, module), *public_members(module)]
    return [
        Document(name=name, kind=kind_of(subject), signature=signature_of(subject), text=text)
        for name, subject in subjects
        if len((text := text_of(subject)).split()) >= FEWEST_WORDS
    ]


def public_members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the classes and functions that a module offers, with their dotted names."""
    offered = getattr(module, "__all__", None) or sorted(name for name in vars(module) if not name.startswith("_"))
    for name in offered:
        member = getattr(module, name, None)
        # What a module merely imports is described where it lives.
        if callable(member) and str(member.__module__).startswith(module.__name__):
            yield f"{module.__name__}.{name}", member


def text_of(subject: Any) -> str:
    """Join the documentation strings of a thing and, if it is a class, of its public methods."""
    texts = [subject.__doc__]
    if inspect.isclass(subject):
        texts += [member.__doc__ for name, member in vars(subject).items() if callable(member) and name[0] != "_"]
    return "\n\n".join(inspect.cleandoc(text) for text in texts if isinstance(text, str))


def kind_of(subject: Any) -> str:
    """Name the kind of a thing in one word."""
    if inspect.ismodule(subject):
        return "module"
    return "class" if inspect.isclass(subject) else "function"


def signature_of(subject: Any) -> str:
    """Write how something is called, without memory addresses; they differ from run to run."""
    if not callable(subject):
        return ""
    try:
        return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(subject)))
    except (TypeError, ValueError):
        return ""
