"""How a command proves who calls and recognises the daemon: token, certificate, authority."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypedDict

from controlplane.cli.outcomes import WrongInput

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

    def arguments(self) -> "ClientCredentials":
        """Return the arguments of a client; it reads the files again when they change.

        Raises:
            WrongInput: a file cannot be read or holds something else, or only one of certificate
                and key is named.
        """
        if (self.cert_file is None) != (self.key_file is None):
            raise WrongInput("--cert and --key belong together")
        self.read_token()
        found: ClientCredentials = {"token": self.token or self.token_file or ""}
        if not self.tls:
            return found
        if self.ca_file is not None or self.ca_pem:
            _check_roots(self.ca_file, self.ca_pem)
            found["ca"] = self.ca_file or self.ca_pem.encode()
        if self.cert_file is not None and self.key_file is not None:
            _check_pair(self.cert_file, self.key_file)
            found["cert"], found["key"] = self.cert_file, self.key_file
        return found


class ClientCredentials(TypedDict, total=False):
    """The arguments of the SDK's client that are about security."""

    token: str | Path
    ca: Path | bytes
    cert: Path
    key: Path


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


def _check_roots(path: Path | None, pem: str) -> None:
    import ssl  # noqa: PLC0415  # for commands that call, not for help

    try:
        text = pem if path is None else path.read_text(encoding="ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise WrongInput(f"{path or 'the profile'}: holds no certificates in PEM") from error
    except OSError as error:
        raise WrongInput(f"{path}: {error.strerror}") from error


def _check_pair(cert: Path, key: Path) -> None:
    import ssl  # noqa: PLC0415  # as above

    for path in (cert, key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise WrongInput(f"{path}: {error.strerror}") from error
    try:
        # An empty password fails where OpenSSL would ask on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise WrongInput(f"{cert} and {key} are no certificate and its key in PEM") from error
