"""The state of the control plane in memory that `fleet_server` serves: it survives restarts."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import (  # type: ignore[import-untyped]  # ships stubs but no py.typed
    code_pb2,
    error_details_pb2,
    status_pb2,
)
from grpc_status import rpc_status

from fleetplane.v1 import (
    agent_pb2,
    config_service_pb2,
    error_reason_pb2,
    policy_service_pb2,
    registry_service_pb2,
    watch_pb2,
)


@dataclass(eq=False)
class Refusal(Exception):
    """How a call is refused."""

    code: grpc.StatusCode
    reason: str
    message: str = "refused"
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    violations: tuple[tuple[str, str], ...] = ()

    def status(self) -> Any:
        """Build the rich status, the way the daemon does."""
        details: list[Any] = [
            error_details_pb2.ErrorInfo(
                domain="fleetplane.dev", reason=self.reason, metadata=self.metadata
            )
        ]
        if self.retry_after is not None:
            delay = duration_pb2.Duration(nanos=round(self.retry_after * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for name, text in self.violations:
                bad.field_violations.add(field=name, description=text)
            details.append(bad)
        packed = [any_pb2.Any() for _ in details]
        for one, detail in zip(packed, details, strict=True):
            one.Pack(detail)
        return rpc_status.to_status(
            status_pb2.Status(
                code=code_pb2.Code.Value(self.code.name), message=self.message, details=packed
            )
        )

    def entry(self) -> error_reason_pb2.EntryError:
        """Build the refusal of one entry of a batch."""
        return error_reason_pb2.EntryError(
            code=self.code.value[0],
            reason=error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{self.reason}"),
            message=self.message,
            metadata=self.metadata,
            violations=[
                error_reason_pb2.EntryFieldViolation(field=name, description=text)
                for name, text in self.violations
            ],
        )


UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=0.01)


class Plane:
    """What survives a restart: agents, configurations, policies, and what was seen."""

    def __init__(self) -> None:
        self.epoch = "epoch-1"
        self.revision = 0
        self.agents: dict[str, agent_pb2.Agent] = {}
        self.removed: dict[str, int] = {}
        self.instances: dict[str, agent_pb2.Instance] = {}
        self.layers: dict[tuple[str, str], dict[str, Any]] = {}
        self.layer_revisions: dict[tuple[str, str], int] = {}
        self.policies: dict[str, policy_service_pb2.Policy] = {}
        self.verdicts: dict[str, policy_service_pb2.PolicyAction.ValueType] = {}
        self.answers: dict[str, Any] = {}
        self.failures: defaultdict[str, deque[Refusal]] = defaultdict(deque)
        self.calls: Counter[str] = Counter()
        self.request_ids: list[str] = []
        self.batch_sizes: list[int] = []
        self.beats: list[registry_service_pb2.Beat] = []
        self.latest: dict[str, registry_service_pb2.Beat] = {}
        self.outcomes: dict[str, registry_service_pb2.BeatResult.Outcome.ValueType] = {}
        self.commands: deque[registry_service_pb2.Command] = deque()
        self.interval = 0.05
        self.ttl = 2.0
        self.silent = False
        self.goodbyes_to_lose = 0
        self.streams: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.watched: list[config_service_pb2.WatchConfigRequest] = []
        self.discovered: list[registry_service_pb2.DiscoverRequest] = []
        self.sent_away = 0
        self.gate: Callable[[str, Any], Refusal | None] | None = None
        self._changed = asyncio.Event()

    def touch(self) -> None:
        """Wake everybody who waits for something."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self) -> None:
        """Wait for the next touch."""
        await self._changed.wait()

    async def until(self, condition: Callable[[], object], within: float = 10.0) -> None:
        """Wait until a condition over the plane holds."""
        async with asyncio.timeout(within):
            while not condition():
                await self.changed()

    def position(self) -> watch_pb2.WatchPosition:
        """Where the plane is."""
        return watch_pb2.WatchPosition(epoch=self.epoch, revision=self.revision)

    def put_agent(self, agent_id: str, **spec: Any) -> agent_pb2.Agent:
        """Write an agent, as ACTIVE."""
        self.revision += 1
        agent = agent_pb2.Agent(
            agent_id=agent_id,
            namespace="default",
            spec=agent_pb2.AgentSpec(**{"name": agent_id, "version": "1.0.0", **spec}),
            status=agent_pb2.AGENT_STATUS_ACTIVE,
            revision=self.revision,
        )
        self.agents[agent_id] = agent
        self.removed.pop(agent_id, None)
        self.touch()
        return agent

    def remove_agent(self, agent_id: str) -> None:
        """Remove an agent."""
        self.revision += 1
        del self.agents[agent_id]
        self.removed[agent_id] = self.revision
        self.touch()

    def put_config(self, layer: tuple[str, str] = ("", ""), /, **values: Any) -> int:
        """Set values of a layer, `("name", x)`, `("id", x)` or the namespace's."""
        self.revision += 1
        self.layers.setdefault(layer, {}).update(values)
        self.layer_revisions[layer] = self.revision
        self.touch()
        return self.revision

    def effective(
        self, scope: config_service_pb2.ConfigScope
    ) -> config_service_pb2.EffectiveConfig:
        """Merge the layers of a scope."""
        values: dict[str, Any] = {
            "model": "claude-sonnet-4-6",
            "temperature": 0.7,
            "max_tokens": 4096,
            "max_retries": 3,
            "timeout_seconds": 30.0,
            "rate_limit_rpm": 60,
        }
        agent = self.agents.get(scope.agent_id)
        name = scope.agent_name or (agent.spec.name if agent else "")
        layers = [("", ""), ("name", name), ("id", scope.agent_id)]
        for layer in layers:
            values.update(self.layers.get(layer, {}))
        revision = max(self.layer_revisions.get(layer, 0) for layer in layers)
        return config_service_pb2.EffectiveConfig(
            **values, revision=revision, digest=repr(sorted(values.items()))
        )

    def send_everybody_away(self) -> None:
        """End all streams with GoAway."""
        self.sent_away += 1
        self.touch()

    def new_history(self, epoch: str) -> None:
        """Continue in another epoch: watchers need a snapshot."""
        self.epoch = epoch
        self.touch()


def duration(seconds: float) -> duration_pb2.Duration:
    """Convert seconds."""
    return duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
