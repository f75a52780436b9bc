"""Every condition a caller of Baton can act on, one class each."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN_NAMES = 20


class BatonError(Exception):
    """The root of Baton's errors. Never raised itself."""


class GraphError(BatonError):
    """Raised when a workflow's graph cannot be inserted.

    Attributes:
        problems: Every fault found, each an exception of its own.
    """

    def __init__(self, message: str = "", *, problems: Sequence[GraphError] = ()) -> None:
        self.problems: list[GraphError] = list(problems) or [self]
        super().__init__(message)

    @classmethod
    def of(cls, workflow_name: str, problems: Sequence[GraphError]) -> GraphError:
        """Gather the faults of one workflow into the error that ``insert()`` raises."""
        faults = "\n".join(f"- {problem}" for problem in problems)
        return GraphError(
            f"Workflow {workflow_name!r} cannot be inserted, nothing was written:\n{faults}", problems=problems
        )


class CycleError(GraphError):
    """Raised when steps depend on each other in a circle.

    Attributes:
        cycle: The names around the circle, each once.
    """

    def __init__(self, cycle: Sequence[str]) -> None:
        self.cycle = list(cycle)
        shown = self.cycle if len(self.cycle) <= _SHOWN_NAMES else [*self.cycle[:_SHOWN_NAMES], "…"]
        path = " -> ".join([*shown, self.cycle[0]])
        super().__init__(f"Steps wait for each other in a circle: {path}. Remove one of these dependencies.")


class UnknownDependencyError(GraphError):
    """Raised when a step depends on a name that no step of the workflow has.

    Attributes:
        step: The step that was added.
        dependency: The name nobody has.
    """

    def __init__(self, step: str, dependency: str) -> None:
        self.step, self.dependency = step, dependency
        super().__init__(
            f"Step {step!r} depends on {dependency!r}, which is not in the workflow. Add it or correct the name."
        )


class SelfDependencyError(GraphError):
    """Raised when a step depends on itself.

    Attributes:
        step: The step.
    """

    def __init__(self, step: str) -> None:
        self.step = step
        super().__init__(f"Step {step!r} depends on itself. Remove {step!r} from its dependencies.")


class DuplicateStepError(GraphError):
    """Raised when two steps of a workflow share a name.

    Attributes:
        step: The name used more than once.
    """

    def __init__(self, step: str) -> None:
        self.step = step
        super().__init__(f"Two steps are named {step!r}. Names are unique in a workflow: rename one.")


class EmptyWorkflowError(GraphError):
    """Raised when a workflow has no step."""

    def __init__(self) -> None:
        super().__init__("The workflow has no steps. Add at least one with add().")


class UnimportableStepError(GraphError):
    """Raised when no worker could ever find the function behind a step.

    Attributes:
        step: The name of the step in the workflow.
        path: Where the function was defined.
    """

    def __init__(self, step: str, path: str) -> None:
        self.step, self.path = step, path
        super().__init__(
            f"Step {step!r} runs {path!r}, which a worker cannot import. "
            "Define the function at the top level of a module, best in an app's steps.py."
        )


class AtomicStepError(GraphError):
    """Raised when a step cannot run inside the transaction that settles it.

    Attributes:
        step: The name of the step in the workflow.
    """

    def __init__(self, step: str, why: str) -> None:
        self.step = step
        super().__init__(f"Step {step!r} cannot be atomic: {why}")


class ModelForUnknownStepError(GraphError):
    """Raised when a language model is configured for a name that no step of the workflow has.

    Attributes:
        step: The name nobody has.
        model: The model.
    """

    def __init__(self, step: str, model: str | None) -> None:
        self.step, self.model = step, model
        super().__init__(
            f"The model {model!r} is configured for {step!r}, which is not in the workflow. Add it or correct the name."
        )


class WorkflowExistsError(BatonError):
    """Raised when a workflow is inserted under an id that a run already has.

    Attributes:
        workflow_id: The id in question.
    """

    def __init__(self, workflow_id: object) -> None:
        self.workflow_id = workflow_id
        super().__init__(f"A run with the id {workflow_id} exists already. Leave out id= to be given a new one.")


class KeyInUseError(BatonError):
    """Raised when another unsettled run of the same name holds the key."""

    def __init__(self, name: str, key: str) -> None:
        self.name, self.key = name, key
        super().__init__(f"Another unsettled run of {name!r} holds the key {key!r}. Wait for it or cancel it.")


class ForeignTransactionError(BatonError):
    """Raised when insert() stands inside a transaction on another database than Baton's."""

    def __init__(self, alias: str, using: str) -> None:
        self.alias, self.using = alias, using
        super().__init__(
            f"insert() was called inside atomic() on {alias!r}, but Baton's tables are in {using!r}: the run would "
            "stay when that transaction rolls back. Insert on commit, or accept it with insert(standalone=True)."
        )


class RunNotSettledError(BatonError):
    """Raised when a run must have ended for what was asked, and has not.

    Attributes:
        run: The id of the run.
    """

    def __init__(self, run: object, name: str) -> None:
        self.run = run
        super().__init__(f"Run {run} ({name}) is still running. Wait for its end, or cancel it first.")


class NothingToRetryError(BatonError):
    """Raised when a run is to be retried, nothing of it failed, and no step is named; or when nothing could run.

    Attributes:
        run: The id of the run.
    """

    def __init__(self, run: object, name: str, *, why: str = "") -> None:
        self.run = run
        if why:
            message = f"There is nothing to retry in run {run} ({name}): {why}."
        else:
            message = (
                f"Nothing failed in run {run} ({name}), so there is nothing to retry. "
                "Name a step to run it again from there."
            )
        super().__init__(message)


class WaitInTransactionError(BatonError):
    """Raised when wait() is called inside the transaction that inserted the run, where it could never end."""

    def __init__(self) -> None:
        super().__init__(
            "wait() was called inside a transaction: nothing runs before it commits. Call it after the atomic block."
        )


class ResultError(BatonError, LookupError):
    """The base of what a lookup of a dependency's result can raise."""


class NotADependencyError(ResultError):
    """Raised when a body reads the result of a step it does not directly depend on."""

    def __init__(self, step: str, name: str) -> None:
        self.step, self.name = step, name
        super().__init__(f"Step {step!r} does not depend on {name!r}. Add deps=[{name!r}] to read its result.")


class StepNotFoundError(ResultError):
    """Raised when a run has no step of that name."""

    def __init__(self, name: str, *, run: object = None) -> None:
        self.name = name
        where = f"Run {run}" if run is not None else "The run"
        super().__init__(f"{where} has no step named {name!r}.")


class NoResultError(ResultError):
    """Raised when a step has no stored result: it is not completed, or returned None."""

    def __init__(self, name: str, state: str) -> None:
        self.name, self.state = name, state
        why = "returned nothing" if state == "completed" else f"is {state}"
        super().__init__(f"Step {name!r} has no result: it {why}.")


class ReferencePathError(ResultError):
    """Raised when a reference points at a part that the result does not have."""

    def __init__(self, reference: str, detail: str) -> None:
        self.reference = reference
        super().__init__(f"{reference} is not there: {detail}")


class NotStorableError(BatonError, TypeError):
    """Raised when a value cannot be stored as JSON.

    Attributes:
        path: Where in the value the fault is, such as ``value["a"][2]``.
        found: What was found there.
    """

    def __init__(self, path: str, found: str) -> None:
        self.path, self.found = path, found
        super().__init__(f"{path} is {found}")


class ResultNotStorableError(BatonError):
    """Raised in place of a step's result when that result cannot be stored.

    Attributes:
        step: The step whose body returned it.
    """

    def __init__(self, step: str, detail: str) -> None:
        self.step = step
        super().__init__(
            f"The result of step {step!r} cannot be stored: {detail}. Return JSON values, or store it yourself "
            "and return where it is."
        )


class StepTimeoutError(BatonError, TimeoutError):
    """Raised, or recorded, when a body ran longer than its step's timeout.

    Attributes:
        timeout: The limit in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        super().__init__(f"timed out after {timeout:g} s")


class UnknownStepError(BatonError):
    """Raised when no code is registered under a step's name.

    Attributes:
        name: The registered name looked for.
    """

    def __init__(self, name: str, detail: str = "") -> None:
        self.name = name
        super().__init__(
            f"No step is registered as {name!r}{': ' + detail if detail else ''}. It was renamed, removed, or its "
            "module is not imported: keep the old name with @step(name=...), or move it to an app's steps.py."
        )


class LedgerError(BatonError):
    """The root of what a once-only effect can be refused for. Another attempt would be refused, too.

    Attributes:
        step: The name of the step in the workflow.
        key: The key of the effect.
    """

    def __init__(self, step: str, key: str, message: str) -> None:
        self.step, self.key = step, key
        super().__init__(f"Step {step!r}, key {key!r}: {message}")


class AmbiguousCallError(LedgerError):
    """Raised where an earlier call of unknown outcome must not be made again.

    Attributes:
        step: The name of the step in the workflow.
        key: The key of the call.
    """

    def __init__(self, step: str, key: str, *, why: str = "") -> None:
        super().__init__(
            step,
            key,
            "an earlier call began and nobody knows whether it was answered and paid"
            + (f" ({why})" if why else "")
            + ". Look it up at the provider; then `manage.py baton_resolve RUN STEP --pay` and a retry of the run "
            "make it again.",
        )


class CallInProgressError(LedgerError):
    """Raised when a key is used while the same execution is still calling under it."""

    def __init__(self, step: str, key: str) -> None:
        super().__init__(step, key, "this execution is already calling under it. Give each call a key of its own.")


class CallInTransactionError(LedgerError):
    """Raised when a once-only effect is begun inside a transaction of the body, which could undo its record."""

    def __init__(self, step: str, key: str) -> None:
        super().__init__(
            step,
            key,
            "it is called inside a transaction, whose rollback would forget an answer that was paid for. "
            "Call before the transaction begins; a step that calls cannot be atomic.",
        )


class StepTakenError(LedgerError):
    """Raised when the step was taken from this worker, by a cancel or after a lost lease, before a call was begun."""

    def __init__(self, step: str, key: str) -> None:
        super().__init__(step, key, "the step was taken from this worker, so nothing was called.")


class UnpricedModelError(LedgerError):
    """Raised when a call under a budget, of the run, the step or the day, asks a model whose price is unknown.

    Attributes:
        model: The model.
    """

    def __init__(self, step: str, key: str, model: str, *, why: str) -> None:
        self.model = model
        super().__init__(
            step,
            key,
            f"it is under a budget and {why}. Add the model to BATON['PRICES'], give call(max_cost=...), "
            "or insert the workflow with allow_unpriced=True.",
        )


class NothingToResolveError(BatonError):
    """Raised when a person decides on a call of unknown outcome, and the step has none.

    Attributes:
        run: The id of the run.
        step: The name of the step.
        key: The key that was named; None where any would have done.
    """

    def __init__(self, run: object, step: str, *, key: str | None = None) -> None:
        self.run, self.step, self.key = run, step, key
        which = "no call" if key is None else f"no call with the key {key!r}"
        super().__init__(
            f"Step {step!r} of run {run} has {which} of unknown outcome, so there is nothing to decide. "
            "Look at its calls with baton_show --money."
        )


class AnswerNotStorableError(LedgerError):
    """Raised when an answer that was paid for cannot be given back on a replay.

    What could be written of it stands in the ledger, its usage is recorded, and it is not called again.
    """

    def __init__(self, step: str, key: str, why: str) -> None:
        super().__init__(
            step,
            key,
            f"the answer is stored in the ledger as text only, for it is {why}. It was paid for and is not called "
            "again. Let the function return JSON values, bytes or a pydantic model.",
        )
