"""What a daemon stands on by its settings, and that it follows the files they name."""

import asyncio

import pytest

from controlplane.credentials import authority
from controlplane.credentials.admin_token import AdminTokenFile
from controlplane.credentials.files import CredentialFileError
from controlplane.credentials.opening import LOOK_SECONDS, open_credentials, server_names
from controlplane.services.access.ports import (
    CertificateAuthority,
    CertificateReader,
    TokenVerifier,
)
from controlplane.settings import Settings
from tests.fakes.clock import FakeClock
from tests.fakes.eventually import eventually
from tests.fakes.pem import OtherAuthority


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for field in Settings.model_fields:
        monkeypatch.delenv(f"FLEETPLANE_{field.upper()}", raising=False)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """A certificate and its key, as settings."""
    key, chain = OtherAuthority().server()
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "key.pem").chmod(0o600)
    (tmp_path / "cert.pem").write_bytes(chain)
    return {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}


def test_a_daemon_that_does_not_authenticate_needs_nothing(clock, tmp_path):
    assert open_credentials(Settings(data_dir=tmp_path / "data"), clock) is None
    assert not (tmp_path / "data").exists()


def test_a_secure_daemon_makes_its_authority_in_a_private_place(clock, tmp_path):
    settings = Settings(secure=True, data_dir=tmp_path / "data")
    opened = open_credentials(settings, clock)
    assert opened is not None
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert opened.bundle_file == tmp_path / "data" / "ca" / "bundle.pem"
    signer: CertificateAuthority | None = opened.authority
    reader: CertificateReader = opened.reader
    verifier: TokenVerifier | None = opened.verifier
    assert signer is not None
    assert signer.trust_domain == "fleetplane.local"
    assert reader is not None
    assert verifier is None
    bundle = (tmp_path / "data" / "ca" / "bundle.pem").read_bytes()
    again = open_credentials(settings, clock)
    assert again is not None
    assert again.authority is not None
    assert again.authority.bundle_pem == bundle


def test_a_daemon_with_a_certificate_of_its_own_has_no_authority_unless_one_is_named(
    clock, tmp_path, files
):
    alone = open_credentials(Settings(data_dir=tmp_path, **files), clock)
    assert alone is not None
    assert alone.authority is None
    with pytest.raises(CredentialFileError, match="fleetplane ca init"):
        open_credentials(Settings(ca_dir=tmp_path / "ca", **files), clock)
    authority.init(tmp_path / "ca", "fleetplane.local")
    named = open_credentials(Settings(ca_dir=tmp_path / "ca", **files), clock)
    assert named is not None
    assert named.authority is not None
    assert named.bundle_file is None, "the authority does not sign the daemon"


def test_an_issuer_of_tokens_is_followed_beside_the_files(clock, files):
    settings = Settings(oidc_issuer="https://login.example", oidc_audience="fleet", **files)
    opened = open_credentials(settings, clock)
    assert opened is not None
    assert opened.verifier is not None
    assert len(opened.loops) == 2


async def test_the_files_are_followed(clock, tmp_path):
    opened = open_credentials(Settings(secure=True, data_dir=tmp_path), clock)
    assert opened is not None
    own = opened.authority
    assert own is not None
    (follow,) = opened.loops
    following = asyncio.create_task(follow())
    try:
        await eventually("it looks", lambda: clock.sleepers == 1)
        before = own.bundle_pem
        authority.rotate(tmp_path / "ca")
        await clock.advance(LOOK_SECONDS)
        await eventually("it has seen the new root", lambda: own.bundle_pem != before)
        await eventually("it goes on looking", lambda: clock.sleepers == 1)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def test_the_certificate_names_where_the_daemon_listens(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "host-7")
    settings = Settings(
        secure=True,
        listen="10.0.0.1:50051",
        listen_mtls="[::]:50052",
        tls_names="fleet.example,10.0.0.1",
    )
    local = ("localhost", "127.0.0.1", "::1")
    assert server_names(settings) == (*local, "10.0.0.1", "host-7", "fleet.example")
    assert server_names(Settings(listen="unix:/run/x:1")) == (*local, "host-7")


def test_the_first_secret_that_cannot_be_kept_is_named_by_its_place_only(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CredentialFileError, match="cannot write") as refused:
        AdminTokenFile(tmp_path / "file").keep("at-bootstrap.s3cr3t")
    assert "s3cr3t" not in str(refused.value)
