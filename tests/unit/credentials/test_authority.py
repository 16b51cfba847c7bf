"""The built-in authority: who may read its key, what it signs, and how its root is replaced."""

import datetime as dt
import errno
import multiprocessing
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from controlplane.credentials import authority
from controlplane.credentials.authority import FileAuthority
from controlplane.credentials.certificates import X509Reader
from controlplane.credentials.files import CredentialFileError, replace_file
from controlplane.credentials.issuing import MAX_CSR_BYTES
from controlplane.credentials.roots import KEPT_ROOTS, certificates_in, is_signed_by
from controlplane.domain.access.refusals import CredentialInvalid
from controlplane.domain.errors import InvalidArgument
from tests.fakes.pem import OtherAuthority, csr_pem, ec_key

DOMAIN = "fleet.example"
AGENT = f"spiffe://{DOMAIN}/ns/default/agent/writer"
NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC).timestamp()


@pytest.fixture
def ca_dir(tmp_path: Path) -> Path:
    path = tmp_path / "ca"
    authority.init(path, DOMAIN, wall_clock=lambda: NOW)
    return path


def opened(ca_dir: Path, *, at: float = NOW, **chosen) -> FileAuthority:
    return FileAuthority.open(ca_dir, DOMAIN, 3600.0, wall_clock=lambda: at, **chosen)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def signed(by: FileAuthority) -> list[x509.Certificate]:
    return list(certificates_in(by.sign(csr_pem(ec_key()), AGENT).chain_pem.encode()))


def test_only_the_owner_can_read_the_key(ca_dir):
    assert mode_of(ca_dir) == 0o700
    assert mode_of(ca_dir / "ca.key") == 0o600
    assert mode_of(ca_dir / "bundle.pem") == 0o644
    assert (ca_dir / "ca.pem").read_bytes() == (ca_dir / "bundle.pem").read_bytes()
    assert (ca_dir / "chain.pem").read_bytes() == b""
    assert [path.name for path in ca_dir.glob(".ca.key*")] == []


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o620])
def test_a_key_that_others_can_read_is_refused_with_what_to_do(ca_dir, mode):
    (ca_dir / "ca.key").chmod(mode)
    with pytest.raises(CredentialFileError, match=r"open to others .*: chmod 600"):
        opened(ca_dir)


def test_a_directory_that_everybody_can_write_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(CredentialFileError, match="written by everybody"):
        authority.init(tmp_path, DOMAIN)


def test_a_second_authority_is_not_made_over_the_first(ca_dir):
    before = (ca_dir / "ca.key").read_bytes()
    assert not authority.init(ca_dir, DOMAIN)
    assert (ca_dir / "ca.key").read_bytes() == before


def _init(ca_dir: Path, start: threading.Barrier, answers) -> None:
    start.wait(timeout=30)
    made = authority.init(ca_dir, DOMAIN)
    opened = FileAuthority.open(ca_dir, DOMAIN, 3600.0)
    answers.put((made, opened.bundle_pem))


def test_of_processes_that_start_together_one_makes_the_authority_and_all_use_it(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    start, answers = spawn.Barrier(4), spawn.Queue()
    processes = [
        spawn.Process(target=_init, args=(tmp_path / "ca", start, answers)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    told = [answers.get(timeout=40) for _ in processes]
    for process in processes:
        process.join(timeout=20)
    assert sorted(made for made, _ in told) == [False, False, False, True]
    assert {bundle for _, bundle in told} == {(tmp_path / "ca" / "bundle.pem").read_bytes()}


def test_an_authority_of_another_trust_domain_is_refused(ca_dir):
    with pytest.raises(CredentialFileError, match=r"authority of 'fleet\.example'"):
        FileAuthority.open(ca_dir, "other.example", 3600.0, wall_clock=lambda: NOW)


def test_a_directory_without_an_authority_says_how_one_is_made(tmp_path):
    with pytest.raises(CredentialFileError, match="fleetplane ca init"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAA\n"])
def test_a_damaged_key_is_refused(ca_dir, content):
    (ca_dir / "ca.key").write_bytes(content)
    with pytest.raises(CredentialFileError, match="cannot be used"):
        opened(ca_dir)


def test_a_key_without_its_certificate_is_refused(ca_dir, tmp_path):
    authority.init(tmp_path / "other", DOMAIN, wall_clock=lambda: NOW)
    key, separator, _ = (ca_dir / "ca.key").read_bytes().partition(b"-----BEGIN CERTIFICATE")
    _, _, rest = (tmp_path / "other" / "ca.key").read_bytes().partition(separator)
    (ca_dir / "ca.key").write_bytes(key + separator + rest)
    with pytest.raises(CredentialFileError, match="does not belong to its key"):
        opened(ca_dir)


def test_an_expired_root_is_refused_with_what_to_do(ca_dir):
    with pytest.raises(CredentialFileError, match="fleetplane ca rotate"):
        opened(ca_dir, at=NOW + 11 * 365 * 86_400)


def test_an_expired_root_can_be_replaced_as_it_says(ca_dir):
    later = NOW + 11 * 365 * 86_400
    roots = authority.rotate(ca_dir, wall_clock=lambda: later)
    assert roots.trusted == (roots.current,)
    assert opened(ca_dir, at=later).trusted == roots.trusted


def test_a_rotation_that_finds_the_disk_full_has_not_taken_place(ca_dir, monkeypatch):
    before = (ca_dir / "ca.key").read_bytes()

    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as while_full:
        while_full.setattr(tempfile, "mkstemp", full)
        with pytest.raises(CredentialFileError, match="No space left on device"):
            authority.rotate(ca_dir, wall_clock=lambda: NOW)
    # The last of the writes, too.
    written = replace_file

    def full_for_the_key(path: Path, content: bytes, mode: int) -> None:
        if path.name == "ca.key":
            full()
        written(path, content, mode)

    with monkeypatch.context() as nearly_full:
        nearly_full.setattr(authority, "replace_file", full_for_the_key)
        with pytest.raises(CredentialFileError, match="No space left on device"):
            authority.rotate(ca_dir, wall_clock=lambda: NOW)
    assert (ca_dir / "ca.key").read_bytes() == before
    running = opened(ca_dir)
    assert (ca_dir / "bundle.pem").read_bytes() == running.bundle_pem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_rotation_by_root_leaves_the_files_to_whose_directory_it_is(tmp_path):
    path = tmp_path / "ca"
    path.mkdir(mode=0o700)
    os.chown(path, 65_534, 65_534)
    authority.init(path, DOMAIN, wall_clock=lambda: NOW)
    authority.rotate(path, wall_clock=lambda: NOW)
    assert {one.name: one.stat().st_uid for one in path.iterdir()} == dict.fromkeys(
        ("ca.key", "ca.pem", "bundle.pem", "chain.pem", ".lock"), 65_534
    )


def test_a_lock_that_leads_elsewhere_is_not_followed(ca_dir, tmp_path):
    (ca_dir / ".lock").unlink()
    (ca_dir / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CredentialFileError, match="cannot write"):
        authority.rotate(ca_dir, wall_clock=lambda: NOW)
    assert not (tmp_path / "elsewhere").exists()


def test_a_lost_public_file_is_published_again(ca_dir):
    before = (ca_dir / "bundle.pem").read_bytes()
    (ca_dir / "bundle.pem").unlink()
    opened(ca_dir)
    assert (ca_dir / "bundle.pem").read_bytes() == before


def test_an_agent_gets_its_identity_and_nothing_else_that_it_asked_for(ca_dir):
    issued = opened(ca_dir).sign(csr_pem(ec_key()), AGENT)
    (certificate,) = certificates_in(issued.chain_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [AGENT]
    assert certificate.subject == x509.Name([])
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign) == (True, False)
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_before_utc.timestamp() == NOW - 30
    assert certificate.not_valid_after_utc.timestamp() == NOW + 3600
    assert issued.not_after_ms == (NOW + 3600) * 1000
    assert issued.bundle_pem.encode() == (ca_dir / "bundle.pem").read_bytes()


def test_no_two_certificates_share_a_serial_number(ca_dir):
    one = opened(ca_dir)
    numbers = {certificate.serial_number for _ in range(20) for certificate in signed(one)}
    assert len(numbers) == 20


def test_agents_of_a_daemon_whose_certificate_is_from_elsewhere_keep_what_they_trust(ca_dir):
    assert opened(ca_dir, signs_daemon=False).sign(csr_pem(ec_key()), AGENT).bundle_pem == ""


def test_an_identity_outside_the_trust_domain_is_a_defect(ca_dir):
    with pytest.raises(ValueError, match="not in the trust domain"):
        opened(ca_dir).sign(csr_pem(ec_key()), "spiffe://fleet.example.evil/ns/default/agent/a")


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["P-384", "RSA-2048"],
)
def test_other_strong_keys_are_signed(ca_dir, key):
    issued = opened(ca_dir).sign(csr_pem(key), AGENT)
    (certificate,) = certificates_in(issued.chain_pem.encode())
    assert certificate.public_key() == key.public_key()


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP224R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=1024),  # noqa: S505 - weak on purpose
    ],
    ids=["Ed25519", "P-521", "P-224", "RSA-1024"],
)
def test_keys_that_are_weak_or_that_tls_does_not_take_are_refused(ca_dir, key):
    with pytest.raises(InvalidArgument, match="csr: its key must be"):
        opened(ca_dir).sign(csr_pem(key), AGENT)


def broken_signature() -> str:
    """A request for a key that its sender does not have."""
    lines = csr_pem(ec_key()).splitlines()
    other = csr_pem(ec_key()).splitlines()
    return "\n".join([*lines[:-3], *other[-3:]])


@pytest.mark.parametrize(
    ("csr", "why"),
    [
        ("", "not a certificate request"),
        ("garbage", "not a certificate request"),
        ("\udc80", "not a certificate request"),
        (OtherAuthority().root_pem.decode(), "not a certificate request"),
        ("x" * (MAX_CSR_BYTES + 1), "longer than"),
        (broken_signature(), "not signed by its own key|not a certificate request"),
    ],
)
def test_what_is_no_request_is_refused(ca_dir, csr, why):
    with pytest.raises(InvalidArgument, match=f"csr: .*({why})"):
        opened(ca_dir).sign(csr, AGENT)


def test_a_new_root_is_joined_to_the_old_one(ca_dir):
    before = opened(ca_dir)
    (old,) = before.trusted
    roots = authority.rotate(ca_dir, wall_clock=lambda: NOW)
    after = opened(ca_dir)
    assert after.trusted == (roots.current, old)
    leaf, joined = signed(after)
    assert is_signed_by(leaf, roots.current)
    assert joined.subject == roots.current.subject != old.subject
    assert is_signed_by(joined, old)
    assert joined.not_valid_after_utc <= old.not_valid_after_utc
    assert certificates_in((ca_dir / "chain.pem").read_bytes()) == (joined,)
    assert certificates_in((ca_dir / "bundle.pem").read_bytes()) == after.trusted
    assert certificates_in((ca_dir / "ca.pem").read_bytes()) == (roots.current,)
    assert mode_of(ca_dir / "ca.key") == 0o600


def test_a_daemon_takes_up_a_new_root_when_it_looks(ca_dir):
    running = opened(ca_dir)
    assert not running.refresh()
    roots = authority.rotate(ca_dir, wall_clock=lambda: NOW)
    assert running.refresh()
    assert is_signed_by(signed(running)[0], roots.current)
    assert not running.refresh()


def test_a_daemon_goes_on_when_the_file_is_damaged_and_takes_up_the_next_good_one(ca_dir, caplog):
    running = opened(ca_dir)
    good = (ca_dir / "ca.key").read_bytes()
    (ca_dir / "ca.key").write_bytes(b"half a fi")
    assert not running.refresh()
    assert "goes on with the key that it has" in caplog.text
    assert len(signed(running)) == 1
    (ca_dir / "ca.key").write_bytes(good)
    authority.rotate(ca_dir, wall_clock=lambda: NOW)
    assert running.refresh()


def test_as_many_earlier_roots_stay_trusted_as_a_chain_may_join(ca_dir):
    for _ in range(4):
        authority.rotate(ca_dir, wall_clock=lambda: NOW)
    one = opened(ca_dir)
    assert len(one.trusted) == 1 + KEPT_ROOTS
    assert len(signed(one)) == 1 + KEPT_ROOTS
    subjects = [root.subject for root in one.trusted]
    assert len(set(subjects)) == len(subjects)


def test_a_retired_root_is_no_longer_trusted_but_still_led_away_from(ca_dir):
    old = opened(ca_dir)
    mine = old.sign(csr_pem(ec_key()), AGENT).chain_pem.encode()
    authority.rotate(ca_dir, wall_clock=lambda: NOW)
    authority.retire(ca_dir)
    one = opened(ca_dir)
    reader = X509Reader(lambda: one.trusted)
    assert not reader.read(mine).is_own
    assert len(one.trusted) == 1
    assert is_signed_by(signed(one)[1], old.trusted[0])


def test_a_certificate_of_an_earlier_root_is_still_ours(ca_dir):
    running = opened(ca_dir)
    mine = running.sign(csr_pem(ec_key()), AGENT)
    authority.rotate(ca_dir, wall_clock=lambda: NOW)
    running.refresh()
    read = X509Reader(lambda: running.trusted).read(mine.chain_pem.encode())
    assert (read.spiffe_id, read.is_own) == (AGENT, True)
    assert (read.fingerprint, read.not_after_ms) == (mine.fingerprint, mine.not_after_ms)
    assert read.not_before_ms == (NOW - 30) * 1000


def test_another_authority_cannot_sign_for_us_whatever_it_calls_itself(ca_dir):
    (root,) = opened(ca_dir).trusted
    other = OtherAuthority()
    other.name = root.subject
    _, certificate = other.identity(AGENT)
    assert not X509Reader(lambda: (root,)).read(certificate).is_own


@pytest.mark.parametrize(
    "uris",
    [(), ("spiffe://x/a", "spiffe://x/b"), ("https://x/a",), ("spiffe://x/a", "https://x")],
    ids=["none", "two", "another scheme", "one beside"],
)
def test_a_certificate_states_exactly_one_identity(uris):
    _, certificate = OtherAuthority().identity(*uris)
    with pytest.raises(CredentialInvalid, match="exactly one SPIFFE id"):
        X509Reader(tuple).read(certificate)


@pytest.mark.parametrize("pem", [b"", b"garbage", b"\x00" * 100, b"-" * 100_000])
def test_what_is_no_certificate_is_refused(pem):
    with pytest.raises(CredentialInvalid):
        X509Reader(tuple).read(pem)


def test_the_daemon_s_own_certificate_names_its_host_and_is_for_servers_only(ca_dir):
    pair = opened(ca_dir).server_certificate(["localhost", "127.0.0.1", "::1"])
    certificate, root = certificates_in(pair.chain_pem)
    assert root.subject == root.issuer == certificate.issuer
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert pair.not_after.timestamp() == NOW + 86_400
    with pytest.raises(CredentialInvalid):
        X509Reader(tuple).read(pair.chain_pem)
