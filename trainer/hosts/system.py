"""The tools of iproute2 and nftables, and the namespaces that laboratories make: their names, their owners, their end.

A namespace is named after the process that made it, so that what a killed one left can be told from what is in use.
"""

import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from verification.errors import UserError

PREFIX = "proofswarm"
SPACES = Path("/run/netns")
CONFIGURATION = Path("/etc/netns")
"""Where `ip netns exec` looks for files that it puts in the place of those in /etc."""
KILL_SECONDS = 5.0
"""Longest wait for killed processes to be gone."""
_OWNED = re.compile(rf"{PREFIX}-(\d+)-(\d+)-.+")


def run(*command: str, text: str = "") -> str:
    """Run one of the tools, with `text` on its standard input, and return what it printed.

    Raises UserError, one line, for a tool that is missing or complains.
    """
    tool = which(command[0])
    if tool is None:
        raise UserError(f"{command[0]} is missing: apt-get install iproute2 nftables")
    done = subprocess.run([tool, *command[1:]], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = (done.stderr.strip() or f"status {done.returncode}").splitlines()[0]
        raise UserError(f"{' '.join(command)}: {complaint}")
    return done.stdout


def which(tool: str) -> str | None:
    """Return where a tool is; root's own folders may be missing from the path."""
    return shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def ip(space: str, *lines: str) -> None:
    """Run lines of `ip` in a namespace, in order; raises UserError at the first that fails."""
    run("ip", "-n", space, "-batch", "-", text="\n".join(lines) + "\n")


def nft(space: str, rules: str) -> None:
    """Load rules in a namespace: all of them, or none and UserError."""
    run("ip", "netns", "exec", space, which("nft") or "nft", "-f", "-", text=rules)


def name_of(owner: int, name: str) -> str:
    """Return what a process's namespace is called."""
    return f"{PREFIX}-{owner}-{_started(owner)}-{name}"


def spaces(start: str = PREFIX) -> list[str]:
    """Return the namespaces whose names begin so."""
    return sorted(path.name for path in SPACES.glob(f"{start}-*"))


def remove_leftovers() -> None:
    """Take away the namespaces whose owners are gone; raises UserError for what does not go."""
    held = os.open(SPACES, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)  # another laboratory may be at it
        for space in spaces():
            found = _OWNED.fullmatch(space)
            if found and _started(int(found[1])) != int(found[2]):
                remove(space)
    finally:
        os.close(held)


def remove(space: str) -> None:
    """Kill what runs in a namespace and take it away, with its devices; raises UserError for what does not go."""
    deadline = time.monotonic() + KILL_SECONDS
    while (running := run("ip", "netns", "pids", space).split()) and time.monotonic() < deadline:
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.01)
    run("ip", "netns", "delete", space)
    shutil.rmtree(CONFIGURATION / space, ignore_errors=True)


def _started(pid: int) -> int:
    """Return when a process began, in ticks since the machine did; -1 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] == "Z" else int(fields[19])


TRIAL = (
    "link add eth0 type veth peer name p1",
    "link add lan type bridge",
    "link set p1 master lan up",
    "addr add 10.0.0.1/16 dev eth0",
    "addr add fd00::1/64 dev eth0 nodad",
    "link set eth0 up",
)


@functools.cache
def obstacle() -> str:
    """Return in one line why this machine can have no laboratory of hosts; nothing where it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "hosts on one machine are network namespaces, and only root makes those"
    for tool, package in (("ip", "iproute2"), ("tc", "iproute2"), ("nft", "nftables")):
        if which(tool) is None:
            return f"{tool} is missing, which makes hosts on one machine: apt-get install {package}"
    space = name_of(os.getpid(), "trial")
    try:
        run("ip", "netns", "add", space)
        try:
            ip(space, *TRIAL)
            nft(space, router_rules(keeps_ports=False) + loss_rules("p1", 0.5))
            run("tc", "-n", space, "qdisc", "replace", "dev", "eth0", "root", *bucket(1.0))
        finally:
            remove(space)
    except UserError as error:
        return f"this kernel, or container, makes no hosts: {error}"
    return ""


def router_rules(keeps_ports: bool) -> str:
    """Return the rules of a router between `lan`, which may go out, and `eth0`, from where nothing comes in unasked.

    With `keeps_ports` a connection keeps its port where that is free; without, each gets a random one.
    """
    return f"""
table inet router {{
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname {{ "lo", "lan" }} accept
    ct state established,related accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "lan" accept
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat;
    oifname "eth0" masquerade {"" if keeps_ports else "fully-random"}
  }}
}}
"""


def loss_rules(device: str, share: float) -> str:
    """Return the rules that drop a share of the packets which arrive at a device, and count them; 0 takes them away."""
    table = f"netdev loss_{device}"
    dropping = f"""
table {table} {{
  chain arriving {{
    type filter hook ingress device "{device}" priority 0;
    numgen random mod 1000000 < {round(1_000_000 * share)} counter drop
  }}
}}
"""
    return f"table {table} {{ }}\ndelete table {table}\n" + (dropping if share else "")


def bucket(mbit: float) -> list[str]:
    """Return the words of `tc` for a link of so many Mbit/s.

    A bucket below one packet lets nothing pass, and says nothing; one of 4 ms keeps the rate at any speed.
    """
    rate = round(mbit * 1_000_000)
    burst = max(4096, rate // 8 // 250)
    return ["tbf", "rate", f"{rate}bit", "burst", str(burst), "latency", "400ms"]
