"""Whether the API can be reached from other machines. Imports nothing that gevent would have to patch first."""

from ipaddress import ip_address

OPEN_TO_ALL = (
    "WARNING: the API listens on %s without api_keys: whoever reaches it can use every model and tool, and read every"
    " conversation. Set api_keys in the run config, or TURNSTONE_HOST to 127.0.0.1."
)


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` is reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
