"""Which addresses may be fetched from: public ones, and those that the operator allows.

By IANA's registries of special-purpose addresses (RFC 6890 and its updates), and by a list of our own: what Python's
`is_global` says has changed between its patch releases.
"""

import ipaddress
import re
from dataclasses import dataclass

from shared.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # "this network"; 0.0.0.0 reaches the machine itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; metadata of Alibaba Cloud
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own services in each machine's network
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# All else of IPv6 is special: loopback, unique local, link-local, multicast, site-local, discard, IPv4-compatible.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments; Teredo, which has an IPv4 address in it, is one of them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which has an IPv4 address in it
        "3fff::/20",  # documentation
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet at large."""
    address = _unwrapped(address)
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _NOT_PUBLIC_V6)


def is_host_name(host: str) -> bool:
    """Whether it is a name in lower case that is no spelling of an address."""
    if not _HOST.fullmatch(host):
        return False
    last = host.rpartition(".")[2]
    # The C library takes 127.1, 0x7f000001 and 017700000001 for addresses, by their last part.
    return not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Where may be fetched from besides the public internet. A host name stands for every address that it has."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *entries: str) -> "Allowed":
        """Of networks (`10.1.0.0/16`), addresses and host names. Raises ConfigError."""
        networks: list[Network] = []
        hosts: set[str] = set()
        for entry in entries:
            name = entry.lower().removesuffix(".")
            if is_host_name(name):
                hosts.add(name)
            else:
                networks.append(_network(entry))
        return cls(tuple(networks), frozenset(hosts))

    def has_host(self, host: str) -> bool:
        """Whether all addresses of this host are allowed by its name."""
        return host in self.hosts

    def has_address(self, address: Address) -> bool:
        """Whether the address is in an allowed network, in its own spelling or as the IPv4 address that it wraps."""
        return any(one in network for one in (address, _unwrapped(address)) for network in self.networks)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that is reached where the machine, or its network, translates from IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _network(entry: str) -> Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError as error:
        problem = f"'{entry}' is no network (as 10.1.0.0/16), no address, and no host name without scheme and port"
        raise ConfigError(f"{problem}: {error}.") from None
