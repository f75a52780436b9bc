"""``Workflow``: name the steps and what they wait for, look it over, insert it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS

from baton.conf import amount, get_settings
from baton.engine.insert import Plan, PlannedStep, insert
from baton.engine.options import stored_options
from baton.exceptions import AtomicStepError, GraphError, ModelForUnknownStepError, UnimportableStepError
from baton.graph import find_problems, topological_order
from baton.models import WorkflowRun
from baton.registry import StepOptions
from baton.steps import BoundStep, Step
from baton.values import encode

_MAX_NAME_LENGTH = 255
# Between these every database and every clock can count; earlier is at once, later is never.
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)

Name = str | Enum


@dataclass(frozen=True, slots=True, kw_only=True)
class _Added:
    """A step as it was added."""

    name: str
    bound: BoundStep
    deps: tuple[str, ...]
    options: StepOptions
    given: dict[str, Any]
    ignore_cancelled: bool | None
    ignore_discarded: bool | None
    not_before: datetime | None


class Workflow:
    """A graph of steps, built by chained :meth:`add` and run by :meth:`insert`.

    Args:
        name: The label in every event, list and page.
        id: The id of the run, a new UUID4 by default.
        key: While a run of this name and key is unsettled, another insert returns that run.
        meta: Anything storable, kept with the run.
        debug: Whether language-model calls of this run are captured.
        ignore_cancelled: Whether steps go on when a dependency was cancelled.
        ignore_discarded: Whether steps go on when a dependency was discarded.
        budget: What the calls of language models in this run may cost, in the currency of the settings; None is no
            limit. A call that does not fit is held until the budget is raised.
        allow_unpriced: Whether a run with a budget may call models that have no price.

    Raises:
        TypeError: ``meta`` cannot be stored, or an argument is of the wrong type.
        ValueError: A name is empty or too long, or ``id`` is no UUID.
    """

    def __init__(
        self,
        name: Name,
        *,
        id: UUID | str | None = None,  # noqa: A002 - the word of the API
        key: str | None = None,
        meta: dict[str, Any] | None = None,
        debug: bool = False,
        ignore_cancelled: bool = False,
        ignore_discarded: bool = False,
        budget: Decimal | str | int | None = None,
        allow_unpriced: bool = False,
    ) -> None:
        self.name = _name(name, "Workflow: name")
        self.id = _id(id)
        self.key = None if key is None else _name(key, "Workflow: key")
        self.meta = meta or {}
        self.debug = _flag(debug, "Workflow: debug")
        self.ignore_cancelled = _flag(ignore_cancelled, "Workflow: ignore_cancelled")
        self.ignore_discarded = _flag(ignore_discarded, "Workflow: ignore_discarded")
        self.budget = _budget(budget)
        self.allow_unpriced = _flag(allow_unpriced, "Workflow: allow_unpriced")
        self._meta_text = encode(self.meta, limit=get_settings().max_result_chars, what="meta")
        self.models: dict[str, str | None] = {}
        """What was said of the language models of steps, here or by :func:`baton.llm.configure`, by step name."""
        self._added: list[_Added] = []

    def __repr__(self) -> str:
        return f"<workflow {self.name!r} of {len(self._added)} steps>"

    def __len__(self) -> int:
        return len(self._added)

    def __bool__(self) -> bool:
        """True, also while it has no steps: ``workflow or Workflow(...)`` must not lose what was said of it."""
        return True

    @property
    def step_names(self) -> list[str]:
        """The names of the steps, in the order in which they were added."""
        return [added.name for added in self._added]

    def add(
        self,
        name: Name,
        step: Step | BoundStep,
        *,
        deps: Iterable[Name] = (),
        ignore_cancelled: bool | None = None,
        ignore_discarded: bool | None = None,
        not_before: datetime | None = None,
        **step_options: Any,
    ) -> Workflow:
        """Add a step. The graph itself is looked at by :meth:`validate` and :meth:`insert` only.

        Args:
            name: Unique in the workflow.
            step: A step, or a step with its arguments bound.
            deps: Names of the steps it waits for, added before or after it.
            ignore_cancelled: Go on when a dependency was cancelled; None is what the workflow says.
            ignore_discarded: Go on when a dependency was discarded; None is what the workflow says.
            not_before: An aware time before which it does not start.
            step_options: Options that beat those on the decorator.

        Returns:
            The workflow.

        Raises:
            TypeError: A required argument is unbound, or something is of the wrong type.
            ValueError: A name or option is out of range.
        """
        name = _name(name, "add: name")
        bound = step if isinstance(step, BoundStep) else _bound(step, name)
        bound.step.check_complete(bound.args)
        options = bound.step.options
        if step_options:
            options = bound.step.overridden(step_options, where=f"add({name!r})")
        if "model" in step_options:
            self.models[name] = options.model
        names = [_name(dep, f"add({name!r}): a dependency") for dep in _iterable(deps, name)]
        names += [reference["step"] for reference in bound.references]
        self._added.append(
            _Added(
                name=name,
                bound=bound,
                deps=tuple(dict.fromkeys(names)),
                options=options,
                given={key: getattr(options, key) for key in step_options if key != "model"},
                ignore_cancelled=_optional_flag(ignore_cancelled, f"add({name!r}): ignore_cancelled"),
                ignore_discarded=_optional_flag(ignore_discarded, f"add({name!r}): ignore_discarded"),
                not_before=_aware(not_before, name),
            )
        )
        return self

    def problems(self) -> list[GraphError]:
        """Every fault of the graph, each as the exception that tells of it; nothing is written."""
        faults: list[GraphError] = find_problems([(added.name, added.deps) for added in self._added])
        for added in self._added:
            step = added.bound.step
            if "<locals>" in step.path or "<lambda>" in step.path:
                faults.append(UnimportableStepError(added.name, step.path))
            if added.options.atomic and step.is_async:
                faults.append(AtomicStepError(added.name, "its body is async. Write it as a plain function."))
            elif added.options.atomic and get_settings().database != DEFAULT_DB_ALIAS:
                why = f"Baton's tables are in {get_settings().database!r}, and its writes go elsewhere."
                faults.append(AtomicStepError(added.name, why))
        names = {added.name for added in self._added}
        faults += [ModelForUnknownStepError(name, model) for name, model in self.models.items() if name not in names]
        return faults

    def validate(self) -> Workflow:
        """See that the graph can be inserted, without writing anything.

        Returns:
            The workflow.

        Raises:
            GraphError: With every fault in ``problems``.
        """
        problems = self.problems()
        if problems:
            raise GraphError.of(self.name, problems)
        return self

    def insert(self, *, standalone: bool = False) -> WorkflowRun:
        """Write the run in one transaction, joining an outer one; nothing runs before that commits.

        Args:
            standalone: Allow a surrounding transaction on another database than Baton's.

        Returns:
            The run; where an unsettled run of this name holds the key, that one.

        Raises:
            GraphError: The graph has faults; nothing is written.
            WorkflowExistsError: A run with this id exists.
            ForeignTransactionError: A transaction is open on another database.
        """
        self.validate()
        return insert(self._plan(), using=get_settings().database, standalone=standalone)

    async def ainsert(self, *, standalone: bool = False) -> WorkflowRun:
        """The async twin of :meth:`insert`."""
        return await sync_to_async(self.insert)(standalone=standalone)

    def _plan(self) -> Plan:
        added = {each.name: each for each in self._added}
        order = topological_order({name: each.deps for name, each in added.items()})
        return Plan(
            id=self.id,
            name=self.name,
            key=self.key,
            meta=self._meta_text,
            debug=self.debug,
            ignore_cancelled=self.ignore_cancelled,
            ignore_discarded=self.ignore_discarded,
            budget=self.budget,
            allow_unpriced=self.allow_unpriced,
            steps=[self._planned(added[name]) for name in order],
        )

    def _planned(self, added: _Added) -> PlannedStep:
        step, options = added.bound.step, added.options
        module = "" if step.name.startswith(f"{step.module}.") else step.module
        given = {**added.given, "model": self.models[added.name]} if added.name in self.models else added.given
        stored = stored_options(given, module=module) if given or module else None
        return PlannedStep(
            name=added.name,
            step=step.name,
            deps=added.deps,
            queue=options.queue,
            priority=options.priority,
            max_attempts=options.max_attempts,
            timeout=options.timeout,
            ignore_cancelled=self.ignore_cancelled if added.ignore_cancelled is None else added.ignore_cancelled,
            ignore_discarded=self.ignore_discarded if added.ignore_discarded is None else added.ignore_discarded,
            args=added.bound.text,
            refs=encode(added.bound.references) if added.bound.references else "[]",
            options=encode(stored) if stored else "{}",
            not_before=added.not_before,
        )


def _bound(step: Any, name: str) -> BoundStep:
    if not isinstance(step, Step):
        msg = f"add({name!r}): {step!r} is not a step. Decorate the function with @step."
        raise TypeError(msg)
    return BoundStep(step=step)


def _iterable(deps: Any, name: str) -> Sequence[Name]:
    if isinstance(deps, (str, Enum)) or not isinstance(deps, Iterable):
        example = str(getattr(deps, "value", deps))
        msg = f"add({name!r}): deps is {deps!r}. Give a list of names, as in deps=[{example!r}]."
        raise TypeError(msg)
    return list(deps)


def _name(value: Any, where: str) -> str:
    text = getattr(value, "value", value) if isinstance(value, Enum) else value
    if not isinstance(text, str):
        msg = f"{where} is {value!r}. Give a str or an enum member whose value is one."
        raise TypeError(msg)
    if not text or len(text) > _MAX_NAME_LENGTH or "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        msg = f"{where} is {text[:80]!r}. Give 1 to {_MAX_NAME_LENGTH} characters without NUL."
        raise ValueError(msg)
    return str(text)


def _id(value: Any) -> UUID:
    if value is None:
        return uuid4()
    if isinstance(value, UUID):
        return value
    if not isinstance(value, str):
        msg = f"Workflow: id is {value!r}. Give a UUID."
        raise TypeError(msg)
    return UUID(value)


def _budget(value: Any) -> Decimal | None:
    try:
        return None if value is None else amount(value)
    except ValueError as exc:
        msg = f'Workflow: budget: {exc}. Give a Decimal or text, such as Decimal("2.00").'
        raise (TypeError if not isinstance(value, Decimal | int | str) else ValueError)(msg) from None


def _aware(moment: Any, name: str) -> datetime | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        msg = f"add({name!r}): not_before is {moment!r}. Give an aware datetime."
        raise TypeError(msg)
    if moment.utcoffset() is None:
        msg = f"add({name!r}): not_before is {moment!r}, which has no time zone. Give an aware datetime."
        raise ValueError(msg)
    try:
        return min(max(moment.astimezone(UTC), _EARLIEST), _LATEST)
    except OverflowError:
        return _EARLIEST if moment < _LATEST else _LATEST


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        msg = f"{where} is {value!r}. Give True or False."
        raise TypeError(msg)
    return value


def _optional_flag(value: Any, where: str) -> bool | None:
    return None if value is None else _flag(value, where)
