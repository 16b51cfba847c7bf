"""Who is alive: brings instances and agents to life by beats, and takes leave of them.

Beats are settled in memory (`beats`); only a change of state is a commit. How instances leave is in
`departures`, what silence does in `expiry`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from controlplane.domain.agents import (
    Agent,
    AgentStatus,
    Instance,
    InstanceState,
)
from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.beat_answers import fenced, refusal, standing
from controlplane.services.beats import BeatIntake, BeatOutcome, Outcome, Unusual
from controlplane.services.departures import Departures
from controlplane.services.families import (
    PLANE,
    Family,
    Move,
    caught_up,
    commit_each,
    families_stored,
    family_here,
)
from controlplane.services.lifecycle.activation import ActivationCheck, RememberedRefusals, judged
from controlplane.services.ports import (
    Clock,
    Committed,
    ConditionFailed,
    Ledger,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

STORE_SECONDS: Final = 3.0
"""How long a beat waits for its commit: well below any grant that a fleet uses."""

MAX_ROUNDS: Final = 5
"""Rounds of decide-commit before a contested change is left to the next beat. The first decides on
memory, the others on the ledger, and each loses only to a commit that won."""

MAX_AHEAD: Final = 100_000
"""Commits remembered until this replica's copy has them; beyond, they are forgotten (and the next
beat finds out from the ledger)."""

Outcomes = dict[str, BeatOutcome | None]
"""By instance_id; None: simply accepted."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What a commit made of an instance, until the copy in memory has reached `revision`."""

    generation: int
    revision: int
    outcome: BeatOutcome | None


@dataclass(slots=True)
class _Work:
    """What the beats of one message ask for."""

    outcomes: list[BeatOutcome] = field(default_factory=list)
    revivals: dict[str, dict[str, int]] = field(default_factory=dict)
    """agent_id -> instance_id -> generation"""
    departures: dict[str, int] = field(default_factory=dict)
    """instance_id -> generation"""


class Liveness:
    """Settles unusual beats and departures. The only writer of instance states besides `Expiry`."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        intake: BeatIntake,
        activation: ActivationCheck,
        settings: LivenessSettings,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._intake = intake
        self._activation = RememberedRefusals(activation, clock)
        self._settings = settings
        self._clock = clock
        self._departures = Departures(ledger, read_model, settings, clock)
        self._ahead: dict[tuple[str, str], _Ahead] = {}
        self.deferred = 0
        """Changes left to the next beat because the store did not answer or others were faster."""

    async def settle(self, namespace: str, unusual: Sequence[Unusual]) -> list[BeatOutcome]:
        """Do what unusual beats ask for; return the answers to those not simply accepted.

        Never fails for want of the store: an instance whose state cannot be written is accepted,
        and its next beat tries again. A goodbye that cannot be written gets no answer.

        Raises:
            NotReady: this replica has nothing loaded.
        """
        view = self._read_model.view(namespace)
        newest = max((u.beat.generation for u in unusual if _is_ahead(u, view)), default=0)
        if newest:
            # Until this replica has seen the commit that registered this generation.
            view = await caught_up(self._read_model, namespace, newest)
            late = [u.beat for u in unusual if _is_ahead(u, None)]
            settled = [u for u in unusual if not _is_ahead(u, None)]
            unusual = [*settled, *self._intake.accept(view, late)]
        work = _Work()
        for one in unusual:
            self._sort(view, one, work)
        if work.revivals:
            outcomes = await self.revive(namespace, work.revivals)
            work.outcomes.extend(answer for answer in outcomes.values() if answer is not None)
        if work.departures:
            answers = await self._departures.say_goodbye(namespace, work.departures)
            work.outcomes.extend(answers.values())
            self.deferred += len(work.departures) - len(answers)
        return work.outcomes

    def _sort(self, view: NamespaceView, one: Unusual, work: _Work) -> None:
        """Answer from memory, or note what has to be committed."""
        beat, live = one.beat, one.live
        instance_id, generation = beat.instance_id, beat.generation
        answer = refusal(view, one)
        if answer is not None:
            work.outcomes.append(answer)
        elif beat.goodbye or live is None:
            work.departures[instance_id] = generation
        else:
            ahead = self._ahead_of(view, instance_id)
            if ahead is not None and ahead.generation == generation:
                if ahead.outcome is not None:
                    work.outcomes.append(ahead.outcome)
                return
            same_agent = work.revivals.setdefault(live.instance.agent_id, {})
            same_agent[instance_id] = generation

    def _ahead_of(self, view: NamespaceView, instance_id: str) -> _Ahead | None:
        key = (view.name, instance_id)
        ahead = self._ahead.get(key)
        if ahead is not None and ahead.revision <= view.position.revision:
            del self._ahead[key]
            return None
        return ahead

    async def revive(self, namespace: str, instances: Mapping[str, Mapping[str, int]]) -> Outcomes:
        """Bring instances (agent_id -> instance_id -> generation) to FRESH, and agents to ACTIVE.

        One transaction per agent, all in one round trip; contested ones are decided again on what
        the ledger says. An operator's INACTIVE stays, a DECOMMISSIONED agent stays untouched, a
        REGISTERED one needs `activation: AUTO` and the activation check.
        """
        outcomes: Outcomes = {}
        contested = dict(instances)
        view = self._read_model.view(namespace)
        families: Mapping[str, Family | None] = {
            agent_id: family_here(view, agent_id) for agent_id in contested
        }
        try:
            async with asyncio.timeout(STORE_SECONDS):
                for _ in range(MAX_ROUNDS):
                    contested = await self._revive_round(view, contested, families, outcomes)
                    if not contested:
                        return outcomes
                    families = await families_stored(self._ledger, view, contested)
        except (StoreUnavailable, TimeoutError):
            pass
        self.deferred += sum(len(generations) for generations in contested.values())
        return outcomes

    async def _revive_round(
        self,
        view: NamespaceView,
        wanted: Mapping[str, Mapping[str, int]],
        families: Mapping[str, Family | None],
        outcomes: Outcomes,
    ) -> dict[str, Mapping[str, int]]:
        """Try once; fill `outcomes` and return what was contested."""
        planned: list[tuple[str, Mapping[str, int], Transaction, Outcomes]] = []
        for agent_id, generations in wanted.items():
            move, answers = self._plan_revival(view, families[agent_id], generations)
            if move is None or move.is_empty:
                outcomes.update(answers)
                continue
            steps = move.steps(self._settings, expired=False)
            audit = move.audit("Heartbeat", event=_revival_event(move))
            transaction = Transaction(namespace=view.name, steps=steps, audit=audit)
            planned.append((agent_id, generations, transaction, answers))
        if not planned:
            return {}
        results = await commit_each(self._ledger, [one for _, _, one, _ in planned])
        contested: dict[str, Mapping[str, int]] = {}
        for (agent_id, generations, _, answers), result in zip(planned, results, strict=True):
            match result:
                case Committed(revision=revision):
                    outcomes.update(answers)
                    self._remember(view, generations, revision, answers)
                case ConditionFailed():
                    contested[agent_id] = generations
                case StoreUnavailable():
                    self.deferred += len(generations)
                case _:
                    raise result
        return contested

    def _remember(
        self, view: NamespaceView, generations: Mapping[str, int], revision: int, answers: Outcomes
    ) -> None:
        if len(self._ahead) >= MAX_AHEAD:
            self._ahead.clear()
        for instance_id, generation in generations.items():
            ahead = _Ahead(generation, revision, answers.get(instance_id))
            self._ahead[view.name, instance_id] = ahead

    def _plan_revival(
        self, view: NamespaceView, family: Family | None, generations: Mapping[str, int]
    ) -> tuple[Move | None, Outcomes]:
        """Decide what becomes of the instances and of their agent."""
        answers: Outcomes = {}
        current: list[Instance] = []
        for instance_id, generation in generations.items():
            instance = family.instances.get(instance_id) if family is not None else None
            answers[instance_id] = fenced(instance_id, instance, generation)
            if instance is not None and answers[instance_id] is None:
                current.append(instance)
        if family is None or not current:
            return None, answers
        if family.agent.status is AgentStatus.DECOMMISSIONED:
            for one in current:
                answers[one.instance_id] = BeatOutcome(one.instance_id, Outcome.GONE)
            return None, answers
        agent = self._revived(view, family.agent)
        for one in current:
            answers[one.instance_id] = standing(one.instance_id, agent)
        stale = [one.instance_id for one in current if one.state is not InstanceState.FRESH]
        moves = dict.fromkeys(stale, InstanceState.FRESH)
        return Move(family=family, instances=moves, agent=agent), answers

    def _revived(self, view: NamespaceView, agent: Agent) -> Agent:
        """Return the agent as a beat leaves it."""
        if not agent.may_be_revived or agent.status is AgentStatus.ACTIVE:
            return agent
        if agent.status is AgentStatus.REGISTERED:
            verdict = self._activation.may_activate(view, agent)
            return judged(agent, verdict, asked_by=PLANE, now_ms=self._clock.store_ms())
        return agent.moved(AgentStatus.ACTIVE)

    async def depart(
        self,
        namespace: str,
        instance_id: str,
        generation: int = 0,
        *,
        actor: str = PLANE,
        method: str = "Deregister",
        reason: str = "",
        request: RequestKey | None = None,
    ) -> bool:
        """Remove an instance; return False if it was not there any more.

        An agent that it leaves without a fresh instance becomes INACTIVE (STOPPED), which a beat of
        another instance undoes. `generation` 0 removes whichever is current.

        Raises:
            InstanceFenced: `generation` is not the current one.
            RequestIdReused: the request_id is known with other content.
            NotReady: this replica has nothing loaded.
            StoreUnavailable: not known to be removed, or others changed the agent all the time.
        """
        return await self._departures.depart(
            namespace,
            instance_id,
            generation,
            actor=actor,
            method=method,
            reason=reason,
            request=request,
        )


def _revival_event(move: Move) -> str:
    """Return the event of a revival that leaves the agent's status as it is."""
    parked = move.agent.pending
    asked = parked is not None and parked != move.family.agent.pending
    return "agent.activation_pending" if asked else "instance.fresh"


def _is_ahead(one: Unusual, view: NamespaceView | None) -> bool:
    """Return whether a beat comes from a generation newer than what is known of its instance.

    With a view: only if the view has not reached it either.
    """
    if one.invalid:
        return False
    known = one.live.instance.generation if one.live is not None else 0
    generation = one.beat.generation
    return generation > known and (view is None or generation > view.position.revision)
