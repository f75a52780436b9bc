"""The stage of the paid calls: one cluster, many runs at a time, a provider that survives, and the books compared."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
from django.core.management import call_command
from fake_llm import PRICES, Charge, FakeProvider, Request

from baton import Workflow
from baton.llm.stats import cost_by_model, workflow_totals
from baton.models import BudgetAccount, Hold, LedgerEntry, StepStat, WorkflowNode, WorkflowRun
from baton.sweep import check
from tests.conftest import StartCluster
from tests.faults import llm_places
from tests.faults.conftest import QUICK
from tests.faults.llm_places import HEADER, Place, Strike, Struck
from tests.faults.llm_seeds import Plan
from tests.faults.llm_steps import EFFECT, Call, apays, pays
from tests.processes import RealCluster

LEASE_SECONDS = 1.0
STOPPED_SECONDS = LEASE_SECONDS * 1.6
STALL_SECONDS = 20.0
SERVED_AS = {"gpt-4o": "gpt-4o-2024-08-06", "claude-haiku-4-5": "claude-haiku-4-5-20251001"}
TOKENS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached": "cached_input_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
}


@dataclass(slots=True, kw_only=True)
class Figures:
    """What became of all runs."""

    runs: int
    seconds: float = 0.0
    kills: int = 0
    stops: int = 0
    requests: int = 0
    charged: int = 0
    answered: int = 0
    ambiguous: int = 0
    in_vain: dict[str, Decimal] = field(default_factory=dict)
    """The charges of calls that are marked, each with its call."""
    total: Decimal = Decimal(0)
    clusters: int = 1
    unpriced: int = 0
    """Answers that were stored, and whose worker was killed before it had asked what they cost."""
    places: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> Decimal:
        """What was charged for calls that are marked."""
        return sum(self.in_vain.values(), Decimal(0))

    def __str__(self) -> str:
        return (
            f"{self.runs} runs in {self.seconds:.0f} s, {self.clusters} clusters, workers killed {self.kills} and "
            f"stopped {self.stops}, {self.requests} requests, {self.charged} charged, {self.answered} answers stored, "
            f"{self.ambiguous} calls marked ambiguous, {len(self.in_vain)} of them charged; "
            f"in the ledger {self.total}, on the invoice {self.total + self.lost}"
        )


@dataclass(slots=True, kw_only=True)
class _Played:
    """A run under way."""

    plan: Plan
    run: WorkflowRun
    folder: Path


class PaidStage:
    """Plays plans side by side, and compares the books."""

    def __init__(self, folder: Path, start_cluster: StartCluster, *, workers: int, pricing: type | None = None) -> None:
        """Start the provider.

        Args:
            folder: For all that the processes tell.
            start_cluster: Starts a cluster.
            workers: How many it has.
            pricing: A class of the project's own in the place of the default.
        """
        self.folder = folder
        self._start_cluster = start_cluster
        self._workers = workers
        self.baton: dict[str, Any] = {**QUICK, "LEASE_SECONDS": LEASE_SECONDS, "PRICES": PRICES}
        if pricing is not None:
            self.baton["PRICING"] = f"{pricing.__module__}.{pricing.__qualname__}"
        self._clusters: list[RealCluster] = []
        self._resumed: dict[int, float] = {}
        (folder / "idle").mkdir()
        self.provider = FakeProvider(served_as=SERVED_AS, answer=_strike_and_answer)

    def close(self) -> None:
        """Stop the provider."""
        self.provider.close()

    def play(self, plans: Sequence[Plan]) -> Figures:
        """Insert every run, keep the cluster going until all have ended, and assert what has to be true then."""
        started = time.monotonic()
        self._start()
        played = [self._insert(plan) for plan in plans]
        self._see_through(played)
        figures = Figures(runs=len(plans), clusters=len(self._clusters), unpriced=_unpriced())
        if figures.unpriced:
            call_command("baton_reprice", stdout=io.StringIO())
        for each in played:
            _Judgement(each, self.provider, figures).pass_()
        figures.seconds = time.monotonic() - started
        invoice = sum((each.cost for each in self.provider.invoice.charges if each.idempotency_key), Decimal(0))
        assert figures.total == invoice - figures.lost
        assert figures.total == sum((row["cost"] or Decimal(0) for row in cost_by_model()), Decimal(0))
        assert check() == []
        return figures

    # Keeping it going ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
            llm_places.FOLDER: str(self.folder),
            llm_places.PROVIDER: self.provider.url,
        }
        cluster = self._start_cluster(
            workers=self._workers,
            wait=False,
            baton=self.baton,
            q_cluster={
                "timeout": 20,
                "retry": 30,
                "bulk": self._workers,
                "queue_limit": self._workers,
                "guard_cycle": 0.25,
            },
            env=environment,
        )
        cluster.wait_until_ready(self._workers, timeout=90)
        self._clusters.append(cluster)

    def _insert(self, plan: Plan) -> _Played:
        folder = self.folder / f"seed {plan.seed}"
        self.provider.fail(*plan.failures)
        workflow = Workflow(f"seed {plan.seed}", budget=plan.budget)
        before: list[str] = []
        for step in plan.steps:
            (folder / step.name).mkdir(parents=True)
            bound = (apays if step.is_async else pays).bind(
                folder=str(folder / step.name),
                calls=[asdict(call) for call in step.calls],
                strikes=[asdict(strike) for strike in step.strikes],
            )
            options: dict[str, Any] = {} if step.timeout is None else {"timeout": step.timeout}
            workflow.add(step.name, bound, deps=before, **options)
            before = [step.name]
        return _Played(plan=plan, run=workflow.insert(), folder=folder)

    def _see_through(self, played: Sequence[_Played]) -> None:
        """Wait for the end of every run; resume who was stopped, answer who asks, replace a cluster that is broken."""
        plans = {each.run.pk: each.plan for each in played}
        deadline = time.monotonic() + 120 + 2 * len(played)
        progress, since = None, time.monotonic()
        while not self._is_over(played):
            now = time.monotonic()
            if now > deadline:
                unsettled = WorkflowNode.objects.unsettled().values_list("run__name", "name", "state", "error")
                raise AssertionError(f"not all runs came to their end: {list(unsettled)}\n{self._clusters[-1].log()}")
            self._resume(played)
            self._answer(plans)
            seen = (LedgerEntry.objects.count(), WorkflowNode.objects.unsettled().count(), len(self.provider.requests))
            if seen != progress:
                progress, since = seen, now
            elif now - since > STALL_SECONDS:
                # A worker that is killed while it holds a lock of its cluster's queues breaks the cluster for good.
                self._clusters[-1].kill()
                self._start()
                since = time.monotonic()
            time.sleep(0.1)

    def _is_over(self, played: Sequence[_Played]) -> bool:
        if WorkflowNode.objects.unsettled().exists() or LedgerEntry.objects.filter(state="calling").exists():
            return False
        stopped = [struck.pid for struck in _fallen(played) if struck.signal == signal.SIGSTOP]
        return all(pid in self._resumed and self._is_idle(pid) for pid in stopped)

    def _is_idle(self, pid: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            # The clock of files is some milliseconds late; what was written before the stop is older than that.
            if (self.folder / "idle" / str(pid)).stat().st_mtime > self._resumed[pid] - 1:
                return True
        return not psutil.pid_exists(pid)

    def _resume(self, played: Sequence[_Played]) -> None:
        now = time.time()
        for each in played:
            for step in each.plan.steps:
                fallen = llm_places.fallen(each.folder / step.name)
                for number, struck in enumerate(fallen):
                    if struck.signal == signal.SIGSTOP and _ends(step.strikes, fallen, number) < now:
                        self._go_on(struck)

    def _go_on(self, struck: Struck) -> None:
        if self._resumed.get(struck.pid, 0.0) < struck.at:
            self._resumed[struck.pid] = time.time()
            with contextlib.suppress(ProcessLookupError):
                os.kill(struck.pid, signal.SIGCONT)

    def _answer(self, plans: dict[Any, Plan]) -> None:
        for hold in Hold.objects.filter(kind="question").select_related("node"):
            decision = "--pay" if plans[hold.run_id].pays_again else "--fail"
            call_command("baton_resolve", str(hold.run_id), hold.node.name, decision, stdout=io.StringIO())


def _ends(strikes: Sequence[Strike], fallen: Sequence[Struck], number: int) -> float:
    """When a stopped process is to go on."""
    usual = fallen[number].at + STOPPED_SECONDS
    follows = strikes[number + 1] if len(strikes) > number + 1 else None
    if follows is None or follows.place != Place.AFTER_MARK:
        return usual
    # Its answer is to come while another, which has marked its call, stands still.
    return max(usual, fallen[number + 1].at + 0.2) if len(fallen) > number + 1 else usual + 4 * STOPPED_SECONDS


def _unpriced() -> int:
    return StepStat.objects.filter(cost=None, from_ledger=False).count()


def _strike_and_answer(request: Request) -> str:
    """Strike who asked, where the request says so."""
    if wanted := request.headers.get(HEADER):
        order = json.loads(wanted)
        with contextlib.suppress(ProcessLookupError):
            os.kill(order["pid"], order["signal"])
        if not order["charges"]:
            raise ValueError("nobody is there any more")
    return "An answer that is long enough to come in several parts, each of them with some words. " * 2


def _fallen(played: Iterable[_Played]) -> list[Struck]:
    return [
        struck for each in played for step in each.plan.steps for struck in llm_places.fallen(each.folder / step.name)
    ]


# The books -----------------------------------------------------------------------------------------------------------


class _Judgement:
    """Compares what a run has recorded with what the provider has on its invoice."""

    def __init__(self, played: _Played, provider: FakeProvider, figures: Figures) -> None:
        self.plan, self.run, self.folder = played.plan, played.run, played.folder
        self.figures = figures
        self.nodes = {node.name: node for node in WorkflowNode.objects.filter(run=self.run)}
        self.entries: dict[tuple[int, str], list[LedgerEntry]] = defaultdict(list)
        for entry in LedgerEntry.objects.filter(run=self.run).order_by("id"):
            self.entries[entry.node_id, entry.key].append(entry)
        marker = f"#{self.plan.seed}."
        self.requests = [each for each in provider.requests if each.prompt.startswith(marker)]
        numbers = {each.number for each in self.requests}
        self.charges = [each for each in provider.invoice.charges if each.number in numbers]
        self.struck = [each for step in self.plan.steps for each in llm_places.fallen(self.folder / step.name)]

    def pass_(self) -> None:
        """Judge it.

        Raises:
            AssertionError: With the seed, so that the run can be played alone.
        """
        try:
            self._judge()
        except AssertionError as exc:
            exc.add_note(f"seed {self.plan.seed}: BATON_FAULTS_SEEDS={self.plan.seed} plays it alone\n{self._story()}")
            raise

    def _judge(self) -> None:
        paid = Decimal(0)
        keys = {}
        for step in self.plan.steps:
            for call in step.calls:
                entries = self.entries.pop((self.nodes[step.name].pk, call.key), [])
                if call.kind == EFFECT:
                    self._judge_effect(entries, self.folder / f"effect {call.prompt}")
                elif entries:
                    keys[entries[0].idempotency_key] = call.key
                    paid += self._judge_call(entries)
                self._judge_order(entries)
                self._judge_result(step.name, call, entries)
        assert not self.entries, "a call that nobody asked for"
        assert {each.idempotency_key for each in self.requests} <= set(keys), "a request without an intent"
        totals = workflow_totals(self.run)
        ambiguous = LedgerEntry.objects.filter(run=self.run, state="ambiguous")
        assert (totals["cost"] or Decimal(0), totals["unpriced"]) == (paid, 0)
        assert totals["ambiguous"] == ambiguous.filter(is_call=True).count()
        assert not StepStat.objects.filter(run=self.run, entry=None).exists()
        self._judge_budget(paid)
        self._judge_ending()
        figures = self.figures
        figures.total += paid
        figures.requests += len(self.requests)
        figures.charged += len(self.charges)
        figures.ambiguous += ambiguous.count()
        for struck in self.struck:
            figures.places[struck.place] += 1
            figures.kills += struck.signal == signal.SIGKILL
            figures.stops += struck.signal == signal.SIGSTOP

    def _judge_call(self, entries: list[LedgerEntry]) -> Decimal:
        """Every charge is that of a stored answer, or of a call that is marked."""
        key = entries[0].idempotency_key
        charges = {each.id: each for each in self.charges if each.idempotency_key == key}
        answered = [entry for entry in entries if entry.state == "answered"]
        ambiguous = [entry for entry in entries if entry.state == "ambiguous"]
        assert {entry.state for entry in entries} <= {"answered", "ambiguous", "failed"}
        # One request for each intent, and no intent without its own fate.
        assert len([each for each in self.requests if each.idempotency_key == key]) <= len(entries)
        assert len(charges) <= 1 + sum(_was_marked(entry) for entry in entries)
        paid = Decimal(0)
        for entry in answered:
            charge = charges.pop(_answer_id(entry))
            stat = StepStat.objects.get(entry=entry, from_ledger=False)
            assert {name: getattr(stat, column) for name, column in TOKENS.items()} == asdict(charge.tokens)
            assert (stat.cost, stat.count, stat.currency) == (charge.cost, 1, "USD")
            paid += charge.cost
        assert StepStat.objects.filter(
            node_id=entries[0].node_id, key=entries[0].key, from_ledger=False
        ).count() == len(answered)
        assert len(charges) <= len(ambiguous), f"paid for and not marked: {charges}"
        self.figures.answered += len(answered)
        self.figures.in_vain |= {self._title(charge, entries[0]): charge.cost for charge in charges.values()}
        return paid

    def _judge_effect(self, entries: list[LedgerEntry], file: Path) -> None:
        done = file.read_text().splitlines() if file.exists() else []
        answered = [json.loads(entry.answer or "") for entry in entries if entry.state == "answered"]
        assert {entry.state for entry in entries} <= {"answered", "ambiguous"}
        assert set(answered) <= set(done)
        assert len(done) <= 1 + sum(_was_marked(entry) for entry in entries)
        assert len(done) - len(answered) <= sum(entry.state == "ambiguous" for entry in entries)

    def _judge_order(self, entries: list[LedgerEntry]) -> None:
        """No call was begun once an answer was stored."""
        stops_there = any(
            each.signal == signal.SIGSTOP and each.place in (Place.BEFORE_USAGE, Place.IN_STORE) for each in self.struck
        )
        for answered in entries:
            for later in entries:
                if answered.state != "answered" or later.id <= answered.id:
                    continue
                assert answered.ended_at is not None
                # What was given up before can be stored while the next is begun: the two do not see each other.
                tolerated = 0.0 if not _was_marked(answered) else STOPPED_SECONDS + 1 if stops_there else 0.5
                late = (later.started_at - answered.ended_at).total_seconds()
                assert late <= tolerated, f"called again {late:.2f} s after its answer was stored"

    def _judge_result(self, step: str, call: Call, entries: list[LedgerEntry]) -> None:
        node = self.nodes[step]
        if node.state != "completed":
            return
        names = [_answer_id(entry) for entry in entries if entry.state == "answered"]
        if not names and call.leaves_after:
            # The rest of a stream that the body had left broke off: nobody needed it, and the call is marked.
            names = [each.id for each in self.charges if each.idempotency_key == entries[0].idempotency_key]
        assert node.result[call.key] in names

    def _judge_budget(self, paid: Decimal) -> None:
        if self.plan.budget is None:
            return
        account = BudgetAccount.objects.filter(pk=f"run:{self.run.pk}").first()
        if account is None:
            return
        entries = LedgerEntry.objects.filter(run=self.run).exclude(accounts="")
        kept = entries.filter(reserved__isnull=False).values_list("reserved", "state")
        assert account.spent == paid
        assert not entries.filter(reserved=None, state="ambiguous").exists()
        assert account.reserved == sum((reserved for reserved, _state in kept), Decimal(0))
        assert {state for _reserved, state in kept} <= {"ambiguous"}

    def _judge_ending(self) -> None:
        self.run.refresh_from_db()
        to_fail = LedgerEntry.objects.filter(run=self.run, resolution="fail")
        if to_fail.filter(state="ambiguous").exists():
            endings = {"failed"}
        elif to_fail.exists():
            endings = {"failed", "completed"}  # An answer came late: it depends on what was first.
        else:
            endings = {"completed"}
        assert self.run.state in endings, [node.error for node in self.nodes.values()]

    def _title(self, charge: Charge, entry: LedgerEntry) -> str:
        return f"seed {self.plan.seed}, {entry.key!r}, answer {charge.id}"

    def _story(self) -> str:
        entries = LedgerEntry.objects.filter(run=self.run).order_by("id")
        columns = (
            "id",
            "node__name",
            "key",
            "number",
            "state",
            "resolution",
            "fence",
            "error",
            "started_at",
            "ended_at",
        )
        lines = [
            *map(str, self.plan.steps),
            *map(str, self.plan.failures),
            *map(str, entries.values_list(*columns)),
            *(f"{each.id} {each.idempotency_key} {each.cost}" for each in self.charges),
            *map(str, self.struck),
            *(f"{node.name} {node.state} {node.attempts}" for node in self.nodes.values()),
        ]
        return "\n".join(lines)


def _was_marked(entry: LedgerEntry) -> bool:
    """Whether it was given up at some time: an answer that came all the same leaves the reason where it was."""
    return entry.state == "ambiguous" or (entry.state == "answered" and bool(entry.error))


def _answer_id(entry: LedgerEntry) -> str:
    """The provider's id of a stored answer, or what an effect returned."""
    answer = json.loads(entry.answer or "null")
    if entry.answer_type == "chunks":
        answer = answer["chunks"][0][1]
    if isinstance(answer, str):
        return answer
    for part in ("message", "response"):
        answer = answer.get(part, answer)
    return str(answer["id"])
