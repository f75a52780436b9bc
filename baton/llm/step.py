"""``@llm_step``: a step whose body calls a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, overload

from django.core.exceptions import ImproperlyConfigured

from baton import q2
from baton.conf import Settings, get_settings
from baton.engine.ledger import Ledger
from baton.llm.recording import record_returned
from baton.llm.transience import is_transient, llm_backoff
from baton.registry import StepOptions
from baton.steps import Step, override

USAGE_KEY = "llm_usage"
"""The key of a returned dict under which a body tells what it used."""

_DEFAULTS = StepOptions(max_attempts=8, backoff=llm_backoff)


class LlmStep(Step):
    """A step that knows the errors of providers, and parts what a body used from what it returned."""

    def __init__(
        self, function: Callable[..., Any], *, name: str | None, options: StepOptions, queue_given: bool
    ) -> None:
        super().__init__(function, name=name, options=options)
        self._queue_given = queue_given

    @property
    def options(self) -> StepOptions:
        """The options; the queue, where the decorator names none, is looked up in the settings each time."""
        return self._options if self._queue_given else replace(self._options, queue=_default_queue())

    @options.setter
    def options(self, options: StepOptions) -> None:
        self._options = options

    def overridden(self, options: Mapping[str, Any], *, where: str) -> StepOptions:
        """Refuse ``atomic`` where the step is added, too."""
        return _without_transaction(super().overridden(options, where=where), where)

    def is_transient(self, error: BaseException) -> bool | None:
        """Whether the provider may answer another attempt."""
        return is_transient(error)

    def prepare(self, context: Any) -> None:
        """Hold a step that tells afterwards what it used before its body, once the budget is spent."""
        if isinstance(context.ledger, Ledger):
            context.ledger.reach(context.ledger.require_money)

    def record(self, context: Any, usage: Any) -> None:
        """Record what was taken out, with the settle."""
        record_returned(context, usage)

    def take_out(self, value: Any) -> tuple[Any, Any]:
        """Part a returned dict from its ``llm_usage``."""
        if not isinstance(value, Mapping) or USAGE_KEY not in value:
            return value, None
        return {key: each for key, each in value.items() if key != USAGE_KEY}, value[USAGE_KEY]


@overload
def llm_step(function: Callable[..., Any], /) -> LlmStep: ...
@overload
def llm_step(*, name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], LlmStep]: ...
def llm_step(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any
) -> LlmStep | Callable[[Callable[..., Any]], LlmStep]:
    """Make a function a step that calls a language model.

    It takes the options of :func:`baton.step`, with defaults of its own: the queue in ``BATON["LLM_QUEUE"]`` where a
    cluster of that name is configured and else ``"default"``, 8 attempts, and
    :func:`~baton.llm.transience.llm_backoff`. Unless ``retry_on`` says otherwise, what the provider refuses for good is
    not tried again. A dict that the body returns loses its key ``llm_usage``, and what stands there is recorded.

    Args:
        function: The body, when used without parentheses.
        name: The registered name, by default ``module.qualname``.
        options: The fields of :class:`~baton.registry.StepOptions`.

    Raises:
        TypeError: An option is unknown or of the wrong type, ``atomic`` is asked for, or the function takes no context.
        ValueError: An option is out of range.

    Example:
        ``@llm_step(model="gpt-5", timeout=300)``
    """
    where = f"@llm_step{f' {name!r}' if name else ''}"
    checked = _without_transaction(override(_DEFAULTS, options, where=where), where)

    def decorate(body: Callable[..., Any]) -> LlmStep:
        return LlmStep(body, name=name, options=checked, queue_given="queue" in options)

    return decorate if function is None else decorate(function)


def _default_queue() -> str:
    try:
        queue = get_settings().llm_queue
    except ImproperlyConfigured:
        # A fault in the settings is told by its own check, which reads the steps, too.
        queue = Settings().llm_queue
    return queue if queue in q2.configured_queues() else q2.DEFAULT_QUEUE


def _without_transaction(options: StepOptions, where: str) -> StepOptions:
    if options.atomic:
        msg = (
            f"{where}: atomic is True. What a provider charges for cannot be rolled back, and a transaction would stay "
            "open while it answers. Write to the database in a step of its own."
        )
        raise TypeError(msg)
    return options
