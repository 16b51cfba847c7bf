"""What an agent may ask for by its certificate alone: only what is about itself.

`CONFINED` says for each such RPC what a request names that has to be the agent's own. What is in
`NOT_FOR_AGENTS` needs a binding; an RPC in neither is refused as well. `Ownership` judges the
claims: from memory, and by the ledger where this replica has not heard of something yet.

What is foreign is refused with ForeignAgent. Something that nobody knows is refused the same way
where its name can be guessed, such as an agent_id, so that the answer says nothing about others.
The names of instances and tasks are not to be guessed, and their owners have to learn that they
are gone: those pass, and get the usual answer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, Final

from controlplane.domain.access.refusals import ForeignAgent
from controlplane.domain.identity import AgentIdentity
from controlplane.domain.tasks import Task
from controlplane.services.ports import Collection, Ledger
from controlplane.services.read_model import NamespaceView, ReadModel


class Kind(Enum):
    """What a claim is about."""

    NAME = auto()
    """A name of an agent."""
    AGENT = auto()
    """An agent_id that exists."""
    NEW_AGENT = auto()
    """An agent_id that exists or is to be."""
    INSTANCE = auto()
    """A process."""
    NEW_INSTANCE = auto()
    """A process that registers; the registry itself keeps it apart from those of others."""
    TASK = auto()
    """A task that the agent holds or has held."""
    APPROVAL = auto()
    """An approval of what the agent wants to do."""
    NOBODYS = auto()
    """Something that belongs to no agent."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that a request says is the agent's own.

    Attributes:
        kind: What it is.
        name: Which one; empty: the request names none, and whoever answers it says what is missing.
        field: Where the request names it, for the refusal.
    """

    kind: Kind
    name: str
    field: str


Claims = Callable[[Any], Iterable[Claim]]
"""Returns what a request claims."""


class Ownership:
    """Judges claims."""

    def __init__(self, read_model: ReadModel, ledger: Ledger) -> None:
        """Look into memory first; `ledger` is asked about what is not known there."""
        self._read_model = read_model
        self._ledger = ledger

    async def require(self, agent: AgentIdentity, claims: Iterable[Claim]) -> None:
        """Check that everything a request claims belongs to an agent.

        Raises:
            ForeignAgent: something does not.
            StoreUnavailable: the store has to be asked, and does not answer.
            NotReady: nothing is loaded yet.
        """
        view = self._read_model.view(agent.namespace)
        unheard: list[Claim] = []
        for claim in claims:
            if not claim.name and claim.kind is not Kind.NOBODYS:
                continue
            own = _is_own(view, agent.agent_name, claim)
            if own is None:
                unheard.append(claim)
            elif not own:
                raise ForeignAgent(agent.agent_name, claim.field)
        if unheard:
            await self._require_stored(agent, unheard)

    async def _require_stored(self, agent: AgentIdentity, claims: Sequence[Claim]) -> None:
        """Judge what this replica has not heard of by what the ledger itself says."""
        holders = await self._stored_holders(agent.namespace, claims)
        own = await self._stored_agents(agent, {one for ids in holders if ids for one in ids})
        for claim, ids in zip(claims, holders, strict=True):
            if ids is not None and own.isdisjoint(ids):
                raise ForeignAgent(agent.agent_name, claim.field)

    async def _stored_holders(
        self, namespace: str, claims: Sequence[Claim]
    ) -> list[tuple[str, ...] | None]:
        """Return for each claim the agent_ids that it belongs to; None: it does not exist."""
        stored: dict[tuple[Kind, str], tuple[str, ...]] = {}
        for kind, collection in _COLLECTIONS.items():
            keys = list(dict.fromkeys(claim.name for claim in claims if claim.kind is kind))
            for record in await self._ledger.read(namespace, collection, keys) if keys else ():
                if record is not None:
                    stored[kind, record.key] = _OWNERS[kind](record.value)
        return [
            (claim.name,) if claim.kind is Kind.AGENT else stored.get((claim.kind, claim.name))
            for claim in claims
        ]

    async def _stored_agents(self, agent: AgentIdentity, agent_ids: Iterable[str]) -> set[str]:
        """Return those of some agents that carry the agent's name."""
        keys = list(agent_ids)
        if not keys:
            return set()
        records = await self._ledger.read(agent.namespace, Collection.AGENTS, keys)
        return {
            record.key
            for record in records
            if record is not None and record.value.spec.name == agent.agent_name
        }


_COLLECTIONS: Final = MappingProxyType(
    {
        Kind.INSTANCE: Collection.INSTANCES,
        Kind.TASK: Collection.TASKS,
        Kind.APPROVAL: Collection.APPROVALS,
    }
)


def _is_own(  # noqa: PLR0911 - one per kind
    view: NamespaceView, agent_name: str, claim: Claim
) -> bool | None:
    """Judge a claim from memory; None: it takes more than that."""
    ids = view.ids_of_name.get(agent_name, _NO_IDS)
    match claim.kind:
        case Kind.NAME:
            return claim.name == agent_name
        case Kind.AGENT:
            return claim.name in ids or (False if claim.name in view.agents else None)
        case Kind.NEW_AGENT:
            return claim.name in ids or claim.name not in view.agents
        case Kind.INSTANCE:
            live = view.instances.get(claim.name)
            return None if live is None else live.instance.agent_id in ids
        case Kind.NEW_INSTANCE:
            live = view.instances.get(claim.name)
            return live is None or live.instance.agent_id in ids
        case Kind.TASK:
            task = view.work.tasks.all.get(claim.name)
            return None if task is None else not ids.isdisjoint(_holders(task))
        case Kind.APPROVAL:
            approval = view.governance.table(Collection.APPROVALS).get(claim.name)
            return None if approval is None else approval.action.agent_id in ids
        case _:
            return False


_NO_IDS: Final[frozenset[str]] = frozenset()


def _holders(task: Task) -> tuple[str, ...]:
    """Return the agents that hold a task or have held it, as far as its record remembers."""
    hops = tuple(hop.agent_id for hop in task.hops)
    return (task.agent_id, *hops) if task.agent_id else hops


_OWNERS: Final[Mapping[Kind, Callable[[Any], tuple[str, ...]]]] = MappingProxyType(
    {
        Kind.INSTANCE: lambda instance: (instance.agent_id,),
        Kind.TASK: _holders,
        Kind.APPROVAL: lambda approval: (approval.action.agent_id,),
    }
)
"""Kind -> the agent_ids that a stored record of it belongs to."""


def _registered(request: Any, prefix: str = "") -> Iterable[Claim]:
    yield Claim(Kind.NAME, request.spec.name, f"{prefix}spec.name")
    yield Claim(Kind.NEW_AGENT, request.agent_id, f"{prefix}agent_id")
    instance_id = request.instance.instance_id
    yield Claim(Kind.NEW_INSTANCE, instance_id, f"{prefix}instance.instance_id")


def _registered_many(request: Any) -> Iterable[Claim]:
    for index, entry in enumerate(request.requests):
        yield from _registered(entry, f"requests[{index}].")


def _agent(request: Any) -> Iterable[Claim]:
    yield Claim(Kind.AGENT, request.agent_id, "agent_id")


def _agents_of_items(request: Any) -> Iterable[Claim]:
    for index, item in enumerate(request.items):
        yield Claim(Kind.AGENT, item.agent_id, f"items[{index}].agent_id")


def _watched_agents(request: Any) -> Iterable[Claim]:
    for index, watched in enumerate(request.agents):
        yield Claim(Kind.AGENT, watched.agent_id, f"agents[{index}].agent_id")


def _instance(request: Any) -> Iterable[Claim]:
    yield Claim(Kind.INSTANCE, request.instance_id, "instance_id")


def _agent_and_instance(request: Any) -> Iterable[Claim]:
    yield from _agent(request)
    yield from _instance(request)


def _holder(request: Any) -> Iterable[Claim]:
    # Whether that instance holds the lease is judged by the rules of leases.
    yield Claim(Kind.INSTANCE, request.lease.instance_id, "lease.instance_id")


def _task(request: Any) -> Iterable[Claim]:
    yield Claim(Kind.TASK, request.task_id, "task_id")


def _approval(request: Any) -> Iterable[Claim]:
    yield Claim(Kind.APPROVAL, request.approval_id, "approval_id")


def _agent_and_approval(request: Any) -> Iterable[Claim]:
    yield from _agent(request)
    yield from _approval(request)


def _scope(request: Any, field: str = "scope") -> Iterable[Claim]:
    scope = request.scope
    yield Claim(Kind.NAME, scope.agent_name, f"{field}.agent_name")
    yield Claim(Kind.AGENT, scope.agent_id, f"{field}.agent_id")
    if not scope.agent_name and not scope.agent_id:
        yield Claim(Kind.NOBODYS, "", field)  # of the whole namespace


def _scopes(request: Any) -> Iterable[Claim]:
    for index, watched in enumerate(request.scopes):
        yield from _scope(watched, f"scopes[{index}].scope")


def _beating(request: Any) -> Iterable[Claim]:
    for index, beat in enumerate(request.beats):
        yield Claim(Kind.INSTANCE, beat.instance_id, f"beats[{index}].instance_id")


def _own_watch(request: Any) -> Iterable[Claim]:
    yield Claim(Kind.NAME, request.agent_name, "agent_name")
    if not request.agent_name:
        yield Claim(Kind.NOBODYS, "", "agent_name")
    if request.labels:
        yield Claim(Kind.NOBODYS, "", "labels")  # only what it gets itself


def _own_use(request: Any) -> Iterable[Claim]:
    yield Claim(Kind.AGENT, request.agent_id, "agent_id")
    if not request.agent_id:
        yield Claim(Kind.NOBODYS, "", "agent_id")


def _named(request: Any) -> Iterable[Claim]:
    # Empty it is the agent's own: who shows a certificate is taken by that.
    yield Claim(Kind.NAME, request.agent_name, "agent_name")


_REGISTRY: Final = "/fleetplane.v1.RegistryService/"
_CONFIG: Final = "/fleetplane.v1.ConfigService/"
_POLICY: Final = "/fleetplane.v1.PolicyService/"
_DECISIONS: Final = "/fleetplane.v1.DecisionService/"
_LIFECYCLE: Final = "/fleetplane.v1.LifecycleService/"
_TASKS: Final = "/fleetplane.v1.TaskService/"
_ROUTING: Final = "/fleetplane.v1.RoutingService/"
_ROLLOUTS: Final = "/fleetplane.v1.RolloutService/"
_EXPERIMENTS: Final = "/fleetplane.v1.ExperimentService/"
_NAMESPACES: Final = "/fleetplane.v1.NamespaceService/"
_APPROVALS: Final = "/fleetplane.v1.ApprovalService/"
_PROMPTS: Final = "/fleetplane.v1.PromptService/"

CONFINED: Final[Mapping[str, Claims]] = MappingProxyType(
    {
        _REGISTRY + "Register": _registered,
        _REGISTRY + "BatchRegister": _registered_many,
        _REGISTRY + "Deregister": _instance,
        _REGISTRY + "GetAgent": _agent,
        _REGISTRY + "Heartbeat": _beating,
        _CONFIG + "GetConfig": _scope,
        _CONFIG + "WatchConfig": _scopes,
        _POLICY + "EvaluatePolicy": _agent,
        _POLICY + "BatchEvaluatePolicy": _agents_of_items,
        _POLICY + "WatchPolicies": _watched_agents,
        _DECISIONS + "RecordDecisions": _agent,
        _APPROVALS + "GetApproval": _approval,
        _APPROVALS + "WaitApproval": _approval,
        _APPROVALS + "CancelApproval": _approval,
        _APPROVALS + "ConsumeApproval": _agent_and_approval,
        _LIFECYCLE + "Drain": _agent_and_instance,
        _LIFECYCLE + "GetDrain": _agent_and_instance,
        _TASKS + "WatchTasks": _instance,
        _TASKS + "AcceptTask": _holder,
        _TASKS + "ReportProgress": _holder,
        _TASKS + "CompleteTask": _holder,
        _TASKS + "FailTask": _holder,
        _TASKS + "GetTask": _task,
        _EXPERIMENTS + "AssignVariant": _named,
        _EXPERIMENTS + "WatchExperiments": _named,
        _EXPERIMENTS + "RecordExposure": _named,
        _EXPERIMENTS + "BatchRecordExposures": _named,
        _EXPERIMENTS + "RecordOutcome": _named,
        _EXPERIMENTS + "BatchRecordOutcomes": _named,
        _PROMPTS + "ResolvePrompt": _own_use,
        _PROMPTS + "WatchPrompts": _own_watch,
        _PROMPTS + "MarkPromptUsed": _own_use,
    }
)
"""RPC -> what its requests claim. For streams of requests: what each message claims."""

_OTHERS: Final = "it shows other agents"
_WORK: Final = "it shows the work of others"
_OF_ALL: Final = "it shows what is set for the whole namespace"
_PROMPTS_OF_ALL: Final = "it shows prompts that the agent does not get"

NOT_FOR_AGENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        _REGISTRY + "ListAgents": _OTHERS,
        _REGISTRY + "Discover": _OTHERS,
        _REGISTRY + "FindBestAgent": _OTHERS,
        _REGISTRY + "WatchAgents": _OTHERS,
        _CONFIG + "ListConfigRevisions": "it shows who changed what, and why",
        _CONFIG + "GetExtraSchema": _OF_ALL,
        _CONFIG + "WaitForConvergence": _OTHERS,
        _POLICY + "GetPolicy": _OF_ALL,
        _POLICY + "ListPolicies": _OF_ALL,
        _POLICY + "GetPolicySettings": _OF_ALL,
        _POLICY + "ListPolicyRevisions": "it shows who changed what, and why",
        _POLICY + "GetPolicyRevision": _OF_ALL,
        _POLICY + "DiffPolicyRevisions": _OF_ALL,
        _POLICY + "GetPolicyCandidate": _OF_ALL,
        _POLICY + "ListPolicyCandidates": _OF_ALL,
        _POLICY + "GetPolicyTests": _OF_ALL,
        _POLICY + "GetPolicyStage": _OF_ALL,
        _POLICY + "SimulatePolicies": _OTHERS,
        _DECISIONS + "GetDecision": _OTHERS,
        _DECISIONS + "QueryDecisions": _OTHERS,
        _DECISIONS + "ExplainDecision": _OTHERS,
        _LIFECYCLE + "GetEmergencyStop": _OTHERS,
        _TASKS + "ListTasks": _WORK,
        _TASKS + "FollowTasks": "it is for those who submit tasks",
        _ROUTING + "GetRoute": _OF_ALL,
        _ROUTING + "ListRoutes": _OF_ALL,
        _ROLLOUTS + "GetRollout": _OF_ALL,
        _ROLLOUTS + "ListRollouts": _OF_ALL,
        _ROLLOUTS + "WatchRollout": _OF_ALL,
        _PROMPTS + "GetPromptVersion": _PROMPTS_OF_ALL,
        _PROMPTS + "ListPrompts": _PROMPTS_OF_ALL,
        _PROMPTS + "ListPromptVersions": _PROMPTS_OF_ALL,
        _PROMPTS + "DiffPromptVersions": _PROMPTS_OF_ALL,
        _PROMPTS + "GetLabelHistory": _PROMPTS_OF_ALL,
        _PROMPTS + "RenderPrompt": _PROMPTS_OF_ALL,
        _PROMPTS + "ListEvaluations": _PROMPTS_OF_ALL,
        _PROMPTS + "ComparePromptVersions": _PROMPTS_OF_ALL,
        _EXPERIMENTS + "GetExperiment": _OF_ALL,
        _EXPERIMENTS + "ListExperiments": _OF_ALL,
        _EXPERIMENTS + "AnalyzeExperiment": _OF_ALL,
        _NAMESPACES + "GetNamespace": _OF_ALL,
        _APPROVALS + "ListApprovals": _OTHERS,
        _APPROVALS + "WatchApprovals": _OTHERS,
        _APPROVALS + "ListStandingGrants": _OF_ALL,
        _NAMESPACES + "GetUsage": _OF_ALL,
    }
)
"""RPC -> why the certificate of an agent alone is not enough for it; a binding is."""
