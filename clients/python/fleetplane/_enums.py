"""The enums of the contract in short: members equal the numbers that messages carry.

`AgentStatus.ACTIVE` is `AGENT_STATUS_ACTIVE` of `fleetplane.v1`; `PolicyAction(decision.action)`
reads one from a message. A number that is missing here came from a newer daemon and reads as
UNSPECIFIED.
"""

import enum


class _Open(enum.IntEnum):
    """An enum of the contract: it grows, and old readers must live with that."""

    @classmethod
    def _missing_(cls, value: object) -> "_Open | None":
        return cls(0) if isinstance(value, int) and value else None


class AgentStatus(_Open):
    """Where an agent is in its life."""

    UNSPECIFIED = 0
    """Not a status."""
    REGISTERED = 1
    """Known, but not allowed to work yet."""
    ACTIVE = 2
    """At least one instance is fresh and the agent may take work."""
    DEGRADED = 3
    """Every instance has been silent for too long; a beat brings it back."""
    INACTIVE = 4
    """Not working: by an operator, or because every instance was lost."""
    DECOMMISSIONED = 5
    """Retired for good."""


class Activation(_Open):
    """How an agent becomes ACTIVE after registration."""

    UNSPECIFIED = 0
    """Same as AUTO."""
    AUTO = 1
    """At its first heartbeat, if its configuration is valid and the policies allow it."""
    MANUAL = 2
    """Only by an explicit activation."""


class ConfigStatus(_Open):
    """What became of a configuration in an instance."""

    UNSPECIFIED = 0
    """Nothing said yet."""
    APPLYING = 1
    """The attempted revision is being applied."""
    APPLIED = 2
    """The attempted revision runs."""
    FAILED = 3
    """The attempted revision was refused; the running one stays."""


class PolicyAction(_Open):
    """What a policy, or the whole set of policies, says."""

    UNSPECIFIED = 0
    """Never sent."""
    ALLOW = 1
    """Permitted."""
    DENY = 2
    """Refused."""
    REQUIRE_APPROVAL = 3
    """Permitted only after somebody approves it."""
    LOG_ONLY = 4
    """Permitted and recorded."""

    @property
    def permits(self) -> bool:
        """Whether the action may be done now."""
        return self in {PolicyAction.ALLOW, PolicyAction.LOG_ONLY}


class OnMissing(_Open):
    """What a condition means when the attribute it reads is absent."""

    UNSPECIFIED = 0
    """Same as NO_MATCH."""
    NO_MATCH = 1
    """The policy does not match."""
    MATCH = 2
    """DENY and REQUIRE_APPROVAL match (fail closed), ALLOW does not."""


class ExplainLevel(_Open):
    """How much a decision explains."""

    UNSPECIFIED = 0
    """Same as NONE."""
    NONE = 1
    """Outcome, reason and ids only."""
    DETERMINING = 2
    """The leaves of the determining policies."""
    FULL = 3
    """Every policy: target, leaves, result."""


class BatchMode(_Open):
    """When a batch of evaluations stops."""

    UNSPECIFIED = 0
    """Same as EXECUTE_ALL."""
    EXECUTE_ALL = 1
    """Decide all items."""
    DENY_ON_FIRST_DENY = 2
    """Stop after the first item that is not permitted."""
    PERMIT_ON_FIRST_PERMIT = 3
    """Stop after the first item that is permitted."""
