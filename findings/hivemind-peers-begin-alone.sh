#!/usr/bin/env bash
# hivemind 1.1.12: peers of hivemind.Optimizer that wait for each other before they train never hear of each other.
#
# Expected: `tracker.global_progress.num_peers` counts the peers that are there, so that a program can wait for all of
# them before its first step, as one does before synchronous training.
# What it does: a peer is told to the others once it has accumulated a sample, so all of them count nobody. Whoever just
# trains takes its first global batches alone, on its own gradients. A report of a sample that was not trained helps:
# `tracker.report_local_progress(0, 1)`, and 0 once all are there.
#
# Seen on 2026-11-30 (Linux 6.18, Python 3.11, torch 2.13.0), two peers on loopback, 15 seconds and up to 40:
#   after report_local_progress(0, 0): 0 0 peers
#   after report_local_progress(0, 1): 2 2 peers
#
# Runs outside CI and without this project's code; PYTHON names an interpreter that has hivemind. Status 0: still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install -q --no-compile torch==2.13.0 hivemind==1.1.12 protobuf==6.33.6
    PYTHON=$folder/venv/bin/python
fi
cd "$folder"
cat >waiting.py <<'PYTHON'
import sys
import time
from pathlib import Path

import hivemind
import torch


def main() -> None:
    known = Path("addresses")
    while sys.argv[1] == "second" and not known.exists():
        time.sleep(0.1)
    table = hivemind.DHT(
        host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=known.read_text().split() if known.exists() else [],
        start=True, nat_port_map=False, auto_nat=False, use_relay=False,
    )
    if sys.argv[1] == "first":
        Path("part").write_text(" ".join(map(str, table.get_visible_maddrs())))
        Path("part").rename(known)
    model = torch.nn.Linear(4, 4)
    optimizer = hivemind.Optimizer(
        dht=table, run_id="waiting", target_batch_size=8, batch_size_per_step=4, params=model.parameters(),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
    )
    tracker = optimizer.tracker
    for samples, seconds in ((0, 15), (1, 40)):
        tracker.report_local_progress(0, samples)
        until = time.monotonic() + seconds
        while tracker.global_progress.num_peers < 2 and time.monotonic() < until:
            time.sleep(0.1)
        print(samples, tracker.global_progress.num_peers, flush=True)
    time.sleep(20)
    optimizer.shutdown()
    table.shutdown()


if __name__ == "__main__":
    main()
PYTHON
for name in first second; do "$PYTHON" -P waiting.py "$name" >"$name" 2>"$name.log" & done
wait
counted() { awk -v samples="$1" '$1 == samples { print $2 }' first second | paste -sd ' '; }
echo "after report_local_progress(0, 0): $(counted 0) peers"
echo "after report_local_progress(0, 1): $(counted 1) peers"
[ "$(counted 0)" = "0 0" ] && [ "$(counted 1)" = "2 2" ] || { echo "it behaves in another way now" >&2; exit 1; }
