#!/usr/bin/env bash
# py-libp2p 0.8.1 cannot be imported on a machine without a nameserver.
#
# Expected: `import libp2p` asks nothing of the network; peers that are dialled by number need no names at all, as in an
# isolated LAN, a container without DNS, or a network namespace.
# What it does: a module makes a resolver of dnspython's while it is imported, which reads /etc/resolv.conf and raises
# NoResolverConfiguration where no nameserver is in it. Every program that imports libp2p ends there with a traceback.
#
# Seen on 2026-11-29 (Linux 6.18, Python 3.11, multiaddr 0.2.0, dnspython 2.9.2):
#   with /etc/resolv.conf as it is: imported
#   with an empty one:              dns.resolver.NoResolverConfiguration: no nameservers
#
# Runs outside CI and without this project's code; needs root, or user namespaces. Status 0: still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install -q --no-compile libp2p==0.8.1
    PYTHON=$folder/venv/bin/python
fi
cd "$folder"
: >empty
try() { "$PYTHON" -P -c 'import libp2p; print("imported")' 2>&1 | tail -n 1; }
export -f try
export PYTHON
now=$(try)
without=$(unshare --map-root-user --mount bash -c 'mount --bind empty /etc/resolv.conf && try')
echo "with /etc/resolv.conf as it is: $now"
echo "with an empty one:              $without"
[ "$now" = imported ] && [[ "$without" == *NoResolverConfiguration* ]] || { echo "it behaves in another way now" >&2; exit 1; }
