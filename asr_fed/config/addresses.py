"""Addresses as a config has them: host:port."""

import ipaddress


def is_loopback(address: str) -> bool:
    """Whether host:port is this machine under any circumstances; a name other than localhost need not be."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
