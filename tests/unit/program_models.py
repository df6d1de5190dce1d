"""Tiny models and traced runs that several tests share; sizes are odd so that vector bodies have tails."""

import functools

import torch
from torch import nn

from trainer.models import build_model
from trainer.programs.optimiser import AdamW
from trainer.programs.trace import TraceConfig, TracedRun, causal_lm_loss, trace_run

ADAMW = AdamW(lr=3e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, warmup=4)
JOB = TraceConfig(
    records=24,
    length=19,
    batch=8,
    max_steps=20,
    slots=3,
    grid_exponent=12,
    adamw=ADAMW,
    outer_lr=0.7,
    outer_momentum=0.6,
)
CONFIGS = {
    "llama": {
        "model_type": "llama", "vocab_size": 256, "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
    },
    "gpt2": {
        "model_type": "gpt2", "vocab_size": 256, "n_embd": 36, "n_layer": 2, "n_head": 2, "n_positions": 32,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0,
    },
}  # fmt: skip


def model(kind: str) -> nn.Module:
    """A freshly built tiny model, always with the same weights."""
    return build_model(CONFIGS[kind], seed=1)


@functools.cache
def traced(kind: str) -> TracedRun:
    """The four programs of a tiny model."""
    return trace_run(model(kind), causal_lm_loss, JOB)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """(uint8 records, int64 index) that the job's prologue takes; the text repeats, so it can be learnt."""
    text = torch.arange(JOB.records * (JOB.length + 1)) * 7 % 23 + 97
    records = text.to(torch.uint8).view(JOB.records, JOB.length + 1)
    index = torch.arange(JOB.max_steps * JOB.batch).view(JOB.max_steps, JOB.batch) % JOB.records
    return records, index
