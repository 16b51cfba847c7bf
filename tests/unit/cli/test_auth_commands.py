"""`fleetplane auth` over a scripted daemon."""

import json
from collections.abc import Callable

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from fleetplane.v1 import access_service_pb2 as access
from fleetplane.v1 import identity_service_pb2 as pb
from tests.fakes.fleet_plane import Refusal
from tests.fakes.scripted_daemon import ScriptedDaemon

Run = Callable[..., Result]

BINDING = access.RoleBinding(
    binding_id="rb-1",
    subject="group:ops",
    role="operator",
    namespace="staging",
    description="on call",
    created_by="user:ann",
)


def test_whoami_says_who_what_and_by_which_credential(daemon: ScriptedDaemon, run: Run) -> None:
    who = pb.WhoAmIResponse(
        name="user:ann",
        kind=pb.CALLER_KIND_USER,
        subjects=["user:ann", "group:ops"],
        roles=[
            pb.HeldRole(role="operator", namespace="staging", binding_id="rb-1"),
            pb.HeldRole(role="viewer", namespace="*"),
        ],
        expires_at=Timestamp(seconds=4_000_000_000),
        authentication=True,
    )
    daemon.says("WhoAmI", who)
    result = run("auth", "whoami", env={"FLEETPLANE_TOKEN": "hidden"})
    assert "a user, by an OIDC token" in result.stdout
    assert "user:ann, group:ops" in result.stdout
    assert "operator  in namespace staging  rb-1" in result.stdout
    assert "viewer    everywhere            the identity itself" in result.stdout
    assert "the token in FLEETPLANE_TOKEN" in result.stderr
    assert "hidden" not in result.output
    assert json.loads(run("auth", "whoami", "-o", "json").stdout)["kind"] == "CALLER_KIND_USER"


def test_whoami_of_an_agent_names_it(daemon: ScriptedDaemon, run: Run) -> None:
    who = pb.WhoAmIResponse(
        name="spiffe://d/ns/n/agent/writer",
        kind=pb.CALLER_KIND_AGENT,
        namespace="n",
        agent_name="writer",
    )
    daemon.says("WhoAmI", who)
    assert "writer in namespace n" in run("auth", "whoami").stdout


def test_the_exit_code_of_can_i_is_the_answer(daemon: ScriptedDaemon, run: Run) -> None:
    yes = access.CheckAccessResponse(
        allowed=True, permission="operate", explanation="a binding gives it", bindings=[BINDING]
    )
    no = access.CheckAccessResponse(
        permission="operate", explanation="no role has it", sufficient_roles=["operator", "admin"]
    )
    daemon.says("CheckAccess", yes, no)
    said = run("auth", "can-i", "operate", "-n", "staging").stdout
    assert said.splitlines() == [
        "yes: a binding gives it",
        "  rb-1: group:ops is operator in namespace staging",
    ]
    asked = daemon.last("CheckAccess")
    assert (asked.action, asked.namespace, list(asked.subjects)) == ("operate", "staging", [])
    said = run("auth", "can-i", "operate", code=1).stdout
    assert said.splitlines() == ["no: no role has it", "  roles that would do: operator, admin"]
    assert not json.loads(run("auth", "can-i", "operate", "-o", "json", code=1).stdout)["allowed"]


def test_can_i_asks_about_others_everywhere(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("CheckAccess", access.CheckAccessResponse(allowed=True))
    subjects = ("--as", "user:ann", "--as", "group:ops")
    run("auth", "can-i", "report", *subjects, "--agent", "writer", "--everywhere")
    asked = daemon.last("CheckAccess")
    assert list(asked.subjects) == ["user:ann", "group:ops"]
    assert (asked.agent_name, asked.namespace) == ("writer", "*")


def test_roles_are_listed(daemon: ScriptedDaemon, run: Run) -> None:
    role = access.Role(name="approver", description="Decides.", permissions=["read", "approve"])
    daemon.says("ListRoles", access.ListRolesResponse(roles=[role]))
    assert "approver  read, approve  Decides." in run("auth", "roles").stdout
    assert json.loads(run("auth", "roles", "-o", "json").stdout)["roles"][0]["name"] == "approver"


def test_bindings_are_made_listed_and_taken_away(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("CreateRoleBinding", access.CreateRoleBindingResponse(binding=BINDING))
    given = ("--subject", "group:ops", "--role", "operator", "--ttl", "8h", "--description", "why")
    said = run("auth", "bindings", "create", *given, "-n", "staging").stdout
    assert said == "rb-1: group:ops is operator in namespace staging\n"
    asked = daemon.last("CreateRoleBinding")
    assert (asked.subject, asked.role, asked.namespace) == ("group:ops", "operator", "staging")
    assert (asked.ttl.seconds, asked.description) == (28_800, "why")
    made = run("auth", "bindings", "create", *given, "--everywhere", "-o", "json").stdout
    assert json.loads(made)["binding_id"] == "rb-1"
    assert daemon.last("CreateRoleBinding").namespace == "*"

    daemon.says(
        "ListRoleBindings",
        access.ListRoleBindingsResponse(bindings=[BINDING], next_page_token="2"),  # noqa: S106  # of a page
        access.ListRoleBindingsResponse(bindings=[BINDING]),
    )
    lines = run("auth", "bindings", "list", "--subject", "group:ops").stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:5] == ["rb-1", "group:ops", "operator", "staging", "never"]
    assert daemon.last("ListRoleBindings").subject == "group:ops"
    daemon.says("ListRoleBindings", access.ListRoleBindingsResponse())
    assert "bindings create" in run("auth", "bindings", "list").stderr

    daemon.says(
        "DeleteRoleBinding",
        access.DeleteRoleBindingResponse(removed=True),
        access.DeleteRoleBindingResponse(),
    )
    gone = run("auth", "bindings", "delete", "rb-1", "--reason", "left", "--everywhere")
    assert gone.stdout == "rb-1 is deleted\n"
    asked = daemon.last("DeleteRoleBinding")
    assert (asked.binding_id, asked.reason, asked.namespace) == ("rb-1", "left", "*")
    assert "was not there" in run("auth", "bindings", "delete", "rb-1").stdout


def test_half_a_binding_is_wrong_usage(daemon: ScriptedDaemon, run: Run) -> None:
    assert "--subject and --role" in run("auth", "bindings", "create", code=2).stderr
    run("auth", "bindings", "create", "--role", "viewer", code=2)
    assert daemon.asked == []


def test_agents_are_banned_listed_and_let_in_again(daemon: ScriptedDaemon, run: Run) -> None:
    ban = pb.Ban(namespace="default", agent_name="writer", reason="stolen", banned_by="user:ann")
    daemon.says("BanAgent", pb.BanAgentResponse(ban=ban))
    said = run("auth", "ban", "writer", "--reason", "stolen").stdout
    assert said == "writer is banned in namespace default\n"
    assert daemon.last("BanAgent").reason == "stolen"
    assert json.loads(run("auth", "ban", "writer", "-o", "json").stdout)["agent_name"] == "writer"
    daemon.says("ListBans", pb.ListBansResponse(bans=[ban]))
    assert "user:ann   stolen" in run("auth", "bans").stdout
    assert json.loads(run("auth", "bans", "-o", "json").stdout)["bans"]
    daemon.says("ListBans", pb.ListBansResponse())
    assert "Nobody is banned" in run("auth", "bans").stderr
    daemon.says("UnbanAgent", pb.UnbanAgentResponse(removed=True), pb.UnbanAgentResponse())
    assert run("auth", "unban", "writer").stdout == "writer is not banned any more\n"
    assert run("auth", "unban", "writer").stdout == "writer is not banned\n"
    assert json.loads(run("auth", "unban", "writer", "-o", "json").stdout) == {"removed": False}


def test_a_missing_right_is_explained_with_whom_to_ask(daemon: ScriptedDaemon, run: Run) -> None:
    refusal = Refusal(
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
        "user:ann may not administer in namespace 'staging'",
        {"permission": "administer", "namespace": "staging"},
    )
    daemon.says("BanAgent", refusal)
    said = run("auth", "ban", "writer", "-n", "staging", code=1).stderr
    assert "may not administer" in said
    assert "`fleetplane auth can-i administer -n staging`" in said
    assert "ask an admin of namespace staging" in said
    assert "`fleetplane auth bindings create -n staging`" in said


def test_a_caller_without_a_credential_is_sent_to_login(daemon: ScriptedDaemon, run: Run) -> None:
    refusal = Refusal(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING", "this call needs one")
    daemon.says("WhoAmI", refusal)
    said = run("auth", "whoami", code=1).stderr
    assert f"`fleetplane login -a {daemon.address}`" in said
