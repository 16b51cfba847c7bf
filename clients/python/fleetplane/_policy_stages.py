"""The vocabulary of changing sets of policies, and their tests as they are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from fleetplane._enums import OpenEnum, PolicyAction
from fleetplane._values import JsonValue, one_of, to_struct
from fleetplane.v1 import policy_service_pb2 as pb


class PolicyStageKind(OpenEnum):
    """How far a candidate is."""

    UNSPECIFIED = 0
    """Never sent."""
    FULL = 1
    """It becomes the live policies."""
    PERCENT = 2
    """It decides for a share of the agents, the same ones on every replica."""
    SHADOW = 3
    """It decides for nobody; what it would decide is compared."""


class PolicyChangeKind(OpenEnum):
    """What made a revision of the policies."""

    UNSPECIFIED = 0
    """Never sent."""
    CREATED = 1
    """A policy was added."""
    UPDATED = 2
    """A policy was changed."""
    DELETED = 3
    """A policy was removed."""
    ACTIVATED = 4
    """A candidate became live."""
    ROLLED_BACK = 5
    """An older revision was restored."""
    SETTINGS = 6
    """The defaults were changed."""
    TESTS = 7
    """The tests were changed; what decides is the same."""


class DecisionDurability(OpenEnum):
    """How certainly a decision is recorded."""

    UNSPECIFIED = 0
    """Same as ASYNC."""
    SYNC = 1
    """The answer waits until the record is safe."""
    ASYNC = 2
    """Right after the answer; what is lost is counted."""
    SAMPLED = 3
    """A share of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLogRule:
    """How decisions on some actions are recorded."""

    actions: str | Sequence[str]
    """Globs as in the targets of policies."""
    durability: DecisionDurability = DecisionDurability.ASYNC
    """How."""
    sample_rate: float = 1.0
    """Of SAMPLED: the share that is recorded."""

    def to_proto(self) -> pb.DecisionLogRule:
        """Return it as a message."""
        return pb.DecisionLogRule(
            actions=one_of(self.actions),
            durability=pb.DecisionDurability.ValueType(self.durability),
            sample_rate=self.sample_rate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTestAgent:
    """An agent as a test describes it; it need not be registered."""

    name: str = ""
    """Name."""
    version: str = ""
    """Version."""
    owner: str = ""
    """Owner."""
    model: str = ""
    """Model."""
    status: str = ""
    """Such as `ACTIVE`, which is the default."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags."""
    capabilities: str | Sequence[str] = ()
    """Capabilities."""
    tools: str | Sequence[str] = ()
    """Tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTest:
    """A question and what must be answered."""

    name: str
    """Unique among the tests."""
    action: str
    """What is asked."""
    expect: PolicyAction
    """The answer that is expected."""
    tool: str = ""
    """With which tool."""
    agent_id: str = ""
    """A registered agent, on its facts of the day of the test; empty: `agent`."""
    agent: PolicyTestAgent | None = None
    """An agent that is described here."""
    context: Mapping[str, JsonValue] = field(default_factory=dict)
    """Claims about the action."""
    now: datetime | None = None
    """When it is asked; None: when the test runs."""
    determining: Sequence[str] | None = None
    """Policies that must determine it, in any order; None: whichever."""

    def to_proto(self) -> pb.PolicyTest:
        """Return it as a message."""
        test = pb.PolicyTest(
            name=self.name,
            action=self.action,
            tool=self.tool,
            agent_id=self.agent_id,
            context=to_struct(self.context),
            expect=pb.PolicyAction.ValueType(self.expect),
            determining=self.determining or (),
            check_determining=self.determining is not None,
        )
        if self.now is not None:
            test.now.CopyFrom(moment_of(self.now))
        if self.agent is not None:
            test.agent.CopyFrom(
                pb.PolicyTestAgent(
                    name=self.agent.name,
                    version=self.agent.version,
                    owner=self.agent.owner,
                    model=self.agent.model,
                    status=self.agent.status,
                    tags=self.agent.tags,
                    capabilities=one_of(self.agent.capabilities),
                    tools=one_of(self.agent.tools),
                )
            )
        return test


def moment_of(moment: datetime) -> Timestamp:
    """Return a time as a message.

    Raises:
        ValueError: it has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a time needs a time zone")
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
