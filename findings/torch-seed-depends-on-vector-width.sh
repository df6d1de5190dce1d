#!/usr/bin/env bash
# PyTorch 2.13.0 on one CPU: the same seed gives other normal numbers, and so other initial weights, under another
# vector width (ATEN_CPU_CAPABILITY, or simply another processor), while torch.rand gives the same ones.
#
# Expected: torch.manual_seed fixes what a CPU generator draws; widths may change sums, which have an order, but a draw
# has none. torch.rand, randperm and bernoulli_ keep to that.
# What it does: torch.randn and normal_ of 16 numbers or more, and uniform_ over a width that is no power of two, differ
# in the last bits between AVX2 code and code without it. Two honest machines that build a model from one seed start
# from different weights, before any training; whoever compares runs by seed compares different starts. Send the
# weights, or draw them with integers.
#
# Seen on 2026-11-28 (x86-64 with AVX2, Python 3.11, numpy 2.4.6):
#   same in both: bernoulli_ rand randperm
#   differ:       normal_ randn uniform_
#
# Runs outside CI and without this project's code; needs a processor with AVX2 (status 2 without). Status 0: still so.
# TORCH_INDEX=URL takes an index of CPU wheels.
set -euo pipefail
grep -qw avx2 /proc/cpuinfo || { echo "this needs a processor with AVX2" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0 numpy==2.4.6
cd "$folder"
cat >draw.py <<'PYTHON'
import hashlib

import torch

DRAWS = {
    "rand": lambda: torch.rand(1000),
    "randperm": lambda: torch.randperm(1000),
    "bernoulli_": lambda: torch.empty(1000).bernoulli_(0.5),
    "randn": lambda: torch.randn(1000),
    "normal_": lambda: torch.empty(1000).normal_(0, 0.02),
    "uniform_": lambda: torch.empty(1000).uniform_(-0.1, 0.1),
}
for name, draw in DRAWS.items():
    torch.manual_seed(0)
    print(name, hashlib.sha256(draw().numpy().tobytes()).hexdigest())
PYTHON
ATEN_CPU_CAPABILITY=default "$folder/venv/bin/python" -P draw.py >narrow
ATEN_CPU_CAPABILITY=avx2 "$folder/venv/bin/python" -P draw.py >wide
same=$(comm -12 <(sort narrow) <(sort wide) | cut -d' ' -f1 | paste -sd' ')
differ=$(comm -13 <(sort narrow) <(sort wide) | cut -d' ' -f1 | paste -sd' ')
echo "same in both: $same"
echo "differ:       $differ"
[ "$same" = "bernoulli_ rand randperm" ] && [ "$differ" = "normal_ randn uniform_" ] ||
    { echo "it behaves in another way now" >&2; exit 1; }
