"""What a daemon holds before wrong requests are sent to it; see `bad_requests.py`."""

from dataclasses import dataclass
from typing import Any, Final

import grpc

from fleetplane.v1 import (
    agent_pb2,
    config_service_pb2,
    config_service_pb2_grpc,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    rollout_service_pb2,
    rollout_service_pb2_grpc,
    routing_service_pb2,
    routing_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
)
from tests.e2e.bad_requests import World, struct

DEADLINE: Final = 20.0  # seconds; all of it takes milliseconds


def world(channel: grpc.Channel, namespace: str) -> World:
    """Put into a namespace what the rows of `bad_requests` refer to."""
    registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
    configs: Any = config_service_pb2_grpc.ConfigServiceStub(channel)
    policies: Any = policy_service_pb2_grpc.PolicyServiceStub(channel)
    pb = registry_service_pb2

    def register(name: str, where: str = namespace, **fields: Any) -> pb.RegisterResponse:
        spec = agent_pb2.AgentSpec(name=name, version="1.0.0")
        return registry.Register(
            pb.RegisterRequest(namespace=where, agent_id=f"agt-{name}", spec=spec, **fields)
        )

    first = register("reader", instance={"instance_id": "box-1"}, request_id="used")
    second = register("reader", instance={"instance_id": "box-1"})
    for name in ("writer", "walker", "roller", "spinner"):
        beaten = register(name, instance={"instance_id": f"box-{name}"})
        _beat(registry, namespace, beaten.instance)
        register(name, "elsewhere-but-real")
    revisions = [
        configs.UpdateConfig(
            config_service_pb2.UpdateConfigRequest(
                namespace=namespace, set=struct(temperature=value)
            )
        ).layer.revision
        for value in (0.1, 0.2)
    ]
    made = [
        policies.CreatePolicy(
            policy_service_pb2.CreatePolicyRequest(
                namespace=namespace,
                policy=policy_service_pb2.Policy(
                    policy_id=policy_id,
                    action=policy_service_pb2.POLICY_ACTION_LOG_ONLY,
                    match_all=True,
                ),
            )
        ).policy
        for policy_id in ("p-1", "p-2")
    ]
    work = _work(channel, namespace)
    seen = work.revision
    page: Any = {"namespace": namespace, "page_size": 1}
    tokens = {
        "ListAgents": registry.ListAgents(pb.ListAgentsRequest(**page, min_revision=seen)),
        "Discover": registry.Discover(pb.DiscoverRequest(**page, min_revision=seen)),
        "elsewhere": registry.ListAgents(
            pb.ListAgentsRequest(namespace="elsewhere-but-real", page_size=1)
        ),
        "ListConfigRevisions": configs.ListConfigRevisions(
            config_service_pb2.ListConfigRevisionsRequest(**page)
        ),
        "ListPolicies": policies.ListPolicies(
            policy_service_pb2.ListPoliciesRequest(**page, min_revision=seen)
        ),
        "ListPolicyRevisions": policies.ListPolicyRevisions(
            policy_service_pb2.ListPolicyRevisionsRequest(**page, min_revision=seen)
        ),
        **work.pages,
        "ListExperiments": _experiments(channel, namespace),
    }
    assert all(page.next_page_token for page in tokens.values()), tokens
    return World(
        namespace=namespace,
        agent_id=first.agent.agent_id,
        agent_revision=second.agent.revision,
        old_generation=first.instance.generation,
        generation=second.instance.generation,
        policy_revision=made[0].revision,
        layer_revision=revisions[-1],
        task_id=work.task_id,
        rollout_id=work.rollout_id,
        tokens={name: page.next_page_token for name, page in tokens.items()},
    )


@dataclass(frozen=True)
class _Work:
    """Tasks that nobody takes, routes, and rollouts that are paused: all of it stays as it is."""

    task_id: str
    rollout_id: str
    revision: int
    pages: dict[str, Any]


def _work(channel: grpc.Channel, namespace: str) -> _Work:
    tasks: Any = task_service_pb2_grpc.TaskServiceStub(channel)
    routing: Any = routing_service_pb2_grpc.RoutingServiceStub(channel)
    rollouts: Any = rollout_service_pb2_grpc.RolloutServiceStub(channel)
    where: Any = {"namespace": namespace}
    spec = task_service_pb2.TaskSpec(agent_name="nobody-yet")
    waiting = [
        tasks.SubmitTask(
            task_service_pb2.SubmitTaskRequest(**where, spec=spec, request_id=request_id)
        ).task
        for request_id in ("used task", "another task")
    ]
    whole = [routing_service_pb2.RouteShare(version="1.0.0", weight_bp=10_000)]
    for name in ("reader", "walker"):
        routing.SetRoute(
            routing_service_pb2.SetRouteRequest(**where, agent_name=name, shares=whole)
        )
    pb = rollout_service_pb2
    paused = []
    for name in ("roller", "spinner"):
        # Without an instance the new version never comes, so the plane has nothing to do.
        started = rollouts.StartRollout(
            pb.StartRolloutRequest(
                **where, agent_name=name, to_version="2.0.0", from_version="1.0.0"
            )
        ).rollout
        paused.append(
            rollouts.PauseRollout(
                pb.PauseRolloutRequest(**where, rollout_id=started.rollout_id)
            ).rollout
        )
    revision = paused[-1].revision
    page: Any = {**where, "page_size": 1, "min_revision": revision}
    pages = {
        "ListTasks": tasks.ListTasks(task_service_pb2.ListTasksRequest(**page)),
        "ListRoutes": routing.ListRoutes(routing_service_pb2.ListRoutesRequest(**page)),
        "ListRollouts": rollouts.ListRollouts(pb.ListRolloutsRequest(**page)),
    }
    return _Work(waiting[0].task_id, paused[0].rollout_id, revision, pages)


def _beat(registry: Any, namespace: str, instance: agent_pb2.Instance) -> None:
    """Make the agent of an instance ACTIVE."""
    beat = registry_service_pb2.Beat(
        instance_id=instance.instance_id, generation=instance.generation, seq=1
    )
    request = registry_service_pb2.HeartbeatRequest(namespace=namespace, batch=1, beats=[beat])
    (answer,) = registry.Heartbeat(iter([request]), timeout=DEADLINE)
    assert not answer.results


def _experiments(channel: grpc.Channel, namespace: str) -> Any:
    """Plan two experiments on one path, start one of them; return the first page of both."""
    pb = experiment_service_pb2
    stub: Any = experiment_service_pb2_grpc.ExperimentServiceStub(channel)
    metric = pb.ExperimentMetric(name="solved")
    spec = pb.ExperimentSpec(
        subject=pb.ExperimentSubject(config_path="temperature"), primary=metric, coverage_bp=5_000
    )
    for name, value in (("a", 0.2), ("b", 0.9)):
        variant = spec.variants.add(name=name, weight_bp=5_000, control=name == "a")
        variant.config_value.number_value = value
    for key in ("running", "draft"):
        stub.CreateExperiment(pb.CreateExperimentRequest(namespace=namespace, key=key, spec=spec))
    begun = stub.StartExperiment(pb.StartExperimentRequest(namespace=namespace, key="running"))
    return stub.ListExperiments(
        pb.ListExperimentsRequest(
            namespace=namespace, page_size=1, min_revision=begun.experiment.revision
        )
    )
