"""`fleetplane login`, `logout` and `profiles` over scripted daemons with and without TLS."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from typer.testing import Result

from controlplane.cli.profiles import Profile, ProfileStore
from controlplane.cli.trust import read_fingerprint
from fleetplane.v1 import identity_service_pb2 as pb
from fleetplane.v1 import registry_service_pb2
from tests.fakes.fleet_plane import Refusal
from tests.fakes.scripted_daemon import ScriptedDaemon
from tests.fakes.small_authority import SmallAuthority

Run = Callable[..., Result]

SECRET = "at-7f.c2VjcmV0"  # noqa: S105  # of a test
ANN = pb.WhoAmIResponse(
    name="token:at-7f",
    kind=pb.CALLER_KIND_API_TOKEN,
    roles=[pb.HeldRole(role="operator", namespace="billing", binding_id="rb-1")],
    authentication=True,
)


@pytest.fixture(scope="module")
def authority() -> SmallAuthority:
    return SmallAuthority()


@pytest.fixture
def secure(authority: SmallAuthority) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(authority.server()) as daemon:
        daemon.says("WhoAmI", ANN)
        yield daemon


@pytest.fixture
def ca(authority: SmallAuthority, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.pem)
    return path


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "config")


def test_a_login_is_verified_kept_and_used_from_then_on(
    secure: ScriptedDaemon, ca: Path, bare: Run, store: ProfileStore
) -> None:
    result = bare("login", "-a", secure.address, "--ca", str(ca), input=f"{SECRET}\n")
    assert result.stdout == f"default: token:at-7f at {secure.address}, in namespace billing\n"
    assert SECRET not in result.output
    assert secure.shown == [f"Bearer {SECRET}"]
    profile = store.get("default")
    assert (profile.namespace, profile.token_id, profile.tls) == ("billing", "at-7f", True)
    secure.says("ListAgents", registry_service_pb2.ListAgentsResponse())
    bare("agents", "list")
    assert secure.last("ListAgents").namespace == "billing"
    assert secure.shown[-1] == f"Bearer {SECRET}"


@pytest.mark.parametrize("how", ["argument", "variable", "file", "dash"])
def test_the_token_comes_from_wherever_it_is(
    secure: ScriptedDaemon, ca: Path, bare: Run, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    arguments = {
        "argument": ["--token", SECRET],
        "file": ["--token-file", str(file)],
        "dash": ["--token", "-"],
    }
    env = {"FLEETPLANE_TOKEN": SECRET} if how == "variable" else {}
    given = ["-a", secure.address, "--ca", str(ca), *arguments.get(how, [])]
    bare("login", *given, env=env, input=SECRET if how == "dash" else "")
    assert secure.shown == [f"Bearer {SECRET}"]


def test_a_refused_token_is_not_kept(
    secure: ScriptedDaemon, ca: Path, bare: Run, store: ProfileStore
) -> None:
    refusal = Refusal(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID", "it is unknown")
    secure.says("WhoAmI", refusal)
    result = bare("login", "-a", secure.address, "--ca", str(ca), input=SECRET, code=1)
    assert "it is unknown" in result.stderr
    assert SECRET not in result.output
    assert store.names() == []


def test_an_unknown_authority_gets_no_token(
    secure: ScriptedDaemon, bare: Run, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(SmallAuthority("another").pem)
    result = bare("login", "-a", secure.address, "--ca", str(other), "--token", SECRET, code=3)
    assert "certificate of the daemon" in result.stderr
    assert "is not trusted" in result.stderr
    assert secure.shown == []


def test_a_fingerprint_brings_the_authority(
    secure: ScriptedDaemon, authority: SmallAuthority, bare: Run, store: ProfileStore
) -> None:
    given = ("-a", secure.address, "--ca-fingerprint", authority.fingerprint, "--token", SECRET)
    told = json.loads(bare("login", *given, "--profile", "prod", "-o", "json").stdout)
    assert told["caller"]["name"] == "token:at-7f"
    assert SECRET not in json.dumps(told)
    assert store.get("prod").ca_pem.encode() == authority.pem
    bare("auth", "whoami")
    assert secure.shown == [f"Bearer {SECRET}"] * 2


def test_another_fingerprint_ends_the_login_before_anything_is_sent(
    secure: ScriptedDaemon, authority: SmallAuthority, bare: Run
) -> None:
    wrong = SmallAuthority("another").fingerprint
    result = bare(
        "login", "-a", secure.address, "--ca-fingerprint", wrong, "--token", SECRET, code=1
    )
    assert authority.fingerprint in result.stderr
    assert secure.shown == []


def test_a_fingerprint_is_of_no_use_without_tls(daemon: ScriptedDaemon, bare: Run) -> None:
    fingerprint = "sha256:" + "00" * 32
    plain = bare("login", "-a", daemon.address, "--ca-fingerprint", fingerprint, input="", code=1)
    assert "does not answer with TLS" in plain.stderr
    away = bare("login", "-a", "127.0.0.1:1", "--ca-fingerprint", fingerprint, input="", code=3)
    assert "no daemon answers at 127.0.0.1:1" in away.stderr
    bare("login", "-a", "unix:/run/x", "--ca-fingerprint", fingerprint, input="", code=2)


def test_a_fingerprint_is_read_however_it_is_written() -> None:
    digits = "0123456789abcdef" * 4
    pairs = ":".join(digits[at : at + 2] for at in range(0, 64, 2)).upper()
    for text in (f" SHA256:{pairs}\n", f"sha256:{digits}", pairs, digits):
        assert read_fingerprint(text) == digits


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:12", "sha1:" + "0" * 64, "z" * 64])
def test_what_is_no_fingerprint_is_wrong_usage(bare: Run, text: str) -> None:
    if text:
        result = bare("login", "-a", "127.0.0.1:1", "--ca-fingerprint", text, input="", code=2)
        assert "is not a fingerprint" in result.stderr


def test_a_certificate_is_shown_without_any_token(
    authority: SmallAuthority, ca: Path, bare: Run, tmp_path: Path, store: ProfileStore
) -> None:
    key, chain = authority.issue("client")
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "cert.pem").write_bytes(chain)
    pair = ("--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem"))
    with ScriptedDaemon(authority.server(demands_clients=True)) as daemon:
        daemon.says("WhoAmI", ANN)
        refused = bare("login", "-a", daemon.address, "--ca", str(ca), input="", code=3)
        assert "may demand a client certificate" in refused.stderr
        bare("login", "-a", daemon.address, "--ca", str(ca), *pair)
        bare("auth", "whoami")
        assert daemon.shown == ["", ""]
    assert store.get("default").cert_file == str(tmp_path / "cert.pem")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cert", "c.pem"], "--cert and --key belong together"),
        (["--cert", "no.pem", "--key", "no.key"], "no.pem: No such file"),
        (["--ca", "no.pem"], "no.pem: No such file"),
        (["--token-file", "no.token"], "no.token: No such file"),
        (["--token", "a", "--token-file", "b"], "exclude each other"),
        (["--token", "two words"], "--token holds no token"),
        (["--profile", "../x"], "cannot be the name of a profile"),
    ],
)
def test_what_cannot_be_used_is_wrong_usage(bare: Run, arguments: list[str], words: str) -> None:
    result = bare("login", "-a", "127.0.0.1:1", *arguments, input="", code=2)
    assert words in result.stderr


def test_files_that_hold_something_else_are_named(bare: Run, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("nothing", encoding="utf-8")
    result = bare("agents", "list", "-a", "127.0.0.1:1", "--ca", str(file), code=2)
    assert "holds no certificates in PEM" in result.stderr
    pair = ("--cert", str(file), "--key", str(file))
    assert (
        "no certificate and its key"
        in bare("agents", "list", "-a", "127.0.0.1:1", *pair, code=2).stderr
    )


def test_plain_text_to_a_port_with_tls_is_explained(secure: ScriptedDaemon, bare: Run) -> None:
    result = bare("agents", "list", "-a", secure.address, code=3)
    assert "may speak TLS only" in result.stderr


def test_tls_to_a_port_without_is_explained(daemon: ScriptedDaemon, ca: Path, bare: Run) -> None:
    result = bare("agents", "list", "-a", daemon.address, "--ca", str(ca), code=3)
    assert "does not speak TLS" in result.stderr


def test_a_daemon_that_authenticates_nobody_says_so(
    daemon: ScriptedDaemon, bare: Run, store: ProfileStore
) -> None:
    daemon.says("WhoAmI", pb.WhoAmIResponse(name="local-admin", kind=pb.CALLER_KIND_LOCAL_ADMIN))
    result = bare("login", "-a", daemon.address, input="")
    assert "authenticates nobody" in result.stderr
    assert store.get("default") == Profile(
        name="default", address=daemon.address, user="local-admin"
    )
    assert daemon.shown == [""]


def test_a_chosen_namespace_is_kept(daemon: ScriptedDaemon, bare: Run, store: ProfileStore) -> None:
    daemon.says("WhoAmI", ANN)
    bare("login", "-a", daemon.address, "-n", "lab", input="")
    assert store.get("default").namespace == "lab"


def test_a_profile_that_moves_to_another_daemon_is_announced(
    daemon: ScriptedDaemon, bare: Run, store: ProfileStore
) -> None:
    store.save(Profile(name="prod", address="old:1"), "x")
    daemon.says("WhoAmI", ANN)
    result = bare("login", "--profile", "prod", "-a", daemon.address, input="")
    assert "was at old:1 before" in result.stderr
    assert store.token_file("prod") is None


def test_profiles_are_listed_shown_used_and_forgotten(bare: Run, store: ProfileStore) -> None:
    assert "fleetplane login" in bare("profiles", "list").stderr
    bare("profiles", "show", code=1)
    store.save(Profile(name="lab", address="127.0.0.1:1", cert_file="me.pem"), "")
    store.save(
        Profile(name="prod", address="prod:1", tls=True, ca_file="ca.pem", token_id=SECRET[:5]),
        SECRET,
    )
    lab, prod = bare("profiles", "list").stdout.splitlines()[1:]
    assert lab.split()[:4] == ["lab", "127.0.0.1:1", "default", "-"]
    assert lab.endswith("certificate me.pem  anybody (no TLS)")
    assert prod.split()[:4] == ["*", "prod", "prod:1", "default"]
    assert prod.endswith("token at-7f         ca.pem")
    told = json.loads(bare("profiles", "list", "-o", "json").stdout)
    assert (told["current"], [one["name"] for one in told["profiles"]]) == ("prod", ["lab", "prod"])
    assert "prod:1" in bare("profiles", "show").stdout
    assert "127.0.0.1:1" in bare("profiles", "show", "--profile", "lab").stdout
    assert SECRET not in bare("profiles", "show", "-o", "yaml").stdout
    assert "lab: 127.0.0.1:1" in bare("profiles", "use", "lab").stdout
    assert json.loads(bare("profiles", "use", "lab", "-o", "json").stdout)["name"] == "lab"
    assert "no profile 'x'" in bare("profiles", "use", "x", code=2).stderr
    assert bare("logout").stdout == "forgotten: lab\n"
    assert "no profile to forget" in bare("logout").stderr
    assert json.loads(bare("logout", "--all", "-o", "json").stdout) == {"removed": ["prod"]}
    assert store.names() == []
