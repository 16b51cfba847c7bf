"""What an operator may choose, where it is read from, and how mistakes are refused."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from controlplane.cli.entry import app
from controlplane.settings import DefaultEffect, DefaultOnMissing, LogFormat, Settings
from controlplane.wiring import liveness_settings

EXIT_USAGE = 2

# Every documented range: (setting, its bounds, what lies just outside).
RANGES = [
    ("workers", (1, 64), (0, 65)),
    ("grace_seconds", (0, 3600), (-0.1, 3600.1)),
    ("drain_delay_seconds", (0, 600), (-0.1, 600.1)),
    ("unready_after_seconds", (0.001, 3600), (0, 3600.1)),
    ("heartbeat_interval_seconds", (0.1, 3600), (0.09, 3600.1)),
    ("degraded_after_seconds", (0.3, 86_400), (0.29, 86_400.1)),
    ("lost_after_seconds", (1, 604_800), (0.9, 604_800.1)),
    ("stalled_after_seconds", (1, 86_400), (0.9, 86_400.1)),
    ("max_policies", (1, 100_000), (0, 100_001)),
    ("decision_log_hours", (0.001, 87_600), (0, 87_600.1)),
    ("decision_log_mib", (1, 1_048_576), (0, 1_048_577)),
    ("decision_queue", (100, 10_000_000), (99, 10_000_001)),
    ("task_accept_seconds", (0.5, 3600), (0.4, 3600.1)),
    ("task_retention_seconds", (1, 31_536_000), (0.9, 31_536_000.1)),
    ("max_waiting_tasks", (1, 10_000_000), (0, 10_000_001)),
    ("session_pin_seconds", (1, 2_592_000), (0.9, 2_592_000.1)),
    ("max_stream_age_seconds", (1, 86_400), (0.9, 86_400.1)),
    ("audit_retention_days", (0, 36_500), (-1, 36_501)),
    ("certificate_seconds", (2, 2_592_000), (1.9, 2_592_000.1)),
    ("oidc_leeway_seconds", (0, 300), (-0.1, 300.1)),
    ("calls_per_second", (1, 1_000_000), (0.9, 1_000_000.1)),
    ("enrolments_per_second", (0.001, 1_000_000), (0, 1_000_000.1)),
    ("wrong_credentials_per_second", (0.001, 1_000_000), (0, 1_000_000.1)),
    ("streams_per_caller", (1, 1_000_000), (0, 1_000_001)),
    ("beats_per_second", (1, 1_000_000), (0.9, 1_000_000.1)),
    ("max_streams", (1, 1_000_000), (0, 1_000_001)),
    ("overload_lag_seconds", (0.05, 60), (0.04, 60.1)),
    ("handshake_seconds", (0.1, 60), (0.09, 60.1)),
    ("idle_connection_seconds", (0.1, 86_400), (0.09, 86_400.1)),
    ("approval_retention_seconds", (600, 7_776_000), (599.9, 7_776_000.1)),
    ("max_prompts", (1, 100_000), (0, 100_001)),
    ("max_prompt_bytes", (1_024, 1_073_741_824), (1_023, 1_073_741_825)),
    ("prompt_pin_seconds", (1, 31_536_000), (0.9, 31_536_000.1)),
    ("max_prompt_pins", (0, 10_000_000), (-1, 10_000_001)),
    ("prompt_evaluations_kept", (2, 10_000), (1, 10_001)),
]

# What fits the other times at both ends of a range.
COMPANIONS: dict[tuple[str, Any], dict[str, Any]] = {
    ("heartbeat_interval_seconds", 3600): {
        "degraded_after_seconds": 10_800,
        "lost_after_seconds": 20_000,
    },
    ("degraded_after_seconds", 0.3): {"heartbeat_interval_seconds": 0.1},
    ("degraded_after_seconds", 86_400): {"lost_after_seconds": 604_800},
    ("lost_after_seconds", 1): {
        "heartbeat_interval_seconds": 0.1,
        "degraded_after_seconds": 0.3,
    },
}

# What a setting about security needs beside it.
SECURED: dict[str, dict[str, Any]] = {
    "approval_webhook_url": {"approval_webhook_secret_file": "/etc/hook.secret"},
    "approval_webhook_secret_file": {"approval_webhook_url": "https://hooks.example/approvals"},
    "tls_cert": {"tls_key": "/etc/tls/key.pem"},
    "tls_key": {"tls_cert": "/etc/tls/cert.pem"},
    "listen_mtls": {"secure": True},
    "agent_identity": {"trust_bundle": "/etc/spire.pem"},
    "oidc_issuer": {"secure": True, "oidc_audience": "fleet"},
    "oidc_audience": {"secure": True, "oidc_issuer": "https://login.example"},
}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for field in Settings.model_fields:
        monkeypatch.delenv(f"FLEETPLANE_{field.upper()}", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, bounds, _ in RANGES for value in bounds]
)
def test_a_value_at_the_end_of_its_range_is_taken(name, value):
    chosen = {name: value} | COMPANIONS.get((name, value), {})
    settings = Settings(**chosen)
    assert getattr(settings, name) == value
    liveness_settings(settings)  # the domain agrees


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, _, outside in RANGES for value in outside]
)
def test_a_value_outside_its_range_is_refused_by_its_name(name, value):
    with pytest.raises(ValidationError) as refusal:
        Settings(**{name: value})
    assert name in {problem["loc"][0] for problem in refusal.value.errors()}


@pytest.mark.parametrize(
    "name",
    ["listen", "listen_mtls", "log_format", "log_level", "store_fsync", "insecure", "secure"],
)
def test_a_word_that_is_none_of_the_choices_is_refused(name):
    wrong: dict[str, Any] = {name: "nonsense"}
    with pytest.raises(ValidationError) as refusal:
        Settings(**wrong)
    assert [problem["loc"] for problem in refusal.value.errors()] == [(name,)]


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "[::1]:50051", "localhost:65535", "unix:/run/fleetplane.sock"]
)
def test_an_address_is_a_host_with_a_port_or_a_socket(listen):
    assert Settings(listen=listen).listen == listen


@pytest.mark.parametrize("listen", ["localhost", ":50051", "localhost:65536", "localhost:http"])
def test_what_is_no_address_is_refused(listen):
    with pytest.raises(ValidationError, match="host:port"):
        Settings(listen=listen)


@pytest.mark.parametrize(
    ("chosen", "field", "other"),
    [
        (
            {"heartbeat_interval_seconds": 10.1},
            "degraded_after_seconds",
            "heartbeat_interval_seconds (10.1)",
        ),
        (
            {"degraded_after_seconds": 29.9},
            "degraded_after_seconds",
            "heartbeat_interval_seconds (10)",
        ),
        ({"degraded_after_seconds": 300}, "lost_after_seconds", "degraded_after_seconds (300)"),
        ({"lost_after_seconds": 30}, "lost_after_seconds", "degraded_after_seconds (30)"),
        (
            {"degraded_after_seconds": 30.0001, "lost_after_seconds": 30.0004},
            "lost_after_seconds",
            "degraded_after_seconds (30.0001)",
        ),
    ],
)
def test_times_that_contradict_each_other_are_refused_by_both_names(chosen, field, other):
    with pytest.raises(ValidationError) as refusal:
        Settings(**chosen)
    (problem,) = refusal.value.errors()
    assert problem["loc"] == (field,)
    assert other in problem["msg"]


def test_the_defaults_are_what_the_domain_documents():
    settings = Settings()
    liveness = liveness_settings(settings)
    assert (liveness.interval_ms, liveness.degraded_after_ms) == (10_000, 30_000)
    assert (liveness.lost_after_ms, liveness.stalled_after_ms) == (300_000, 60_000)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("listen", "0.0.0.0:1", "0.0.0.0:1"),
        ("insecure", "true", True),
        ("store", "redis://store:6379/0", "redis://store:6379/0"),
        ("data_dir", "/var/lib/fleetplane", Path("/var/lib/fleetplane")),
        ("store_binary", "/usr/bin/valkey-server", Path("/usr/bin/valkey-server")),
        ("runtime_dir", "/run/fleetplane", Path("/run/fleetplane")),
        ("store_fsync", "always", "always"),
        ("workers", "2", 2),
        ("log_format", "json", LogFormat.JSON),
        ("log_level", "debug", "debug"),
        ("reflection", "0", False),
        ("grace_seconds", "1", 1.0),
        ("drain_delay_seconds", "1", 1.0),
        ("unready_after_seconds", "1", 1.0),
        ("heartbeat_interval_seconds", "1", 1.0),
        ("degraded_after_seconds", "60", 60.0),
        ("lost_after_seconds", "60", 60.0),
        ("stalled_after_seconds", "1", 1.0),
        ("policy_default", "DENY", DefaultEffect.DENY),
        ("policy_on_missing", "MATCH", DefaultOnMissing.MATCH),
        ("max_policies", "1", 1),
        ("decision_log_hours", "1", 1.0),
        ("decision_log_mib", "1", 1),
        ("decision_queue", "100", 100),
        ("task_accept_seconds", "1", 1.0),
        ("task_retention_seconds", "60", 60.0),
        ("max_waiting_tasks", "1", 1),
        ("session_pin_seconds", "60", 60.0),
        ("max_stream_age_seconds", "1", 1.0),
        ("audit_key_file", "/run/keys/audit", Path("/run/keys/audit")),
        ("audit_retention_days", "30", 30),
        ("secure", "true", True),
        ("tls_cert", "/etc/tls/cert.pem", Path("/etc/tls/cert.pem")),
        ("tls_key", "/etc/tls/key.pem", Path("/etc/tls/key.pem")),
        ("tls_names", "fleet.example", "fleet.example"),
        ("listen_mtls", "0.0.0.0:2", "0.0.0.0:2"),
        ("ca_dir", "/etc/fleetplane/ca", Path("/etc/fleetplane/ca")),
        ("trust_domain", "prod.example", "prod.example"),
        ("certificate_seconds", "60", 60.0),
        ("trust_bundle", "/etc/spire.pem", Path("/etc/spire.pem")),
        ("agent_identity", "spiffe://x/{agent_name}", "spiffe://x/{agent_name}"),
        ("oidc_issuer", "https://login.example", "https://login.example"),
        ("oidc_audience", "fleet", "fleet"),
        ("oidc_jwks", "/etc/jwks.json", "/etc/jwks.json"),
        ("oidc_user_claim", "email", "email"),
        ("oidc_groups_claim", "roles", "roles"),
        ("oidc_algorithms", "ES384", "ES384"),
        ("oidc_leeway_seconds", "1", 1.0),
        ("admins", "user:ann", "user:ann"),
        ("calls_per_second", "1", 1.0),
        ("enrolments_per_second", "0.5", 0.5),
        ("wrong_credentials_per_second", "2", 2.0),
        ("streams_per_caller", "1", 1),
        ("beats_per_second", "1", 1.0),
        ("max_streams", "1", 1),
        ("overload_lag_seconds", "1", 1.0),
        ("handshake_seconds", "1", 1.0),
        ("idle_connection_seconds", "1", 1.0),
        ("approval_webhook_url", "https://hooks.example", "https://hooks.example"),
        ("approval_webhook_secret_file", "/etc/hook", Path("/etc/hook")),
        ("approval_retention_seconds", "600", 600.0),
        ("max_prompts", "1", 1),
        ("max_prompt_bytes", "1024", 1024),
        ("prompt_pin_seconds", "1", 1.0),
        ("max_prompt_pins", "0", 0),
        ("prompt_evaluations_kept", "2", 2),
    ],
)
def test_every_setting_is_read_from_its_variable(monkeypatch, name, text, value):
    monkeypatch.setenv(f"FLEETPLANE_{name.upper()}", text)
    assert getattr(Settings(**SECURED.get(name, {})), name) == value


def test_there_is_a_case_for_every_setting():
    (mark,) = test_every_setting_is_read_from_its_variable.pytestmark
    assert {case[0] for case in mark.args[1]} == set(Settings.model_fields)


def test_what_is_said_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("FLEETPLANE_WORKERS", "2")
    assert Settings(workers=3).workers == 3


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("FLEETPLANE_WORKERS", "")
    assert Settings().workers == 1


def test_a_variable_of_nobody_is_ignored(monkeypatch):
    monkeypatch.setenv("FLEETPLANE_TARGET", "localhost:50051")
    assert Settings().workers == 1


def test_the_session_s_runtime_directory_is_the_default(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert Settings().runtime_dir == Path("/run/user/1000")
    monkeypatch.setenv("FLEETPLANE_RUNTIME_DIR", "/run/fleetplane")
    assert Settings().runtime_dir == Path("/run/fleetplane")


def test_the_daemon_does_not_start_with_times_that_contradict_each_other(monkeypatch):
    monkeypatch.setenv("FLEETPLANE_HEARTBEAT_INTERVAL_SECONDS", "20")
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == EXIT_USAGE
    assert "degraded_after_seconds" in result.output
    assert "heartbeat_interval_seconds" in result.output


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ({"tls_cert": "/c.pem"}, "tls_cert and tls_key belong together"),
        ({"tls_key": "/k.pem"}, "tls_cert and tls_key belong together"),
        ({"oidc_issuer": "https://i", "secure": True}, "both are mandatory"),
        ({"oidc_audience": "fleet", "secure": True}, "both are mandatory"),
        ({"oidc_issuer": "https://i", "oidc_audience": "fleet"}, "oidc_issuer needs TLS"),
        ({"listen_mtls": "127.0.0.1:2"}, "listen_mtls needs secure"),
        (
            {"listen_mtls": "127.0.0.1:2", "tls_cert": "/c.pem", "tls_key": "/k.pem"},
            "who signs agents?",
        ),
        ({"agent_identity": "spiffe://x/{agent_name}"}, "without trust_bundle"),
    ],
)
def test_security_that_is_half_said_is_refused(chosen, why):
    with pytest.raises(ValidationError, match=re.escape(why)):
        Settings(**chosen)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("trust_domain", "Upper.Case"),
        ("trust_domain", "a/b"),
        ("tls_names", "fleet.example,not a name"),
        ("tls_names", "a" * 64),
        ("oidc_algorithms", "RS256,HS256"),
        ("oidc_algorithms", "none"),
        ("oidc_algorithms", " , "),
        ("oidc_issuer", "http://login.example"),
        ("oidc_issuer", "login.example"),
        ("oidc_jwks", "http://login.example/keys"),
        ("oidc_jwks", "ftp://login.example/keys"),
        ("oidc_user_claim", ""),
        ("admins", "ann"),
        ("admins", "user:ann,spiffe://x/agents/*"),
        ("listen_mtls", "unix:/run/fleetplane.sock"),
    ],
)
def test_security_that_is_none_is_refused_by_its_name(name, wrong):
    chosen: dict[str, Any] = {name: wrong}
    with pytest.raises(ValidationError) as refusal:
        Settings(**chosen)
    assert name in {problem["loc"][0] for problem in refusal.value.errors() if problem["loc"]}


def test_lists_are_separated_by_commas():
    settings = Settings(
        tls_names="fleet.example, *.fleet.example,10.0.0.1,::1",
        admins="user:ann@example.com, group:platform,",
        oidc_algorithms="ES256, EdDSA",
    )
    assert settings.further_names == ("fleet.example", "*.fleet.example", "10.0.0.1", "::1")
    assert settings.admin_subjects == {"user:ann@example.com", "group:platform"}
    assert settings.accepted_algorithms == {"ES256", "EdDSA"}


def test_callers_say_who_they_are_once_there_is_tls():
    assert not Settings().authenticates
    assert Settings(secure=True).authenticates
    assert Settings(tls_cert=Path("/c.pem"), tls_key=Path("/k.pem")).authenticates


def test_the_authority_is_beside_the_data_unless_it_has_a_place_of_its_own():
    assert Settings(data_dir=Path("/var/lib/x")).authority_dir == Path("/var/lib/x/ca")
    assert Settings(ca_dir=Path("/etc/ca")).authority_dir == Path("/etc/ca")


def test_an_issuer_on_this_machine_may_be_asked_without_tls():
    for issuer in ("http://127.0.0.1:8080", "http://[::1]:1", "http://localhost/realm"):
        assert Settings(secure=True, oidc_audience="a", oidc_issuer=issuer).oidc_issuer == issuer
