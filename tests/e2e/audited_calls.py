"""The rows of agents, configuration, policies, tasks, routes, rollouts and rights."""

import base64
from typing import Any, Final

from fleetplane.v1 import agent_pb2, rollout_service_pb2
from tests.e2e.audited_rows import Row, Step, World, agent_of, until

DONE: Final = base64.b64encode(b"done").decode()


def spec(name: str, version: str = "1.0.0", **fields: Any) -> dict[str, Any]:
    return {"name": name, "version": version, **fields}


def _registration(name: str, version: str = "1.0.0", **fields: Any) -> dict[str, Any]:
    identity = f"{name}-{version}"
    return {
        "agentId": identity,
        "spec": spec(name, version, **fields),
        "instance": {"instanceId": f"box-{identity}"},
    }


def _beat(world: World, name: str, version: str = "1.0.0", seq: int = 1) -> dict[str, Any]:
    generation = world[f"generation of box-{name}-{version}"]
    beat = {"instanceId": f"box-{name}-{version}", "generation": generation, "seq": seq}
    return {"batch": seq, "beats": [beat]}


def _keep_instance(world: World, answer: Any) -> None:
    instance = answer.instance
    world.seen[f"generation of {instance.instance_id}"] = instance.generation


def _alive(name: str, version: str = "1.0.0", **fields: Any) -> Step:
    """Register an agent and let it beat."""

    def do(world: World) -> None:
        answer = world.call("RegistryService/Register", _registration(name, version, **fields))
        _keep_instance(world, answer)
        world.call("RegistryService/Heartbeat", _beat(world, name, version))
        identity = f"{name}-{version}"
        until(lambda: agent_of(world, identity).status == agent_pb2.AGENT_STATUS_ACTIVE)

    return Step(do)


_AGENTS: Final = (
    Row("RegistryService/Register", lambda _: _registration("reader"), keep=_keep_instance),
    Row(
        "RegistryService/BatchRegister",
        lambda _: {"requests": [_registration("writer"), _registration("walker")]},
        entries=2,
        says="Register",
        why="one for each agent",
    ),
    Row("RegistryService/Heartbeat", lambda w: _beat(w, "reader")),
    Row(
        "RegistryService/UpdateAgent",
        lambda _: {
            "agentId": "reader-1.0.0",
            "spec": {"maxConcurrency": 4},
            "updateMask": "maxConcurrency",
        },
    ),
    Row(
        "RegistryService/Deregister",
        lambda w: {
            "instanceId": "box-reader-1.0.0",
            "generation": w["generation of box-reader-1.0.0"],
        },
    ),
)

_CONFIG: Final = (
    Row("ConfigService/UpdateConfig", lambda _: {"set": {"temperature": 0.5}}),
    Step(lambda w: w.call("ConfigService/UpdateConfig", {"set": {"temperature": 0.25}})),
    Step(
        lambda w: w.seen.update(
            layer=w.call("ConfigService/ListConfigRevisions", {}).revisions[-1].revision
        )
    ),
    Row("ConfigService/RollbackConfig", lambda w: {"toRevision": w["layer"]}),
    Row("ConfigService/SetExtraSchema", lambda _: {"schema": {"type": "object"}}),
)

_POLICIES: Final = (
    Row(
        "PolicyService/CreatePolicy",
        lambda _: {
            "policy": {"policyId": "p-1", "action": "POLICY_ACTION_LOG_ONLY", "matchAll": True}
        },
    ),
    Row(
        "PolicyService/UpdatePolicy",
        lambda _: {
            "policy": {"policyId": "p-1", "description": "watched"},
            "updateMask": "description",
        },
    ),
    Row("PolicyService/DeletePolicy", lambda _: {"policyId": "p-1"}),
)


def _keep_task(world: World, answer: Any) -> None:
    world.seen["task"] = answer.task.task_id


def _lease(world: World) -> dict[str, Any]:
    task = world.call("TaskService/GetTask", {"taskId": world["task"]}).task
    return {
        "taskId": task.task_id,
        "instanceId": task.instance_id,
        "epoch": str(task.epoch),
    }


def _assigned(world: World) -> None:
    until(lambda: bool(world.call("TaskService/GetTask", {"taskId": world["task"]}).task.epoch))


def _submitted(world: World) -> None:
    """Submit a task that waits for an agent nobody has registered."""
    answer = world.call("TaskService/SubmitTask", {"spec": {"agentName": "nobody-yet"}})
    _keep_task(world, answer)


def _leased(world: World) -> None:
    """Submit another task, and let the worker accept it."""
    answer = world.call("TaskService/SubmitTask", {"spec": {"agentName": "worker"}})
    _keep_task(world, answer)
    _assigned(world)
    world.call("TaskService/AcceptTask", {"lease": _lease(world)})


def _watch_tasks(world: World) -> dict[str, Any]:
    return {
        "instanceId": "box-worker-1.0.0",
        "generation": str(world["generation of box-worker-1.0.0"]),
    }


_TASKS: Final = (
    _alive("worker", capabilities=["work"], maxConcurrency=8),
    Row("TaskService/WatchTasks", _watch_tasks),
    Row("TaskService/SubmitTask", lambda _: {"spec": {"agentName": "worker"}}, keep=_keep_task),
    Step(_assigned),
    Row("TaskService/AcceptTask", lambda w: {"lease": _lease(w)}),
    Row("TaskService/ReportProgress", lambda w: {"lease": _lease(w), "progress": 0.5}),
    Row("TaskService/CompleteTask", lambda w: {"lease": _lease(w), "result": DONE}),
    Step(_leased),
    Row("TaskService/FailTask", lambda w: {"lease": _lease(w), "permanent": True}),
    Step(_submitted),
    Row("TaskService/CancelTask", lambda w: {"taskId": w["task"]}),
    Row(
        "TaskService/BatchSubmitTasks",
        lambda _: {"tasks": [{"spec": {"agentName": "nobody-yet"}}] * 2},
        entries=2,
        why="one for each task",
    ),
)

_ROUTES: Final = (
    Row(
        "RoutingService/SetRoute",
        lambda _: {"agentName": "reader", "shares": [{"version": "1.0.0", "weightBp": 10_000}]},
    ),
    Row("RoutingService/DeleteRoute", lambda _: {"agentName": "reader"}),
)


def _keep_rollout(world: World, answer: Any) -> None:
    world.seen["rollout"] = answer.rollout.rollout_id


def _rollout_ended(world: World) -> None:
    def ended() -> bool:
        request = {"rolloutId": world["rollout"]}
        phase = world.call("RolloutService/GetRollout", request).rollout.phase
        return bool(phase == rollout_service_pb2.ROLLOUT_PHASE_ROLLED_BACK)

    until(ended)


def _rolled_back(world: World) -> None:
    """Start a rollout to a version that never comes, and abort it: nothing has to be drained."""
    request = {"agentName": "spinner", "fromVersion": "1.0.0", "toVersion": "2.0.0"}
    _keep_rollout(world, world.call("RolloutService/StartRollout", request))
    world.call("RolloutService/AbortRollout", _this_rollout(world))
    _rollout_ended(world)


def _this_rollout(world: World) -> dict[str, Any]:
    return {"rolloutId": world["rollout"]}


_ROLLOUTS: Final = (
    _alive("roller"),
    _alive("roller", "2.0.0"),
    Row(
        "RolloutService/StartRollout",
        lambda _: {
            "agentName": "roller",
            "toVersion": "2.0.0",
            "fromVersion": "1.0.0",
            "plan": {
                "steps": [
                    {"weightBp": 1000},
                    {"weightBp": 10_000},
                ]
            },
        },
        keep=_keep_rollout,
    ),
    Row("RolloutService/PauseRollout", _this_rollout),
    Row("RolloutService/ResumeRollout", _this_rollout),
    Row("RolloutService/PromoteRollout", _this_rollout),
    Row("RolloutService/AbortRollout", _this_rollout),
    _alive("spinner"),
    Step(_rolled_back),
    Row("RolloutService/RetryRollout", _this_rollout, keep=_keep_rollout),
    Step(lambda w: w.call("RolloutService/AbortRollout", _this_rollout(w)) and None),
)

IDLE: Final = {"agentId": "idler-1.0.0", "reason": "a drill"}

_LIFECYCLE: Final = (
    _alive("idler"),
    Row("LifecycleService/Deactivate", lambda _: IDLE),
    Row("LifecycleService/Activate", lambda _: {"agentId": "idler-1.0.0"}),
    Row("LifecycleService/Drain", lambda _: {"agentId": "worker-1.0.0", "deadline": "3600s"}),
    Row("LifecycleService/CancelDrain", lambda _: {"agentId": "worker-1.0.0"}),
    Step(lambda w: w.call("LifecycleService/Deactivate", IDLE) and None),
    Row("LifecycleService/Decommission", lambda _: {"agentId": "idler-1.0.0"}),
    Row(
        "LifecycleService/EmergencyStop",
        lambda _: {"names": ["writer"], "reason": "a drill"},
        entries=3,
        why="the stop begins and ends, and the one agent of that name is stopped",
    ),
)


def _keep_token(world: World, answer: Any) -> None:
    world.seen["token"] = answer.token.token_id


def _keep_join_token(world: World, answer: Any) -> None:
    world.seen["join token"], world.seen["secret"] = answer.token.token_id, answer.secret


def _keep_identity(world: World, answer: Any) -> None:
    world.seen["issued"] = answer.issued


def _keep_binding(world: World, answer: Any) -> None:
    world.seen["binding"] = answer.binding.binding_id


def _rights(method: str, request: Any, **fields: Any) -> Row:
    return Row(method, request, **({"entries": 0, "system": 1} | fields))


_IDENTITY: Final = (
    _rights("IdentityService/CreateJoinToken", lambda _: {"maxUses": 5}, keep=_keep_join_token),
    _rights(
        "IdentityService/Enroll",
        lambda w: {
            "joinToken": w["secret"],
            "agentName": "writer",
            "csr": w.certificate_request,
        },
        keep=_keep_identity,
        who="",
    ),
    _rights(
        "IdentityService/RenewCertificate",
        lambda w: {"csr": w.certificate_request},
        who="agent",
    ),
)

_RIGHTS: Final = (
    _rights("IdentityService/RevokeJoinToken", lambda w: {"tokenId": w["join token"]}),
    _rights(
        "IdentityService/CreateApiToken",
        lambda _: {"name": "ci", "role": "viewer"},
        keep=_keep_token,
    ),
    _rights("IdentityService/RevokeApiToken", lambda w: {"tokenId": w["token"]}),
    _rights("IdentityService/BanAgent", lambda _: {"agentName": "writer", "reason": "a drill"}),
    _rights("IdentityService/UnbanAgent", lambda _: {"agentName": "writer"}),
    _rights(
        "AccessService/CreateRoleBinding",
        lambda _: {"subject": "user:ann", "role": "viewer"},
        keep=_keep_binding,
    ),
    _rights("AccessService/DeleteRoleBinding", lambda w: {"bindingId": w["binding"]}),
    _rights("NamespaceService/CreateNamespace", lambda _: {"name": "short-lived"}),
    _rights(
        "NamespaceService/UpdateNamespace",
        lambda _: {"namespace": "short-lived", "description": "not for long"},
    ),
    _rights(
        "NamespaceService/DeleteNamespace",
        lambda _: {"namespace": "short-lived"},
        system=2,
        why="it is marked, and gone five seconds later",
    ),
)


def _sealed(world: World) -> None:
    def is_sealed() -> bool:
        status = world.call("AuditService/GetAuditStatus", {})
        world.seen["sealed"] = {"sequence": status.sealed.sequence, "head": status.sealed.head}
        return bool(status.sealed.sequence)

    until(is_sealed)


_AUDIT: Final = (
    Step(_sealed),
    Row("AuditService/ConfirmAuditExport", lambda w: {"checkpoint": w["sealed"]}),
    Row("AuditService/TrimAudit", lambda w: {"checkpoint": w["sealed"]}),
)

FIRST: Final = (*_AGENTS, *_IDENTITY, *_CONFIG, *_POLICIES, *_TASKS, *_ROUTES)
LAST: Final = (*_ROLLOUTS, *_LIFECYCLE, *_RIGHTS, *_AUDIT)
