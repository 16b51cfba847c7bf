"""What experiments must refuse; see `bad_requests.py`."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from fleetplane.v1 import experiment_service_pb2 as pb
from tests.e2e.bad_requests import NOWHERE, Make, Row, World, refused, wrong

_A: Final = {"name": "a", "weightBp": 5000, "control": True, "configValue": 0.2}
_B: Final = {"name": "b", "weightBp": 5000, "configValue": 0.9}
_SPEC: Final[dict[str, Any]] = {
    "subject": {"configPath": "temperature"},
    "variants": [_A, _B],
    "primary": {"name": "solved"},
}


def _create(spec: dict[str, Any] | None = None, **fields: Any) -> Make:
    stated: dict[str, Any] = {"key": "fresh", "spec": _SPEC | (spec or {})}
    return lambda w: ParseDict(
        {"namespace": w.namespace} | stated | fields, pb.CreateExperimentRequest()
    )


def _variants(*variants: dict[str, Any]) -> dict[str, Any]:
    return {"variants": list(variants)}


def _specs() -> Iterator[Row]:
    numeric = {"name": "cost", "kind": "KIND_NUMERIC", "min": 0, "max": 2}
    versions = [{"name": n, "weightBp": 5000, "promptVersion": 1} for n in "ab"]
    for what, named, spec in (
        ("nothing to vary", "subject", {"subject": {}}),
        ("no metric", "primary", {"primary": None}),
        ("one variant", "variants", _variants({**_A, "weightBp": 10_000})),
        ("eleven variants", "variants", _variants(*[_A] * 11)),
        ("a sum of 90 %", "variants", _variants(_A, {**_B, "weightBp": 4_000})),
        ("no control", "variants", _variants({**_A, "control": False}, _B)),
        ("two controls", "variants", _variants(_A, {**_B, "control": True})),
        ("a weight of nothing", "variants[1].weight_bp", _variants(_A, {**_B, "weightBp": 0})),
        ("a name twice", "variants[1].name", _variants(_A, {**_B, "name": "a"})),
        ("a name with a slash", "variants[1].name", _variants(_A, {**_B, "name": "a/b"})),
        ("no value", "variants[1].config_value", _variants(_A, {"name": "b", "weightBp": 5000})),
        ("a wrong value", "variants[1].config_value", _variants(_A, {**_B, "configValue": "hot"})),
        (
            "an unknown path",
            "variants[0].config_value",
            {"subject": {"configPath": "temperatur"}},
        ),
        (
            "a version of a value",
            "variants[1].prompt_version",
            _variants(_A, {**_B, **versions[1]}),
        ),
        ("a value of a prompt", "variants[0].config_value", {"subject": {"prompt": "x"}}),
        (
            "an unknown prompt",
            "variants[0].prompt_version",
            {
                "subject": {"prompt": NOWHERE},
                "variants": [{**versions[0], "control": True}, versions[1]],
            },
        ),
        ("110 %", "coverage_bp", {"coverageBp": 11_000}),
        ("an unknown unit", "unit", {"unit": 99}),
        ("an unknown kind", "primary.kind", {"primary": {"name": "solved", "kind": 99}}),
        ("an unknown direction", "primary.direction", {"primary": {"name": "s", "direction": 99}}),
        ("a metric without name", "primary.name", {"primary": {"kind": "KIND_BINARY"}}),
        ("a range of nothing", "primary.max", {"primary": {**numeric, "max": 0}}),
        ("no number", "primary.max", {"primary": {**numeric, "max": "NaN"}}),
        ("a binary range", "primary.max", {"primary": {"name": "solved", "max": 2}}),
        ("a large margin", "primary.margin", {"primary": {**numeric, "margin": 3}}),
        ("a negative margin", "primary.margin", {"primary": {**numeric, "margin": -1}}),
        ("no margin", "primary.margin", {"primary": {**numeric, "nonInferiority": True}}),
        ("a metric twice", "guardrails[0].name", {"guardrails": [{"name": "solved"}]}),
        ("eleven guardrails", "guardrails", {"guardrails": [{"name": f"g{i}"} for i in range(11)]}),
        (
            "a lenient guardrail",
            "guardrails[0].non_inferiority",
            {"guardrails": [{**numeric, "margin": 1, "nonInferiority": True}]},
        ),
        ("a large alpha", "alpha", {"alpha": 0.5}),
        ("a small n_star", "n_star", {"nStar": 1}),
        ("one unit per arm", "min_units_per_arm", {"minUnitsPerArm": 1}),
        ("many units", "max_units", {"maxUnits": 2_000_000}),
        ("an endless phase", "max_duration", {"maxDuration": "40000000s"}),
        ("a negative phase", "max_duration", {"maxDuration": "-1s"}),
        ("a wrong agent", "agents[0]", {"agents": ["no name"]}),
        ("many agents", "agents", {"agents": ["a"] * 65}),
        ("a long hypothesis", "hypothesis", {"hypothesis": "h" * 4_097}),
    ):
        yield wrong("CreateExperiment", what, named, _create(spec))
    for what, key in (("no key", ""), ("a key with a colon", "a:b"), ("a long key", "k" * 64)):
        yield wrong("CreateExperiment", what, "key", _create(key=key))
    yield wrong("CreateExperiment", "a long id", "request_id", _create(requestId="r" * 129))
    yield refused(
        "CreateExperiment",
        "a key that is taken",
        "ALREADY_EXISTS",
        "EXPERIMENT_EXISTS",
        _create(key="running"),
        experiment="running",
    )


def _orders() -> Iterator[Row]:
    requests: dict[str, Callable[..., Message]] = {
        "StartExperiment": pb.StartExperimentRequest,
        "SetCoverage": pb.SetCoverageRequest,
        "StartNewPhase": pb.StartNewPhaseRequest,
        "StopExperiment": pb.StopExperimentRequest,
    }
    for method, request in requests.items():

        def saying(_request: Callable[..., Message] = request, **fields: Any) -> Make:
            return lambda w: _request(**({"namespace": w.namespace, "key": "running"} | fields))

        yield wrong(method, "no key", "key", saying(key=""))
        yield wrong(method, "a long reason", "reason", saying(reason="r" * 1_025))
        yield _unknown(method, saying(key=NOWHERE))
        if method != "StartExperiment":
            yield _impossible(method, "a draft", saying(key="draft"), "DRAFT")
    yield _impossible(
        "StartExperiment",
        "one that runs",
        lambda w: pb.StartExperimentRequest(namespace=w.namespace, key="running"),
        "RUNNING",
    )
    yield refused(
        "StartExperiment",
        "beside another one",
        "FAILED_PRECONDITION",
        "EXPERIMENT_ACTIVE",
        lambda w: pb.StartExperimentRequest(namespace=w.namespace, key="draft"),
        experiment="running",
    )
    for what, points in (("less", 1_000), ("110 %", 11_000)):

        def ramping(w: World, points: int = points) -> Message:
            return pb.SetCoverageRequest(namespace=w.namespace, key="running", coverage_bp=points)

        yield wrong("SetCoverage", what, "coverage_bp", ramping)
    yield wrong(
        "StartNewPhase",
        "one variant",
        "variants",
        lambda w: ParseDict(
            {"namespace": w.namespace, "key": "running", **_variants({**_A, "weightBp": 10_000})},
            pb.StartNewPhaseRequest(),
        ),
    )
    yield refused(
        "StartNewPhase",
        "after another one",
        "ABORTED",
        "REVISION_CONFLICT",
        lambda w: pb.StartNewPhaseRequest(namespace=w.namespace, key="running", expected_phase=7),
    )
    yield wrong(
        "StopExperiment",
        "promoting nobody",
        "promote",
        lambda w: pb.StopExperimentRequest(namespace=w.namespace, key="running", promote="z"),
    )
    yield _impossible(
        "DeleteExperiment",
        "one that runs",
        lambda w: pb.DeleteExperimentRequest(namespace=w.namespace, key="running"),
        "RUNNING",
    )
    yield wrong(
        "DeleteExperiment",
        "no key",
        "key",
        lambda w: pb.DeleteExperimentRequest(namespace=w.namespace),
    )


def _unknown(method: str, request: Make) -> Row:
    return refused(
        method,
        "an unknown experiment",
        "NOT_FOUND",
        "EXPERIMENT_NOT_FOUND",
        request,
        experiment=NOWHERE,
    )


def _impossible(method: str, what: str, request: Make, state: str) -> Row:
    return refused(
        method, what, "FAILED_PRECONDITION", "INVALID_TRANSITION", request, current_state=state
    )


def _reports() -> Iterator[Row]:
    def exposing(key: str = "running", **fields: Any) -> Make:
        seen = {"unit": "s-1", "variant": "a", "digest": "d"} | fields
        return lambda w: ParseDict(
            {"namespace": w.namespace, "key": key, "exposure": seen}, pb.RecordExposureRequest()
        )

    def concluding(key: str = "running", **fields: Any) -> Make:
        came = {"unit": "s-1", "metric": "solved", "value": 1} | fields
        return lambda w: ParseDict(
            {"namespace": w.namespace, "key": key, "outcome": came}, pb.RecordOutcomeRequest()
        )

    for what, named, fields in (
        ("nobody", "exposure.unit", {"unit": ""}),
        ("a long unit", "exposure.unit", {"unit": "u" * 257}),
        ("a unit that does not print", "exposure.unit", {"unit": "a\x1fb"}),
        ("an unknown variant", "exposure.variant", {"variant": "z"}),
        ("no digest", "exposure.digest", {"digest": ""}),
        ("a long digest", "exposure.digest", {"digest": "d" * 129}),
        ("a phase to come", "exposure.phase", {"phase": 9}),
    ):
        yield wrong("RecordExposure", what, named, exposing(**fields))
    for what, named, fields in (
        ("nobody", "outcome.unit", {"unit": ""}),
        ("an unknown metric", "outcome.metric", {"metric": "z"}),
        ("a phase to come", "outcome.phase", {"phase": 9}),
    ):
        yield wrong("RecordOutcome", what, named, concluding(**fields))
    yield refused(
        "RecordOutcome",
        "a unit that saw nothing",
        "NOT_FOUND",
        "NOT_EXPOSED",
        concluding(),
        unit="s-1",
    )
    for method, make in (("RecordExposure", exposing), ("RecordOutcome", concluding)):
        yield wrong(method, "no key", "key", make(key=""))
        yield _unknown(method, make(key=NOWHERE))
        yield _impossible(method, "a draft", make(key="draft"), "DRAFT")
    batches: dict[str, tuple[Callable[..., Message], str, Any]] = {
        "BatchRecordExposures": (pb.BatchRecordExposuresRequest, "exposures", pb.Exposure()),
        "BatchRecordOutcomes": (pb.BatchRecordOutcomesRequest, "outcomes", pb.Outcome()),
    }
    for method, (request, field, entry) in batches.items():
        for what, count in (("nothing", 0), ("501 entries", 501)):

            def batch(
                w: Any,
                _request: Callable[..., Message] = request,
                _entries: dict[str, Any] = {field: [entry] * count},  # noqa: B006 - read only
            ) -> Message:
                return _request(namespace=w.namespace, key="running", **_entries)

            yield wrong(method, what, field, batch)


def _questions() -> Iterator[Row]:
    requests: dict[str, Callable[..., Message]] = {
        "GetExperiment": pb.GetExperimentRequest,
        "AssignVariant": pb.AssignVariantRequest,
        "AnalyzeExperiment": pb.AnalyzeExperimentRequest,
    }
    for method, request in requests.items():

        def asking(_request: Callable[..., Message] = request, **fields: Any) -> Make:
            return lambda w: _request(namespace=w.namespace, **fields)

        yield wrong(method, "nothing", "key", asking())
        yield _unknown(method, asking(key=NOWHERE))
    yield wrong(
        "AssignVariant",
        "a long unit",
        "unit",
        lambda w: pb.AssignVariantRequest(namespace=w.namespace, key="running", unit="u" * 257),
    )
    yield wrong(
        "WatchExperiments",
        "a malformed namespace",
        "namespace",
        lambda _: pb.WatchExperimentsRequest(namespace="No Such"),
    )
    yield wrong(
        "AnalyzeExperiment",
        "a phase to come",
        "phase",
        lambda w: pb.AnalyzeExperimentRequest(namespace=w.namespace, key="running", phase=9),
    )
    yield _impossible(
        "AnalyzeExperiment",
        "a draft",
        lambda w: pb.AnalyzeExperimentRequest(namespace=w.namespace, key="draft"),
        "DRAFT",
    )
    yield wrong(
        "ListExperiments",
        "an unknown state",
        "states[0]",
        lambda w: pb.ListExperimentsRequest(
            namespace=w.namespace,
            states=[99],  # type: ignore[list-item]  # unknown
        ),
    )


ROWS: Final = (*_specs(), *_orders(), *_reports(), *_questions())
"""All of them."""
