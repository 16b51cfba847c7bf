"""Who is behind a peer's name."""

import pytest

from controlplane.api.limits.networks import network_of


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:192.0.2.7:40112", "ipv4:192.0.2.7"),
        ("ipv6:%5B2001:db8::1%5D:40112", "ipv6:2001:db8::/64"),
        ("ipv6:[2001:db8::ffff:1]:5", "ipv6:2001:db8::/64"),
        ("ipv6:%5B2001:db8:0:1::1%5D:40112", "ipv6:2001:db8:0:1::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:40112", "ipv4:192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:40112", "ipv6:fe80::/64"),
        ("ipv6:nonsense", "ipv6:"),
        ("unix:", "unix:"),
        ("unix:/run/x.sock", "unix:"),
        ("", ":"),
    ],
)
def test_a_host_is_known_by_its_network_whatever_its_port(peer, network):
    assert network_of(peer) == network
