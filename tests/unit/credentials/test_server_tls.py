"""What the ports serve with: renewed in time, and taken up whatever else cannot be read."""

import datetime as dt
import errno
from pathlib import Path

import pytest

from controlplane.credentials import authority
from controlplane.credentials.authority import SERVER_LIFE, FileAuthority
from controlplane.credentials.server_tls import FileIdentity, ServerTls, SignedIdentity, TrustFile
from tests.fakes.pem import OtherAuthority

DOMAIN = "fleet.example"


@pytest.fixture
def ca_dir(tmp_path: Path) -> Path:
    return tmp_path / "ca"


def written_pair(directory: Path, pair: tuple[bytes, bytes]) -> FileIdentity:
    key, chain = pair
    (directory / "key.pem").write_bytes(key)
    (directory / "key.pem").chmod(0o600)
    (directory / "cert.pem").write_bytes(chain)
    return FileIdentity(directory / "cert.pem", directory / "key.pem")


def test_the_server_s_certificate_is_renewed_at_half_its_life(ca_dir):
    authority.init(ca_dir, DOMAIN)
    now = [FileAuthority.open(ca_dir, DOMAIN, 60.0).trusted[0].not_valid_before_utc.timestamp()]
    own = FileAuthority.open(ca_dir, DOMAIN, 60.0, wall_clock=lambda: now[0])
    identity = SignedIdentity(own, ["127.0.0.1"], wall_clock=lambda: now[0])
    first = identity.current()
    now[0] += SERVER_LIFE.total_seconds() / 2 - 60
    assert identity.current() == first
    now[0] += 61
    second = identity.current()
    assert second.not_after > first.not_after
    assert second.key_pem != first.key_pem
    assert "PRIVATE KEY" not in repr(second)


def test_the_server_s_certificate_is_signed_anew_when_the_clock_was_set_back(ca_dir):
    authority.init(ca_dir, DOMAIN)
    start = FileAuthority.open(ca_dir, DOMAIN, 60.0).trusted[0].not_valid_before_utc.timestamp()
    now = [start + 7200]
    own = FileAuthority.open(ca_dir, DOMAIN, 60.0, wall_clock=lambda: now[0])
    identity = SignedIdentity(own, ["127.0.0.1"], wall_clock=lambda: now[0])
    first = identity.current()
    now[0] -= 3600
    second = identity.current()
    assert second.not_before < first.not_before
    assert second.not_before.timestamp() <= now[0]
    assert identity.current() is second


def test_the_server_s_certificate_is_not_signed_all_the_time_when_the_root_is_about_to_end(
    ca_dir,
):
    authority.init(ca_dir, DOMAIN)
    now = [FileAuthority.open(ca_dir, DOMAIN, 60.0).trusted[0].not_valid_after_utc.timestamp()]
    now[0] -= 3600
    own = FileAuthority.open(ca_dir, DOMAIN, 60.0, wall_clock=lambda: now[0])
    identity = SignedIdentity(own, ["127.0.0.1"], wall_clock=lambda: now[0])
    first = identity.current()
    now[0] += 1
    assert identity.current() is first


def test_a_certificate_that_has_ended_is_complained_of(tmp_path, caplog):
    ended = OtherAuthority("Company", life=dt.timedelta(seconds=-30))
    written_pair(tmp_path, ended.server())
    assert "it is not valid at this time" in caplog.text


def test_an_authority_is_retired_whatever_else_cannot_be_read(ca_dir, tmp_path, caplog):
    authority.init(ca_dir, DOMAIN)
    own = FileAuthority.open(ca_dir, DOMAIN, 60.0)
    (tmp_path / "others.pem").write_bytes(OtherAuthority("Partner").root_pem)
    others = TrustFile(tmp_path / "others.pem")
    identity = written_pair(tmp_path, OtherAuthority("Company").server())
    tls = ServerTls(identity, lambda: (*own.trusted, *others.current()))
    authority.rotate(ca_dir)
    own.refresh()
    tls.refresh()
    (tmp_path / "cert.pem").write_bytes(b"x")
    (tmp_path / "others.pem").write_bytes(b"x")
    authority.retire(ca_dir)
    own.refresh()
    for _ in range(3):
        tls.refresh()
    assert tls.roots.count(b"BEGIN CERTIFICATE") == 2  # the new root, and the partner's
    causes = [one.cause for one in caplog.records if "goes on" in one.message]
    assert len(causes) == 2  # once for each file


def test_a_file_that_could_not_be_opened_is_tried_again(ca_dir, monkeypatch):
    authority.init(ca_dir, DOMAIN)
    own = FileAuthority.open(ca_dir, DOMAIN, 60.0)
    authority.rotate(ca_dir)

    def no_more_files(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as full:
        full.setattr(Path, "open", no_more_files)
        assert not own.refresh()
    assert own.refresh()
