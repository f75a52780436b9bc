"""OpenTelemetry, where it is installed: a span for each insert, execution and hook, and metrics.

One trace leads from whoever inserted a run through every execution of its steps, in whichever process that is: the run
keeps the trace context of its insert, and every execution takes that for its parent.

All of this is a courtesy. Where the extra is absent, ``OPENTELEMETRY`` is off or no provider is set, :data:`OFF` stands
in the place of every span; what goes wrong in here is logged once for each kind of error, and harms nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from django.core.exceptions import ImproperlyConfigured

from baton import __version__
from baton.conf import get_settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Status, Tracer

    from baton.engine.gate import Claim
    from baton.engine.insert import Plan
    from baton.engine.settle import Verdict
    from baton.engine.transitions import Transition
    from baton.models import WorkflowNode, WorkflowRun

logger = logging.getLogger("baton.tracing")

SCOPE = "baton"
"""The name of the instrumentation scope."""

# Names of attributes.
RUN_ID, RUN_NAME, RUN_STEPS = "baton.workflow.id", "baton.workflow.name", "baton.workflow.steps"
RUN_EXISTED, RUN_OUTCOME = "baton.workflow.existed", "baton.workflow.outcome"
STEP_NAME, STEP_FUNCTION, STEP_QUEUE = "baton.step.name", "baton.step.function", "baton.step.queue"
STEP_NODE, STEP_WORKER, STEP_WAIT = "baton.step.node_id", "baton.step.worker", "baton.step.queue_wait"
STEP_ATTEMPT, STEP_MAX_ATTEMPTS = "baton.step.attempt", "baton.step.max_attempts"
STEP_OUTCOME, STEP_STATE, STEP_DROPPED = "baton.step.outcome", "baton.step.state", "baton.step.is_dropped"
SWEEP_PART, TABLE = "baton.sweep.part", "baton.table"

# Names of GenAI attributes, by what is meant. The conventions have moved to a repository of their own and are not
# stable, so they stand here and nowhere else.
GEN_AI = {
    "operation": "gen_ai.operation.name",
    "provider": "gen_ai.provider.name",
    "workflow": "gen_ai.workflow.name",
    "request_model": "gen_ai.request.model",
    "response_model": "gen_ai.response.model",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_input_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "token_type": "gen_ai.token.type",
    "error": "error.type",
}
"""What OpenTelemetry's conventions call the parts of a call of a language model."""
CALL_KEY, CALL_COST, CALL_CURRENCY = "baton.llm.key", "baton.llm.cost", "baton.llm.currency"
CHAT = "chat"

_BAD_OUTCOMES = frozenset({"failed", "timed_out", "discarded", "worker_lost"})


class Off:
    """What the engine holds in the place of a span where there is none."""

    __slots__ = ()

    trace = ""
    """The context for others to go on with, as W3C writes it; empty where there is none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def inserted(self, run: WorkflowRun) -> None:
        """An insert came to this run."""

    def failed(self, error: BaseException) -> None:
        """A body raised this."""

    def ended(self, verdict: Verdict, *, is_dropped: bool) -> None:
        """An execution came to this; dropped, if the step had been taken from this worker."""

    def answered(self, found: Mapping[str, Any], *, cost: Decimal | None, currency: str) -> None:
        """A call was answered: what it used, by the words of :data:`GEN_AI`, and what it cost, if that is known."""


OFF = Off()


def inserting(plan: Plan) -> Off:
    """The span of an insert, under whatever span is current."""
    otel = _in_use()
    return OFF if otel is None else _Inserting(otel, plan)


def executing(claim: Claim) -> Off:
    """The span of an execution, current while the body runs; its parent is the insert, wherever that was."""
    otel = _in_use()
    return OFF if otel is None else _Executing(otel, claim)


def calling_hook(node: WorkflowNode, state: str) -> Off:
    """The span of a hook."""
    otel = _in_use()
    return OFF if otel is None else _CallingHook(otel, node, state)


def calling(key: str, *, provider: str, model: str, workflow_name: str, is_current: bool = True) -> Off:
    """The span of a call of a language model.

    Args:
        key: Its key in the ledger.
        provider: Who is asked, where that is known.
        model: What is asked, where that is known.
        workflow_name: The label of the run.
        is_current: Whether it is current until it ends; not so for a stream, which a body reads between other things.
    """
    otel = _in_use()
    return OFF if otel is None else _Calling(otel, key, provider, model, workflow_name, is_current=is_current)


def count_replay(model: str) -> None:
    """Count an answer that was given from the ledger."""
    otel = _in_use()
    if otel is not None:
        with _harmless:
            otel.instruments.replays.add(1, {GEN_AI["request_model"]: model})


def lost(claim: Claim, verdict: Verdict) -> None:
    """Make, afterwards, the span of an execution whose worker vanished and could not end its own."""
    otel = _in_use()
    if otel is not None:
        with _harmless:
            _Executing(otel, claim).make_afterwards(verdict)


def count_transitions(transitions: Iterable[Transition]) -> None:
    """Count changes of steps."""
    otel = _in_use()
    if otel is not None:
        with _harmless:
            instruments = otel.instruments
            for each in transitions:
                instruments.count_transition(each)


def count_ending(workflow_name: str, outcome: str) -> None:
    """Count a run that ended."""
    otel = _in_use()
    if otel is not None:
        with _harmless:
            otel.instruments.endings.add(1, {RUN_NAME: workflow_name, RUN_OUTCOME: outcome})


def is_wanted() -> bool:
    """True where OpenTelemetry's API is there and the setting wants it; a faulty setting is for the checks to tell."""
    try:
        return _otel() is not None
    except ImproperlyConfigured:
        return False


# Receivers of the sweep's signals: connected where the extra is installed ---------------------------------------------


def measure_sweep(*, duration: float, report: Mapping[str, Any], **payload: Any) -> None:
    """A pass of the sweep ended."""
    otel = _otel()
    if otel is not None:
        with _harmless:
            otel.instruments.sweeps.record(duration)
            for part, count in report.items():
                if type(count) is int and count > 0:
                    otel.instruments.mended.add(count, {SWEEP_PART: part})


def count_failed_part(*, part: str, **payload: Any) -> None:
    """A part of the sweep raised."""
    otel = _otel()
    if otel is not None:
        with _harmless:
            otel.instruments.failed_parts.add(1, {SWEEP_PART: part})


def count_pruned(*, tables: Mapping[str, int], **payload: Any) -> None:
    """Retention deleted rows."""
    otel = _otel()
    if otel is not None:
        with _harmless:
            for table, count in tables.items():
                otel.instruments.pruned.add(count, {TABLE: table})


# Spans ---------------------------------------------------------------------------------------------------------------


class _Spanning(Off):
    """A span that is current between enter and exit."""

    __slots__ = ("otel", "span", "token")

    def __init__(self, otel: _OpenTelemetry) -> None:
        self.otel = otel
        self.span: Span | None = None
        self.token: Any = None

    def __enter__(self) -> Self:
        with _harmless:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.failed(error)
        with _harmless:
            self.measure()
        with _harmless:
            if self.span is not None:
                self.span.end()
        with _harmless:
            if self.token is not None:
                self.otel.detach(self.token)

    def start(self) -> None:
        """Start the span and make it current."""
        raise NotImplementedError

    def measure(self) -> None:
        """Record what is counted of it, while its span is current: that is how an exemplar finds it."""

    def failed(self, error: BaseException) -> None:
        with _harmless:
            if self.span is not None:
                self.span.record_exception(error)
                self.span.set_status(self.otel.error_status(type(error).__name__))

    def begin(self, span: Span, parent: Context | None) -> None:
        """Make a span current."""
        self.span = span
        self.token = self.otel.attach(span, parent)


class _Inserting(_Spanning):
    __slots__ = ("plan", "trace")

    def __init__(self, otel: _OpenTelemetry, plan: Plan) -> None:
        super().__init__(otel)
        self.plan = plan
        self.trace = ""

    def start(self) -> None:
        plan = self.plan
        span = self.otel.tracer.start_span(
            f"baton.insert {plan.name}",
            kind=self.otel.kind.PRODUCER,
            attributes={RUN_ID: str(plan.id), RUN_NAME: plan.name, RUN_STEPS: len(plan.steps)},
        )
        self.begin(span, None)
        self.trace = self.otel.written(span)

    def inserted(self, run: WorkflowRun) -> None:
        with _harmless:
            existed = run.pk != self.plan.id
            if self.span is not None and existed:
                # Another run holds the key: its steps go on in the trace of its own insert.
                self.span.set_attributes({RUN_ID: str(run.pk), RUN_EXISTED: True})
            if not existed:
                self.otel.instruments.inserts.add(1, {RUN_NAME: self.plan.name})


class _Executing(_Spanning):
    __slots__ = ("claim", "is_dropped", "verdict")

    def __init__(self, otel: _OpenTelemetry, claim: Claim) -> None:
        super().__init__(otel)
        self.claim = claim
        self.verdict: Verdict | None = None
        self.is_dropped = False

    def start(self) -> None:
        parent = self.otel.read(self.claim.trace)
        self.begin(self.started(parent), parent)

    def started(self, parent: Context, at: datetime | None = None) -> Span:
        claim = self.claim
        attributes: dict[str, str | int | float] = {
            RUN_ID: str(claim.run_id),
            RUN_NAME: claim.workflow_name,
            STEP_NAME: claim.name,
            STEP_FUNCTION: claim.step,
            STEP_QUEUE: claim.queue,
            STEP_ATTEMPT: claim.attempt,
            STEP_MAX_ATTEMPTS: claim.max_attempts,
            STEP_NODE: claim.node_id,
            STEP_WORKER: claim.worker,
        }
        wait = claim.queue_wait
        if wait is not None:
            attributes[STEP_WAIT] = wait
        return self.otel.tracer.start_span(
            f"baton.step {claim.name}",
            parent,
            kind=self.otel.kind.CONSUMER,
            attributes=attributes,
            start_time=None if at is None else int(at.timestamp() * 1_000_000_000),
        )

    def make_afterwards(self, verdict: Verdict) -> None:
        claim = self.claim
        self.span = self.started(self.otel.read(claim.trace), claim.started_at)
        self.ended(verdict, is_dropped=False)
        self.measure()
        end = None if claim.started_at is None else claim.started_at.timestamp() + verdict.seconds
        self.span.end(None if end is None else min(int(end * 1_000_000_000), time.time_ns()))

    def ended(self, verdict: Verdict, *, is_dropped: bool) -> None:
        self.verdict, self.is_dropped = verdict, is_dropped
        with _harmless:
            if self.span is None:
                return
            self.span.set_attributes({STEP_OUTCOME: verdict.outcome.value, STEP_STATE: verdict.state.value})
            if is_dropped:
                self.span.set_attribute(STEP_DROPPED, value=True)
            if verdict.outcome.value in _BAD_OUTCOMES:
                self.span.set_status(self.otel.error_status(verdict.error))

    def measure(self) -> None:
        if self.verdict is None:
            return
        claim, instruments = self.claim, self.otel.instruments
        attributes = {STEP_FUNCTION: claim.step, STEP_QUEUE: claim.queue}
        wait = claim.queue_wait
        if wait is not None:
            instruments.waits.record(wait, attributes)
        instruments.runs.record(self.verdict.seconds, {**attributes, STEP_OUTCOME: self.verdict.outcome.value})


class _CallingHook(_Spanning):
    __slots__ = ("node", "state")

    def __init__(self, otel: _OpenTelemetry, node: WorkflowNode, state: str) -> None:
        super().__init__(otel)
        self.node, self.state = node, state

    def start(self) -> None:
        node = self.node
        parent = self.otel.read(node.run.trace)
        span = self.otel.tracer.start_span(
            f"baton.hook {node.name}",
            parent,
            attributes={
                RUN_ID: str(node.run_id),
                RUN_NAME: node.run.name,
                STEP_NAME: node.name,
                STEP_FUNCTION: node.step,
                STEP_NODE: node.pk,
                "baton.hook.dependency_state": self.state,
            },
        )
        self.begin(span, parent)


class _Calling(_Spanning):
    __slots__ = ("attributes", "is_current", "key", "model", "started_at")

    def __init__(
        self, otel: _OpenTelemetry, key: str, provider: str, model: str, workflow_name: str, *, is_current: bool
    ) -> None:
        super().__init__(otel)
        self.key, self.model, self.is_current = key, model, is_current
        known = {"operation": CHAT, "provider": provider, "request_model": model}
        self.attributes: dict[str, Any] = {GEN_AI[word]: text for word, text in known.items() if text}
        self.attributes[GEN_AI["workflow"]] = workflow_name
        self.started_at = 0.0

    def start(self) -> None:
        self.started_at = time.monotonic()
        span = self.otel.tracer.start_span(
            f"{CHAT} {self.model}".rstrip(),
            kind=self.otel.kind.CLIENT,
            attributes={**self.attributes, CALL_KEY: self.key},
        )
        if self.is_current:
            self.begin(span, None)
        else:
            self.span = span

    def answered(self, found: Mapping[str, Any], *, cost: Decimal | None, currency: str) -> None:
        with _harmless:
            known = {GEN_AI[word]: value for word, value in found.items() if value not in (None, "")}
            words = (GEN_AI["provider"], GEN_AI["response_model"])
            self.attributes.update({word: known[word] for word in words if word in known})
            if self.span is not None:
                self.span.set_attributes(known)
                if cost is not None:
                    self.span.set_attributes({CALL_COST: float(cost), CALL_CURRENCY: currency})
            instruments = self.otel.instruments
            for kind, word in (("input", "input_tokens"), ("output", "output_tokens")):
                if found.get(word) is not None:
                    instruments.tokens.record(found[word], {**self.attributes, GEN_AI["token_type"]: kind})
            if cost is not None:
                instruments.costs.add(float(cost), {**self.attributes, CALL_CURRENCY: currency})

    def failed(self, error: BaseException) -> None:
        super().failed(error)
        self.attributes[GEN_AI["error"]] = type(error).__name__

    def measure(self) -> None:
        if self.span is not None:
            self.otel.instruments.calls.record(time.monotonic() - self.started_at, self.attributes)


# The API -------------------------------------------------------------------------------------------------------------


class _Instruments:
    """What is counted and measured."""

    def __init__(self, meter: Any) -> None:
        self.inserts = meter.create_counter("baton.workflow.inserts", "{run}", "Runs that were inserted.")
        self.endings = meter.create_counter("baton.workflow.endings", "{run}", "Runs that ended.")
        self.transitions = meter.create_counter("baton.step.transitions", "{change}", "Changes of steps, by state.")
        self.retries = meter.create_counter("baton.step.retries", "{execution}", "Executions to be tried again.")
        self.waits = meter.create_histogram("baton.step.queue_wait", "s", "From ready to claimed.")
        self.runs = meter.create_histogram("baton.step.duration", "s", "How long bodies ran.")
        self.sweeps = meter.create_histogram("baton.sweep.duration", "s", "How long a pass of the sweep took.")
        self.mended = meter.create_counter("baton.sweep.rows", "{row}", "What the sweep did, by part.")
        self.failed_parts = meter.create_counter("baton.sweep.failures", "{failure}", "Parts of the sweep that raised.")
        self.calls = meter.create_histogram("gen_ai.client.operation.duration", "s", "How long calls of models took.")
        self.tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}", "What calls of models used.")
        self.costs = meter.create_counter("baton.llm.cost", "{currency}", "What calls of models cost, where known.")
        self.replays = meter.create_counter("baton.llm.replays", "{answer}", "Answers given from the ledger.")
        self.pruned = meter.create_counter("baton.sweep.pruned", "{row}", "Rows that retention deleted, by table.")

    def count_transition(self, transition: Transition) -> None:
        self.transitions.add(1, {STEP_FUNCTION: transition.step, STEP_STATE: transition.state.value})
        if transition.state == "retryable":
            self.retries.add(1, {STEP_FUNCTION: transition.step})


class _OpenTelemetry:
    """OpenTelemetry's API, as far as it is used here."""

    def __init__(self) -> None:
        # Not before they are needed: the extra may be absent.
        from opentelemetry import context, metrics, trace  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._context, self._metrics, self._trace = context, metrics, trace
        self._propagator = TraceContextTextMapPropagator()
        self._nowhere = context.Context()
        self._tracer: tuple[Any, Any] = (None, None)
        self._instruments: tuple[Any, Any] = (None, None)
        self.kind = trace.SpanKind

    @property
    def has_provider(self) -> bool:
        """True once somebody has set a provider. The API alone, which many packages bring along, is no wish for it."""
        return (
            not isinstance(self._trace.get_tracer_provider(), self._trace.ProxyTracerProvider)
            # This one has no public name.
            or type(self._metrics.get_meter_provider()).__name__ != "_ProxyMeterProvider"
        )

    @property
    def tracer(self) -> Tracer:
        """Ours, of the provider that is set now: a process may set its own after it was forked."""
        provider = self._trace.get_tracer_provider()
        if self._tracer[0] is not provider:
            self._tracer = (provider, provider.get_tracer(SCOPE, __version__))
        tracer: Tracer = self._tracer[1]
        return tracer

    @property
    def instruments(self) -> _Instruments:
        """Ours, of the provider that is set now."""
        provider = self._metrics.get_meter_provider()
        if self._instruments[0] is not provider:
            self._instruments = (provider, _Instruments(provider.get_meter(SCOPE, __version__)))
        instruments: _Instruments = self._instruments[1]
        return instruments

    def read(self, trace: str) -> Context:
        """The context that a run keeps. Nothing that happens to be current in this process is in it."""
        return self._propagator.extract({"traceparent": trace}, self._nowhere) if trace else self._nowhere

    def written(self, span: Span) -> str:
        """A span as others may take it for their parent; empty where it is none."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span, self._nowhere))
        return carrier.get("traceparent", "")

    def attach(self, span: Span, parent: Context | None) -> Any:
        """Make a span current."""
        return self._context.attach(self._trace.set_span_in_context(span, parent))

    def detach(self, token: Any) -> None:
        """Make current what was so before."""
        self._context.detach(token)

    def error_status(self, description: str | None) -> Status:
        """The status of a span that went wrong."""
        return self._trace.Status(self._trace.StatusCode.ERROR, description)


def _otel() -> _OpenTelemetry | None:
    return _installed() if get_settings().opentelemetry else None


def _in_use() -> _OpenTelemetry | None:
    otel = _otel()
    if otel is not None:
        with _harmless:
            return otel if otel.has_provider else None
    return None


@cache
def _installed() -> _OpenTelemetry | None:
    try:
        return _OpenTelemetry()
    except ImportError:
        return None
    except Exception:
        logger.exception("OpenTelemetry is installed and cannot be used; Baton goes on without it.")
        return None


class _Harmless:
    """Logs an error instead of letting it out, each kind once in a process."""

    def __init__(self) -> None:
        self._told: set[type[BaseException]] = set()

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if type(error) not in self._told:
            self._told.add(type(error))
            logger.error("OpenTelemetry raised; the step goes on without it. Told once.", exc_info=error)
        return True


_harmless = _Harmless()
