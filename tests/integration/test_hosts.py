"""A laboratory of hosts: who reaches whom, what links do, and that nothing of it stays."""

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import environment
from tests.patience import PATIENCE
from trainer.hosts.net import Disk, Host, Lab, Router, laboratory
from trainer.hosts.system import CONFIGURATION, obstacle, run, spaces
from trainer.lifetimes import python

pytestmark = [pytest.mark.integration]

LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], 4000), family=family)
print("ready", flush=True)
connection, caller = server.accept()
size = 0
while data := connection.recv(65536):
    size += len(data)
print(caller[0], caller[1], size, flush=True)
"""
DIAL = """
import socket, sys, time
address, size, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
client = socket.socket(family)
client.bind(("", port))
client.settimeout(float(sys.argv[4]))
try:
    client.connect((address, 4000))
except OSError as error:
    sys.exit(type(error).__name__ + ": " + str(error))
client.settimeout(None)
began = time.monotonic()
client.sendall(bytes(size))
client.shutdown(socket.SHUT_WR)
client.recv(1)
print(time.monotonic() - began)
"""
COUNT = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 4000))
print("ready", flush=True)
sys.stdin.readline()
server.setblocking(False)
count = 0
try:
    while server.recv(2048):
        count += 1
except BlockingIOError:
    print(count, flush=True)
"""
THROW = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[2])):
    client.sendto(b"a packet", (sys.argv[1], 4000))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if obstacle():
        pytest.skip(obstacle())
    with laboratory() as made:
        yield made


@pytest.fixture(scope="module")
def public(lab: Lab) -> tuple[Host, Host]:
    return lab.public("alpha"), lab.public("beta")


@pytest.fixture(scope="module")
def homes(lab: Lab) -> tuple[tuple[Router, Host], tuple[Router, Host]]:
    steady, random = lab.router("steady", keeps_ports=True), lab.router("random", keeps_ports=False)
    return (steady, lab.behind(steady, "near")), (random, lab.behind(random, "far"))


def listening(host: Host, script: str, address: str) -> subprocess.Popen[str]:
    """Start a listener, and return it when it listens."""
    command = host.command(python("-c", script, address))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def dialled(host: Host, address: str, size: int, port: int, patience: float) -> tuple[str, str]:
    """Return the seconds until a caller's bytes were taken, and what it complained of: nothing if it was answered."""
    command = host.command(python("-c", DIAL, address, str(size), str(port), str(patience)))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr.strip()


def complaint(host: Host, address: str, patience: float = PATIENCE) -> str:
    """Return what a caller complained of."""
    return dialled(host, address, 1, 0, patience)[1]


def call(caller: Host, callee: Host, address: str, size: int = 1, port: int = 0) -> tuple[str, int, float]:
    """Call and send bytes; return from where the call seemed to come and how long the bytes took."""
    listener = listening(callee, LISTEN, address)
    seconds, failed = dialled(caller, address, size, port, PATIENCE)
    assert failed == ""
    heard, came_from, received = listener.communicate()[0].split()
    assert int(received) == size
    return heard, int(came_from), float(seconds)


def is_unheard(caller: Host, callee: Host, address: str, listen: str) -> bool:
    """Return whether a call to an address does not come to a callee that listens."""
    listener = listening(callee, LISTEN, listen)
    failed = complaint(caller, address, patience=0.3)
    listener.kill()
    return listener.communicate()[0] == "" and failed != ""


def has_ended(process: int) -> bool:
    """Return whether a process ends, by a descriptor of it, which is closed."""
    ended, _, _ = select.select([process], [], [], PATIENCE)
    os.close(process)
    return bool(ended)


def test_public_hosts_reach_each_other_and_nothing_outside(public: tuple[Host, Host]) -> None:
    alpha, beta = public
    assert call(alpha, beta, beta.ipv4)[0] == alpha.ipv4
    assert call(beta, alpha, alpha.ipv6)[0] == beta.ipv6
    for outside in ("192.0.2.1", "2001:db8::1"):
        assert "unreachable" in complaint(alpha, outside)
    former = beta.ipv4
    beta.move()
    assert beta.ipv4 != former
    assert call(alpha, beta, beta.ipv4)[0] == alpha.ipv4
    assert is_unheard(alpha, beta, former, beta.ipv4)


def test_who_is_behind_a_router_reaches_out_and_is_not_reached(
    public: tuple[Host, Host], homes: tuple[tuple[Router, Host], tuple[Router, Host]]
) -> None:
    alpha, _ = public
    (steady, near), (random, far) = homes
    for router, host in homes:
        assert call(host, alpha, alpha.ipv4)[0] == router.ipv4
        assert call(host, alpha, alpha.ipv6)[0] == router.ipv6
    for router, host, caller in ((steady, near, alpha), (steady, near, far), (random, far, near)):
        assert is_unheard(caller, host, router.ipv4, host.ipv4)
        assert is_unheard(caller, host, host.ipv4, host.ipv4)
    assert call(near, alpha, alpha.ipv4, port=5001)[1] == 5001
    # A random port is the same as before once in tens of thousands of times, and twice never.
    assert [call(far, alpha, alpha.ipv4, port=port)[1] for port in (5001, 5002)] != [5001, 5002]


def test_a_link_is_cut_and_mended_and_a_host_has_a_disk_and_kills_what_it_started(
    public: tuple[Host, Host], tmp_path: Path
) -> None:
    alpha, beta = public
    beta.cut()
    assert is_unheard(alpha, beta, beta.ipv4, beta.ipv4)
    beta.mend()
    call(alpha, beta, beta.ipv4)
    own, place = tmp_path / "own", tmp_path / "place"
    own.mkdir()
    place.mkdir()
    os.mkfifo(tmp_path / "told")
    script = f"echo seen > {place}/mine; ls {place}; sleep 600 & echo $! > {tmp_path}/told; wait"
    process = alpha.start(["sh", "-c", script], tmp_path / "output", Disk(own, place))
    child = os.pidfd_open(int((tmp_path / "told").read_text()))
    assert (tmp_path / "output").read_text() == "mine\n"
    assert os.listdir(own) == ["mine"]
    assert os.listdir(place) == []
    alpha.kill()
    assert process.returncode == -signal.SIGKILL
    assert has_ended(child)


def test_a_limit_and_a_loss_take_effect(public: tuple[Host, Host]) -> None:
    alpha, beta = public
    before, size = alpha.moved(), 250_000
    alpha.limit(8)
    assert call(alpha, beta, beta.ipv4, size)[2] > 0.2
    assert call(beta, alpha, alpha.ipv4, size)[2] > 0.2
    alpha.limit(None)
    after = alpha.moved()
    assert after.sent_bytes - before.sent_bytes > size
    assert after.received_bytes - before.received_bytes > size
    alpha.lose(0.25)
    listener, sent = listening(beta, COUNT, beta.ipv4), 200
    subprocess.run(alpha.command(python("-c", THROW, beta.ipv4, str(sent))), check=True)
    received = int(listener.communicate("count\n")[0])
    assert 0 < received < sent
    assert alpha.dropped() >= sent - received
    alpha.lose(0)
    call(alpha, beta, beta.ipv4, size)


HOLD = """
import os, pathlib, sys
from trainer.hosts.net import laboratory
with laboratory() as lab:
    host, told = lab.public("alone"), pathlib.Path(sys.argv[1])
    os.mkfifo(told)
    host.start(["sh", "-c", f"echo > {told}; exec sleep 600"], pathlib.Path("/dev/null"))
    told.read_text()  # it has come into its namespace
    print(host.space, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_of_a_laboratory_that_is_ended(number: signal.Signals, tmp_path: Path) -> None:
    if obstacle():
        pytest.skip(obstacle())
    command = python("-c", HOLD, str(tmp_path / "told"))
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    )  # fmt: skip
    assert process.stdout is not None
    space = process.stdout.readline().strip()
    assert space in spaces()
    inside = [os.pidfd_open(int(pid)) for pid in run("ip", "netns", "pids", space).split()]
    assert len(inside) == 1
    with laboratory():
        assert space in spaces()  # its owner lives
    process.send_signal(number)
    process.communicate()
    if number == signal.SIGKILL:
        with laboratory():  # or another that begins now
            pass
    assert not [each for each in spaces() if each.startswith(space.removesuffix("-alone"))]
    assert not (CONFIGURATION / space).exists()
    assert all(has_ended(process) for process in inside)
