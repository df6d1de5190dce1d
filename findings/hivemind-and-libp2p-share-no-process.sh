#!/usr/bin/env bash
# hivemind 1.1.12 and py-libp2p 0.8.1 install together, import alone, and cannot be imported in one process.
#
# Expected: two packages that pip resolves in one environment, and that `pip check` finds sound, can be used together:
# hivemind for averaging, py-libp2p for streams to the peers that hivemind's daemon can talk to as well.
# What it does: both generate code from libp2p's own crypto.proto and register it under another file name, so the second
# import ends in a TypeError of protobuf's descriptor pool, whichever comes first. Each works in a process of its own.
#
# Seen on 2026-11-30 (Linux 6.18, Python 3.11, torch 2.13.0, protobuf 6.33.6):
#   hivemind, then libp2p: TypeError, duplicate symbol 'crypto.pb.KeyType'
#   libp2p, then hivemind: TypeError, duplicate symbol 'crypto.pb.KeyType'
#
# Runs outside CI and without this project's code; PYTHON names an interpreter that has both. Status 0: still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install -q --no-compile torch==2.13.0 hivemind==1.1.12 libp2p==0.8.1 protobuf==6.33.6
    "$folder/venv/bin/pip" check
    PYTHON=$folder/venv/bin/python
fi
cd "$folder"
cat >both.py <<'PYTHON'
import importlib
import sys

names = sys.argv[1:]
for name in names:
    try:
        importlib.import_module(name)
    except TypeError as error:
        symbols = [word for word in str(error).replace("'", " ").split() if word.startswith("crypto.pb.")]
        print(f"{', then '.join(names)}: TypeError, duplicate symbol {symbols[:1]}")
        sys.exit(1)
print(f"{', then '.join(names)}: imported")
PYTHON
for alone in hivemind libp2p; do
    "$PYTHON" -W ignore both.py "$alone" 2>/dev/null
done
for order in "hivemind libp2p" "libp2p hivemind"; do
    # shellcheck disable=SC2086
    if said=$("$PYTHON" -W ignore both.py $order 2>/dev/null); then
        echo "they can be imported together now: $said"
        exit 1
    fi
    echo "$said"
    case "$said" in *"duplicate symbol ['crypto.pb."*) ;; *) exit 1 ;; esac
done
