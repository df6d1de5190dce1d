"""The post office: what peers ask and give each other over py-libp2p."""

from contextlib import suppress
from pathlib import Path
from typing import Any


def _has_nameserver() -> bool:
    try:
        lines = Path("/etc/resolv.conf").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split()[:1] == ["nameserver"] for line in lines)


def _do_without_nameservers() -> None:
    """Have py-libp2p imported where nobody resolves names: 0.8.1 looks for a nameserver while it is imported, and fails
    without one, though peers here are dialled by number."""
    import dns.resolver

    read = dns.resolver.BaseResolver.read_resolv_conf

    def lenient(self: dns.resolver.BaseResolver, f: Any) -> None:
        with suppress(dns.resolver.NoResolverConfiguration):
            read(self, f)

    dns.resolver.BaseResolver.read_resolv_conf = lenient  # type: ignore[method-assign]


if not _has_nameserver():
    with suppress(ModuleNotFoundError):  # without the `train` extra there is no py-libp2p either
        _do_without_nameservers()
