#!/usr/bin/env bash
# miniupnpc 2.3.3 for Python: on a network where no device answers, discover() fails, and the reason is "Success".
#
# Expected: `discover()` returns how many devices answered, so 0 where none did, or says what went wrong.
# What it does: it raises a bare Exception whose text is "Success". A program cannot tell that nobody answered from what
# did go wrong but by that word; one that takes it at its word goes on as if there were a gateway.
#
# Seen on 2026-11-30 (Linux 6.18, Python 3.11), on a link of its own with nobody at its other end:
#   discover(): Exception('Success')
#
# Runs outside CI and without this project's code, in a network namespace; needs root, or user namespaces. Status 0:
# still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install -q --no-compile miniupnpc==2.3.3
    PYTHON=$folder/venv/bin/python
fi
cd "$folder"
cat >discovered.py <<'PYTHON'
import miniupnpc

gateway = miniupnpc.UPnP(multicastif="10.5.0.1", discoverdelay=500)
try:
    print(gateway.discover())
except Exception as error:
    print(repr(error))
PYTHON
inside() {
    ip link set lo up
    ip link add lan type veth peer name far
    ip addr add 10.5.0.1/24 dev lan
    ip link set lan up
    ip link set far up
    echo "discover(): $("$PYTHON" -P discovered.py)"
}
export -f inside
export PYTHON
found=$(unshare --map-root-user --net bash -euc inside)
echo "$found"
[[ "$found" == "discover(): Exception('Success')" ]] || { echo "it behaves in another way now" >&2; exit 1; }
