#!/usr/bin/env bash
# alia-carbon 0.2.1, "bit-exact deterministic training": its public trainer, asked to put in the layers that its manual
# calls for (DeterministicTrainer(model, optimizer, replace_linear=True)), trains no linear layer.
#
# Expected: a trainer that is given a model and its optimizer trains that model; twenty steps of SGD lower the loss.
# What it does: it puts new layers with copied weights into the model, while the optimizer goes on holding the old
# weights. Gradients arrive at the new ones and nothing ever steps: no error, no warning, and the loss of step 20 is
# that of step 1 to the last bit, which looks like perfect reproducibility. A check that compares digests between two
# machines passes. With replace_linear=False, on the same model and data, the loss falls.
#
# Seen on 2026-11-28 (torch 2.13.0, numpy 2.4.6, Python 3.11, x86-64):
#   replace_linear=False: loss 1.044868 -> 1.020236, weights changed
#   replace_linear=True: loss 1.044868 -> 1.044868, weights unchanged
#
# Runs outside CI and without this project's code. Status 0: still so. TORCH_INDEX=URL takes an index of CPU wheels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    torch==2.13.0 numpy==2.4.6 alia-carbon==0.2.1
cd "$folder"
"$folder/venv/bin/python" -P -W ignore - <<'PYTHON'
import sys

import carbon
import torch


def train(replace_linear):
    torch.manual_seed(0)
    batch = torch.randn(256, 64), torch.randn(256, 64)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = carbon.DeterministicTrainer(model, optimizer, seed=42, replace_linear=replace_linear)
    start = [weight.detach().clone() for weight in trainer.model.parameters()]
    losses = [trainer.step(batch, lambda m, b: ((m(b[0]) - b[1]) ** 2).mean()) for _ in range(20)]
    unchanged = all(map(torch.equal, start, trainer.model.parameters()))
    said = "unchanged" if unchanged else "changed"
    print(f"replace_linear={replace_linear}: loss {losses[0]:.6f} -> {losses[-1]:.6f}, weights {said}")
    return losses, unchanged


plain, frozen = train(False), train(True)
as_described = plain[0][-1] < plain[0][0] and not plain[1] and len(set(frozen[0])) == 1 and frozen[1]
sys.exit(0 if as_described else "it behaves in another way now")
PYTHON
