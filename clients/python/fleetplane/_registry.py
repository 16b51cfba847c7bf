"""The registry as the client offers it: register, look up, discover, watch."""

from collections.abc import AsyncIterator, Sequence
from typing import Unpack

from fleetplane._calls import new_request_id
from fleetplane._config import NOWHERE, Position
from fleetplane._connected import Connected
from fleetplane._exceptions import FleetError, error_from_entry
from fleetplane._spec import (
    AgentSpec,
    FilterFields,
    InstanceSpec,
    Registration,
    SpecFields,
    agent_filter,
    spec_changes,
)
from fleetplane._watches import AgentWatch
from fleetplane.v1 import agent_pb2, watch_pb2
from fleetplane.v1 import registry_service_pb2 as pb


class RegistryCalls(Connected):
    """Who exists, who is alive, who is best for a job.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers. `min_revision` makes a
    read wait until the answering replica has seen that revision.
    """

    async def register(
        self,
        spec: AgentSpec,
        *,
        agent_id: str = "",
        instance: InstanceSpec | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.RegisterResponse:
        """Register an agent, and the calling process if `instance` is given.

        Idempotent: identical content finds the existing record.

        Raises:
            AlreadyExists: name@version or agent_id belongs to other content.
            FailedPrecondition: the agent is decommissioned.
        """
        registration = Registration(
            spec=spec, agent_id=agent_id, instance=instance, request_id=request_id
        )
        connection = self.connection
        request = _register_request(registration)
        request.namespace = self.namespace
        return await connection.call(connection.registry.Register, request, timeout)

    async def batch_register(
        self, registrations: Sequence[Registration], *, timeout: float | None = None
    ) -> list[pb.RegisterResponse | FleetError]:
        """Register 1-500 agents in one call; each succeeds or fails by itself, in order."""
        connection = self.connection
        request = pb.BatchRegisterRequest(
            namespace=self.namespace, requests=[_register_request(one) for one in registrations]
        )
        response = await connection.call(connection.registry.BatchRegister, request, timeout)
        return [
            error_from_entry(one.error) if one.WhichOneof("outcome") == "error" else one.registered
            for one in response.results
        ]

    async def deregister(
        self,
        instance_id: str,
        *,
        generation: int = 0,
        reason: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> bool:
        """Remove an instance; False if it was not there any more.

        Args:
            instance_id: which one.
            generation: remove only this generation; 0 removes whichever is current.
            reason: why, for the audit.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            FailedPrecondition: a newer process took the instance_id (INSTANCE_FENCED).
        """
        connection = self.connection
        request = pb.DeregisterRequest(
            namespace=self.namespace,
            instance_id=instance_id,
            generation=generation,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        response = await connection.call(connection.registry.Deregister, request, timeout)
        return response.removed

    async def get_agent(
        self, agent_id: str, *, min_revision: int = 0, timeout: float | None = None
    ) -> agent_pb2.Agent:
        """Return one agent with its instances.

        Raises:
            NotFound: no agent has that id.
        """
        connection = self.connection
        request = pb.GetAgentRequest(
            namespace=self.namespace, agent_id=agent_id, min_revision=min_revision
        )
        return (await connection.call(connection.registry.GetAgent, request, timeout)).agent

    async def update_agent(
        self,
        agent_id: str,
        *,
        expected_revision: int = 0,
        reason: str = "",
        request_id: str = "",
        timeout: float | None = None,
        **changes: Unpack[SpecFields],
    ) -> agent_pb2.Agent:
        """Change what is declared about an agent; fields that are not named stay.

        Args:
            agent_id: which agent.
            expected_revision: refuse if the agent is not at this revision; 0 does not check.
            reason: why, for the audit.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.
            **changes: new values. `degraded_after=None` goes back to the daemon's setting.

        Raises:
            NotFound: no agent has that id.
            RevisionConflict: somebody else changed it.
        """
        connection = self.connection
        spec, mask = spec_changes(changes)
        request = pb.UpdateAgentRequest(
            namespace=self.namespace,
            agent_id=agent_id,
            spec=spec,
            update_mask=mask,
            expected_revision=expected_revision,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        return (await connection.call(connection.registry.UpdateAgent, request, timeout)).agent

    async def list_agents_page(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        include_instances: bool = False,
        min_revision: int = 0,
        timeout: float | None = None,
        **conditions: Unpack[FilterFields],
    ) -> pb.ListAgentsResponse:
        """Return one page of agents of any status, ordered by agent_id; see `FilterFields`."""
        connection = self.connection
        request = pb.ListAgentsRequest(
            namespace=self.namespace,
            filter=agent_filter(**conditions),
            page_size=page_size,
            page_token=page_token,
            min_revision=min_revision,
            include_instances=include_instances,
        )
        return await connection.call(connection.registry.ListAgents, request, timeout)

    async def list_agents(
        self,
        *,
        page_size: int = 0,
        include_instances: bool = False,
        min_revision: int = 0,
        timeout: float | None = None,
        **conditions: Unpack[FilterFields],
    ) -> AsyncIterator[agent_pb2.Agent]:
        """Iterate over agents of any status, page by page; `timeout` is that of one page."""
        token = ""
        while True:
            page = await self.list_agents_page(
                page_size=page_size,
                page_token=token,
                include_instances=include_instances,
                min_revision=min_revision,
                timeout=timeout,
                **conditions,
            )
            for agent in page.agents:
                yield agent
            token = page.next_page_token
            if not token:
                return

    async def discover_page(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        route: bool = False,
        session_id: str = "",
        include_draining: bool = False,
        min_revision: int = 0,
        timeout: float | None = None,
        **conditions: Unpack[FilterFields],
    ) -> pb.DiscoverResponse:
        """Return one page of agents that satisfy all conditions; see `discover`."""
        connection = self.connection
        request = pb.DiscoverRequest(
            namespace=self.namespace,
            filter=agent_filter(**conditions),
            page_size=page_size,
            page_token=page_token,
            min_revision=min_revision,
            route=route,
            session_id=session_id,
            include_draining=include_draining,
        )
        return await connection.call(connection.registry.Discover, request, timeout)

    async def discover(
        self,
        *,
        page_size: int = 0,
        route: bool = False,
        session_id: str = "",
        include_draining: bool = False,
        min_revision: int = 0,
        timeout: float | None = None,
        **conditions: Unpack[FilterFields],
    ) -> AsyncIterator[agent_pb2.Agent]:
        """Iterate over the agents that satisfy all conditions; ACTIVE unless told otherwise.

        For discovery without a call, keep a `Catalogue`.

        Args:
            page_size: agents per page, 1-1,000; 0 means 100.
            route: honour routes: of an agent name that has one, only the version that the session
                goes to.
            session_id: the session, with `route`. Empty: each call is dealt out anew.
            include_draining: also agents that take no new work.
            min_revision: see the class.
            timeout: deadline of one page.
            **conditions: which agents.
        """
        token = ""
        while True:
            page = await self.discover_page(
                page_size=page_size,
                page_token=token,
                route=route,
                session_id=session_id,
                include_draining=include_draining,
                min_revision=min_revision,
                timeout=timeout,
                **conditions,
            )
            for agent in page.agents:
                yield agent
            token = page.next_page_token
            if not token:
                return

    async def find_best_agent(
        self,
        *,
        task_description: str = "",
        prefer_low_latency: bool = False,
        session_id: str = "",
        max_explained: int | None = None,
        min_revision: int = 0,
        timeout: float | None = None,
        **conditions: Unpack[FilterFields],
    ) -> pb.FindBestAgentResponse:
        """Return the best agent for a job, its least loaded instance, and why.

        Where the agent has a route, `route` of the answer says why it is this version.

        Args:
            task_description: what is to be done, in words; ranks by text match.
            prefer_low_latency: weigh measured latency more.
            session_id: chooses the version where there is a route, and breaks ties, the same way
                for the same session. Empty: dealt out anew with every call.
            max_explained: candidates and rejections to report, 0-100; None: the daemon's 10.
            min_revision: see the class.
            timeout: see the class.
            **conditions: what candidates must satisfy; `statuses` must not be given.

        Raises:
            NotFound: nobody qualifies (NO_CANDIDATE); `metadata` has the nearest misses.
        """
        connection = self.connection
        request = pb.FindBestAgentRequest(
            namespace=self.namespace,
            filter=agent_filter(**conditions),
            prefer_low_latency=prefer_low_latency,
            task_description=task_description,
            session_id=session_id,
            min_revision=min_revision,
        )
        if max_explained is not None:
            request.max_explained = max_explained
        return await connection.call(connection.registry.FindBestAgent, request, timeout)

    def watch_agents(
        self,
        *,
        resume_from: Position = NOWHERE,
        include_instances: bool = False,
        **conditions: Unpack[FilterFields],
    ) -> AgentWatch:
        """Watch the agents that satisfy all conditions, across reconnects.

        Args:
            resume_from: what the caller holds already; nothing: a snapshot comes first.
            include_instances: fill `instances` of each agent.
            **conditions: which agents; by default all, of any status.
        """
        connection = self.connection
        template = pb.WatchAgentsRequest(
            namespace=self.namespace,
            filter=agent_filter(**conditions),
            include_instances=include_instances,
        )

        def open_at(held: watch_pb2.WatchPosition | None) -> object:
            request = pb.WatchAgentsRequest()
            request.CopyFrom(template)
            if held is not None:
                request.resume_from.CopyFrom(held)
            return connection.registry.WatchAgents(request, metadata=connection.call.metadata)

        return AgentWatch(open_at, held=resume_from, caller=connection.call)


def _register_request(registration: Registration) -> pb.RegisterRequest:
    instance = registration.instance
    return pb.RegisterRequest(
        agent_id=registration.agent_id,
        spec=registration.spec.to_message(),
        instance=None if instance is None else instance.to_message(),
        request_id=registration.request_id or new_request_id(),
    )
