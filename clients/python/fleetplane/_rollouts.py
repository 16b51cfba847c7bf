"""Rollouts as the client offers them: replace a version while it works."""

from collections.abc import AsyncIterator, Iterable

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._enums import RolloutPhase
from fleetplane._following import RolloutWatch
from fleetplane._rollout_plan import RolloutPlan
from fleetplane._spec import AgentSpec
from fleetplane.v1 import rollout_service_pb2 as pb


class RolloutCalls(Connected):
    """Replacements of one version of an agent by another, step by step, for operators.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers: `NotFound`
    (ROLLOUT_NOT_FOUND) for one that does not exist, `FailedPrecondition` (INVALID_TRANSITION) for
    a move that its phase does not have.
    """

    async def start_rollout(
        self,
        agent_name: str,
        to_version: str,
        *,
        from_version: str = "",
        canary: AgentSpec | None = None,
        plan: RolloutPlan | None = None,
        reason: str = "",
        supersede: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.Rollout:
        """Start to replace a version by another; one rollout per agent name at a time.

        Args:
            agent_name: which agent.
            to_version: the version that comes; its instances are yours to start.
            from_version: the version that goes. Empty: the one that has the whole route, else the
                only ACTIVE one.
            canary: what to register as the new version if it is not registered. None: a copy of
                the old one.
            plan: steps and how they are judged; None: all defaults.
            reason: why.
            supersede: take the place of an active rollout of the same agent.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            InvalidArgument: the plan contradicts itself; see `violations`.
            NotFound: the old version does not exist (AGENT_NOT_FOUND).
            FailedPrecondition: another one is under way (ROLLOUT_ACTIVE).
        """
        connection = self.connection
        request = pb.StartRolloutRequest(
            namespace=self.namespace,
            agent_name=agent_name,
            to_version=to_version,
            from_version=from_version,
            canary=None if canary is None else canary.to_message(),
            plan=None if plan is None else plan.to_message(),
            reason=reason,
            supersede=supersede,
            request_id=request_id or new_request_id(),
        )
        return (await connection.call(connection.rollouts.StartRollout, request, timeout)).rollout

    async def get_rollout(
        self,
        rollout_id: str = "",
        *,
        agent_name: str = "",
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.Rollout:
        """Return a rollout: by id, or the active or else newest one of an agent name."""
        connection = self.connection
        request = pb.GetRolloutRequest(
            namespace=self.namespace,
            rollout_id=rollout_id,
            agent_name=agent_name,
            min_revision=min_revision,
        )
        return (await connection.call(connection.rollouts.GetRollout, request, timeout)).rollout

    async def list_rollouts_page(
        self,
        *,
        agent_name: str = "",
        phases: Iterable[RolloutPhase] = (),
        active_only: bool = False,
        page_size: int = 0,
        page_token: str = "",
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.ListRolloutsResponse:
        """Return one page of rollouts, newest first, without their measurements."""
        connection = self.connection
        request = pb.ListRolloutsRequest(
            namespace=self.namespace,
            agent_name=agent_name,
            phases=[pb.RolloutPhase.ValueType(phase) for phase in phases],
            active_only=active_only,
            page_size=page_size,
            page_token=page_token,
            min_revision=min_revision,
        )
        return await connection.call(connection.rollouts.ListRollouts, request, timeout)

    async def list_rollouts(
        self,
        *,
        agent_name: str = "",
        phases: Iterable[RolloutPhase] = (),
        active_only: bool = False,
        page_size: int = 0,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Rollout]:
        """Iterate over rollouts, newest first, page by page, without their measurements.

        Args:
            agent_name: of this agent; empty: of all.
            phases: in one of these; empty: any.
            active_only: only those that have not ended.
            page_size: rollouts per page, 1-1,000; 0 means 100.
            min_revision: wait until the answering replica has seen that revision.
            timeout: deadline of one page.
        """
        wanted = tuple(phases)
        token = ""
        while True:
            page = await self.list_rollouts_page(
                agent_name=agent_name,
                phases=wanted,
                active_only=active_only,
                page_size=page_size,
                page_token=token,
                min_revision=min_revision,
                timeout=timeout,
            )
            for rollout in page.rollouts:
                yield rollout
            token = page.next_page_token
            if not token:
                return

    def watch_rollout(self, rollout_id: str = "", *, agent_name: str = "") -> RolloutWatch:
        """Follow a rollout: as it is now, then after every change, until it has ended.

        Goes on after any interruption. By `agent_name`: the active, or else newest, one.
        """
        connection = self.connection
        request = pb.WatchRolloutRequest(
            namespace=self.namespace, rollout_id=rollout_id, agent_name=agent_name
        )

        def open_at(seen_id: str) -> object:
            if seen_id:
                # By name it could be another rollout by now: it goes on with the one it has seen.
                request.rollout_id, request.agent_name = seen_id, ""
            return connection.rollouts.WatchRollout(request, metadata=connection.call.metadata)

        return RolloutWatch(open_at, caller=connection.call)

    async def pause_rollout(
        self, rollout_id: str, *, reason: str = "", timeout: float | None = None
    ) -> pb.Rollout:
        """Hold a rollout where it is; weights stay. Idempotent."""
        connection = self.connection
        request = pb.PauseRolloutRequest(
            namespace=self.namespace, rollout_id=rollout_id, reason=reason
        )
        return (await connection.call(connection.rollouts.PauseRollout, request, timeout)).rollout

    async def resume_rollout(
        self, rollout_id: str, *, reason: str = "", timeout: float | None = None
    ) -> pb.Rollout:
        """Go on with a paused rollout; the step is entered anew. Idempotent."""
        connection = self.connection
        request = pb.ResumeRolloutRequest(
            namespace=self.namespace, rollout_id=rollout_id, reason=reason
        )
        return (await connection.call(connection.rollouts.ResumeRollout, request, timeout)).rollout

    async def promote_rollout(
        self,
        rollout_id: str,
        *,
        full: bool = False,
        expected_step_index: int | None = None,
        reason: str = "",
        timeout: float | None = None,
    ) -> pb.Rollout:
        """Go on to the next step, or (`full`) all the way, without waiting for a verdict.

        With `expected_step_index`, the step the caller has seen, two callers do not skip two; so
        does a call that is repeated because its answer got lost.
        """
        connection = self.connection
        request = pb.PromoteRolloutRequest(
            namespace=self.namespace,
            rollout_id=rollout_id,
            full=full,
            expected_step_index=expected_step_index,
            reason=reason,
        )
        return (await connection.call(connection.rollouts.PromoteRollout, request, timeout)).rollout

    async def abort_rollout(
        self, rollout_id: str, *, reason: str = "", timeout: float | None = None
    ) -> pb.Rollout:
        """Roll back: the old version gets everything again. Idempotent."""
        connection = self.connection
        request = pb.AbortRolloutRequest(
            namespace=self.namespace, rollout_id=rollout_id, reason=reason
        )
        return (await connection.call(connection.rollouts.AbortRollout, request, timeout)).rollout

    async def retry_rollout(
        self,
        rollout_id: str,
        *,
        reason: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.Rollout:
        """Start a rollout anew that was rolled back or failed, with the same plan.

        Raises:
            FailedPrecondition: another one of this agent is under way (ROLLOUT_ACTIVE).
        """
        connection = self.connection
        request = pb.RetryRolloutRequest(
            namespace=self.namespace,
            rollout_id=rollout_id,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        return (await connection.call(connection.rollouts.RetryRollout, request, timeout)).rollout
