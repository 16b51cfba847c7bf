"""What the parts of the client share: one channel, its stubs, one way to call."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from fleetplane._calls import Caller
from fleetplane._channel import ChannelConfig, open_channel
from fleetplane._switching import SwitchingChannel
from fleetplane.v1 import (
    access_service_pb2_grpc,
    approval_service_pb2_grpc,
    audit_service_pb2_grpc,
    config_service_pb2_grpc,
    decision_service_pb2_grpc,
    experiment_service_pb2_grpc,
    identity_service_pb2_grpc,
    lifecycle_service_pb2_grpc,
    namespace_service_pb2_grpc,
    policy_service_pb2_grpc,
    prompt_service_pb2_grpc,
    registry_service_pb2_grpc,
    rollout_service_pb2_grpc,
    routing_service_pb2_grpc,
    task_service_pb2_grpc,
)

if TYPE_CHECKING:  # the asynchronous stubs exist in the type stubs only
    from fleetplane.v1.access_service_pb2_grpc import AccessServiceAsyncStub
    from fleetplane.v1.approval_service_pb2_grpc import ApprovalServiceAsyncStub
    from fleetplane.v1.audit_service_pb2_grpc import AuditServiceAsyncStub
    from fleetplane.v1.config_service_pb2_grpc import ConfigServiceAsyncStub
    from fleetplane.v1.decision_service_pb2_grpc import DecisionServiceAsyncStub
    from fleetplane.v1.experiment_service_pb2_grpc import ExperimentServiceAsyncStub
    from fleetplane.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub
    from fleetplane.v1.lifecycle_service_pb2_grpc import LifecycleServiceAsyncStub
    from fleetplane.v1.namespace_service_pb2_grpc import NamespaceServiceAsyncStub
    from fleetplane.v1.policy_service_pb2_grpc import PolicyServiceAsyncStub
    from fleetplane.v1.prompt_service_pb2_grpc import PromptServiceAsyncStub
    from fleetplane.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub
    from fleetplane.v1.rollout_service_pb2_grpc import RolloutServiceAsyncStub
    from fleetplane.v1.routing_service_pb2_grpc import RoutingServiceAsyncStub
    from fleetplane.v1.task_service_pb2_grpc import TaskServiceAsyncStub


DEFAULT_NAMESPACE: Final = "default"
"""Tenant of those that name none; it exists always."""

Look = Callable[[], Awaitable[ChannelConfig | None]]
"""Looks for credentials that are newer than those in use; None: there are none."""


class Connection:
    """One connection with the stubs on it. Lives in the event loop that opened it.

    Its credentials can be exchanged while it is used: calls and streams in flight go on as they
    are, everything that begins later uses the new ones.

    Args:
        target: address of the daemon.
        config: everything else about the connection.
        look: looks for newer credentials, when the daemon refuses those in use.

    Raises:
        ValueError: a token would travel in plain text to another machine.
    """

    __slots__ = (
        "_config",
        "_look",
        "_target",
        "access",
        "approvals",
        "audit",
        "call",
        "channel",
        "configs",
        "decisions",
        "experiments",
        "identity",
        "lifecycle",
        "namespaces",
        "policies",
        "prompts",
        "registry",
        "rollouts",
        "routing",
        "tasks",
    )

    def __init__(self, target: str, config: ChannelConfig, look: Look | None = None) -> None:
        self._target = target
        self._config = config
        self._look = look
        self.channel = SwitchingChannel(open_channel(target, config))
        self.call = Caller(config, None if look is None else self._refresh)
        self.identity: IdentityServiceAsyncStub = identity_service_pb2_grpc.IdentityServiceStub(
            self.channel
        )
        self.access: AccessServiceAsyncStub = access_service_pb2_grpc.AccessServiceStub(
            self.channel
        )
        self.namespaces: NamespaceServiceAsyncStub = (
            namespace_service_pb2_grpc.NamespaceServiceStub(self.channel)
        )
        self.registry: RegistryServiceAsyncStub = registry_service_pb2_grpc.RegistryServiceStub(
            self.channel
        )
        self.configs: ConfigServiceAsyncStub = config_service_pb2_grpc.ConfigServiceStub(
            self.channel
        )
        self.policies: PolicyServiceAsyncStub = policy_service_pb2_grpc.PolicyServiceStub(
            self.channel
        )
        self.decisions: DecisionServiceAsyncStub = decision_service_pb2_grpc.DecisionServiceStub(
            self.channel
        )
        self.prompts: PromptServiceAsyncStub = prompt_service_pb2_grpc.PromptServiceStub(
            self.channel
        )
        self.lifecycle: LifecycleServiceAsyncStub = lifecycle_service_pb2_grpc.LifecycleServiceStub(
            self.channel
        )
        self.tasks: TaskServiceAsyncStub = task_service_pb2_grpc.TaskServiceStub(self.channel)
        self.routing: RoutingServiceAsyncStub = routing_service_pb2_grpc.RoutingServiceStub(
            self.channel
        )
        self.approvals: ApprovalServiceAsyncStub = approval_service_pb2_grpc.ApprovalServiceStub(
            self.channel
        )
        self.audit: AuditServiceAsyncStub = audit_service_pb2_grpc.AuditServiceStub(self.channel)
        self.experiments: ExperimentServiceAsyncStub = (
            experiment_service_pb2_grpc.ExperimentServiceStub(self.channel)
        )
        self.rollouts: RolloutServiceAsyncStub = rollout_service_pb2_grpc.RolloutServiceStub(
            self.channel
        )

    def exchange(self, config: ChannelConfig) -> None:
        """Use other credentials from now on; only `tls` and `token` of the config may differ.

        Raises:
            ValueError: as at the beginning.
        """
        if config.tls != self._config.tls:
            self.channel.switch(open_channel(self._target, config))
        self._config = config
        self.call.use(config)

    async def _refresh(self) -> None:
        if self._look is not None and (newer := await self._look()) is not None:
            self.exchange(newer)


class Connected:
    """Base of the parts of the client.

    Args:
        target: address of the daemon.
        namespace: tenant of every call; empty: that of the identity, or `default`.
        channel_config: everything else about the connection.
    """

    def __init__(self, target: str, namespace: str, channel_config: ChannelConfig) -> None:
        self._target = target
        self._namespace = namespace
        self._channel_config = channel_config
        self._connection: Connection | None = None

    @property
    def target(self) -> str:
        """Address of the daemon."""
        return self._target

    @property
    def namespace(self) -> str:
        """Tenant of every call."""
        return self._namespace or DEFAULT_NAMESPACE

    @property
    def channel_config(self) -> ChannelConfig:
        """Everything else about the connection."""
        return self._channel_config

    @property
    def connection(self) -> Connection:
        """The open channel.

        Raises:
            RuntimeError: the client was not entered, or was left already.
        """
        if self._connection is None:
            raise RuntimeError("the client is closed: use it within `async with FleetClient(...)`")
        return self._connection
