"""What rollouts must refuse; see `bad_requests.py`."""

from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from fleetplane.v1 import rollout_service_pb2 as pb
from tests.e2e.bad_requests import NOWHERE, Make, Row, refused, wrong


def _start(plan: dict[str, Any] | None = None, **fields: Any) -> Make:
    stated: dict[str, Any] = {"agentName": "writer", "toVersion": "2.0.0", "plan": plan or {}}
    return lambda w: ParseDict(
        {"namespace": w.namespace} | stated | fields, pb.StartRolloutRequest()
    )


def _plans() -> Iterator[Row]:
    def steps(*weights: int) -> dict[str, Any]:
        return {"steps": [{"weightBp": weight} for weight in weights]}

    def analysis(**fields: Any) -> dict[str, Any]:
        return {"analysis": fields}

    for what, named, plan in (
        ("21 steps", "plan.steps", steps(*[10_000] * 21)),
        ("a step of nothing", "plan.steps[0].weight_bp", steps(0, 10_000)),
        ("a step of 110 %", "plan.steps[0].weight_bp", steps(11_000)),
        ("a step back", "plan.steps[1].weight_bp", steps(5_000, 1_000, 10_000)),
        ("an end at half", "plan.steps[1].weight_bp", steps(1_000, 5_000)),
        ("an unknown rule", "plan.analysis.kind", analysis(kind=99)),
        ("an unknown source", "plan.analysis.source", analysis(source=99)),
        ("a limit of nothing", "plan.analysis.max_error_rate", analysis(maxErrorRate=0)),
        ("a limit of all", "plan.analysis.max_error_rate", analysis(maxErrorRate=1)),
        ("no number", "plan.analysis.max_error_rate", analysis(maxErrorRate="NaN")),
        ("no tasks", "plan.analysis.min_tasks", analysis(minTasks=0)),
        ("a large alpha", "plan.analysis.alpha", analysis(alpha=0.5)),
        ("a small beta", "plan.analysis.beta", analysis(beta=0)),
        ("observing nothing", "plan.observe", {"observe": "0s"}),
        ("observing for 25 h", "plan.observe", {"observe": "90000s"}),
        ("a negative observation", "plan.observe", {"observe": "-1s"}),
        ("dwelling for 8 days", "plan.max_dwell", {"maxDwell": "691200s"}),
        ("dwelling shorter", "plan.max_dwell", {"observe": "60s", "maxDwell": "30s"}),
        ("baking for 25 h", "plan.bake", {"bake": "90000s"}),
        ("no time to begin", "plan.progress_deadline", {"progressDeadline": "0s"}),
        ("a pause of 31 days", "plan.max_pause", {"maxPause": "2678400s"}),
        ("a drain of nothing", "plan.drain_deadline", {"drainDeadline": "0s"}),
        ("an unknown way on", "plan.on_inconclusive", {"onInconclusive": 99}),
        ("1,001 instances", "plan.min_fresh_instances", {"minFreshInstances": 1_001}),
    ):
        yield wrong("StartRollout", what, named, _start(plan))


def _starts() -> Iterator[Row]:
    for what, named, fields in (
        ("nobody", "agent_name", {"agentName": ""}),
        ("no version", "to_version", {"toVersion": ""}),
        ("no semantic version", "to_version", {"toVersion": "two"}),
        ("a long reason", "reason", {"reason": "r" * 1_025}),
        ("a long request id", "request_id", {"requestId": "r" * 129}),
        ("another canary", "canary.name", {"canary": {"name": "reader"}}),
        ("another version", "canary.version", {"canary": {"version": "3.0.0"}}),
        ("a wrong canary", "canary.tools[1]", {"canary": {"tools": ["a", "a"]}}),
    ):
        yield wrong("StartRollout", what, named, _start(**fields))
    yield refused(
        "StartRollout",
        "an unknown agent",
        "NOT_FOUND",
        "AGENT_NOT_FOUND",
        _start(agentName=NOWHERE, fromVersion="1.0.0"),
    )
    yield refused(
        "StartRollout",
        "while another one is under way",
        "FAILED_PRECONDITION",
        "ROLLOUT_ACTIVE",
        _start(agentName="roller", toVersion="3.0.0", fromVersion="1.0.0"),
        agent_name="roller",
    )


def _others() -> Iterator[Row]:
    requests: dict[str, Callable[..., Message]] = {
        "PauseRollout": pb.PauseRolloutRequest,
        "ResumeRollout": pb.ResumeRolloutRequest,
        "PromoteRollout": pb.PromoteRolloutRequest,
        "AbortRollout": pb.AbortRolloutRequest,
        "RetryRollout": pb.RetryRolloutRequest,
    }
    for method, request in requests.items():

        def saying(_request: Callable[..., Message] = request, **fields: Any) -> Make:
            return lambda w: _request(
                **({"namespace": w.namespace, "rollout_id": w.rollout_id} | fields)
            )

        yield wrong(method, "no rollout", "rollout_id", saying(rollout_id=""))
        yield wrong(method, "a long reason", "reason", saying(reason="r" * 1_025))
        yield refused(
            method,
            "an unknown rollout",
            "NOT_FOUND",
            "ROLLOUT_NOT_FOUND",
            saying(rollout_id=NOWHERE),
            rollout_id=NOWHERE,
        )
    yield refused(
        "RetryRollout",
        "one that has not failed",
        "FAILED_PRECONDITION",
        "INVALID_TRANSITION",
        lambda w: pb.RetryRolloutRequest(namespace=w.namespace, rollout_id=w.rollout_id),
        current_state="PAUSED",
    )
    for method, asked in (
        ("GetRollout", pb.GetRolloutRequest),
        ("WatchRollout", pb.WatchRolloutRequest),
    ):

        def asking(*, _request: Callable[..., Message] = asked, **fields: Any) -> Make:
            return lambda w: _request(namespace=w.namespace, **fields)

        yield wrong(method, "neither id nor name", "rollout_id", asking())
        for named in ("rollout_id", "agent_name"):
            yield refused(
                method,
                f"an unknown {named}",
                "NOT_FOUND",
                "ROLLOUT_NOT_FOUND",
                asking(**cast("Any", {named: NOWHERE})),
                **{named: NOWHERE},
            )
    yield wrong(
        "ListRollouts",
        "an unknown phase",
        "phases[1]",
        lambda w: pb.ListRolloutsRequest(
            namespace=w.namespace,
            phases=[pb.ROLLOUT_PHASE_PAUSED, 99],  # type: ignore[list-item]  # unknown
        ),
    )


ROWS: Final = (*_plans(), *_starts(), *_others())
"""All of them."""
