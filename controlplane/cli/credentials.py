"""How a command proves who calls and recognises the daemon: token, certificate, authority."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controlplane.cli.outcomes import WrongInput

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import TlsConfig

MAX_TOKEN_BYTES: Final = 16 * 1024
"""Longest token read from a file, in bytes: daemons refuse longer headers, and a wrong file may be
of any size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What is shown to the daemon and what it must show. Files are read when a client is made.

    Attributes:
        token: bearer token; empty: that of `token_file`, if any. Never shown.
        token_file: file that holds nothing but the token.
        ca_file: PEM of the authorities that may vouch for the daemon; None: `ca_pem`.
        ca_pem: the same as text; empty: the authorities of this machine.
        cert_file: PEM of the client's certificate, with what joins it to its root.
        key_file: PEM of its private key.
        tls: whether the connection is encrypted.
        source: where token or certificate came from, as people call it; empty: there is none.
    """

    token: str = field(default="", repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    ca_pem: str = ""
    cert_file: Path | None = None
    key_file: Path | None = None
    tls: bool = False
    source: str = ""

    def read_token(self) -> str:
        """Return the token; empty if there is none.

        Raises:
            WrongInput: the file cannot be read, or holds something else.
        """
        if self.token or self.token_file is None:
            return self.token
        return token_in(self.token_file)

    def read_tls(self) -> "TlsConfig | None":
        """Return the security of the connection; None: plain text.

        Raises:
            WrongInput: a file cannot be read, or only one of certificate and key is named.
        """
        if (self.cert_file is None) != (self.key_file is None):
            raise WrongInput("--cert and --key belong together")
        if not self.tls:
            return None
        from fleetplane import TlsConfig  # noqa: PLC0415  # imports grpc

        return TlsConfig(
            root_certificates=_read_pem(self.ca_file) or self.ca_pem.encode() or None,
            certificate_chain=_read_pem(self.cert_file),
            private_key=_read_pem(self.key_file),
        )


NO_CREDENTIALS: Final = Credentials()
"""Nothing shown, nothing encrypted: a daemon on this machine without security."""


def token_in(path: Path) -> str:
    """Read a token from a file that holds nothing else.

    Raises:
        WrongInput: it cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise WrongInput(f"{path}: {error.strerror}") from error
    return check_token(content.decode("ascii", "replace"), str(path))


def check_token(text: str, origin: str) -> str:
    """Return a token without the space around it.

    Args:
        text: what was typed or read. No message repeats it.
        origin: where it came from, for the message.

    Raises:
        WrongInput: it is empty, too long, or holds what no token holds.
    """
    token = text.strip()
    wrong = len(token) > MAX_TOKEN_BYTES or any(not "!" <= one <= "~" for one in token)
    if not token or wrong:
        raise WrongInput(f"{origin} holds no token", hint="it is one word of printable ASCII")
    return token


def is_unix(address: str) -> bool:
    """Return whether an address is a socket of this machine's file system; those have no TLS."""
    return address.startswith(("unix:", "unix-abstract:"))


def is_local(address: str) -> bool:
    """Return whether an address cannot leave this machine, so that plain text may hold a token."""
    if is_unix(address):
        return True
    host = host_and_port(address)[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_and_port(address: str) -> tuple[str, int]:
    """Split `host:port` or `dns:///name:port`; the port is 443 if there is none, as with gRPC."""
    rest = address.rpartition("/")[2]
    host, colon, port = rest.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.startswith("[")):
        return rest.strip("[]"), 443
    return host.strip("[]"), int(port)


def _read_pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WrongInput(f"{path}: {error.strerror}") from error
    if b"-----BEGIN" not in content:
        raise WrongInput(f"{path}: is not PEM", hint="it begins with -----BEGIN")
    return content
