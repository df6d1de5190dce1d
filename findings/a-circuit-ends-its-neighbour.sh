#!/usr/bin/env bash
# py-libp2p 0.8.1 as a circuit relay: a peer that ends one of its circuits loses the other ones with it.
#
# Expected: a relay carries each circuit by itself. Two peers that reach a third by way of one relay know nothing of each
# other, and when the third is done with one of them, the other's circuit goes on.
# What it does: the relay keeps the streams of its circuits by peer, so the second circuit to a peer stands in the place
# of the first one, and the end of the first closes the streams of the second. A peer behind a NAT that many others reach
# by way of one relay loses them at every turn.
#
# Seen on 2026-11-29 (Python 3.11, one machine, loopback):
#   before: both circuits carry
#   after the first has ended: the second carries nothing
#
# Runs outside CI and without this project's code. Status 0: still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install -q --no-compile libp2p==0.8.1
    PYTHON=$folder/venv/bin/python
fi
cd "$folder"
cat >circuits.py <<'PYTHON'
import trio
from libp2p import new_host
from libp2p.peer.peerinfo import PeerInfo
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, STOP_PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.relay.circuit_v2.utils import read_delimited_msg, write_delimited_msg
from libp2p.relay.circuit_v2.pb.circuit_pb2 import StopMessage
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

TAKEN = []
HERE = [Multiaddr("/ip4/127.0.0.1/tcp/0")]


async def echo(stream):
    """The far end of a circuit: take it, then send back what comes."""
    TAKEN.append(stream)
    await read_delimited_msg(stream, StopMessage)
    await write_delimited_msg(stream, StopMessage(type=StopMessage.STATUS, status=100))
    while data := await stream.read(100):
        await stream.write(data)


async def asked(host, relay, message):
    """Return the stream of a request that the relay has granted."""
    stream = await host.new_stream(relay, [PROTOCOL_ID])
    await write_delimited_msg(stream, message)
    answer = await read_delimited_msg(stream, HopMessage)
    assert answer.status == 100, answer
    return stream


async def carries(stream):
    """Return whether a byte comes back."""
    try:
        with trio.fail_after(5):
            await stream.write(b"?")
            return await stream.read(1) == b"?"
    except Exception:
        return False


async def main():
    relay, target, first, second = (new_host() for _ in range(4))
    async with relay.run(HERE), target.run(HERE), first.run(HERE), second.run(HERE):
        limits = RelayLimits(duration=600, data=1 << 20, max_circuit_conns=8, max_reservations=8)
        protocol = CircuitV2Protocol(relay, limits, allow_hop=True)
        async with background_trio_service(protocol):
            await protocol.event_started.wait()
            target.set_stream_handler(STOP_PROTOCOL_ID, echo)
            for host in (target, first, second):
                await host.connect(PeerInfo(relay.get_id(), relay.get_transport_addrs()))
            await asked(target, relay.get_id(), HopMessage(type=HopMessage.RESERVE))
            connect = HopMessage(type=HopMessage.CONNECT, peer=PeerId(id=target.get_id().to_bytes()))
            one = await asked(first, relay.get_id(), connect)
            two = await asked(second, relay.get_id(), connect)
            before = await carries(one) and await carries(two)
            print("before:", "both circuits carry" if before else "not both circuits carry")
            await TAKEN[0].reset()
            await trio.sleep(3)
            after = await carries(two)
            print("after the first has ended: the second carries", "as before" if after else "nothing")
            return 0 if before and not after else 1


raise SystemExit(trio.run(main))
PYTHON
"$PYTHON" -P circuits.py 2>/dev/null || { echo "it behaves in another way now" >&2; exit 1; }
