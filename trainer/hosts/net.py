"""A laboratory of hosts on one machine: each a network namespace with addresses of its own, and no way out of it.

There is an internet, a bridge with public hosts on it, and there are routers with hosts behind them, by which these
reach the internet and nobody reaches them. Links can be cut, slowed and made lossy. A delay needs a queue discipline
(netem) that many kernels lack, so links here have none but that of a full queue.

Whatever is made here lies inside namespaces, and goes with them: at the end, on SIGINT and SIGTERM too. Processes end
even with a laboratory that is killed, and the namespaces that it leaves are taken away by the next one.
"""

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.hosts.system import (
    CONFIGURATION,
    bucket,
    ip,
    loss_rules,
    name_of,
    nft,
    obstacle,
    remove,
    remove_leftovers,
    router_rules,
    run,
    spaces,
    which,
)
from trainer.lifetimes import ended_by_signals, held, undisturbed
from verification.errors import UserError

DEVICE = "eth0"
"""What every host calls its link."""
RESOLVER = Path("/etc/resolv.conf")
NO_RESOLVER = "nameserver 127.0.0.1\n"
"""Nobody answers there; py-libp2p does not start where no resolver is named at all."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Disk:
    """A folder of a host's own, which its processes see at `place`, whatever lies there for others."""

    own: Path
    place: Path


@dataclass(frozen=True)
class Moved:
    """What has gone over a host's link so far."""

    sent_bytes: int
    sent_packets: int
    received_bytes: int
    received_packets: int


class Network:
    """A bridge that hosts are plugged into; its addresses are 10.NUMBER.0.0/16 and fd00:NUMBER::/64."""

    def __init__(self, space: str, bridge: str, number: int) -> None:
        """Make the bridge in a namespace that is there; raises UserError."""
        self.space, self.bridge, self.number = space, bridge, number
        self._ports, self._places = itertools.count(1), itertools.count(1)
        ip(space, f"link add {bridge} type bridge", f"link set {bridge} up")

    def next_port(self) -> str:
        """Return the name of the bridge's next port."""
        return f"p{next(self._ports)}"

    def next_addresses(self) -> tuple[str, str]:
        """Return the next free addresses."""
        place = next(self._places)
        return f"10.{self.number}.{place >> 8}.{place & 255}", f"fd00:{self.number:x}::{place:x}"


class Host:
    """A host with a link to a network."""

    def __init__(self, name: str, space: str, network: Network, gateway: "Router | None" = None) -> None:
        """Plug a namespace that is there into a network; raises UserError."""
        self.name, self.space = name, space
        self._network, self._gateway, self._port = network, gateway, network.next_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        peer = f"peer name {self._port} netns {network.space}"
        ip(space, "link set lo up", f"link add {DEVICE} type veth {peer}", f"link set {DEVICE} up")
        ip(network.space, f"link set {self._port} master {network.bridge} up")
        self.ipv4, self.ipv6 = self._take_addresses()

    def _take_addresses(self) -> tuple[str, str]:
        ipv4, ipv6 = self._network.next_addresses()
        lines = [f"addr add {ipv4}/16 dev {DEVICE}", f"addr add {ipv6}/64 dev {DEVICE} nodad"]
        gateways = () if self._gateway is None else self._gateway.inside_addresses
        lines += [f"route replace default via {address} dev {DEVICE}" for address in gateways]
        ip(self.space, *lines)
        return ipv4, ipv6

    def move(self) -> None:
        """Get other addresses; the ones before lead nowhere from now on."""
        ip(self.space, f"addr flush dev {DEVICE} scope global")
        self.ipv4, self.ipv6 = self._take_addresses()

    def cut(self) -> None:
        """Pull the plug at the far end: nothing passes."""
        ip(self._network.space, f"link set {self._port} down")

    def mend(self) -> None:
        """Put the plug back."""
        ip(self._network.space, f"link set {self._port} up")

    def limit(self, mbit: float | None) -> None:
        """Let so many Mbit/s pass in each direction; None takes the limit away."""
        words = ["noqueue"] if mbit is None else bucket(mbit)
        for space, device in self._ends():
            run("tc", "-n", space, "qdisc", "replace", "dev", device, "root", *words)

    def lose(self, share: float) -> None:
        """Drop a share of the packets in each direction, drawn one by one; 0 ends it.

        Meanwhile a packet is what goes over a wire: otherwise the kernel passes dozens of them on as one.
        """
        for space, device in self._ends():
            ip(space, f"link set {device} gso_max_segs {1 if share else 65535}")
            nft(space, loss_rules(device, share))

    def dropped(self) -> int:
        """Return how many packets have been dropped since `lose`."""
        return sum(_dropped(space, device) for space, device in self._ends())

    def moved(self) -> Moved:
        """Return what has gone over the link."""
        (found,) = json.loads(run("ip", "-n", self.space, "-s", "-j", "link", "show", DEVICE))
        sent, received = found["stats64"]["tx"], found["stats64"]["rx"]
        return Moved(sent["bytes"], sent["packets"], received["bytes"], received["packets"])

    def _ends(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.space, DEVICE), (self._network.space, self._port)

    def command(self, command: Sequence[str], disk: Disk | None = None) -> list[str]:
        """Return the command that runs `command` here; its process is the same one."""
        inside = [which("ip") or "ip", "netns", "exec", self.space]
        if disk is not None:
            mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
            inside += ["sh", "-c", mount, str(disk.own.resolve()), str(disk.place.resolve())]
        return [*inside, *command]

    def start(
        self,
        command: Sequence[str],
        output: Path,
        disk: Disk | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process here that writes to the end of `output`; at the end it is killed with its group."""
        with output.open("ab") as sink:
            process = subprocess.Popen(
                held(self.command(command, disk)), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                env=environment, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def kill(self) -> None:
        """Kill every process that was started here, with its group, as a power cut does."""
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()


class Router(Host):
    """A host with a network behind it, which reaches out and is not reached."""

    def __init__(self, name: str, space: str, network: Network, number: int, keeps_ports: bool) -> None:
        """Plug a namespace that is there into a network, and make network `number` behind it; raises UserError."""
        super().__init__(name, space, network)
        self.inside = Network(space, "lan", number)
        self.inside_addresses = ipv4, ipv6 = self.inside.next_addresses()
        ip(space, f"addr add {ipv4}/16 dev lan", f"addr add {ipv6}/64 dev lan nodad")
        nft(space, router_rules(keeps_ports))
        for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            run("ip", "netns", "exec", space, "sh", "-c", f"echo 1 > /proc/sys/net/{setting}")


class Lab:
    """Hosts, routers, and the internet between them; `laboratory` makes one and takes it away."""

    def __init__(self) -> None:
        """Begin with an internet without hosts; raises UserError."""
        self._name = name_of(os.getpid(), str(next(_numbers)))
        self._hosts: list[Host] = []
        self._networks = itertools.count(1)

    def open(self) -> None:
        """Make the internet; raises UserError."""
        self._internet = Network(self._space("internet"), "net", next(self._networks))

    def public(self, name: str) -> Host:
        """Return a new host on the internet; raises UserError."""
        return self._keep(Host(name, self._space(name), self._internet))

    def router(self, name: str, keeps_ports: bool = True) -> Router:
        """Return a new router, whose own address is on the internet; without `keeps_ports` each connection leaves by a
        random port. Raises UserError."""
        router = Router(name, self._space(name), self._internet, next(self._networks), keeps_ports)
        self._hosts.append(router)
        return router

    def behind(self, router: Router, name: str) -> Host:
        """Return a new host in a router's network; raises UserError."""
        return self._keep(Host(name, self._space(name), router.inside, router))

    def _keep(self, host: Host) -> Host:
        self._hosts.append(host)
        return host

    def _space(self, name: str) -> str:
        """Make a namespace without any device or resolver; raises UserError."""
        space = f"{self._name}-{name}"
        run("ip", "netns", "add", space)
        if RESOLVER.exists():
            (CONFIGURATION / space).mkdir(parents=True)
            (CONFIGURATION / space / RESOLVER.name).write_text(NO_RESOLVER)
        return space

    def close(self) -> None:
        """Kill every process and take every namespace away; raises UserError for what does not go."""
        for host in self._hosts:
            host.kill()
        for space in spaces(self._name):
            remove(space)


@contextmanager
def laboratory() -> Iterator[Lab]:
    """Make a laboratory, and take it away at the end, also that by signals; raises UserError, one line, where there can
    be none."""
    if reason := obstacle():
        raise UserError(reason)
    remove_leftovers()
    lab = Lab()
    with ended_by_signals():
        try:
            lab.open()
            yield lab
        finally:
            with undisturbed():
                lab.close()


def _dropped(space: str, device: str) -> int:
    listed = run(
        "ip", "netns", "exec", space, which("nft") or "nft", "-j", "list", "table", "netdev", f"loss_{device}"
    )
    rules = (entry["rule"]["expr"] for entry in json.loads(listed)["nftables"] if "rule" in entry)
    return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)
