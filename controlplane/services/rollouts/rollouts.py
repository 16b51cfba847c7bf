"""Rollouts as operators see them: started, followed, paused, promoted and aborted.

What operators say is one commit each, like what the reconciler does; neither waits for the other.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.errors import InvalidTransition, StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.domain.rollouts import operations
from controlplane.domain.rollouts.model import Phase, Rollout
from controlplane.domain.rollouts.transitions import Transition
from controlplane.domain.rollouts.validation import validate_plan
from controlplane.domain.work_refusals import RolloutNotFound
from controlplane.services.families import caught_up
from controlplane.services.hub import rollout_topic
from controlplane.services.ports import (
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    IdSource,
    Ledger,
    Position,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.rollouts.entry import step_entered
from controlplane.services.rollouts.sight import version_of
from controlplane.services.rollouts.start import RolloutOrder, begin, ground_of
from controlplane.services.rollouts.steps import transition_audit, transition_steps

__all__ = ["RolloutOrder", "RolloutPage", "Rollouts"]
"""What an order is, is said where it is carried out; callers ask for it here."""

MAX_ROUNDS: Final = 5
"""Rounds of read-decide-commit before contention is reported; each loses to a commit that won."""

BOOKMARK_SECONDS: Final = 15.0
"""Silence after which a watcher is told how far it is: well below the 30 s of keepalive proxies."""

_RETRIED: Final = frozenset({Phase.ROLLED_BACK, Phase.FAILED})

_Decision = Callable[[NamespaceView, Rollout, int], Transition | None]
"""What becomes of a rollout: the view, the record as the ledger has it, the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPage:
    """Some of the rollouts of a namespace, the newest first."""

    rollouts: tuple[Rollout, ...]
    total: int
    next_cursor: str
    """Where the next page begins; empty on the last one."""
    position: Position


class Rollouts:
    """Takes orders about rollouts. What follows by itself is up to `RolloutReconciler`."""

    def __init__(self, ledger: Ledger, read_model: ReadModel, ids: IdSource, clock: Clock) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._ids = ids
        self._clock = clock

    async def start(
        self,
        namespace: str,
        order: RolloutOrder,
        *,
        request: RequestKey | None,
        caller: Caller,
    ) -> Rollout:
        """Begin a rollout; it is PENDING until the new version has come to work.

        Raises:
            InvalidArgument: the plan is out of bounds, a version is missing or the same, or the
                new version is registered with other content than `canary`.
            AgentNotFound: the old version is not registered.
            RolloutActive: one is under way, and `supersede` is not set.
            InvalidTransition: a version is retired, the old one does not work, or the rollout to
                supersede drains the old version already.
            StoreUnavailable: too many callers change this agent at once.
            NotReady: this replica has not heard of the rollout to supersede within 5 s.
        """
        validate_plan(order.plan)
        return await self._begin(namespace, order, "StartRollout", request, caller)

    async def retry(
        self,
        namespace: str,
        rollout_id: str,
        *,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> Rollout:
        """Begin a rollout anew that was rolled back or failed, with the same versions and plan.

        Raises:
            RolloutNotFound: there is none with that id.
            InvalidTransition: it did not end like that, or see `start`.
            RolloutActive: one is under way.
        """
        before = await self._stored(namespace, rollout_id)
        if before.phase not in _RETRIED:
            raise InvalidTransition(
                f"rollout {rollout_id!r}", current=before.phase, wanted="retried"
            )
        order = RolloutOrder(
            name=before.name,
            to_version=before.to_version,
            from_version=before.from_version,
            plan=before.plan,
            reason=reason or before.reason,
            retry_of=rollout_id,
        )
        return await self._begin(namespace, order, "RetryRollout", request, caller)

    async def _begin(
        self,
        namespace: str,
        order: RolloutOrder,
        method: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> Rollout:
        view = self._read_model.view(namespace)
        for _ in range(MAX_ROUNDS):
            if request is not None:
                replay = await self._ledger.find_request(namespace, request)
                if replay is not None:
                    return await self._stored(namespace, replay.answer)
            ground = await ground_of(self._ledger, view, order)
            if ground.active is not None:
                # What it moved must be known here before it is undone.
                view = await self._read_model.at_least(namespace, ground.active.revision)
            beginning = begin(
                view,
                order,
                ground,
                rollout_id=self._ids.new_id("rol"),
                agent_id=self._ids.new_id("agt"),
                started_by=caller.name,
                now_ms=self._clock.store_ms(),
            )
            rollout = beginning.rollout
            transaction = beginning.transaction(namespace, method=method, request=request)
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed as lost:
                view = await caught_up(self._read_model, namespace, lost.current_revision)
                continue
            if committed.replayed:
                return await self._stored(namespace, committed.answer)
            return _stamped(rollout, committed)
        raise _contended()

    async def get(
        self, namespace: str, *, rollout_id: str, agent_name: str, min_revision: int
    ) -> Rollout:
        """Return a rollout: by id, or the active or else newest one of an agent name.

        Raises:
            RolloutNotFound: there is none.
        """
        view = await self._heard(namespace, rollout_id, min_revision)
        return _known(view, rollout_id=rollout_id, agent_name=agent_name)

    async def page(
        self,
        namespace: str,
        *,
        agent_name: str,
        phases: frozenset[Phase],
        active_only: bool,
        after: str,
        limit: int,
        min_revision: int,
    ) -> RolloutPage:
        """Return rollouts after a cursor, the newest first; `phases` empty: any.

        The cursor is the id of the last one before: ids sort by time, so a page is stable while
        rollouts come and go.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        chosen = [
            one
            for one in view.work.rollouts.values()
            if (not agent_name or one.name == agent_name)
            and (not phases or one.phase in phases)
            and not (active_only and one.phase.is_terminal)
        ]
        chosen.sort(key=lambda one: one.rollout_id, reverse=True)
        rest = [one for one in chosen if not after or one.rollout_id < after]
        rollouts = tuple(rest[:limit])
        return RolloutPage(
            rollouts=rollouts,
            total=len(chosen),
            next_cursor=rollouts[-1].rollout_id if len(rest) > limit else "",
            position=view.position,
        )

    async def watch(
        self,
        namespace: str,
        *,
        rollout_id: str,
        agent_name: str,
        bookmark_seconds: float = BOOKMARK_SECONDS,
    ) -> AsyncGenerator[Rollout | Position, None]:
        """Yield a rollout as it is now and after every change, until it has ended.

        After 15 s of silence the position says that the stream is alive. Changes that come faster
        than they are taken are one.

        Raises:
            RolloutNotFound: there is none.
        """
        view = await self._heard(namespace, rollout_id)
        rollout = _known(view, rollout_id=rollout_id, agent_name=agent_name)
        topic = rollout_topic(namespace, rollout.rollout_id)
        with self._read_model.hub.subscribe((topic,)) as news:
            told = -1
            while True:
                view = self._read_model.view(namespace)
                known = view.work.rollouts.get(rollout.rollout_id)
                if known is None:
                    return
                if known.revision != told:
                    told = known.revision
                    yield known
                if known.phase.is_terminal:
                    return
                try:
                    async with asyncio.timeout(bookmark_seconds):
                        await news.wait()
                except TimeoutError:
                    yield self._read_model.view(namespace).position

    async def pause(
        self, namespace: str, rollout_id: str, *, reason: str, caller: Caller
    ) -> Rollout:
        """Hold a PENDING or PROGRESSING rollout where it is; idempotent.

        Raises:
            RolloutNotFound: there is none with that id.
            InvalidTransition: it is beyond that.
        """

        def decide(_: NamespaceView, rollout: Rollout, now_ms: int) -> Transition | None:
            return operations.paused(rollout, now_ms, reason=reason, by=caller.name)

        return await self._change(namespace, rollout_id, decide, "PauseRollout", reason, caller)

    async def resume(
        self, namespace: str, rollout_id: str, *, reason: str, caller: Caller
    ) -> Rollout:
        """Go on with a PAUSED rollout; idempotent.

        Raises:
            RolloutNotFound: there is none with that id.
            InvalidTransition: it is beyond that.
        """

        def decide(_: NamespaceView, rollout: Rollout, now_ms: int) -> Transition | None:
            return operations.resumed(rollout, now_ms)

        return await self._change(namespace, rollout_id, decide, "ResumeRollout", reason, caller)

    async def promote(
        self,
        namespace: str,
        rollout_id: str,
        *,
        full: bool,
        expected_step_index: int | None,
        reason: str,
        caller: Caller,
    ) -> Rollout:
        """Go on to the next step, or all the way, without waiting for a verdict.

        Raises:
            RolloutNotFound: there is none with that id.
            InvalidTransition: it is not at `expected_step_index`, or not at a step.
        """

        def decide(_: NamespaceView, rollout: Rollout, now_ms: int) -> Transition | None:
            return operations.promoted(
                rollout, now_ms, full=full, expected_step_index=expected_step_index
            )

        if not full:
            await step_entered(self._read_model, namespace, rollout_id, expected_step_index)
        return await self._change(namespace, rollout_id, decide, "PromoteRollout", reason, caller)

    async def abort(
        self, namespace: str, rollout_id: str, *, reason: str, caller: Caller
    ) -> Rollout:
        """Roll back; idempotent.

        Raises:
            RolloutNotFound: there is none with that id.
            InvalidTransition: it has ended otherwise.
        """

        def decide(view: NamespaceView, rollout: Rollout, now_ms: int) -> Transition | None:
            stable = version_of(view.agents.get(rollout.from_agent_id))
            return operations.aborted(rollout, now_ms, reason=reason, stable=stable)

        return await self._change(namespace, rollout_id, decide, "AbortRollout", reason, caller)

    async def _change(
        self,
        namespace: str,
        rollout_id: str,
        decide: _Decision,
        method: str,
        reason: str,
        caller: Caller,
    ) -> Rollout:
        """Decide on what the ledger says and commit it, until nobody interferes.

        Raises:
            NotReady: this replica has not heard of the rollout's newest state within 5 s.
        """
        newest = 0
        for _ in range(MAX_ROUNDS):
            before = await self._stored(namespace, rollout_id)
            newest = max(newest, before.revision)
            # What the rollout moved must be known here before it is moved again.
            view = await self._read_model.at_least(namespace, newest)
            now_ms = self._clock.store_ms()
            transition = decide(view, before, now_ms)
            if transition is None:
                return before
            transaction = Transaction(
                namespace=namespace,
                steps=transition_steps(view, before, transition, now_ms=now_ms),
                audit=transition_audit(
                    before, transition, method=method, actor=caller.name, reason=reason
                ),
            )
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed as lost:
                newest = max(newest, lost.current_revision)
                continue
            return _stamped(transition.after, committed)
        raise _contended()

    async def _heard(self, namespace: str, rollout_id: str, revision: int = 0) -> NamespaceView:
        """Return the view once it knows the rollout: this replica may not have heard of it yet."""
        view = self._read_model.view(namespace)
        if rollout_id and rollout_id not in view.work.rollouts:
            revision = max(revision, (await self._stored(namespace, rollout_id)).revision)
        return await self._read_model.at_least(namespace, revision)

    async def _stored(self, namespace: str, rollout_id: str) -> Rollout:
        (record,) = await self._ledger.read(namespace, Collection.ROLLOUTS, (rollout_id,))
        if record is None:
            raise RolloutNotFound(rollout_id=rollout_id)
        rollout: Rollout = record.value
        return rollout


def _known(view: NamespaceView, *, rollout_id: str, agent_name: str) -> Rollout:
    known = view.work.rollouts
    wanted = rollout_id or view.work.active_rollouts.get(agent_name, "")
    found = known.get(wanted)
    if found is None and not rollout_id:
        of_name = (one for one in known.values() if one.name == agent_name)
        found = max(of_name, key=lambda one: one.rollout_id, default=None)
    if found is None or (agent_name and found.name != agent_name):
        raise RolloutNotFound(rollout_id=rollout_id, agent_name=agent_name)
    return found


def _stamped(rollout: Rollout, committed: Committed) -> Rollout:
    """Return a rollout with what the store added."""
    created = rollout.created_at_ms or committed.at_ms
    return replace(
        rollout,
        revision=committed.revision,
        created_at_ms=created,
        updated_at_ms=committed.at_ms,
    )


def _contended() -> StoreUnavailable:
    return StoreUnavailable("too many callers change this rollout at once")
