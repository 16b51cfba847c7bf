import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.cli.call import Globals, Output
from controlplane.cli.credentials import Credentials
from controlplane.cli.failures import report
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.domain.errors import InvalidArgument as DomainInvalid
from controlplane.domain.errors import PolicyNotFound
from fleetplane import (
    DeadlineExceeded,
    FleetError,
    InternalError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RevisionConflict,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from fleetplane._details import FieldViolation, StatusDetails

CALL = Globals(address="10.0.0.1:50051", namespace="default", output=Output.TABLE, timeout=None)


def reported(capsys: pytest.CaptureFixture[str], error: Exception) -> tuple[int | None, str]:
    code = report(error, CALL)
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def test_a_daemon_that_does_not_answer_is_3_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, text = reported(capsys, Unavailable("failed to connect to all addresses; last error: x"))
    assert code == 3
    assert text == (
        "Error: no daemon answers at 10.0.0.1:50051\n"
        "  start one with `fleetplane serve`, or name another with --address\n"
    )


def test_a_daemon_without_its_store_is_3_and_keeps_its_own_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = Unavailable("the store is unavailable", StatusDetails(reason="STORE_UNAVAILABLE"))
    code, text = reported(capsys, error)
    assert code == 3
    assert text.startswith("Error: the store is unavailable\n")


def test_no_answer_in_time_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = reported(capsys, DeadlineExceeded("Deadline Exceeded"))
    assert code == 3
    assert "a write may have happened" in text


def test_one_wrong_field_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    details = StatusDetails(violations=(FieldViolation("set.temperature", "must be at most 2"),))
    code, text = reported(capsys, InvalidArgument("whatever", details))
    assert (code, text) == (1, "Error: set.temperature: must be at most 2\n")


def test_several_wrong_fields_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    details = StatusDetails(violations=(FieldViolation("a", "is x"), FieldViolation("b", "is y")))
    code, text = reported(capsys, InvalidArgument("whatever", details))
    assert (code, text) == (1, "Error: 2 fields are wrong\n  a: is x\n  b: is y\n")


def test_a_stale_revision_names_the_current_one(capsys: pytest.CaptureFixture[str]) -> None:
    details = StatusDetails(reason="REVISION_CONFLICT", metadata={"current_revision": "21"})
    code, text = reported(capsys, RevisionConflict("it is at 21, not 17", details))
    assert code == 1
    assert "it is at revision 21" in text


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (NotFound("no agent", StatusDetails(reason="AGENT_NOT_FOUND")), "agents list"),
        (NotFound("no policy", StatusDetails(reason="POLICY_NOT_FOUND")), "policies list"),
        (NotFound("no revision", StatusDetails(reason="REVISION_NOT_FOUND")), "config history"),
        (Unimplemented("no such method"), "older than this command line"),
        (InternalError("defect", StatusDetails(metadata={"request_id": "req-7"})), "req-7"),
        (FleetError("something"), ""),
    ],
)
def test_a_refusal_says_what_to_do(
    capsys: pytest.CaptureFixture[str], error: FleetError, hint: str
) -> None:
    code, text = reported(capsys, error)
    assert code == 1
    assert text.startswith(f"Error: {error.message}\n")
    assert hint in text


EVERYWHERE = {"permission": "administer", "namespace": "*"}


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            Unauthenticated("x", StatusDetails(reason="CREDENTIAL_EXPIRED")),
            "it was the token of profile prod; `fleetplane login --profile prod` replaces it",
        ),
        (
            Unauthenticated("x", StatusDetails(reason="CREDENTIAL_REVOKED")),
            "it was the token of profile prod",
        ),
        (
            PermissionDenied(
                "x", StatusDetails(reason="AGENT_BANNED", metadata={"agent_name": "writer"})
            ),
            "`fleetplane auth unban writer`",
        ),
        (PermissionDenied("x", StatusDetails(reason="FOREIGN_AGENT")), "for that agent only"),
        (
            PermissionDenied(
                "x",
                StatusDetails(reason="PERMISSION_DENIED", metadata=EVERYWHERE),
            ),
            "`fleetplane auth can-i administer --everywhere`",
        ),
        (PermissionDenied("x"), "`fleetplane login --profile prod` proves who you are"),
    ],
)
def test_who_is_refused_for_who_he_is_hears_what_to_show(
    capsys: pytest.CaptureFixture[str], error: FleetError, hint: str
) -> None:
    shown = Credentials(token="t-secret", source="the token of profile prod")  # noqa: S106  # of a test
    assert report(error, replace(CALL, profile="prod", credentials=shown)) == 1
    text = capsys.readouterr().err
    assert hint in text
    assert "t-secret" not in text


_CONNECT = "failed to connect to all addresses; last error: "


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (_CONNECT + "CERTIFICATE_VERIFY_FAILED: unable", "is not trusted"),
        (_CONNECT + "Hostname Verification Check failed.", "is not trusted"),
        (_CONNECT + "WRONG_VERSION_NUMBER", "does not speak TLS"),
        (_CONNECT + "Socket closed", "may speak TLS only"),
        (_CONNECT + "Socket closed", "`fleetplane login -a 10.0.0.1:50051` with --ca-fingerprint"),
        (_CONNECT + "CERTIFICATE_VERIFY_FAILED: unable", "`fleetplane login --ca-fingerprint`"),
        ("Socket closed", "no daemon answers"),
    ],
)
def test_a_connection_that_does_not_come_about_is_explained(
    capsys: pytest.CaptureFixture[str], said: str, told: str
) -> None:
    code, text = reported(capsys, Unavailable(said))
    assert code == 3
    assert told in text


def test_what_commands_raise_keeps_its_code_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert reported(capsys, CommandFailed("2 cases failed"))[0] == 1
    code, text = reported(capsys, WrongInput("no such field", hint="fields: a, b"))
    assert (code, text) == (2, "Error: no such field\n  fields: a, b\n")


def test_refusals_of_the_engine_in_this_process_are_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, text = reported(capsys, DomainInvalid.of("policies[a].priority", "is too large"))
    assert (code, text) == (2, "Error: policies[a].priority: is too large\n")
    assert reported(capsys, PolicyNotFound("a"))[0] == 1


def test_what_ended_a_group_of_tasks_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    errors = ExceptionGroup("tasks", [ExceptionGroup("inner", [CommandFailed("agents are gone")])])
    assert reported(capsys, errors) == (1, "Error: agents are gone\n")


def test_a_defect_is_not_an_expected_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert reported(capsys, KeyError("x")) == (None, "")
    assert reported(capsys, ExceptionGroup("tasks", [KeyError("x")])) == (None, "")


def test_an_error_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in reported(capsys, CommandFailed("agent \x1b[2J"))[1]


_LOOKS_AT_THE_IMPORT = """
import os, sys
from controlplane.cli import call

class Look:
    def find_spec(self, name, *_):
        if name == "grpc":
            print(os.environ.get("GRPC_VERBOSITY"))

sys.meta_path.insert(0, Look())
call.run_command(call.Given(), lambda call: None, {})
"""


def test_grpc_is_told_to_be_silent_before_it_is_imported(tmp_path: Path) -> None:
    environment = {one: value for one, value in os.environ.items() if one != "GRPC_VERBOSITY"}
    ran = subprocess.run(
        [sys.executable, "-c", _LOOKS_AT_THE_IMPORT],
        env=environment | {"FLEETPLANE_CONFIG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout.split() == ["NONE"]
