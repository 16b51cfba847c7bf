"""Limits of a declaration, and what an update may change."""

from dataclasses import replace

import pytest

from controlplane.domain.agents import Activation, AgentSpec
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.registration import (
    apply_mask,
    content_equal,
    endpoint_violations,
    validate_agent_id,
    validate_instance_id,
    validate_spec,
)

SPEC = AgentSpec(
    name="researcher",
    version="2.1.0",
    capabilities=("search", "cite"),
    tools=("web", "mail"),
    endpoint="https://agents.example.com:8443/a2a",
    tags={"env": "prod"},
)


def fields_of(spec):
    return [violation.field for violation in validate_spec(spec)]


def test_an_ordinary_declaration_is_fine():
    assert validate_spec(SPEC) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "A.b-c_9" + "x" * 249},
        {"version": "2.1.0-rc.1+build.5"},
        {"description": "d" * 4096},
        {"capabilities": ("ü" * 128,)},
        {"capabilities": tuple(str(n) for n in range(64))},
        {"endpoint": "http://[::1]:80/"},
        {"max_concurrency": 100_000, "timeout_seconds": 86_400},
        {"degraded_after_ms": 1_000, "lost_after_ms": 1_001},
        {"degraded_after_ms": 86_400_000, "lost_after_ms": 604_800_000},
        {"tags": {"k" * 256: "v" * 256}},
    ],
)
def test_what_is_at_its_limit_is_fine(change):
    assert validate_spec(replace(SPEC, **change)) == ()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "spec.name"),
        ({"name": "x" * 257}, "spec.name"),
        ({"name": "-starts-wrong"}, "spec.name"),
        ({"name": "has space"}, "spec.name"),
        ({"name": "line\n"}, "spec.name"),
        ({"version": ""}, "spec.version"),
        ({"version": "1.2"}, "spec.version"),
        ({"version": "v1.2.3"}, "spec.version"),
        ({"version": "1.2.3\n"}, "spec.version"),
        ({"version": "1.2." + "3" * 300}, "spec.version"),
        ({"description": "ü" * 2049}, "spec.description"),
        ({"owner": "x" * 257}, "spec.owner"),
        ({"model": "\ud800"}, "spec.model"),
        ({"capabilities": ("a", "")}, "spec.capabilities[1]"),
        ({"capabilities": ("a", "b", "c", "b")}, "spec.capabilities[3]"),
        ({"capabilities": tuple(str(n) for n in range(65))}, "spec.capabilities"),
        ({"tools": ("x" * 257,)}, "spec.tools[0]"),
        ({"tags": {"": "v"}}, "spec.tags[]"),
        ({"tags": {"k": "v" * 257}}, "spec.tags[k]"),
        ({"tags": {str(n): "" for n in range(65)}}, "spec.tags"),
        ({"endpoint": "ftp://example.com"}, "spec.endpoint"),
        ({"endpoint": "https://"}, "spec.endpoint"),
        ({"endpoint": "https://host:port/"}, "spec.endpoint"),
        ({"endpoint": "https://[::1"}, "spec.endpoint"),
        ({"endpoint": "https://host/a b"}, "spec.endpoint"),
        ({"endpoint": "https://host/" + "x" * 2048}, "spec.endpoint"),
        ({"max_concurrency": 0}, "spec.max_concurrency"),
        ({"max_concurrency": 100_001}, "spec.max_concurrency"),
        ({"timeout_seconds": 86_401}, "spec.timeout_seconds"),
        ({"degraded_after_ms": 999}, "spec.degraded_after"),
        ({"degraded_after_ms": 86_400_001}, "spec.degraded_after"),
        ({"lost_after_ms": 1_000}, "spec.lost_after"),
        ({"lost_after_ms": 604_800_001}, "spec.lost_after"),
        ({"degraded_after_ms": 5_000, "lost_after_ms": 5_000}, "spec.lost_after"),
    ],
)
def test_a_broken_limit_names_its_field(change, field):
    assert fields_of(replace(SPEC, **change)) == [field]


def test_all_broken_limits_are_named_at_once():
    broken = replace(SPEC, name="", version="one", tools=("a", "a"), max_concurrency=0)

    assert fields_of(broken) == [
        "spec.name",
        "spec.version",
        "spec.tools[1]",
        "spec.max_concurrency",
    ]


@pytest.mark.parametrize("check", [validate_agent_id, validate_instance_id])
def test_identities_have_their_letters(check):
    check("agt-0192.A_b:c" + "x" * 242)
    for wrong in ("", "x" * 257, "has space", "umläut", "line\n"):
        with pytest.raises(InvalidArgument):
            check(wrong)


def test_an_identity_is_named_by_its_path():
    with pytest.raises(InvalidArgument) as refusal:
        validate_instance_id("?", "instance.instance_id")

    assert refusal.value.violations[0].field == "instance.instance_id"


def test_no_endpoint_is_no_violation():
    assert not list(endpoint_violations("", "instance.endpoint"))


def test_a_mask_takes_the_named_fields_only():
    new = AgentSpec(
        name="ignored",
        version="9.9.9",
        description="new",
        tags={"env": "test"},
        activation=Activation.MANUAL,
        lost_after_ms=90_000,
    )

    changed = apply_mask(SPEC, new, ["description", "activation", "lost_after"])

    assert changed == replace(
        SPEC, description="new", activation=Activation.MANUAL, lost_after_ms=90_000
    )


def test_a_masked_field_that_is_absent_goes_back_to_its_default():
    changed = apply_mask(SPEC, AgentSpec(name="", version=""), ["tags", "endpoint"])

    assert (dict(changed.tags), changed.endpoint) == ({}, "")


@pytest.mark.parametrize(
    "paths", [(), ("*",), ("name",), ("version",), ("status",), ("spec.owner",), ("owner", "no")]
)
def test_an_illegal_mask_is_refused(paths):
    with pytest.raises(InvalidArgument) as refusal:
        apply_mask(SPEC, SPEC, paths)

    assert {violation.field for violation in refusal.value.violations} == {"update_mask"}


def test_an_update_that_breaks_a_limit_with_what_stays_is_refused():
    current = replace(SPEC, degraded_after_ms=60_000, lost_after_ms=120_000)

    with pytest.raises(InvalidArgument) as refusal:
        apply_mask(current, replace(SPEC, lost_after_ms=30_000), ["lost_after"])

    assert [violation.field for violation in refusal.value.violations] == ["spec.lost_after"]


def test_the_order_of_capabilities_and_tools_is_no_content():
    other = replace(SPEC, capabilities=("cite", "search"), tools=("mail", "web"))

    assert content_equal(SPEC, other)
    assert content_equal(SPEC, replace(SPEC))


@pytest.mark.parametrize(
    "change", [{"capabilities": ("search",)}, {"tags": {}}, {"owner": "x"}, {"lost_after_ms": 2000}]
)
def test_anything_else_is_content(change):
    assert not content_equal(SPEC, replace(SPEC, **change))
