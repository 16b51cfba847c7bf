"""The life of agents as the client offers it: activate, drain, retire, stop everything."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._values import one_of, to_duration
from fleetplane.v1 import agent_pb2
from fleetplane.v1 import lifecycle_service_pb2 as pb

ANSWER: Final = 5.0
"""Seconds a call that waits at the daemon gets beyond that wait, to be answered."""

STOP_WAIT: Final = 10.0
"""Seconds an emergency stop waits for acknowledgements if nothing else is said."""


class LifecycleCalls(Connected):
    """Moves of agents, for operators.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers: `NotFound` for an agent
    that does not exist, `FailedPrecondition` (INVALID_TRANSITION) for a move that the lifecycle
    does not have, `RevisionConflict` if the agent is not at `expected_revision` (0 does not check).
    """

    async def activate(
        self,
        agent_id: str,
        *,
        reason: str = "",
        confirm_pending: bool = False,
        expected_revision: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> agent_pb2.Agent:
        """Make a REGISTERED or INACTIVE agent ACTIVE; idempotent.

        Args:
            agent_id: which agent.
            reason: why, for the audit.
            confirm_pending: vote for the approval of the parked activation, too.
            expected_revision: see the class.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            FailedPrecondition: a policy refuses it (ACTIVATION_REFUSED), or wants it confirmed
                (ACTIVATION_PENDING).
        """
        connection = self.connection
        request = pb.ActivateRequest(
            namespace=self.namespace,
            agent_id=agent_id,
            reason=reason,
            confirm_pending=confirm_pending,
            expected_revision=expected_revision,
            request_id=request_id or new_request_id(),
        )
        return (await connection.call(connection.lifecycle.Activate, request, timeout)).agent

    async def deactivate(
        self,
        agent_id: str,
        reason: str,
        *,
        drain_deadline: float | timedelta | None = None,
        expected_revision: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.DeactivateResponse:
        """Make an agent INACTIVE, at once or after a drain; idempotent.

        Args:
            agent_id: which agent.
            reason: why; becomes its `status_reason`.
            drain_deadline: seconds that work in flight may go on, 1 s - 24 h. None: not at all,
                its tasks go to other agents or fail.
            expected_revision: see the class.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.
        """
        connection = self.connection
        request = pb.DeactivateRequest(
            namespace=self.namespace,
            agent_id=agent_id,
            reason=reason,
            drain_deadline=to_duration(drain_deadline),
            expected_revision=expected_revision,
            request_id=request_id or new_request_id(),
        )
        return await connection.call(connection.lifecycle.Deactivate, request, timeout)

    async def drain(
        self,
        agent_id: str = "",
        *,
        instance_id: str = "",
        deadline: float | timedelta | None = None,
        reason: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.Drain:
        """Start to drain an agent, or one instance of it: no new work, what runs may finish.

        Idempotent: a drain that is under way is returned, with its deadline replaced.

        Args:
            agent_id: which agent; an instance is enough.
            instance_id: which instance. Empty: all of the agent.
            deadline: seconds until each task's class decides, 1 s - 24 h. None: 15 minutes.
            reason: why.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.
        """
        connection = self.connection
        request = pb.DrainRequest(
            namespace=self.namespace,
            agent_id=agent_id,
            instance_id=instance_id,
            deadline=to_duration(deadline),
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        return (await connection.call(connection.lifecycle.Drain, request, timeout)).drain

    async def get_drain(
        self,
        agent_id: str = "",
        *,
        instance_id: str = "",
        wait: float = 0.0,
        timeout: float | None = None,
    ) -> pb.Drain:
        """Return a drain; `safe_to_stop` says whether nothing is in flight any more.

        Args:
            agent_id: which agent; an instance is enough.
            instance_id: which instance.
            wait: seconds to wait for `safe_to_stop`, at most 600.
            timeout: see the class; None: the channel's default, but longer than `wait`.

        Raises:
            NotFound: nothing is or was drained there (DRAIN_NOT_FOUND).
        """
        connection = self.connection
        request = pb.GetDrainRequest(
            namespace=self.namespace,
            agent_id=agent_id,
            instance_id=instance_id,
            wait=to_duration(wait or None),
        )
        limit = self._limit(timeout, wait)
        return (await connection.call(connection.lifecycle.GetDrain, request, limit)).drain

    async def cancel_drain(
        self,
        agent_id: str = "",
        *,
        instance_id: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> pb.Drain:
        """Undo a drain: the agent or instance takes work again; idempotent.

        Raises:
            NotFound: nothing is or was drained there (DRAIN_NOT_FOUND).
        """
        connection = self.connection
        request = pb.CancelDrainRequest(
            namespace=self.namespace, agent_id=agent_id, instance_id=instance_id, reason=reason
        )
        return (await connection.call(connection.lifecycle.CancelDrain, request, timeout)).drain

    async def decommission(
        self,
        agent_id: str,
        *,
        reason: str = "",
        force: bool = False,
        expected_revision: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.DecommissionResponse:
        """Retire an agent for good; idempotent. With `force` also one that is working."""
        connection = self.connection
        request = pb.DecommissionRequest(
            namespace=self.namespace,
            agent_id=agent_id,
            reason=reason,
            force=force,
            expected_revision=expected_revision,
            request_id=request_id or new_request_id(),
        )
        return await connection.call(connection.lifecycle.Decommission, request, timeout)

    async def emergency_stop(
        self,
        reason: str,
        *,
        tags: Mapping[str, str] | None = None,
        names: str | Sequence[str] = (),
        all: bool = False,  # noqa: A002  # the word of the contract
        wait: float | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.EmergencyStop:
        """Stop everything that matches, now; return who has acknowledged, and how fast.

        Args:
            reason: why; becomes the `status_reason` of the agents.
            tags: agents with all of these.
            names: agents with one of these names. With tags: both must hold.
            all: the whole namespace; only without tags and names.
            wait: seconds to wait for acknowledgements, at most 60. None: 10.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class; None: the channel's default, but longer than `wait`.
        """
        connection = self.connection
        request = pb.EmergencyStopRequest(
            namespace=self.namespace,
            tags=dict(tags or {}),
            names=one_of(names),
            all=all,
            reason=reason,
            wait=to_duration(wait),
            request_id=request_id or new_request_id(),
        )
        limit = self._limit(timeout, STOP_WAIT if wait is None else wait)
        return (await connection.call(connection.lifecycle.EmergencyStop, request, limit)).stop

    async def get_emergency_stop(
        self, stop_id: str, *, timeout: float | None = None
    ) -> pb.EmergencyStop:
        """Return an emergency stop as it stands.

        Raises:
            NotFound: there is no such stop (STOP_NOT_FOUND).
        """
        connection = self.connection
        request = pb.GetEmergencyStopRequest(namespace=self.namespace, stop_id=stop_id)
        answer = await connection.call(connection.lifecycle.GetEmergencyStop, request, timeout)
        return answer.stop

    def _limit(self, timeout: float | None, wait: float) -> float:
        """Return the deadline of a call that waits at the daemon."""
        if timeout is not None:
            return timeout
        return max(self.channel_config.default_timeout, wait + ANSWER)
