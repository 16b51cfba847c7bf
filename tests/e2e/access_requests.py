"""A request for every method, that says what it must about who asks and of whom."""

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import Message

from fleetplane.v1 import (
    access_service_pb2,
    agent_pb2,
    approval_service_pb2,
    audit_service_pb2,
    config_service_pb2,
    decision_service_pb2,
    experiment_service_pb2,
    identity_service_pb2,
    lifecycle_service_pb2,
    namespace_service_pb2,
    policy_service_pb2,
    prompt_service_pb2,
    registry_service_pb2,
    rollout_service_pb2,
    routing_service_pb2,
    task_service_pb2,
)
from tests.fakes.secure_daemon import key_and_request

_MODULES = (
    registry_service_pb2,
    config_service_pb2,
    decision_service_pb2,
    policy_service_pb2,
    lifecycle_service_pb2,
    task_service_pb2,
    routing_service_pb2,
    rollout_service_pb2,
    identity_service_pb2,
    access_service_pb2,
    namespace_service_pb2,
    approval_service_pb2,
    audit_service_pb2,
    prompt_service_pb2,
    experiment_service_pb2,
)
METHODS: Final = {
    f"{service.name}/{method.name}": method
    for module in _MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
_TYPES: Final[dict[str, type[Message]]] = {
    f"{module.DESCRIPTOR.package}.{name}": getattr(module, name)
    for module in _MODULES
    for name in module.DESCRIPTOR.message_types_by_name
}

_, _REQUEST = key_and_request()


def plain_request(method: str, namespace: str) -> Message:
    """Return a request that is only in a namespace; what it lacks is refused after its caller."""
    request = _TYPES[METHODS[method].input_type.full_name]()
    if "namespace" in request.DESCRIPTOR.fields_by_name:
        setattr(request, "namespace", namespace)  # noqa: B010 - of whichever type it is
    if isinstance(request, identity_service_pb2.EnrollRequest):
        request.join_token, request.agent_name = "jt-0." + "A" * 43, "writer"
    if hasattr(request, "csr"):
        request.csr = _REQUEST
    return request


def speak_of(request: Any, method: str, name: str, agent_id: str) -> None:
    """Let a request of a method speak for, or about, one agent."""
    fill = _ABOUT.get(method.partition("/")[2])
    if fill is not None:
        fill(request, name, agent_id)


def _named(request: Any, name: str, _agent_id: str) -> None:
    request.agent_name = name


def _register(request: Any, name: str, _agent_id: str) -> None:
    request.spec.CopyFrom(agent_pb2.AgentSpec(name=name, version="1.0.0"))


def _batch_register(request: Any, name: str, agent_id: str) -> None:
    _register(request.requests.add(), name, agent_id)


def _heartbeat(request: Any, name: str, _agent_id: str) -> None:
    request.batch = 1
    request.beats.add(instance_id=f"{name}-1", generation=1)


def _instance(request: Any, name: str, _agent_id: str) -> None:
    request.instance_id = f"{name}-1"


def _departure(request: Any, name: str, agent_id: str) -> None:
    _instance(request, name, agent_id)
    request.generation = 1 << 40  # nobody's: the instance is still needed


def _lease(request: Any, name: str, _agent_id: str) -> None:
    request.lease.instance_id = f"{name}-1"
    request.lease.task_id, request.lease.epoch = "none", 1


def _agent(request: Any, _name: str, agent_id: str) -> None:
    request.agent_id = agent_id


def _question(request: Any, _name: str, agent_id: str) -> None:
    request.agent_id, request.action = agent_id, "read"


def _questions(request: Any, name: str, agent_id: str) -> None:
    _question(request.items.add(), name, agent_id)


def _watched_agents(request: Any, name: str, agent_id: str) -> None:
    _agent(request.agents.add(), name, agent_id)


def _scope(request: Any, name: str, _agent_id: str) -> None:
    request.scope.agent_name = name


def _scopes(request: Any, name: str, agent_id: str) -> None:
    _scope(request.scopes.add(), name, agent_id)


def _watched_prompts(request: Any, name: str, _agent_id: str) -> None:
    request.agent_name = name
    request.prompts.add(prompt="greeting")


def _action(request: Any, _name: str, _agent_id: str) -> None:
    request.action = "read"


_ABOUT: Final[dict[str, Callable[[Any, str, str], None]]] = {
    "AssignVariant": _named,
    "WatchExperiments": _named,
    "RecordExposure": _named,
    "BatchRecordExposures": _named,
    "RecordOutcome": _named,
    "BatchRecordOutcomes": _named,
    "Register": _register,
    "BatchRegister": _batch_register,
    "Heartbeat": _heartbeat,
    "Deregister": _departure,
    "WatchTasks": _instance,
    "AcceptTask": _lease,
    "ReportProgress": _lease,
    "CompleteTask": _lease,
    "FailTask": _lease,
    "GetAgent": _agent,
    "Drain": _instance,
    "GetDrain": _agent,
    "EvaluatePolicy": _question,
    "BatchEvaluatePolicy": _questions,
    "WatchPolicies": _watched_agents,
    "GetConfig": _scope,
    "WatchConfig": _scopes,
    "CheckAccess": _action,
    "RecordDecisions": _agent,
    "ConsumeApproval": _question,
    "ResolvePrompt": _agent,
    "MarkPromptUsed": _agent,
    "WatchPrompts": _watched_prompts,
}
