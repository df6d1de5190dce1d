"""Peers that find each other on a local network, and a port that a gateway gives: between network namespaces."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from p2p.identity import load
from p2p.nearby import SERVICE
from p2p.ticket import Ticket
from tests.checkout import environment
from tests.integration.test_nat import started
from trainer.folder import RunFolder
from trainer.hosts.net import Host, Lab, Router, laboratory
from trainer.hosts.system import ip, nft, obstacle, run, which
from trainer.lifetimes import python
from trainer.runs.create import Created
from trainer.runs.ledgers import genesis_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(obstacle()), reason=obstacle()),
]
ALL = ("--listen", "/ip4/0.0.0.0/tcp/4001", "--listen", "/ip6/::/tcp/4001")
DAEMON = "miniupnpd"
OUTSIDE, FAR = "11.0.0.1", "11.0.0.2"
"""Numbers that miniupnpd takes for the internet's; they are the laboratory's own."""
CONFIGURATION = f"""
ext_ifname=eth0
ext_ip={OUTSIDE}
listening_ip=lan
enable_upnp=yes
enable_natpmp=no
secure_mode=yes
uuid=00000000-0000-4000-8000-000000000001
allow 1024-65535 10.0.0.0/8 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""
CHAINS = """
table inet filter {
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
  chain forward { type filter hook forward priority filter; jump miniupnpd; }
  chain prerouting { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority srcnat; jump postrouting_miniupnpd; }
}
add rule inet router forward ct status dnat accept
"""
"""What miniupnpd fills, and the laboratory's router lets through."""
WATCH = """
table inet watch {
  chain leaving {
    type filter hook output priority filter;
    oifname "eth0" udp dport { 1900, 5353 } counter
    oifname "lan" udp dport { 1900, 5353 } counter
  }
}
"""
CLOSED = """
table inet closed {
  chain input {
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    udp dport 5353 accept
  }
}
"""
QUESTION = """
import socket, struct, sys
labels = b"".join(bytes([len(each)]) + each.encode() for each in sys.argv[2].split("."))
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(1.0)
asking.sendto(struct.pack("!6H", 7, 0, 1, 0, 0, 0) + labels + struct.pack("!2H", 12, 1), (sys.argv[1], 5353))
try:
    print("answered" if asking.recv(9000) else "")
except (TimeoutError, ConnectionRefusedError):
    print("silence")
"""
"""Asks for all peers straight at a number, as anybody may who reaches it."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with laboratory() as made:
        yield made


def test_a_peer_that_has_moved_is_found_on_the_local_network(lab: Lab) -> None:
    with ExitStack() as stack:
        moving = started(stack, 1, lab.public("moving"), "mdns")
        silent = started(stack, 2, lab.public("silent"))
        asking = started(stack, 3, lab.public("asking"), "mdns")
        for peer in (moving, silent, asking):
            peer.begin()
        for peer in (moving, silent):
            peer.host.move()
        while asking.do("echo", moving.address) != "echo":  # until it has noticed
            pass
        way = asking.do("way", moving.address)
        assert "is_nearby=True" in way
        assert f"/{moving.host.ipv4}/" in way or f"/{moving.host.ipv6}/" in way
        assert asking.do("echo", silent.address).startswith("Unavailable")


def test_nothing_is_told_on_an_interface_that_is_not_listened_on(lab: Lab) -> None:
    router = lab.router("two-homed")
    inside = lab.behind(router, "inside")
    nft(router.space, WATCH)
    with ExitStack() as stack:
        listen = f"/ip4/{router.inside_addresses[0]}/tcp/4001"
        one = started(stack, 1, router, "mdns", "upnp", listen=listen)
        two = started(stack, 2, inside, "mdns")
        for peer in (one, two):
            peer.begin()
        nowhere = one.address.replace("4001", "4002")
        while two.do("echo", nowhere) != "echo":
            pass
        assert "is_nearby=True" in two.do("way", nowhere)
        assert one.do("echo", two.address.replace("4001", "4002")) == "echo"
        assert asked(inside, router.inside_addresses[0]) == "answered"
        assert asked(router, "127.0.0.1") == "silence"
    outer, inner = counted(router)
    assert outer == 0
    assert inner > 0


def asked(host: Host, number: str) -> str:
    """Return what comes of a question at a number."""
    command = host.command(python("-c", QUESTION, number, SERVICE))
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def counted(router: Router) -> list[int]:
    """Return how many packets each rule of `WATCH` has seen."""
    table = run(
        "ip", "netns", "exec", router.space, which("nft") or "nft", "-j", "list", "table", "inet", "watch"
    )
    rules = [entry["rule"]["expr"] for entry in json.loads(table)["nftables"] if "rule" in entry]
    return [part["counter"]["packets"] for rule in rules for part in rule if "counter" in part]


@contextmanager
def printing(host: Host, *command: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a command of ours on a host, and kill it at the end."""
    process = subprocess.Popen(
        host.command(python("-m", "trainer.cli", *command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env=environment(),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: "subprocess.Popen[str]", wanted: str) -> str:
    """Return the first line that holds a text."""
    assert process.stdout is not None
    lines = list[str]()
    for line in process.stdout:
        lines.append(line)
        if wanted in line:
            return line
    pytest.fail(f"no {wanted!r} in {lines}")


def test_a_newcomer_whose_ticket_is_old_finds_the_host_by_mdns_alone(
    lab: Lab, tiny_run: Created, tmp_path: Path
) -> None:
    folder = RunFolder(Path(shutil.copytree(tiny_run.folder.path, tmp_path / "host")))
    serving, joining = lab.public("serving"), lab.public("joining")
    with printing(serving, "run", "serve", str(folder.path), *ALL) as first:
        endpoint = line_of(first, "serves run").split(" at ", 1)[1].strip()
    serving.move()
    secret = load(folder.keys / "peer-0.key").secret
    ticket = Ticket(genesis_of(folder).run, endpoint, secret).text()
    steps, here = tmp_path / "steps.json", RunFolder(tmp_path / "here")
    with printing(serving, "run", "serve", str(folder.path), *ALL) as again:
        line_of(again, "serves run")
        with printing(joining, "doctor", "--network", ticket, *ALL, "--json", str(steps)) as doctor:
            assert doctor.wait() == 0
        found = {step["what"]: step["found"] for step in json.loads(steps.read_text())}
        assert found["mDNS"] == "what is announced on eth0 is heard there"
        assert "(mDNS) answers after" in found["dial"]
        assert found["way"].endswith("which the local network tells (mDNS)")
        with printing(joining, "join", ticket, "--folder", str(here.path), *ALL) as newcomer:
            told = line_of(newcomer, "the host is reached")
    assert told.endswith("which the local network tells (mDNS)\n")
    where = here.host.read_text().split()
    assert f"/{serving.ipv4}/" in where[0] or f"/{serving.ipv6}/" in where[0]


def test_a_member_that_nobody_can_call_finds_its_host_again_by_mdns_alone(
    lab: Lab, tiny_run: Created, tmp_path: Path
) -> None:
    """The host cannot tell it where it is, and there are no other members."""
    folder, here = (
        RunFolder(Path(shutil.copytree(tiny_run.folder.path, tmp_path / "host"))),
        tmp_path / "here",
    )
    serving, closed = lab.public("serving"), lab.public("closed")
    nft(closed.space, CLOSED)
    serve, ends = ("run", "serve", str(folder.path), *ALL), ExitStack()
    with ExitStack() as stack:
        endpoint = (
            line_of(ends.enter_context(printing(serving, *serve)), "serves run").split(" at ")[1].strip()
        )
        ticket = Ticket(genesis_of(folder).run, endpoint, load(folder.keys / "peer-0.key").secret).text()
        command = ("join", ticket, "--folder", str(here), "--accept-unsound", *ALL)
        member = stack.enter_context(printing(closed, *command))
        line_of(member, "joined ")
        ends.close()
        line_of(member, "the ledger's host does not answer")
        serving.move()
        stack.enter_context(printing(serving, *serve))
        line_of(member, "the ledger's host answers again")
    where = RunFolder(here).host.read_text().split()[0]
    assert f"/{serving.ipv4}/" in where or f"/{serving.ipv6}/" in where


@contextmanager
def gateway(router: Router, place: Path) -> Iterator[None]:
    """Let a router give ports by UPnP."""
    nft(router.space, CHAINS)
    (place / "upnp.conf").write_text(CONFIGURATION)
    command = [which(DAEMON) or DAEMON, "-d", "-f", str(place / "upnp.conf"), "-P", str(place / "upnp.pid")]
    daemon = subprocess.Popen(
        router.command(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        line_of(daemon, "HTTP listening on port")
        yield
    finally:
        daemon.kill()
        daemon.communicate()


def mappings(router: Router) -> int:
    """Return how many ports the router gives."""
    listed = run("ip", "netns", "exec", router.space, which("nft") or "nft", "list", "ruleset")
    return listed.count("dnat ip to")


@pytest.mark.skipif(which(DAEMON) is None, reason=f"{DAEMON} is missing: apt-get install {DAEMON}-nftables")
def test_a_port_of_the_gateways_leads_to_a_peer_behind_it_until_it_ends(lab: Lab, tmp_path: Path) -> None:
    router, far = lab.router("home"), lab.public("far")
    ip(router.space, f"addr add {OUTSIDE}/24 dev eth0")
    ip(far.space, f"addr add {FAR}/24 dev eth0")
    with gateway(router, tmp_path), ExitStack() as stack:
        homely, caller = started(stack, 1, lab.behind(router, "homely"), "upnp"), started(stack, 2, far)
        for peer in (homely, caller):
            peer.begin()
        (outside,) = [each for each in homely.address.split() if f"/{OUTSIDE}/" in each]
        assert outside.startswith(f"/ip4/{OUTSIDE}/tcp/4001/p2p/")
        assert mappings(router) == 1
        with printing(
            homely.host, "doctor", "--network", "--upnp", "--listen", f"/ip4/{homely.host.ipv4}/tcp/4002"
        ) as it:
            assert f"the gateway leads /ip4/{OUTSIDE}/tcp/4002 here" in line_of(it, "UPnP")
            assert it.wait() == 0
        assert mappings(router) == 1
        assert caller.do("bulk", outside) == "bulk"
        homely.process.communicate()
        assert homely.process.returncode == 0
        assert mappings(router) == 0


def test_a_network_without_a_gateway_is_one_line(lab: Lab, tmp_path: Path) -> None:
    router = lab.router("plain")
    inside, steps = lab.behind(router, "inside"), tmp_path / "steps.json"
    with printing(inside, "doctor", "--network", "--upnp", *ALL, "--json", str(steps)) as doctor:
        assert doctor.wait() == 1
    (failed,) = [step for step in json.loads(steps.read_text()) if not step["ok"]]
    assert failed["what"] == "UPnP"
    assert failed["found"].startswith(f"no gateway answers on the network of {inside.ipv4}")
