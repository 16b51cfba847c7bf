"""An agent: registered, alive, configured and within its rights, for as long as it runs."""

import asyncio
import enum
import functools
import signal
import uuid
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, Unpack

from fleetplane._applying import ConfigApplier, ConfigHandler
from fleetplane._channel import DEFAULT_TARGET, ChannelConfig
from fleetplane._client import FleetClient
from fleetplane._config import EffectiveConfig, Scope
from fleetplane._enums import ExplainLevel, PolicyAction
from fleetplane._exceptions import (
    ApprovalRequired,
    DeadlineExceeded,
    FleetError,
    PolicyDenied,
    Unavailable,
)
from fleetplane._presence import AgentState, Presence, StateListener
from fleetplane._session import FleetSession
from fleetplane._sharing import borrow_client, return_client
from fleetplane._spec import AgentSpec, InstanceSpec, Registration, SpecFields
from fleetplane._values import JsonValue
from fleetplane._work import Task, WorkMeter
from fleetplane.v1 import policy_service_pb2

Arguments = ParamSpec("Arguments")
Outcome = TypeVar("Outcome")

START_TIMEOUT: Final = 60.0
"""Seconds an agent waits at its start for a plane that is away."""

STOP_TIMEOUT: Final = 5.0
"""Seconds an agent spends on its goodbye."""


class FailMode(enum.StrEnum):
    """What a question to the policies is answered with while nobody can answer it."""

    RAISE = "raise"
    """Raise `Unavailable` or `DeadlineExceeded`: the caller decides."""
    ALLOW = "allow"
    """Permit the action (fail open)."""
    DENY = "deny"
    """Refuse the action (fail closed)."""


class Agent:
    """One instance of an agent. Use it as an asynchronous context manager.

    Entering registers it and waits until the plane has counted its first beat and its first
    configuration has been tried. From then on it beats, follows its configuration, comes back by
    itself after any interruption, and keeps the last configuration that worked. Leaving says
    goodbye. All agents of one client, or of one target and namespace, share one heartbeat stream
    and one configuration watch.

        async with Agent("summarizer", "2.1.0", capabilities=["summarize"]) as agent:
            with agent.task():
                ...

    Args:
        name: name of the agent, shared by its versions.
        version: semantic version.
        client: the open client to use; it must outlive the agent.
        target: address of the daemon, if no client is given.
        namespace: tenant, if no client is given.
        channel_config: everything else about the connection, if no client is given.
        agent_id: identity of the agent. Empty: that of the existing name@version, or a new one.
        instance_id: identity of this process. Empty: a new random one.
        instance_endpoint: where this process is reached, if it differs from `endpoint`.
        on_config: makes a configuration effective, or raises to refuse it; may be asynchronous.
        on_state: called with every new state and what the plane said about it.
        start_timeout: seconds to wait at the start, for a plane that is away too.
        stop_timeout: seconds to spend on the goodbye.
        **spec: the other fields of `AgentSpec`, such as `capabilities` and `tags`.
    """

    def __init__(
        self,
        name: str,
        version: str,
        *,
        client: FleetClient | None = None,
        target: str = DEFAULT_TARGET,
        namespace: str = "default",
        channel_config: ChannelConfig | None = None,
        agent_id: str = "",
        instance_id: str = "",
        instance_endpoint: str = "",
        on_config: ConfigHandler | None = None,
        on_state: StateListener | None = None,
        start_timeout: float = START_TIMEOUT,
        stop_timeout: float = STOP_TIMEOUT,
        **spec: Unpack[SpecFields],
    ) -> None:
        self._spec = AgentSpec(name=name, version=version, **spec)
        self._given = client
        self._address = (target, namespace, channel_config or ChannelConfig())
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
        self._meter = WorkMeter()
        self._applier = ConfigApplier(on_config, self._nudge)
        self._client: FleetClient | None = None
        self._session: FleetSession | None = None
        self._presence: Presence | None = None
        self._scope: Scope | None = None

    async def __aenter__(self) -> Self:
        """Start; see the class.

        Raises:
            FleetError: the plane refuses the agent, or was away for `start_timeout` seconds.
            RuntimeError: the agent was started before.
        """
        if self._presence is not None:
            raise RuntimeError("an agent starts once: make another one")
        self._client = self._given or await borrow_client(*self._address)
        self._session = self._client.session
        self._presence = Presence(
            self._session,
            self._registration,
            meter=self._meter,
            config=self._applier,
            on_state=self._on_state,
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

    async def _start(self, session: FleetSession, presence: Presence) -> None:
        await presence.start()
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
        await self.aclose()

    async def aclose(self) -> None:
        """Say goodbye and end everything that runs for this agent; idempotent."""
        client, self._client = self._client, None
        if client is None or self._presence is None or self._session is None:
            return
        try:
            if self._scope is not None:
                self._session.configs.unsubscribe(self._scope, self._applier.offer)
            await self._applier.aclose()
            await self._presence.stop(self._stop_timeout)
        finally:
            if client is not self._given:
                await return_client(client)

    def _nudge(self) -> None:
        if self._presence is not None:
            self._presence.nudge()

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

        Measured on this machine's monotonic clock. An expired agent must stop privileged work; it
        goes on trying to reach the plane.
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

    def task(self) -> Task:
        """Return a context manager around one piece of work: counted, timed, reported."""
        return Task(self._meter)

    def track(
        self, function: Callable[Arguments, Awaitable[Outcome]]
    ) -> Callable[Arguments, Awaitable[Outcome]]:
        """Decorate a coroutine function so that each call counts as one task."""

        @functools.wraps(function)
        async def tracked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Outcome:
            with Task(self._meter):
                return await function(*args, **kwargs)

        return tracked

    async def check(
        self,
        action: str,
        /,
        *,
        tool: str = "",
        claims: Mapping[str, JsonValue] | None = None,
        explain: ExplainLevel = ExplainLevel.NONE,
        on_unavailable: FailMode = FailMode.RAISE,
        timeout: float | None = None,
        **context: JsonValue,
    ) -> policy_service_pb2.PolicyDecision:
        """Ask the policies whether this agent may do something.

        Args:
            action: what it wants to do, such as `database_write`.
            tool: with which tool, optional.
            claims: claims about the action whose names are no identifiers, or are taken here.
            explain: how much the decision explains.
            on_unavailable: the answer while nobody can answer.
            timeout: deadline in seconds; None: the channel's default.
            **context: claims about the action, such as `environment="production"`.

        Raises:
            FleetError: the question was refused, or nobody answered and the mode is RAISE.
            RuntimeError: the agent is not running.
        """
        if self._client is None:
            raise RuntimeError("the agent is not running: use it within `async with Agent(...)`")
        merged: dict[str, Any] = {**claims, **context} if claims else context
        try:
            return await self._client.evaluate_policy(
                self.agent_id, action, tool=tool, context=merged, explain=explain, timeout=timeout
            )
        except (Unavailable, DeadlineExceeded) as error:
            if on_unavailable is FailMode.RAISE:
                raise
            return _substitute(on_unavailable, error)

    async def require(
        self,
        action: str,
        /,
        *,
        tool: str = "",
        claims: Mapping[str, JsonValue] | None = None,
        on_unavailable: FailMode = FailMode.RAISE,
        timeout: float | None = None,
        **context: JsonValue,
    ) -> policy_service_pb2.PolicyDecision:
        """Return the decision if the policies permit an action, raise otherwise; see `check`.

        Raises:
            PolicyDenied: the policies refuse it.
            ApprovalRequired: somebody must approve it first.
            FleetError: the question was refused, or nobody answered and the mode is RAISE.
        """
        decision = await self.check(
            action,
            tool=tool,
            claims=claims,
            on_unavailable=on_unavailable,
            timeout=timeout,
            **context,
        )
        verdict = PolicyAction(decision.action)
        if verdict is PolicyAction.REQUIRE_APPROVAL:
            raise ApprovalRequired(decision)
        if not verdict.permits:
            raise PolicyDenied(decision)
        return decision

    async def wait_ended(self) -> AgentState:
        """Wait until the agent must not go on (fenced, gone, refused, stopped); return why."""
        if self._presence is None:
            raise RuntimeError("the agent is not running: use it within `async with Agent(...)`")
        await self._presence.ended()
        return self._presence.state

    async def run_until_signal(self, *signals: signal.Signals) -> signal.Signals | AgentState:
        """Wait for SIGTERM or SIGINT (or the given signals), or for the end of the agent.

        The handlers are in place only while this waits. Unix only.

        Returns:
            The signal that came, or the final state.
        """
        loop = asyncio.get_running_loop()
        came: asyncio.Future[signal.Signals] = loop.create_future()
        ended = loop.create_task(self.wait_ended(), name="fleetplane-wait-ended")
        wanted = signals or (signal.SIGTERM, signal.SIGINT)

        def note(number: signal.Signals) -> None:
            if not came.done():
                came.set_result(number)

        for number in wanted:
            loop.add_signal_handler(number, note, number)
        try:
            await asyncio.wait((came, ended), return_when=asyncio.FIRST_COMPLETED)
            return came.result() if came.done() else ended.result()
        finally:
            for number in wanted:
                loop.remove_signal_handler(number)
            came.cancel()
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)


def _substitute(mode: FailMode, error: FleetError) -> policy_service_pb2.PolicyDecision:
    """Make the decision that stands in for the one nobody could make."""
    action = PolicyAction.ALLOW if mode is FailMode.ALLOW else PolicyAction.DENY
    return policy_service_pb2.PolicyDecision(
        action=policy_service_pb2.PolicyAction.ValueType(action),
        message=f"the plane could not be asked ({error.message}); fail mode {mode}",
    )
