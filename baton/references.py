"""Arguments that are taken from the result of another step, or from a part of it."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, NoReturn

from baton.exceptions import ReferencePathError

_SCALARS = frozenset({str, int, float, bool, type(None)})


class Reference:
    """A place in the result of another step, known when the step that asks for it is due.

    Made by :func:`result_of`; a part of it is had by subscription.

    Attributes:
        step: The name of the step whose result is meant.
        path: The keys and indexes that lead to the part that is meant.
    """

    # No dataclass: the values of one can be stored, and a reference in the wrong place has to be refused.
    __slots__ = ("path", "step")
    step: str
    path: tuple[str | int, ...]

    def __init__(self, step: str, path: tuple[str | int, ...] = ()) -> None:
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "path", path)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        msg = f"{self!r} cannot be changed."
        raise AttributeError(msg)

    def __reduce__(self) -> tuple[type[Reference], tuple[str, tuple[str | int, ...]]]:
        return Reference, (self.step, self.path)

    def __eq__(self, other: object) -> bool:
        return (self.step, self.path) == (other.step, other.path) if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.step, self.path))

    def __getitem__(self, key: str | int) -> Reference:
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            msg = (
                f"{self!r} can be subscripted by a str or an int, not by {type(key).__name__}. "
                "Take the whole and pick what you need in the body."
            )
            raise TypeError(msg)
        return Reference(self.step, (*self.path, str.__str__(key) if isinstance(key, str) else int(key)))

    def __repr__(self) -> str:
        return f"result_of({self.step!r})" + "".join(f"[{key!r}]" for key in self.path)

    def __iter__(self) -> Iterator[Any]:
        raise self._misused("cannot be iterated")

    def __bool__(self) -> bool:
        raise self._misused("is neither true nor false")

    def __str__(self) -> str:
        raise self._misused("cannot be put into a text")

    def __format__(self, spec: str) -> str:
        raise self._misused("cannot be put into a text")

    def _misused(self, what: str) -> TypeError:
        return TypeError(
            f"{self!r} {what}: there is no result yet while the workflow is built. "
            "Give it as an argument with bind(), and the body receives the value."
        )


def result_of(name: str | Enum) -> Reference:
    """Refer to the result of another step, as an argument in ``bind()``. It is a dependency too.

    Args:
        name: The name of that step in the workflow.

    Example:
        ``store.bind(title=result_of("parse")["title"])``
    """
    if not isinstance(name, (str, Enum)):
        msg = f"result_of() takes the name of a step, not {type(name).__name__}."  # type: ignore[unreachable]
        raise TypeError(msg)
    return Reference(str(name.value if isinstance(name, Enum) else name))


def extract(args: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Part arguments from the references in them, at any depth of dicts, lists and tuples.

    Returns:
        The arguments, with the text of a reference in its place, and for each reference where it stands (``at``), whose
        result it means (``step``) and which part of that (``path``). What was passed in is not changed.
    """
    search = _Search()
    try:
        plain = search.without_references(args)
    except RecursionError:
        # Nested too deep to be stored at all, which is for the encoder to say.
        return dict(args), []
    return (dict(args) if plain is args else plain), search.found


def fill(args: dict[str, Any], references: Sequence[dict[str, Any]], lookup: Callable[[str], Any]) -> dict[str, Any]:
    """Put results into the places that :func:`extract` found.

    Args:
        args: The arguments as they were stored; not changed.
        references: The places, as :func:`extract` gave them.
        lookup: Gives the whole result of a step, or None where it stored none.

    Raises:
        ReferencePathError: A result does not have the part that is meant.
    """
    filled = dict(args)
    own = {id(filled)}
    for reference in references:
        *way, last = reference["at"]
        holder: Any = filled
        for key in way:
            if id(holder[key]) not in own:
                holder[key] = holder[key].copy()
                own.add(id(holder[key]))
            holder = holder[key]
        holder[last] = _part(lookup(reference["step"]), Reference(reference["step"], tuple(reference["path"])))
    return filled


class _Search:
    """A walk through arguments that notes the references it meets."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._at: list[Any] = []
        # Containers without a reference, so far: one that holds itself ends here too.
        self._clean: dict[int, Any] = {}

    def without_references(self, value: Any) -> Any:
        """The value itself, or a copy with texts in place of the references where there are any."""
        if isinstance(value, Reference):
            self.found.append({"at": self._at.copy(), "step": value.step, "path": list(value.path)})
            return repr(value)
        if not isinstance(value, (dict, list, tuple)) or id(value) in self._clean:
            return value
        self._clean[id(value)] = value
        replaced = {}
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if type(item) in _SCALARS:
                continue
            self._at.append(key)
            plain = self.without_references(item)
            self._at.pop()
            if plain is not item:
                replaced[key] = plain
        if not replaced:
            return value
        del self._clean[id(value)]
        if isinstance(value, dict):
            return {**value, **replaced}
        return [replaced.get(index, item) for index, item in enumerate(value)]


def _part(whole: Any, reference: Reference) -> Any:
    value = whole
    for depth, key in enumerate(reference.path):
        fault = _fault(value, key)
        if fault:
            raise ReferencePathError(repr(reference), f"{Reference(reference.step, reference.path[:depth])!r} {fault}.")
        value = value[key]
    return value


def _fault(value: Any, key: str | int) -> str:
    """Why a value has no such part; empty where it has."""
    if isinstance(value, dict) and isinstance(key, str):
        return "" if key in value else f"has no key {key!r}, only {_some(value)}"
    if isinstance(value, list) and isinstance(key, int):
        return "" if -len(value) <= key < len(value) else f"has no item {key}, its length is {len(value)}"
    if value is None:
        return "is None"
    kind = {dict: "a dict", list: "a list", str: "a text", bool: "a boolean"}.get(type(value), "a number")
    return f"is {kind}, which has no {'key' if isinstance(key, str) else 'index'} {key!r}"


def _some(keys: dict[str, Any], at_most: int = 10) -> str:
    shown = ", ".join(map(reprlib.repr, list(keys)[:at_most]))
    return (shown or "none") + (", …" if len(keys) > at_most else "")
