"""`fleetplane tokens` over a scripted daemon."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from controlplane.cli.token_views import state_of
from fleetplane.v1 import identity_service_pb2 as pb
from tests.fakes.fleet_plane import Refusal
from tests.fakes.scripted_daemon import ScriptedDaemon

Run = Callable[..., Result]

FAR = Timestamp(seconds=4_000_000_000)
PAST = Timestamp(seconds=1_000)

API = pb.ApiToken(
    token_id="at-1",  # noqa: S106  # an id
    namespace="default",
    name="ci",
    created_by="user:ann",
    created_at=PAST,
    expires_at=FAR,
)
JOIN = pb.JoinToken(
    token_id="jt-1",  # noqa: S106  # an id
    namespace="default",
    agent_name_pattern="web-*",
    max_uses=50,
    uses=3,
    description="autumn",
    expires_at=FAR,
)
MADE = pb.CreateApiTokenResponse(secret="at-1.c2VjcmV0", token=API)  # noqa: S106  # of a test
JOINED = pb.CreateJoinTokenResponse(secret="jt-1.c2VjcmV0", token=JOIN)  # noqa: S106  # same


def test_the_secret_is_alone_on_standard_output(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("CreateApiToken", MADE)
    result = run("tokens", "create", "ci", "--role", "operator", "--ttl", "30d")
    assert result.stdout == "at-1.c2VjcmV0\n"
    assert "at-1: operator in namespace default, ends in " in result.stderr
    assert "c2VjcmV0" not in result.stderr
    asked = daemon.last("CreateApiToken")
    assert (asked.name, asked.role, asked.namespace) == ("ci", "operator", "default")
    assert asked.ttl.seconds == 30 * 86_400
    assert asked.request_id


def test_a_token_for_ever_and_everywhere(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says(
        "CreateApiToken",
        pb.CreateApiTokenResponse(secret="s", token=pb.ApiToken(token_id="at-1", namespace="*")),  # noqa: S106  # of a test
    )
    result = run("tokens", "create", "backup", "--role", "auditor", "--everywhere", "--ttl", "0")
    assert "at-1: auditor everywhere, for ever" in result.stderr
    asked = daemon.last("CreateApiToken")
    assert asked.namespace == "*"
    assert asked.HasField("ttl")
    assert asked.ttl.seconds == 0
    run("tokens", "create", "backup", "--role", "auditor", "-n", "*")
    asked = daemon.last("CreateApiToken")
    assert (asked.namespace, asked.HasField("ttl")) == ("*", False)


def test_programs_get_the_whole_answer(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("CreateApiToken", MADE)
    daemon.says("CreateJoinToken", JOINED)
    result = run("tokens", "create", "ci", "--role", "viewer", "-o", "json")
    told = json.loads(result.stdout)
    assert (told["secret"], told["token"]["token_id"]) == ("at-1.c2VjcmV0", "at-1")
    assert result.stderr == ""
    told = yaml.safe_load(run("tokens", "join", "create", "-o", "yaml").stdout)
    assert told["token"]["agent_name_pattern"] == "web-*"


def test_a_token_without_a_role_is_wrong_usage(daemon: ScriptedDaemon, run: Run) -> None:
    assert "auth roles" in run("tokens", "create", "ci", code=2).stderr
    assert daemon.asked == []


def test_a_join_token_is_for_some_names_some_times(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("CreateJoinToken", JOINED)
    result = run(
        *("tokens", "join", "create", "--for", "web-*", "--uses", "50"),
        *("--ttl", "1d", "--description", "autumn"),
    )
    assert result.stdout == "jt-1.c2VjcmV0\n"
    assert "agents web-* in namespace default, 50 times, ends in" in result.stderr
    asked = daemon.last("CreateJoinToken")
    assert (asked.agent_name_pattern, asked.max_uses, asked.ttl.seconds) == ("web-*", 50, 86_400)
    assert asked.description == "autumn"


def test_a_join_token_is_for_one_agent_within_an_hour_unless_told(
    daemon: ScriptedDaemon, run: Run
) -> None:
    daemon.says("CreateJoinToken", JOINED)
    run("tokens", "join", "create")
    asked = daemon.last("CreateJoinToken")
    assert (asked.HasField("max_uses"), asked.HasField("ttl")) == (False, False)
    run("tokens", "join", "create", "--uses", "0")
    asked = daemon.last("CreateJoinToken")
    assert (asked.HasField("max_uses"), asked.max_uses) == (True, 0)
    run("tokens", "join", "create", "--ttl", "0", code=2)


def test_tokens_are_listed_over_all_pages(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says(
        "ListApiTokens",
        pb.ListApiTokensResponse(tokens=[API], next_page_token="2"),  # noqa: S106  # of a page
        pb.ListApiTokensResponse(tokens=[pb.ApiToken(token_id="at-2", name="x", revoked=True)]),  # noqa: S106  # an id
    )
    first, second = run("tokens", "list").stdout.splitlines()[1:]
    assert first.split()[:3] == ["at-1", "ci", "VALID"]
    assert second.split() == ["at-2", "x", "REVOKED", "never", "never", "-", "-"]
    daemon.says("ListApiTokens", pb.ListApiTokensResponse())
    assert "tokens create" in run("tokens", "list", "--everywhere").stderr
    assert daemon.last("ListApiTokens").namespace == "*"
    assert json.loads(run("tokens", "list", "-o", "json").stdout) == {"tokens": []}


def test_join_tokens_are_listed_with_their_uses(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("ListJoinTokens", pb.ListJoinTokensResponse(tokens=[JOIN]))
    (line,) = run("tokens", "join", "list").stdout.splitlines()[1:]
    assert line.split()[:4] == ["jt-1", "web-*", "VALID", "3/50"]
    told = json.loads(run("tokens", "join", "list", "-o", "json").stdout)
    assert told["tokens"][0]["uses"] == 3
    daemon.says("ListJoinTokens", pb.ListJoinTokensResponse())
    assert "tokens join create" in run("tokens", "join", "list").stderr


def test_tokens_are_revoked(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("RevokeApiToken", pb.RevokeApiTokenResponse(token=API))
    result = run("tokens", "revoke", "at-1", "--reason", "was in a log", "--everywhere")
    assert result.stdout == "at-1 (ci) is revoked\n"
    asked = daemon.last("RevokeApiToken")
    assert (asked.token_id, asked.reason, asked.namespace) == ("at-1", "was in a log", "*")
    daemon.says("RevokeJoinToken", pb.RevokeJoinTokenResponse(token=JOIN))
    assert "jt-1 (for web-*)" in run("tokens", "join", "revoke", "jt-1").stdout
    assert json.loads(run("tokens", "join", "revoke", "jt-1", "-o", "json").stdout)
    assert json.loads(run("tokens", "revoke", "at-1", "-o", "json").stdout)["name"] == "ci"


def test_an_unknown_token_is_refused_with_where_to_look(daemon: ScriptedDaemon, run: Run) -> None:
    refusal = Refusal(grpc.StatusCode.NOT_FOUND, "TOKEN_NOT_FOUND", "no token 'at-9'")
    daemon.says("RevokeApiToken", refusal)
    assert "tokens list --everywhere" in run("tokens", "revoke", "at-9", code=1).stderr


@pytest.mark.parametrize(
    ("token", "state"),
    [
        (API, "VALID"),
        (pb.ApiToken(), "VALID"),
        (pb.ApiToken(expires_at=PAST), "EXPIRED"),
        (pb.ApiToken(expires_at=PAST, revoked=True), "REVOKED"),
        (JOIN, "VALID"),
        (pb.JoinToken(expires_at=FAR, max_uses=0, uses=9), "VALID"),
        (pb.JoinToken(expires_at=FAR, max_uses=2, uses=2), "USED UP"),
        (pb.JoinToken(expires_at=PAST, max_uses=2, uses=2), "EXPIRED"),
    ],
)
def test_a_token_says_why_it_is_not_accepted(token: Any, state: str) -> None:
    assert state_of(token) == state
