"""One instance in the fleet: registered, beating, told to stop, saying goodbye."""

import asyncio
import enum
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from fleetplane._applying import ConfigApplier
from fleetplane._calls import MAX_BACKOFF, MIN_BACKOFF, Backoff, is_final
from fleetplane._exceptions import FailedPrecondition, FleetError, LimitExceeded, Reason
from fleetplane._session import FleetSession
from fleetplane._spec import InstanceSpec, Registration
from fleetplane._work import WorkMeter
from fleetplane.v1 import registry_service_pb2 as pb

_log: Final = logging.getLogger("fleetplane")


GOODBYE_AGAIN: Final = 0.25
"""Seconds until a goodbye that the daemon could not write is said again."""


class AgentState(enum.StrEnum):
    """Where an agent of this process is in its life, as far as this process knows."""

    NEW = "new"
    """Not started."""
    REGISTERING = "registering"
    """Registered or about to be, or registering again; its beats are not counted yet."""
    ACTIVE = "active"
    """The plane counts its beats and it may take work."""
    INACTIVE = "inactive"
    """An operator deactivated, stopped or banned it: it goes on beating and takes no work. While it
    is banned its beats are refused, and `Agent.error` says so."""
    NOT_ACTIVATED = "not_activated"
    """It waits for its activation: it goes on beating and takes no work."""
    DRAINING = "draining"
    """It was told to take no new work and finish what is in flight."""
    FENCED = "fenced"
    """A newer process took its instance_id: it must stop. Final."""
    GONE = "gone"
    """The agent is decommissioned: it must stop. Final."""
    REFUSED = "refused"
    """The plane refuses to register it again; `Agent.error` says why. Final."""
    STOPPED = "stopped"
    """It was told to stop for good. Final. After an emergency stop it is INACTIVE instead."""
    CLOSED = "closed"
    """It said goodbye. Final."""

    @property
    def final(self) -> bool:
        """Whether nothing follows this state."""
        return self in _FINAL

    @property
    def works(self) -> bool:
        """Whether work may be in flight: ACTIVE or DRAINING."""
        return self in {AgentState.ACTIVE, AgentState.DRAINING}


_FINAL: Final = frozenset(
    {
        AgentState.FENCED,
        AgentState.GONE,
        AgentState.REFUSED,
        AgentState.STOPPED,
        AgentState.CLOSED,
    }
)

_OUTCOMES: Final = {
    pb.BeatResult.OUTCOME_FENCED: AgentState.FENCED,
    pb.BeatResult.OUTCOME_GONE: AgentState.GONE,
    pb.BeatResult.OUTCOME_INACTIVE: AgentState.INACTIVE,
    pb.BeatResult.OUTCOME_NOT_ACTIVATED: AgentState.NOT_ACTIVATED,
}

StateListener = Callable[[AgentState, str], None]
"""Called with every new state and what the plane said about it."""


class Presence:
    """Keeps one instance known to the plane until it is told to stop.

    Args:
        session: what it shares with the other agents of its process.
        registration: what is registered; names the instance.
        meter: counters to report.
        config: outcome of configurations to report.
        on_state: called with every new state.
        on_stop: called when all work must be called off at once, by an emergency stop.
    """

    def __init__(
        self,
        session: FleetSession,
        registration: Registration,
        *,
        meter: WorkMeter,
        config: ConfigApplier,
        on_state: StateListener | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        if registration.instance is None:
            raise ValueError("a presence needs an instance")
        self._session = session
        self._registration = registration
        self._instance: InstanceSpec = registration.instance
        self._meter = meter
        self._config = config
        self._on_state = on_state
        self._on_stop = on_stop
        self._stop_id = ""
        self._stop_told = False
        self._retiring = False
        self._loop = asyncio.get_running_loop()
        self._state = AgentState.NEW
        self._seq = 0
        self._told: object = None
        self._leaving = False
        self._heard_at: float | None = None
        self._ttl = 0.0
        self._counted = asyncio.Event()
        self._ended = asyncio.Event()
        self._removed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.detail = ""
        """What the plane said about the state."""
        self.error: FleetError | None = None
        """The last refusal, of a registration or of its beats; None since one was accepted."""

    @property
    def instance_id(self) -> str:
        """Identity of the process."""
        return self._instance.instance_id

    @property
    def agent_id(self) -> str:
        """Identity of the agent; empty before the first registration, unless it was given."""
        return self._registration.agent_id

    @property
    def generation(self) -> int:
        """Fencing token of this process; 0 before the first registration."""
        return self._instance.generation

    @property
    def state(self) -> AgentState:
        """Where it is in its life."""
        return self._state

    @property
    def expired(self) -> bool:
        """Whether the plane has been silent for longer than it tolerates silence itself."""
        if self._heard_at is None:
            return True
        return bool(self._ttl) and self._loop.time() - self._heard_at > self._ttl

    async def start(self) -> None:
        """Register, repeating while the plane is away; then beat. The caller sets the deadline.

        Raises:
            FleetError: the registration was refused for what it says.
        """
        self._enter(AgentState.REGISTERING)
        await self._register(give_up=is_final)
        self._session.beats.join(self)

    async def counted(self) -> None:
        """Wait until the plane has counted a beat, or the end."""
        await self._counted.wait()

    async def ended(self) -> None:
        """Wait for a final state."""
        await self._ended.wait()

    def nudge(self) -> None:
        """Beat now: there is something to tell."""
        self._session.beats.nudge(self)

    def retire(self, detail: str) -> None:
        """Take no new work any more: this process is about to leave."""
        self._retiring = True
        if self._state is AgentState.ACTIVE:
            self._enter(AgentState.DRAINING, detail)

    def idle(self) -> None:
        """Note that nothing is in flight any more: an emergency stop can be acknowledged."""
        if self._stop_id:
            self.nudge()

    async def stop(self, deadline: float) -> None:
        """Say goodbye, for at most `deadline` seconds, and end; idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        try:
            if self.generation and not self._state.final and not self._session.beats.closed:
                self._leaving = True
                self._session.beats.join(self)
                async with asyncio.timeout(deadline):
                    await self._removed.wait()
        except TimeoutError:
            _log.info("instance %s left without an answer to its goodbye", self.instance_id)
        finally:
            self._end(AgentState.CLOSED if not self._state.final else self._state)

    # What the heartbeat stream calls.

    def write_beat(self, beat: pb.Beat, *, everything: bool) -> None:
        """Fill in a beat; with `everything`, also what the last stream has been told."""
        self._seq += 1
        beat.instance_id = self.instance_id
        beat.generation = self.generation
        beat.seq = self._seq
        self._meter.write(beat)
        outcome = self._config.outcome
        if outcome is not None and (everything or outcome is not self._told):
            beat.config.CopyFrom(outcome)
            self._told = outcome
        if self._stop_id and not self._meter.in_flight:
            beat.acknowledged_stop = self._stop_id
            self._stop_told = True
        if self._leaving:
            beat.goodbye = True

    def heard(self, at: float, ttl: float, *, remarked: bool) -> None:
        """Note that a beat was counted; `remarked`: with a result that says what state it is in."""
        self._heard_at = at
        self._ttl = ttl
        self.error = None
        if not remarked and not self._state.works and (self._stop_told or not self._stop_id):
            self._stop_id = ""  # acknowledged, and active again by an operator
            self._enter(AgentState.DRAINING if self._retiring else AgentState.ACTIVE)
        self._counted.set()
        if self._leaving and not self._ended.is_set():
            # Only REMOVED answers a goodbye: the store was away, or this answered an earlier beat.
            self._loop.call_later(GOODBYE_AGAIN, self.nudge)

    def answered(self, result: pb.BeatResult) -> None:
        """Act upon a beat that was not simply accepted."""
        match result.outcome:
            case pb.BeatResult.OUTCOME_REMOVED:
                self._removed.set()
            case pb.BeatResult.OUTCOME_UNKNOWN if self._leaving:
                self._removed.set()
            case pb.BeatResult.OUTCOME_UNKNOWN:
                self._register_again(result.detail)
            case pb.BeatResult.OUTCOME_INVALID:
                _log.error("a beat of %s was malformed: %s", self.instance_id, result.detail)
            case outcome:
                self._enter(_OUTCOMES.get(outcome, self._state), result.detail)

    def refused(self, error: FleetError) -> None:
        """Note that beats are refused; who is banned takes no work until that is taken back."""
        self.error = error
        if error.reason is Reason.AGENT_BANNED:
            self._enter(AgentState.INACTIVE, error.message)

    def commanded(self, command: pb.Command) -> None:
        """Do what the plane wants."""
        match command.kind:
            case pb.Command.KIND_DRAIN:
                self._enter(AgentState.DRAINING, command.reason)
            case pb.Command.KIND_RESUME:
                if self._state is AgentState.DRAINING and not self._retiring:
                    self._enter(AgentState.ACTIVE, command.reason)
            case pb.Command.KIND_REGISTER:
                self._register_again(command.reason)
            case pb.Command.KIND_STOP if command.stop_id:
                self._stop_now(command)
            case pb.Command.KIND_STOP:
                self._enter(AgentState.STOPPED, command.reason)
            case _:
                _log.info("command %d is not for this SDK: %s", command.kind, command.reason)

    def _stop_now(self, command: pb.Command) -> None:
        """Call off all work; the beat that follows the end of the last piece acknowledges."""
        self._enter(AgentState.INACTIVE, command.reason)
        if command.stop_id == self._stop_id:
            return  # the plane repeats it until it has the acknowledgement
        self._stop_id, self._stop_told = command.stop_id, False
        if self._on_stop is not None:
            self._on_stop()
        if not self._meter.in_flight:
            self.nudge()

    def _enter(self, state: AgentState, detail: str = "") -> None:
        if state is self._state or self._state.final:
            return
        self._state = state
        self.detail = detail
        if state.final:
            self._end(state)
        if self._on_state is not None:
            try:
                self._on_state(state, detail)
            except Exception:  # noqa: BLE001  # the user's code must not end the heartbeat
                _log.exception("the state listener of %s failed", self.instance_id)

    def _end(self, state: AgentState) -> None:
        self._session.beats.leave(self)
        self._counted.set()
        self._removed.set()
        self._ended.set()
        self._enter(state, self.detail)

    def _register_again(self, detail: str) -> None:
        if self._task is not None or self._leaving or self._state.final:
            return
        self._session.beats.leave(self)
        self._enter(AgentState.REGISTERING, detail)
        self._task = self._loop.create_task(self._come_back(), name="fleetplane-register-again")

    async def _come_back(self) -> None:
        try:
            await self._register(give_up=_is_hopeless)
        except FleetError as error:
            self._enter(_verdict(error), error.message)
        else:
            self._session.beats.join(self)
        finally:
            self._task = None

    async def _register(self, *, give_up: Callable[[FleetError], bool]) -> None:
        """Register until it works; learn the ids and the generation."""
        backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)
        while True:
            try:
                response = await self._session.register(self._registration)
            except FleetError as error:
                self.error = error
                if give_up(error):
                    raise
                await asyncio.sleep(backoff.next(error.retry_after))
            else:
                break
        self.error = None
        self._instance = replace(self._instance, generation=response.instance.generation)
        self._registration = replace(
            self._registration, agent_id=response.agent.agent_id, instance=self._instance
        )


def _is_hopeless(error: FleetError) -> bool:
    """Whether an agent that was known should not try again.

    A quota may become free, and credentials that have ended are renewed.
    """
    heals = isinstance(error, LimitExceeded) or error.reason is Reason.CREDENTIAL_EXPIRED
    return is_final(error) and not heals


def _verdict(error: FleetError) -> AgentState:
    if isinstance(error, FailedPrecondition):
        if error.reason is Reason.INSTANCE_FENCED:
            return AgentState.FENCED
        if error.reason is Reason.INVALID_TRANSITION:
            return AgentState.GONE
    return AgentState.REFUSED
