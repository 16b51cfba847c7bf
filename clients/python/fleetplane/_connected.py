"""What the parts of the client share: one channel, its stubs, one way to call."""

from typing import TYPE_CHECKING

import grpc

from fleetplane._calls import Caller
from fleetplane._channel import ChannelConfig, open_channel
from fleetplane.v1 import (
    config_service_pb2_grpc,
    lifecycle_service_pb2_grpc,
    policy_service_pb2_grpc,
    registry_service_pb2_grpc,
    rollout_service_pb2_grpc,
    routing_service_pb2_grpc,
    task_service_pb2_grpc,
)

if TYPE_CHECKING:  # the asynchronous stubs exist in the type stubs only
    from fleetplane.v1.config_service_pb2_grpc import ConfigServiceAsyncStub
    from fleetplane.v1.lifecycle_service_pb2_grpc import LifecycleServiceAsyncStub
    from fleetplane.v1.policy_service_pb2_grpc import PolicyServiceAsyncStub
    from fleetplane.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub
    from fleetplane.v1.rollout_service_pb2_grpc import RolloutServiceAsyncStub
    from fleetplane.v1.routing_service_pb2_grpc import RoutingServiceAsyncStub
    from fleetplane.v1.task_service_pb2_grpc import TaskServiceAsyncStub


class Connection:
    """One open channel with the stubs on it. Lives in the event loop that opened it.

    Args:
        target: address of the daemon.
        config: everything else about the connection.
    """

    __slots__ = (
        "call",
        "channel",
        "configs",
        "lifecycle",
        "policies",
        "registry",
        "rollouts",
        "routing",
        "tasks",
    )

    def __init__(self, target: str, config: ChannelConfig) -> None:
        self.channel: grpc.aio.Channel = open_channel(target, config)
        self.call = Caller(config)
        self.registry: RegistryServiceAsyncStub = registry_service_pb2_grpc.RegistryServiceStub(
            self.channel
        )
        self.configs: ConfigServiceAsyncStub = config_service_pb2_grpc.ConfigServiceStub(
            self.channel
        )
        self.policies: PolicyServiceAsyncStub = policy_service_pb2_grpc.PolicyServiceStub(
            self.channel
        )
        self.lifecycle: LifecycleServiceAsyncStub = lifecycle_service_pb2_grpc.LifecycleServiceStub(
            self.channel
        )
        self.tasks: TaskServiceAsyncStub = task_service_pb2_grpc.TaskServiceStub(self.channel)
        self.routing: RoutingServiceAsyncStub = routing_service_pb2_grpc.RoutingServiceStub(
            self.channel
        )
        self.rollouts: RolloutServiceAsyncStub = rollout_service_pb2_grpc.RolloutServiceStub(
            self.channel
        )


class Connected:
    """Base of the parts of the client.

    Args:
        target: address of the daemon.
        namespace: tenant of every call.
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
        return self._namespace

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
