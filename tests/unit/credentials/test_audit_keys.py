"""Keys of the audit come from a file that nobody else can read."""

import base64

import pytest

from controlplane.credentials.audit_keys import read_audit_keys
from controlplane.credentials.files import CredentialFileError
from controlplane.domain.audit.chain import Key

ONE, OTHER = b"1" * 32, b"2" * 40


def kept(tmp_path, text: bytes, mode: int = 0o600):
    path = tmp_path / "keys"
    path.write_bytes(text)
    path.chmod(mode)
    return path


def test_the_first_key_seals_and_all_of_them_verify(tmp_path):
    text = b"# ours\n\n" + ONE.hex().encode() + b"\n" + base64.b64encode(OTHER) + b"\n"
    keys = read_audit_keys(kept(tmp_path, text))
    assert keys.sealing == Key.of(ONE)
    assert keys.named(Key.of(OTHER).key_id) == Key.of(OTHER)


def test_without_a_file_there_is_no_key():
    assert read_audit_keys(None).sealing is None


@pytest.mark.parametrize("text", [b"", b"# nothing\n", b"short\n", b"00ff\n", b"\xff\xfe\n"])
def test_what_is_no_key_is_refused_without_being_shown(tmp_path, text):
    with pytest.raises(CredentialFileError) as refusal:
        read_audit_keys(kept(tmp_path, text))
    assert "short" not in str(refusal.value)


def test_a_file_that_others_can_read_is_refused(tmp_path):
    with pytest.raises(CredentialFileError, match="chmod 600"):
        read_audit_keys(kept(tmp_path, ONE.hex().encode(), 0o644))
