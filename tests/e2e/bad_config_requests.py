"""What the configuration must refuse; see `bad_requests.py`."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from google.protobuf.message import Message

from fleetplane.v1 import config_service_pb2 as config_pb
from tests.e2e.bad_requests import (
    NOWHERE,
    Make,
    Row,
    deep,
    nan,
    plain,
    refused,
    struct,
    wrong,
)


def _config_reads() -> Iterator[Row]:
    def at(request: Callable[..., Message], **scope: Any) -> Make:
        return lambda w: request(namespace=w.namespace, scope=config_pb.ConfigScope(**scope))

    yield wrong(
        "GetConfig",
        "the emergency layer",
        "scope.emergency",
        at(config_pb.GetConfigRequest, emergency=True),
    )
    yield wrong(
        "GetConfig",
        "two scopes in one",
        "scope",
        at(config_pb.GetConfigRequest, agent_name="a", agent_id="b"),
    )
    yield wrong(
        "GetConfig",
        "an agent_id with a line break",
        "scope.agent_id",
        at(config_pb.GetConfigRequest, agent_id="a\nb"),
    )
    yield wrong(
        "WaitForConvergence",
        "no revision",
        "revision",
        lambda w: config_pb.WaitForConvergenceRequest(namespace=w.namespace),
    )
    yield wrong(
        "WaitForConvergence",
        "the emergency layer",
        "scope.emergency",
        lambda w: config_pb.WaitForConvergenceRequest(
            namespace=w.namespace, revision=1, scope=config_pb.ConfigScope(emergency=True)
        ),
    )

    def watch(*scopes: config_pb.ConfigScope) -> Make:
        return lambda w: config_pb.WatchConfigRequest(
            namespace=w.namespace, scopes=[config_pb.WatchedScope(scope=s) for s in scopes]
        )

    named = [config_pb.ConfigScope(agent_name=f"a{i}") for i in range(1001)]
    yield wrong("WatchConfig", "no scope", "scopes", watch())
    yield wrong("WatchConfig", "1,001 scopes", "scopes", watch(*named))
    yield wrong("WatchConfig", "a scope twice", "scopes[1]*", watch(named[0], named[0]))
    yield wrong(
        "WatchConfig",
        "the emergency layer",
        "scopes[0].scope.emergency",
        watch(config_pb.ConfigScope(emergency=True)),
    )


def _config_writes() -> Iterator[Row]:
    def update(**fields: Any) -> Make:
        return lambda w: config_pb.UpdateConfigRequest(namespace=w.namespace, **fields)

    for what, named, values in (
        ("an unknown path", "set.temprature", struct(temprature=0.5)),
        ("a text for a number", "set.temperature", struct(temperature="warm")),
        ("a number out of range", "set.temperature", struct(temperature=2.5)),
        ("a number that is none", "set.temperature", nan("temperature")),
        ("half a token", "set.max_tokens", struct(max_tokens=0.5)),
        ("a switch that is no switch", "set.features.x", struct(**{"features.x": "yes"})),
        ("a list of numbers", "set.blocked_tools*", struct(blocked_tools=[1])),
        ("a value too deep", "set.extra*", struct(extra=plain(deep()))),
    ):
        yield wrong("UpdateConfig", what, named, update(set=values))
    yield wrong("UpdateConfig", "an unknown path to unset", "unset*", update(unset=["nonsense"]))
    yield wrong(
        "UpdateConfig", "an unknown path to widen", "may_widen*", update(may_widen={"paths": ["x"]})
    )
    yield wrong(
        "UpdateConfig",
        "a long reason",
        "reason",
        update(set=struct(temperature=1), reason="r" * 1025),
    )
    yield refused(
        "UpdateConfig",
        "an agent of nobody",
        "NOT_FOUND",
        "AGENT_NOT_FOUND",
        update(scope={"agent_id": NOWHERE}, set=struct(temperature=1)),
        agent_id=NOWHERE,
    )
    yield refused(
        "UpdateConfig",
        "a stale revision",
        "ABORTED",
        "REVISION_CONFLICT",
        update(set=struct(temperature=1), expected_revision=1),
        expected_revision="1",
    )
    yield refused(
        "UpdateConfig",
        "a layer that must not exist",
        "ABORTED",
        "REVISION_CONFLICT",
        update(set=struct(temperature=1), expected_revision=0),
        expected_revision="0",
    )
    yield refused(
        "UpdateConfig",
        "a layer of 300 KiB",
        "RESOURCE_EXHAUSTED",
        "LIMIT_EXCEEDED",
        update(set=struct(**{"extra.blob": "b" * 300 * 1024})),
    )

    def rollback(**fields: Any) -> Make:
        return lambda w: config_pb.RollbackConfigRequest(namespace=w.namespace, **fields)

    yield wrong("RollbackConfig", "no revision", "to_revision", rollback())
    yield refused(
        "RollbackConfig",
        "a revision that never was",
        "NOT_FOUND",
        "REVISION_NOT_FOUND",
        rollback(to_revision=1_000_000),
        revision="1000000",
    )


def _extra_schemas() -> Iterator[Row]:
    def put(**fields: Any) -> Make:
        return lambda w: config_pb.SetExtraSchemaRequest(namespace=w.namespace, **fields)

    for what, named, document in (
        ("a schema of no known type", "schema.type", {"type": "strin"}),
        ("a schema of another draft", "schema.$schema", {"$schema": "http://json-schema.org/x"}),
        ("a reference to elsewhere", "schema.$ref", {"$ref": "https://example.com/schema"}),
        ("a reference to itself", "schema.$ref", {"$ref": "#"}),
        ("a pattern with a look-ahead", "schema.pattern", {"pattern": "(?=a)"}),
        ("a keyword that is not supported", "schema.unevaluatedItems", {"unevaluatedItems": False}),
        ("a schema too deep", "schema*", {"const": plain(deep())}),
    ):
        yield wrong("SetExtraSchema", what, named, put(schema=struct(**document)))
    yield wrong("SetExtraSchema", "a number that is none", "schema.const", put(schema=nan("const")))
    yield wrong("SetExtraSchema", "a long reason", "reason", put(reason="r" * 1025))
    yield refused(
        "SetExtraSchema",
        "a stale revision",
        "ABORTED",
        "REVISION_CONFLICT",
        put(schema=struct(type="object"), expected_revision=1),
        expected_revision="1",
    )
    too_large: tuple[tuple[str, dict[str, Any]], ...] = (
        ("a schema above 64 KiB", {"description": "d" * 64 * 1024}),
        ("a schema of 2,001 parts", {"enum": [[]] * 1999}),
        ("101 patterns", {"allOf": [{"pattern": f"a{i}"} for i in range(101)]}),
    )
    for what, large in too_large:
        yield refused(
            "SetExtraSchema",
            what,
            "RESOURCE_EXHAUSTED",
            "LIMIT_EXCEEDED",
            put(schema=struct(**large)),
        )
    yield wrong(
        "GetExtraSchema",
        "an illegal namespace",
        "namespace",
        lambda _: config_pb.GetExtraSchemaRequest(namespace="No Such"),
    )


ROWS: Final = (*_config_reads(), *_config_writes(), *_extra_schemas())
"""All of them."""
