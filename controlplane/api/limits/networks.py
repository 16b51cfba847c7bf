"""Whom a call without a credential is charged to: the network it comes from."""

import ipaddress
from typing import Final
from urllib.parse import unquote

SITE_BITS: Final = 64
"""A host on IPv6 has a whole /64 for itself: what it does under any address of it is its doing."""


def network_of(peer: str) -> str:
    """Return what identifies the host behind grpc's name of a peer, without its port.

    Args:
        peer: Such as `ipv4:192.0.2.7:40112`, `ipv6:%5B2001:db8::1%5D:40112` or `unix:`.

    Returns:
        Such as `ipv4:192.0.2.7`, `ipv6:2001:db8::/64` or `unix:`; equal for equal hosts.
    """
    kind, _, rest = peer.partition(":")
    if kind == "ipv4":
        return f"ipv4:{rest.partition(':')[0]}"
    if kind != "ipv6":
        return f"{kind}:"
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return "ipv6:"
    if address.ipv4_mapped is not None:
        return f"ipv4:{address.ipv4_mapped}"
    site = ipaddress.ip_network((address, SITE_BITS), strict=False)
    return f"ipv6:{site}"
