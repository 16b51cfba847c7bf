"""Profiles on disk, and what wins over them."""

import json
import stat
from pathlib import Path

import pytest

from controlplane.cli.call import Given
from controlplane.cli.credentials import check_token, host_and_port, is_local, token_in
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.profiles import Profile, ProfileStore
from controlplane.cli.resolving import resolve, resolve_login

PROD = Profile(
    name="prod", address="prod:50051", namespace="billing", tls=True, ca_pem="PEM", user="ann"
)
LAB = Profile(name="lab", address="127.0.0.1:50051")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProfileStore:
    monkeypatch.setenv("FLEETPLANE_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("TOKEN", "TOKEN_FILE", "PROFILE"):
        monkeypatch.delenv(f"FLEETPLANE_{name}", raising=False)
    return ProfileStore.of_user()


def test_nobody_is_logged_in_at_first(store: ProfileStore) -> None:
    assert (store.names(), store.current(), store.find("prod")) == ([], "", None)
    with pytest.raises(WrongInput, match="no profile 'prod'") as refused:
        store.get("prod")
    assert refused.value.hint == "`fleetplane login --profile prod`"


def test_a_profile_is_kept_with_its_token_apart_and_private(store: ProfileStore) -> None:
    store.save(PROD, "at-1.secret")
    assert store.get("prod") == PROD
    assert store.current() == "prod"
    path = store.token_file("prod")
    assert path is not None
    assert path.read_text(encoding="utf-8") == "at-1.secret\n"
    files = [one for one in store.directory.rglob("*") if one.is_file()]
    assert [one for one in files if "secret" in one.read_text(encoding="utf-8")] == [path]
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(files) == 3


def test_a_login_without_a_token_leaves_no_old_one(store: ProfileStore) -> None:
    store.save(PROD, "at-1.secret")
    store.save(PROD, "")
    assert store.token_file("prod") is None


def test_another_profile_is_used_from_then_on(store: ProfileStore) -> None:
    store.save(PROD, "x")
    store.save(LAB, "")
    assert store.current() == "lab"
    assert store.use("prod") == PROD
    assert (store.current(), store.names()) == ("prod", ["lab", "prod"])


def test_a_forgotten_profile_leaves_nothing(store: ProfileStore) -> None:
    store.save(PROD, "x")
    assert store.remove("prod")
    assert not store.remove("prod")
    assert not [one for one in store.directory.rglob("*") if one.is_file()]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65])
def test_a_name_that_is_no_file_name_is_refused(store: ProfileStore, name: str) -> None:
    with pytest.raises(WrongInput, match="cannot be the name"):
        store.find(name)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"address": 5}', '{"address": "a", "tls": "y"}'])
def test_a_damaged_profile_is_named_and_never_a_traceback(store: ProfileStore, text: str) -> None:
    store.save(PROD, "")
    path = store.directory / "profiles" / "prod.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CommandFailed, match=r"prod\.json: is not the file of a profile"):
        store.get("prod")


def test_fields_of_newer_releases_are_left_out(store: ProfileStore) -> None:
    store.save(PROD, "")
    path = store.directory / "profiles" / "prod.json"
    content = json.loads(path.read_text(encoding="utf-8")) | {"colour": "red"}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert store.get("prod") == PROD


def test_a_directory_that_cannot_be_made_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("FLEETPLANE_CONFIG_DIR", str(tmp_path / "file"))
    with pytest.raises(CommandFailed) as refused:
        ProfileStore.of_user().save(PROD, "")
    assert "FLEETPLANE_CONFIG_DIR" in refused.value.hint


@pytest.mark.usefixtures("store")
def test_without_anything_the_defaults_hold() -> None:
    call = resolve(Given())
    assert (call.address, call.namespace, call.profile) == ("127.0.0.1:50051", "default", "")
    assert not call.credentials.tls
    assert not call.credentials.source


def test_the_current_profile_says_what_nobody_else_does(store: ProfileStore) -> None:
    store.save(PROD, "at-1.secret")
    call = resolve(Given())
    assert (call.address, call.namespace, call.profile) == ("prod:50051", "billing", "prod")
    assert call.credentials.read_token() == "at-1.secret"
    assert call.credentials.source == "the token of profile prod"
    assert call.credentials.tls
    assert "secret" not in repr(call)


def test_options_win_over_the_profile_one_by_one(store: ProfileStore, tmp_path: Path) -> None:
    store.save(PROD, "at-1.secret")
    ca = tmp_path / "ca.pem"
    call = resolve(Given(address="prod:50051", namespace="default", ca_file=ca))
    assert (call.namespace, call.profile) == ("default", "prod")
    assert (call.credentials.ca_file, call.credentials.ca_pem) == (ca, "")
    assert call.credentials.read_token() == "at-1.secret"


def test_a_token_is_never_shown_to_another_daemon(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(PROD, "at-1.secret")
    call = resolve(Given(address="elsewhere:50051"))
    assert (call.profile, call.namespace, call.credentials.read_token()) == ("", "default", "")
    monkeypatch.setenv("FLEETPLANE_PROFILE", "prod")
    assert not resolve(Given(address="elsewhere:50051")).credentials.read_token()
    named = resolve(Given(address="replica-2:50051", profile="prod"))
    assert (named.address, named.credentials.read_token()) == ("replica-2:50051", "at-1.secret")


def test_a_profile_is_named_by_option_before_the_environment(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(PROD, "")
    store.save(LAB, "")
    monkeypatch.setenv("FLEETPLANE_PROFILE", "prod")
    assert resolve(Given()).profile == "prod"
    assert resolve(Given(profile="lab")).profile == "lab"
    with pytest.raises(WrongInput, match="no profile 'x'") as refused:
        resolve(Given(profile="x"))
    assert refused.value.hint == "there are lab, prod"


def test_a_credential_of_option_or_environment_replaces_that_of_the_profile(
    store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(PROD, "at-1.secret")
    cert, key, file = (tmp_path / name for name in ("c.pem", "k.pem", "token"))
    file.write_text("from-file\n", encoding="utf-8")
    shown = resolve(Given(cert_file=cert, key_file=key)).credentials
    assert (shown.read_token(), shown.cert_file, shown.key_file) == ("", cert, key)
    monkeypatch.setenv("FLEETPLANE_TOKEN_FILE", str(file))
    assert resolve(Given()).credentials.read_token() == "from-file"
    monkeypatch.setenv("FLEETPLANE_TOKEN", "from-variable")
    shown = resolve(Given()).credentials
    assert (shown.read_token(), shown.source) == ("from-variable", "the token in FLEETPLANE_TOKEN")
    shown = resolve(Given(token_file=file)).credentials
    assert (shown.read_token(), shown.source) == ("from-file", f"the token in {file}")


@pytest.mark.usefixtures("store")
def test_a_token_leaves_this_machine_encrypted_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPLANE_TOKEN", "t")
    assert resolve(Given(address="fleet.example.com:50051")).credentials.tls
    assert not resolve(Given(address="127.0.0.1:50051")).credentials.tls
    ca = Path("ca.pem")
    assert resolve(Given(address="127.0.0.1:50051", ca_file=ca)).credentials.tls
    assert not resolve(Given(address="unix:/run/plane", ca_file=ca)).credentials.tls


def test_a_login_begins_with_what_is_known_of_the_same_daemon(store: ProfileStore) -> None:
    store.save(PROD, "at-1.secret")
    again = resolve_login(Given())
    assert (again.profile, again.address, again.namespace) == ("prod", "prod:50051", "billing")
    assert again.credentials.ca_pem == "PEM"
    assert not again.credentials.read_token()
    other = resolve_login(Given(address="new:1"))
    assert (other.profile, other.namespace, other.credentials.ca_pem) == ("default", "default", "")
    moved = resolve_login(Given(address="new:1", profile="prod"))
    assert (moved.profile, moved.credentials.ca_pem) == ("prod", "")


@pytest.mark.parametrize("text", ["", " \n", "two words", "tab\tin", "café", "x" * 20_000])
def test_what_is_no_token_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(WrongInput) as refused:
        check_token(text, "standard input")
    assert str(refused.value) == "standard input holds no token"


def test_a_token_file_that_is_missing_or_binary_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="No such file"):
        token_in(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    with pytest.raises(WrongInput, match="binary holds no token"):
        token_in(tmp_path / "binary")


@pytest.mark.parametrize(
    ("address", "split", "local"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051), True),
        ("localhost:1", ("localhost", 1), True),
        ("[::1]:50051", ("::1", 50051), True),
        ("dns:///localhost:7", ("localhost", 7), True),
        ("fleet.example.com", ("fleet.example.com", 443), False),
        ("127.0.0.1.evil.example:1", ("127.0.0.1.evil.example", 1), False),
        ("10.0.0.1:50051", ("10.0.0.1", 50051), False),
    ],
)
def test_an_address_is_local_or_not(address: str, split: tuple[str, int], local: bool) -> None:
    assert host_and_port(address) == split
    assert is_local(address) is local


def test_a_unix_socket_is_local() -> None:
    assert is_local("unix:/run/plane.sock")
