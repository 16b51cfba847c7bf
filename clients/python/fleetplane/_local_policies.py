"""Decides in this process, with the daemon's answers, on a copy that one watch keeps up to date."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

from fleetplane._claims import claims_of, refusal
from fleetplane._decision_reports import DecisionRecorder
from fleetplane._decision_sink import new_decision_source
from fleetplane._details import FieldViolation, StatusDetails
from fleetplane._enums import ExplainLevel
from fleetplane._exceptions import NotFound, StalePolicies
from fleetplane._fail_modes import MAX_STALENESS, FailMode, FailModes
from fleetplane._policy_copy import HeldAgent
from fleetplane._policy_feed import MAX_AGENTS, PolicyFeed
from fleetplane._policy_messages import LEVELS, decision_message
from fleetplane._values import JsonValue
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane_policy import Decision, Request, is_identifier
from fleetplane_policy.attributes import DEFAULT_DELIMITERS
from fleetplane_policy.globs import compile_glob

KEPT_ANSWERS: Final = 4096
"""Different answers that are kept as messages, some 300 bytes each; beyond, keeping starts anew."""

KEPT_NAMES: Final = 4096
"""Actions and tools that are known to be well-formed."""

_NO_CLAIMS: Final[Mapping[str, Any]] = {}


class LocalPolicies:
    """Decides for some agents of this process, without a call: a few microseconds each.

    Use it as an asynchronous context manager; entering waits for the first copy. An answer is what
    the daemon would say at that moment, but for changes on their way here. `snapshot_age_seconds`
    of an answer says how long ago the copy was last known to be the newest: 15 s or so at most
    while the daemon is there. While it is away the last copy decides, for `max_staleness` seconds;
    then the fail mode of the action does.

        async with client.local_policies(agent_id) as policies:
            decision = policies.decide("database_write", {"environment": "production"})

    Every decision is recorded and reported to the daemon in batches. What does not fit into the
    records is dropped, oldest first, counted and reported as a number.

    Made by `FleetClient.local_policies`. All decision points of a client share one watch.
    """

    def __init__(
        self,
        feed: PolicyFeed,
        recorder: DecisionRecorder | None,
        agent_ids: Sequence[str],
        *,
        max_staleness: float = MAX_STALENESS,
        fail_mode: FailModes = FailMode.RAISE,
    ) -> None:
        if not 0 < len(set(agent_ids)) <= MAX_AGENTS or not all(agent_ids):
            raise ValueError(f"name 1-{MAX_AGENTS} agents")
        if not max_staleness > 0:
            raise ValueError("max_staleness must be positive")
        self._feed = feed
        self._recorder = recorder
        self._agent_ids = tuple(dict.fromkeys(agent_ids))
        self._only = self._agent_ids[0] if len(self._agent_ids) == 1 else ""
        self._max_staleness = max_staleness
        self._fail_modes = _compiled(fail_mode)
        self._open = True
        self._answers: dict[int, tuple[Decision, pb.PolicyDecision]] = {}
        self._names = {""}
        self._source = f"-{new_decision_source()}-"
        self._next = count(1).__next__
        for agent_id in self._agent_ids:
            feed.add(agent_id)

    async def __aenter__(self) -> Self:
        """Wait up to 30 s for the first copy; see `ready`.

        Raises:
            TimeoutError: the daemon did not answer in time.
            FleetError: it refuses the watch.
        """
        try:
            await self.ready()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Follow no longer; idempotent. The client goes on reporting what was recorded."""
        if not self._open:
            return
        self._open = False
        for agent_id in self._agent_ids:
            self._feed.remove(agent_id)

    async def ready(self, timeout: float | None = 30.0) -> None:
        """Wait until it is known what decides for every agent, be it that there is no such agent.

        Args:
            timeout: seconds to wait at most; None waits for as long as the daemon is away.

        Raises:
            TimeoutError: the daemon did not answer in time.
            FleetError: it refuses the watch.
        """
        feed, wanted = self._feed, self._agent_ids
        await feed.until(lambda: all(one in feed.agents for one in wanted), timeout)

    async def reached(self, revision: int, timeout: float | None = 30.0) -> None:
        """Wait until the copy has seen a revision, such as that of a policy just written.

        Raises:
            TimeoutError: it did not arrive in time.
            FleetError: the daemon refuses the watch.
        """
        feed = self._feed
        await feed.until(lambda: feed.position.revision >= revision, timeout)

    @property
    def age(self) -> float:
        """Seconds since the copy was last known to be the newest; infinite before the first."""
        return self._feed.age

    @property
    def connected(self) -> bool:
        """Whether the watch is up."""
        return self._feed.connected

    @property
    def unreported(self) -> int:
        """Decisions that were recorded and not reported yet."""
        return self._recorder.waiting if self._recorder is not None else 0

    @property
    def lost(self) -> int:
        """Decisions whose record could not be kept or was refused, since the start."""
        return self._recorder.lost if self._recorder is not None else 0

    def can_decide(self, agent_id: str = "") -> bool:
        """Return whether anything is known about an agent; by default the only one."""
        return self._feed.agents.get(agent_id or self._only) is not None

    def decide(
        self,
        action: str,
        context: Mapping[str, JsonValue] | None = None,
        /,
        *,
        tool: str = "",
        agent_id: str = "",
        session_id: str = "",
        explain: ExplainLevel = ExplainLevel.NONE,
    ) -> pb.PolicyDecision:
        """Decide one action, as `FleetClient.evaluate_policy` does. Never waits for anything.

        A decision of REQUIRE_APPROVAL opens no approval here.

        Args:
            action: what the agent wants to do, such as `database_write`.
            context: claims about the action; they can never replace what the registry knows.
            tool: with which tool, optional.
            agent_id: who wants to act; may be left out where only one agent is followed.
            session_id: the conversation or job it belongs to, for the record.
            explain: how much the decision explains.

        Raises:
            NotFound: no agent has that id.
            InvalidArgument: a malformed action, tool or context.
            TypeError, ValueError: the context is not JSON.
            StalePolicies: the copy is too old, and the fail mode of the action is RAISE.
        """
        feed = self._feed
        agent_id = agent_id or self._only
        if action not in self._names or tool not in self._names or not action:
            self._check_names(action, tool)
        claims = claims_of(context) if context else _NO_CLAIMS
        now = time.monotonic()
        age = now - feed.confirmed_at
        now_ms = int(now * 1000.0 + feed.offset_ms)
        held: HeldAgent | None = None
        if age > self._max_staleness:
            shared = self._stale(action, age)
        else:
            held = feed.agents.get(agent_id)
            if held is None:
                raise self._unknown(agent_id)
            request = Request(
                agent_id=agent_id,
                action=action,
                facts=held.facts,
                claims=claims,
                now_ms=now_ms,
                tool=tool,
            )
            if explain <= ExplainLevel.NONE:
                decision = held.rules.evaluate(request)
                kept = self._answers.get(id(decision))
                shared = kept[1] if kept is not None else self._keep(decision)
            else:
                level = LEVELS[pb.ExplainLevel.ValueType(explain)]
                shared = decision_message(held.rules.evaluate(request, explain=level))
        decision_id = f"dec-{now_ms:012x}{self._source}{self._next():08x}"
        answer = pb.PolicyDecision()
        answer.CopyFrom(shared)
        answer.decision_id = decision_id
        answer.snapshot_age_seconds = age
        if self._recorder is not None:
            self._recorder.keep(
                (
                    now_ms,
                    agent_id,
                    action,
                    tool,
                    session_id,
                    claims,
                    shared,
                    decision_id,
                    age,
                    held.digest if held is not None else "",
                )
            )
        return answer

    def _keep(self, decision: Decision) -> pb.PolicyDecision:
        """Make the message of an answer that the engine shares between equal questions."""
        message = decision_message(decision)
        if len(self._answers) >= KEPT_ANSWERS:
            self._answers.clear()
        self._answers[id(decision)] = decision, message
        return message

    def _check_names(self, action: str, tool: str) -> None:
        wrong = [
            FieldViolation(field, "must be 1-256 characters of [A-Za-z0-9._:/-]")
            for field, text in (("action", action), ("tool", tool))
            if (text or field == "action") and not is_identifier(text)
        ]
        if wrong:
            raise refusal(*wrong)
        if len(self._names) >= KEPT_NAMES:
            self._names.clear()
        self._names.update((action, tool, ""))

    def _unknown(self, agent_id: str) -> Exception:
        if agent_id not in self._agent_ids:
            return ValueError(f"agent {agent_id!r} is not followed here")
        if agent_id not in self._feed.agents:
            return StalePolicies(f"nothing is known about agent {agent_id!r} yet")
        return NotFound(
            f"no agent {agent_id!r}",
            StatusDetails(reason="AGENT_NOT_FOUND", metadata={"agent_id": agent_id}),
        )

    def _stale(self, action: str, age: float) -> pb.PolicyDecision:
        """Answer an action when the copy is too old to.

        Raises:
            StalePolicies: that is its fail mode.
        """
        mode = next((one for matches, one in self._fail_modes if matches(action)), FailMode.RAISE)
        if mode is FailMode.RAISE:
            known = "never heard" if age == float("inf") else f"{age:.0f} s old"
            raise StalePolicies(
                f"the policies in this process are {known}, and may be {self._max_staleness:g} s"
            )
        return pb.PolicyDecision(
            action=pb.POLICY_ACTION_ALLOW if mode is FailMode.ALLOW else pb.POLICY_ACTION_DENY,
            reason=pb.PolicyDecision.REASON_SNAPSHOT_STALE,
            message=f"the policies here are older than {self._max_staleness:g} s; fail mode {mode}",
        )


def _compiled(modes: FailModes) -> list[tuple[Callable[[str], bool], FailMode]]:
    """Return fail modes as tests of an action, in their order.

    Raises:
        ValueError: a malformed glob, or no such mode.
    """
    if isinstance(modes, str):
        return [(lambda _: True, FailMode(modes))]
    return [
        (compile_glob(glob, DEFAULT_DELIMITERS), FailMode(mode)) for glob, mode in modes.items()
    ]
