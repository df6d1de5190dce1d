#!/usr/bin/env bash
# wandb 0.31.0's Python package can neither write nor read its own offline runs: only a Go binary inside it can.
#
# Expected: `wandb.sdk.internal.datastore.DataStore`, which scripts use to read an offline run's `.wandb` file, or to
# write one without a service (as on a machine without a network), is in the package beside its protobuf classes.
# What it does: the protobuf classes are there, and nothing in Python that frames them into a file; that is in
# `bin/wandb-core`. So who wants a run's figures in W&B later, without starting its service where they arise, keeps
# them in a format of his own and logs them afterwards.
#
# Seen on 2026-12-01 (Linux 6.18, Python 3.11):
#   wandb 0.31.0: records yes, datastore no, files that define a DataStore: 0, wandb-core yes
#
# Runs outside CI and without this project's code; PYTHON names an interpreter that has wandb. Status 0: still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install -q --no-compile wandb==0.31.0
    PYTHON=$folder/venv/bin/python
fi
cd "$folder"
said=$("$PYTHON" - <<'PYTHON'
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

root = Path(find_spec("wandb").origin).parent
yes = {True: "yes", False: "no"}
records = yes[find_spec("wandb.proto.wandb_internal_pb2") is not None]
store = yes[find_spec("wandb.sdk.internal.datastore") is not None]
defined = sum(bool(re.search(r"^class \w*DataStore\b", path.read_text("utf-8"), re.M)) for path in root.rglob("*.py"))
binary = yes[(root / "bin" / "wandb-core").exists()]
print(
    f"wandb {version('wandb')}: records {records}, datastore {store}, files that define a DataStore: {defined}, "
    f"wandb-core {binary}"
)
PYTHON
)
echo "$said"
[ "$said" = "wandb 0.31.0: records yes, datastore no, files that define a DataStore: 0, wandb-core yes" ]
