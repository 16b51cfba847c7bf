"""`fleetplane namespaces` over a scripted daemon."""

import json
from collections.abc import Callable

import grpc
import pytest
import typer
from typer.testing import Result

from controlplane.cli.namespace_views import readable_size
from controlplane.cli.quota_options import QUOTAS, size
from fleetplane.v1 import namespace_service_pb2 as pb
from tests.fakes.fleet_plane import Refusal
from tests.fakes.scripted_daemon import ScriptedDaemon

Run = Callable[..., Result]

LAB = pb.Namespace(
    name="lab",
    description="trials",
    labels={"team": "ml"},
    quotas=pb.Quotas(agents=50, config_bytes=64 * 1024**2),
    state=pb.NAMESPACE_STATE_ACTIVE,
    created_by="user:ann",
    revision=7,
)


def test_every_quota_of_the_contract_is_an_option() -> None:
    assert set(QUOTAS) == set(pb.Quotas.DESCRIPTOR.fields_by_name)


def test_a_namespace_is_made_with_bounds(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("CreateNamespace", pb.CreateNamespaceResponse(namespace=LAB))
    given = ("--max-agents", "50", "--max-config-bytes", "64MiB", "-l", "team=ml")
    said = run("namespaces", "create", "lab", *given, "--description", "trials").stdout
    assert "agents 50, config bytes 64 MiB" in said
    asked = daemon.last("CreateNamespace")
    assert (asked.name, asked.description, dict(asked.labels)) == ("lab", "trials", {"team": "ml"})
    assert asked.quotas == LAB.quotas
    made = json.loads(run("namespaces", "create", "lab", "-o", "json").stdout)
    assert made["quotas"]["agents"] == 50
    assert daemon.last("CreateNamespace").quotas == pb.Quotas()


def test_every_bound_has_its_option(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("CreateNamespace", pb.CreateNamespaceResponse(namespace=LAB))
    given = [(f"--max-{name.replace('_', '-')}", str(at)) for at, name in enumerate(QUOTAS, 1)]
    run("namespaces", "create", "lab", *(word for pair in given for word in pair))
    asked = daemon.last("CreateNamespace").quotas
    assert [getattr(asked, name) for name in QUOTAS] == list(range(1, len(QUOTAS) + 1))


def test_namespaces_are_shown_and_listed(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("GetNamespace", pb.GetNamespaceResponse(namespace=LAB))
    assert "team=ml" in run("namespaces", "get", "lab").stdout
    assert daemon.last("GetNamespace").namespace == "lab"
    run("namespaces", "get", "-n", "mine", "-o", "yaml")
    assert daemon.last("GetNamespace").namespace == "mine"
    implicit = pb.Namespace(name="default", state=pb.NAMESPACE_STATE_ACTIVE)
    daemon.says("ListNamespaces", pb.ListNamespacesResponse(namespaces=[implicit, LAB]))
    lines = run("namespaces", "list").stdout.splitlines()
    assert lines[1].split()[:3] == ["default", "ACTIVE", "-"]
    assert lines[2].split()[:2] == ["lab", "ACTIVE"]
    daemon.says("GetNamespace", pb.GetNamespaceResponse(namespace=implicit))
    said = run("namespaces", "get").stdout
    assert "none but the daemon's own" in said
    assert "its first use" in said
    daemon.says("ListNamespaces", pb.ListNamespacesResponse())
    assert "bindings create" in run("namespaces", "list").stderr
    assert json.loads(run("namespaces", "list", "-o", "json").stdout) == {"namespaces": []}


def test_an_update_keeps_the_bounds_that_are_not_named(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("GetNamespace", pb.GetNamespaceResponse(namespace=LAB))
    daemon.says("UpdateNamespace", pb.UpdateNamespaceResponse(namespace=LAB))
    run("namespaces", "update", "lab", "--max-agents", "0", "--max-policies", "9")
    asked = daemon.last("UpdateNamespace")
    assert asked.quotas == pb.Quotas(policies=9, config_bytes=64 * 1024**2)
    assert asked.expected_revision == 7
    assert not asked.HasField("description")
    run("namespaces", "update", "lab", "--max-agents", "1", "--expected-revision", "5")
    assert daemon.last("UpdateNamespace").expected_revision == 5


def test_an_update_without_bounds_leaves_them_alone(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("UpdateNamespace", pb.UpdateNamespaceResponse(namespace=LAB))
    given = ("-l", "team=search", "--unlabel", "owner", "--description", "", "--reason", "moved")
    run("namespaces", "update", "lab", *given)
    asked = daemon.last("UpdateNamespace")
    assert dict(asked.labels) == {"team": "search", "owner": ""}
    assert asked.HasField("description")
    assert not asked.HasField("quotas")
    assert (asked.reason, asked.expected_revision) == ("moved", 0)
    assert daemon.count("GetNamespace") == 0
    run("namespaces", "update", "lab", "--no-quotas", "--max-agents", "3")
    assert daemon.last("UpdateNamespace").quotas == pb.Quotas(agents=3)
    assert daemon.count("GetNamespace") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say what to change"),
        (("-l", "team="), "a label without a value"),
        (("-l", "team"), "NAME=VALUE"),
        (("--max-agents", "-1"), "--max-agents"),
        (("--max-config-bytes", "much"), "is not a size"),
    ],
)
def test_an_update_that_says_nothing_or_wrong_is_not_sent(
    daemon: ScriptedDaemon, run: Run, arguments: tuple[str, ...], words: str
) -> None:
    result = run("namespaces", "update", "lab", *arguments, code=2)
    assert words in result.stderr
    assert daemon.asked == []


def test_a_namespace_is_removed_once(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says(
        "DeleteNamespace",
        pb.DeleteNamespaceResponse(removed=True),
        pb.DeleteNamespaceResponse(),
    )
    said = run("namespaces", "delete", "lab", "--reason", "over", "--expected-revision", "7")
    assert said.stdout == "namespace lab is removed\n"
    asked = daemon.last("DeleteNamespace")
    assert (asked.namespace, asked.reason, asked.expected_revision) == ("lab", "over", 7)
    assert run("namespaces", "delete", "lab").stdout == "namespace lab was not there\n"
    assert json.loads(run("namespaces", "delete", "lab", "-o", "json").stdout) == {"removed": False}


def test_usage_is_used_bound_and_percent(daemon: ScriptedDaemon, run: Run) -> None:
    usage = pb.GetUsageResponse(
        used=pb.Quotas(agents=12, config_bytes=1536, instances=3), quotas=LAB.quotas
    )
    daemon.says("GetUsage", usage)
    lines = run("namespaces", "usage", "lab").stdout.splitlines()
    assert lines[0].split() == ["QUOTA", "USED", "BOUND", "PERCENT"]
    assert lines[1].split() == ["agents", "12", "50", "24", "%"]
    assert lines[2].split() == ["instances", "3", "-", "-"]
    assert lines[6].split() == ["config", "bytes", "1.5", "KiB", "64", "MiB", "0", "%"]
    assert len(lines) == 1 + len(QUOTAS)
    assert json.loads(run("namespaces", "usage", "-o", "json").stdout)["used"]["agents"] == 12


@pytest.mark.parametrize(
    ("code", "reason", "command"),
    [
        (grpc.StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND", "namespaces create lab"),
        (grpc.StatusCode.ALREADY_EXISTS, "NAMESPACE_EXISTS", "namespaces update lab"),
        (grpc.StatusCode.FAILED_PRECONDITION, "NAMESPACE_NOT_EMPTY", "namespaces usage lab"),
        (grpc.StatusCode.FAILED_PRECONDITION, "NAMESPACE_TERMINATING", "namespaces get lab"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", "namespaces usage lab"),
    ],
)
def test_a_refusal_names_the_command_that_helps(
    daemon: ScriptedDaemon, run: Run, code: grpc.StatusCode, reason: str, command: str
) -> None:
    daemon.says("GetNamespace", Refusal(code, reason, "no", {"namespace": "lab"}))
    assert f"`fleetplane {command}`" in run("namespaces", "get", "lab", code=1).stderr


@pytest.mark.parametrize(
    ("text", "count"), [("65536", 65536), ("64KiB", 65536), ("1 gib", 1024**3), ("0", 0)]
)
def test_a_size_is_a_number_with_a_unit(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "-1", "64MB", "1.5KiB", "KiB"])
def test_any_other_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a size"):
        size(text)


def test_a_size_is_shown_in_its_largest_unit() -> None:
    shown = [readable_size(count) for count in (0, 1023, 1024, 1536, 64 * 1024**2, 5 * 1024**5)]
    assert shown == ["0 B", "1023 B", "1 KiB", "1.5 KiB", "64 MiB", "5120 TiB"]
