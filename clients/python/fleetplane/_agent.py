"""An agent: registered, alive, configured and within its rights, for as long as it runs."""

import asyncio
import os
import signal
import uuid
from types import TracebackType
from typing import Final, Self, Unpack

from fleetplane._applying import ConfigApplier, ConfigHandler
from fleetplane._channel import DEFAULT_TARGET, ChannelConfig
from fleetplane._client import FleetClient
from fleetplane._config import EffectiveConfig, Scope
from fleetplane._credentials import FilePath
from fleetplane._enrolled import EnrolledIdentity
from fleetplane._exceptions import DeadlineExceeded, FleetError
from fleetplane._fail_modes import LocalDecisions
from fleetplane._handling import Handling
from fleetplane._leaving import STOP_SIGNALS, drain_instance, wait_for_stop
from fleetplane._permits import Permits
from fleetplane._presence import AgentState, Presence, StateListener
from fleetplane._rights import Rights
from fleetplane._session import FleetSession
from fleetplane._sharing import borrow_client, open_client, return_client
from fleetplane._spec import AgentSpec, InstanceSpec, Registration, SpecFields
from fleetplane._task_context import TaskHandlers
from fleetplane._task_runs import CallOff
from fleetplane._task_worker import TaskWorker
from fleetplane._work import WorkMeter

START_TIMEOUT: Final = 60.0
"""Seconds an agent waits at its start for a plane that is away."""

STOP_TIMEOUT: Final = 5.0
"""Seconds an agent waits for each answer of the plane while it leaves."""

DRAIN_TIMEOUT: Final = 60.0
"""Seconds the tasks of an agent may take to finish when it leaves."""


class Agent(Handling, Rights, Permits):
    """One instance of an agent. Use it as an asynchronous context manager.

    Entering registers it and waits until the plane has counted its first beat and its first
    configuration has been tried. From then on it beats, follows its configuration, comes back by
    itself after any interruption, and keeps the last configuration that worked. All agents of one
    client, or of one target and namespace, share one heartbeat stream and one configuration watch.

    With handlers it takes the tasks of the plane, at most `max_concurrency` at the same time, while
    it is active. Leaving the block takes no new task, lets those that run finish, gives back what
    is left after `drain_timeout` seconds, and says goodbye; an exception that leaves the block
    gives everything back at once.

        agent = Agent("summarizer", "2.1.0", capabilities=["summarize"], max_concurrency=4)

        @agent.task("summarize")
        async def summarize(task: TaskContext) -> str:
            return task.payload.decode()[:40]

        async with agent:
            await agent.run_until_stopped()

    Args:
        name: name of the agent, shared by its versions.
        version: semantic version.
        client: the open client to use; it must outlive the agent.
        target: address of the daemon, if no client is given.
        namespace: tenant, if no client is given. Empty: that of the join token, or `default`.
        channel_config: everything else about the connection, if no client is given.
        join_token: the secret of a join token, or the file with it: the agent enrols, and its
            certificate is renewed while it runs; see `EnrolledIdentity`. `target` is then the
            address of the port that demands certificates.
        enroll_target: address of the port for TLS, with a join token. Empty: `target`.
        ca: authorities that may vouch for the daemon in PEM, or the file with them, with a join
            token.
        state_dir: where the identity is kept, with a join token.
        agent_id: identity of the agent. Empty: that of the existing name@version, or a new one.
        instance_id: identity of this process. Empty: a new random one.
        instance_endpoint: where this process is reached, if it differs from `endpoint`.
        on_config: makes a configuration effective, or raises to refuse it; may be asynchronous.
        on_state: called with every new state and what the plane said about it.
        start_timeout: seconds to wait at the start, for a plane that is away too.
        stop_timeout: seconds to wait for each answer of the plane while it leaves.
        drain_timeout: seconds its tasks may take to finish when it leaves.
        local_policies: decide in this process, see `decide`. Needs the extra `policies`.
        **spec: the other fields of `AgentSpec`, such as `capabilities` and `tags`.
    """

    def __init__(
        self,
        name: str,
        version: str,
        *,
        client: FleetClient | None = None,
        target: str = DEFAULT_TARGET,
        namespace: str = "",
        channel_config: ChannelConfig | None = None,
        join_token: str | os.PathLike[str] = "",
        enroll_target: str = "",
        ca: bytes | FilePath | None = None,
        state_dir: FilePath | None = None,
        agent_id: str = "",
        instance_id: str = "",
        instance_endpoint: str = "",
        on_config: ConfigHandler | None = None,
        on_state: StateListener | None = None,
        start_timeout: float = START_TIMEOUT,
        stop_timeout: float = STOP_TIMEOUT,
        drain_timeout: float = DRAIN_TIMEOUT,
        local_policies: LocalDecisions | None = None,
        **spec: Unpack[SpecFields],
    ) -> None:
        self._spec = AgentSpec(name=name, version=version, **spec)
        self._given = client
        self._address = (target, namespace, channel_config or ChannelConfig())
        self._identity: EnrolledIdentity | None = None
        if join_token and client is None:
            self._identity = EnrolledIdentity(
                name,
                join_token=join_token,
                enroll_target=enroll_target or target,
                ca=ca,
                state_dir=state_dir,
            )
        elif join_token or enroll_target or ca is not None or state_dir is not None:
            raise ValueError(_NO_IDENTITY)
        self._registration = Registration(
            spec=self._spec,
            agent_id=agent_id,
            instance=InstanceSpec(
                instance_id=instance_id or uuid.uuid4().hex, endpoint=instance_endpoint
            ),
        )
        self._on_state = on_state
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._drain_timeout = drain_timeout
        self._local_options = local_policies
        self._meter = WorkMeter(idle=self._idle)
        self._handlers = TaskHandlers(self._listen)
        self._worker: TaskWorker | None = None
        self._applier = ConfigApplier(on_config, self._nudge)
        self._client: FleetClient | None = None
        self._session: FleetSession | None = None
        self._presence: Presence | None = None
        self._scope: Scope | None = None
        self._hurry = asyncio.Event()
        self._drained = False

    async def __aenter__(self) -> Self:
        """Start; see the class.

        Raises:
            FleetError: the plane refuses the agent, or was away for `start_timeout` seconds.
            RuntimeError: the agent was started before.
            OSError: the state directory, the join token or the authorities cannot be used.
        """
        if self._presence is not None:
            raise RuntimeError("an agent starts once: make another one")
        self._client = self._given or await self._open_client()
        self._session = self._client.session
        self._presence = Presence(
            self._session,
            self._registration,
            meter=self._meter,
            config=self._applier,
            on_state=self._state_changed,
            on_stop=self._call_off,
        )
        self._worker = TaskWorker(
            self._client.connection,
            self._client.namespace,
            self.instance_id,
            generation=lambda: self.generation,
            handlers=self._handlers,
            meter=self._meter,
            slots=max(1, self._spec.max_concurrency),
            nudge=self._nudge,
        )
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._start(self._session, self._presence)
        except TimeoutError as error:
            cause = self._presence.error
            await self.aclose()
            raise cause or DeadlineExceeded(
                f"the plane did not take {self._spec.name} in within {self._start_timeout:g} s"
            ) from error
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _open_client(self) -> FleetClient:
        if self._identity is None:
            return await borrow_client(*self._address)
        return await open_client(*self._address, self._identity, self._start_timeout)

    async def _start(self, session: FleetSession, presence: Presence) -> None:
        await presence.start()
        self._follow_policies(session)
        self._scope = Scope(agent_id=presence.agent_id)
        session.configs.subscribe(self._scope, self._applier.offer)
        await self._applier.settled()
        await presence.counted()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._handlers:
                await self.drain(self._drain_timeout if kind is None else 0.0)
        finally:
            await self.aclose()

    async def drain(self, within: float | None = None) -> None:
        """Take no new task, let those that run finish, give back the rest with its checkpoints.

        The plane is told, so that it assigns nothing any more; at the deadline it decides by the
        `on_drain` of each task. Does nothing once a drain has run its course.

        Args:
            within: seconds the tasks may take; None: the agent's `drain_timeout`; 0: not at all.
        """
        client, presence, worker = self._client, self._presence, self._worker
        if client is None or presence is None or worker is None:
            return
        if self._drained or (worker.refusing and not worker.busy):
            return  # what is left does not end, or cannot be given back: waiting again is no help
        await drain_instance(
            client,
            presence,
            worker,
            within=self._drain_timeout if within is None else within,
            answer=self._stop_timeout,
            hurry=self._hurry,
        )
        self._drained = True

    async def aclose(self) -> None:
        """Say goodbye and end everything that runs for this agent; idempotent.

        Tasks that still run are cancelled and lost to others; `drain` first to spare them.
        """
        client, self._client = self._client, None
        if client is None or self._presence is None or self._session is None:
            return
        try:
            if self._scope is not None:
                self._session.configs.unsubscribe(self._scope, self._applier.offer)
            await self._applier.aclose()
            await self._leave_policies()
            if self._worker is not None:
                await self._worker.aclose()
            await self._presence.stop(self._stop_timeout)
        finally:
            if client is not self._given:
                await return_client(client)

    def _state_changed(self, state: AgentState, detail: str) -> None:
        if self._worker is not None:
            self._worker.state_changed(state)
        if self._on_state is not None:
            self._on_state(state, detail)

    def _listen(self) -> None:
        if self._worker is not None:
            self._worker.listen()

    def _call_off(self) -> None:
        if self._worker is not None:
            self._worker.call_off(CallOff.LOST)

    def _idle(self) -> None:
        if self._presence is not None:
            self._presence.idle()

    def _nudge(self) -> None:
        if self._presence is not None:
            self._presence.nudge()

    @property
    def client(self) -> FleetClient:
        """The client this agent uses.

        Raises:
            RuntimeError: the agent is not running.
        """
        if self._client is None:
            raise RuntimeError(_NOT_RUNNING)
        return self._client

    @property
    def spec(self) -> AgentSpec:
        """What was declared about the agent."""
        return self._spec

    @property
    def agent_id(self) -> str:
        """Identity of the agent; empty before it is registered, unless it was given."""
        return (self._presence or self._registration).agent_id

    @property
    def instance_id(self) -> str:
        """Identity of this process."""
        instance = self._registration.instance
        return instance.instance_id if instance is not None else ""

    @property
    def generation(self) -> int:
        """Fencing token of this process; 0 before it is registered."""
        return self._presence.generation if self._presence is not None else 0

    @property
    def state(self) -> AgentState:
        """Where the agent is in its life."""
        return self._presence.state if self._presence is not None else AgentState.NEW

    @property
    def detail(self) -> str:
        """What the plane said about the state; may be empty."""
        return self._presence.detail if self._presence is not None else ""

    @property
    def error(self) -> FleetError | None:
        """The last refusal of a registration; None since it worked."""
        return self._presence.error if self._presence is not None else None

    @property
    def expired(self) -> bool:
        """Whether the plane has been silent for so long that it counts this instance as silent too.

        By this machine's monotonic clock. An expired agent must stop privileged work; it goes on.
        """
        return self._presence is None or self._presence.expired

    @property
    def may_work(self) -> bool:
        """Whether the agent may take new work now."""
        return self.state is AgentState.ACTIVE and not self.expired

    @property
    def config(self) -> EffectiveConfig:
        """The last configuration that worked; the documented defaults before the first."""
        return self._applier.running

    @property
    def config_error(self) -> Exception | None:
        """Why the newest configuration does not run; None if it does."""
        return self._applier.error

    @property
    def work(self) -> WorkMeter:
        """What is counted about the agent's work."""
        return self._meter

    async def wait_ended(self) -> AgentState:
        """Wait until the agent must not go on (fenced, gone, refused, stopped); return why."""
        if self._presence is None:
            raise RuntimeError(_NOT_RUNNING)
        await self._presence.ended()
        return self._presence.state

    async def run_until_signal(self, *signals: signal.Signals) -> signal.Signals | AgentState:
        """Wait for SIGTERM or SIGINT (or the given signals), or for the end of the agent.

        The handlers are in place only while this waits, and on the main thread. Unix only.

        Returns:
            The signal that came, or the final state.
        """
        return await wait_for_stop(self.wait_ended(), signals or STOP_SIGNALS)

    async def run_until_stopped(self, *signals: signal.Signals) -> signal.Signals | AgentState:
        """Work until SIGTERM or SIGINT (or the given signals) asks to stop, then `drain`.

        A second signal gives back at once what still runs. Returns without a signal when the agent
        has ended: fenced, gone, refused or stopped.

        Returns:
            The signal that came, or the final state.
        """
        return await wait_for_stop(
            self.wait_ended(), signals or STOP_SIGNALS, drain=self.drain, hurry=self._hurry
        )


_NOT_RUNNING: Final = "the agent is not running: use it within `async with Agent(...)`"

_NO_IDENTITY: Final = (
    "join_token, enroll_target, ca and state_dir go together, and make a client for this agent "
    "alone; without a join token, pass client=FleetClient(..., ca=...)"
)
