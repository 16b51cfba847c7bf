"""Python SDK of Fleetplane, the control plane for fleets of AI agents.

`Agent` is an agent: registered, alive, configured, within its rights. `FleetClient` is every call
of the control plane. `Catalogue` is a watched copy of the registry. All of them raise
`FleetError`.
"""

from fleetplane._agent import Agent, FailMode
from fleetplane._catalogue import Catalogue
from fleetplane._channel import ChannelConfig, RetryPolicy, TlsConfig
from fleetplane._client import FleetClient
from fleetplane._config import EffectiveConfig, Position, Scope
from fleetplane._details import FieldViolation
from fleetplane._enums import (
    Activation,
    AgentStatus,
    BatchMode,
    ConfigStatus,
    ExplainLevel,
    OnMissing,
    PolicyAction,
)
from fleetplane._exceptions import (
    AlreadyExists,
    ApprovalRequired,
    DeadlineExceeded,
    FailedPrecondition,
    FleetError,
    InternalError,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    PolicyDenied,
    Reason,
    RevisionConflict,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from fleetplane._policies import Evaluation, PolicyFields
from fleetplane._presence import AgentState
from fleetplane._session import FleetSession
from fleetplane._spec import AgentSpec, FilterFields, InstanceSpec, Registration, SpecFields
from fleetplane._values import from_struct, to_struct
from fleetplane._version import __version__
from fleetplane._watches import (
    AgentsChanged,
    AgentsEvent,
    AgentsSnapshot,
    AgentsUnchanged,
    AgentWatch,
    ConfigUpdate,
    ConfigWatch,
)
from fleetplane._work import Task, WorkMeter

__all__ = [
    "Activation",
    "Agent",
    "AgentSpec",
    "AgentState",
    "AgentStatus",
    "AgentWatch",
    "AgentsChanged",
    "AgentsEvent",
    "AgentsSnapshot",
    "AgentsUnchanged",
    "AlreadyExists",
    "ApprovalRequired",
    "BatchMode",
    "Catalogue",
    "ChannelConfig",
    "ConfigStatus",
    "ConfigUpdate",
    "ConfigWatch",
    "DeadlineExceeded",
    "EffectiveConfig",
    "Evaluation",
    "ExplainLevel",
    "FailMode",
    "FailedPrecondition",
    "FieldViolation",
    "FilterFields",
    "FleetClient",
    "FleetError",
    "FleetSession",
    "InstanceSpec",
    "InternalError",
    "InvalidArgument",
    "LimitExceeded",
    "NotFound",
    "OnMissing",
    "PermissionDenied",
    "PolicyAction",
    "PolicyDenied",
    "PolicyFields",
    "Position",
    "Reason",
    "Registration",
    "RetryPolicy",
    "RevisionConflict",
    "Scope",
    "SpecFields",
    "Task",
    "TlsConfig",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "WorkMeter",
    "__version__",
    "from_struct",
    "to_struct",
]
