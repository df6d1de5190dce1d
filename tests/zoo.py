"""The models whose training several tests share: tiny, with odd sizes, so that vector bodies have tails.

`NAMES` lists them; `traced(name)` gives a model's programs, `records(name)` and `index(name)` what its prologue takes
besides the state, `exact_losses` and `native_losses` how it learns by our arithmetic and by PyTorch's.
"""

import functools
import math
from dataclasses import replace

import torch
from torch import nn

from trainer import exact
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.capture import Loss, TraceConfig, TracedRun, trace_run
from trainer.programs.tracing.optimiser import AdamW
from trainer.programs.tracing.schedule import Schedule
from trainer.runs.models import build_model
from trainer.runs.tasks import TASKS, Marks, image_loss

ADAMW = AdamW(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
SCHEDULE = Schedule(lr=3e-3, steps=20, round_warmup=4)
JOB = TraceConfig(
    records=24,
    length=19,
    batch=8,
    max_steps=20,
    slots=3,
    grid_exponent=12,
    optimiser=ADAMW,
    schedule=SCHEDULE,
    outer_lr=0.7,
    outer_momentum=0.6,
)
"""The job of the language models; the others differ in `length`."""

CLASSES = 7
_SIZES = {
    "vocab_size": 256, "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 32,
}  # fmt: skip
CONFIGS = {
    "llama": {"model_type": "llama", **_SIZES, "num_key_value_heads": 1},
    "gpt2": {
        "model_type": "gpt2", "vocab_size": 256, "n_embd": 36, "n_layer": 2, "n_head": 2, "n_positions": 32,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0,
    },
    "qwen2": {"model_type": "qwen2", **_SIZES, "num_key_value_heads": 1},
    "mistral": {"model_type": "mistral", **_SIZES, "num_key_value_heads": 1, "sliding_window": 8},
    "bert": {
        "model_type": "bert", **_SIZES, "vocab_size": 257,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    },
    "vit": {
        "model_type": "vit", "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 12, "patch_size": 4, "num_channels": 3, "num_labels": CLASSES,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    },
}  # fmt: skip
"""The configs of the Hugging Face models; `convolutional` is a plain module."""

_TASKS = {"bert": "masked-lm", "vit": "image-classification"}
_IMAGES = {"vit": (3, 12, 12), "convolutional": (1, 11, 13)}
NAMES = (*CONFIGS, "convolutional")


class Convolutional(nn.Module):
    """A classifier of images with the forms of convolution, pooling and normalisation that matter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 10, 3, padding=1, bias=False),
            nn.BatchNorm2d(10, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(10, 20, 3, padding=1, groups=2),
            nn.GroupNorm(4, 20),
            nn.GELU(),
            nn.Conv2d(20, 24, 3, stride=2, padding=2, dilation=2),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, CLASSES),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits [batch, CLASSES] of float32 [batch, 1, height, width]."""
        logits: torch.Tensor = self.layers(pixels)
        return logits


def model(name: str) -> nn.Module:
    """A freshly built model, always with the same weights."""
    if name in CONFIGS:
        return build_model(CONFIGS[name], 1, _TASKS.get(name, "causal-lm"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Convolutional()


def loss_of(name: str, module: nn.Module) -> Loss:
    """The loss that a model is trained on."""
    if name in CONFIGS:
        return TASKS[_TASKS.get(name, "causal-lm")].loss(
            module.config, Marks(mask=256, image=_IMAGES.get(name))
        )
    return image_loss(_IMAGES[name])


def job(name: str) -> TraceConfig:
    """The job that a model is traced for."""
    return replace(JOB, length=math.prod(_IMAGES[name])) if name in _IMAGES else JOB


@functools.cache
def traced(name: str, bits: int = 14) -> TracedRun:
    """The four programs of a model, its products in `bits` bits."""
    module = model(name)
    settings = job(name) if bits == 14 else replace(job(name), bits=bits)
    return trace_run(module, loss_of(name, module), settings)


def records(name: str) -> torch.Tensor:
    """uint8 [records, length + 1]: text that repeats, or noisy images of each class; both can be learnt."""
    if name in _IMAGES:
        labels, pixels = torch.arange(JOB.records) % CLASSES, math.prod(_IMAGES[name])
        classes, noise = (
            (exact.uniform_bits(b"zoo", stream, count * pixels) & 0xFF).view(count, pixels)
            for stream, count in (("classes", CLASSES), ("noise", JOB.records))
        )
        images = (classes[labels] * 3 + noise) // 4
        return torch.cat([images, labels[:, None]], 1).to(torch.uint8)
    text = torch.arange(JOB.records * (JOB.length + 1)) * 7 % 23 + 97
    return text.to(torch.uint8).view(JOB.records, JOB.length + 1)


def index(name: str) -> torch.Tensor:
    """int64 [max_steps, batch]: every record in turn."""
    return torch.arange(JOB.max_steps * JOB.batch).view(JOB.max_steps, JOB.batch) % JOB.records


def working(name: str, bits: int = 14) -> list[torch.Tensor]:
    """The working bundle that the prologue makes of the start state and the data."""
    return begun(traced(name, bits), name)


def begun(run: TracedRun, name: str) -> list[torch.Tensor]:
    state = [to_torch(tensor) for tensor in run.start.tensors]
    return LoadedProgram(run.prologue).run([*state, records(name), index(name), torch.tensor(0)])


def exact_losses(name: str, steps: int = JOB.max_steps, bits: int = 14) -> list[float]:
    """The losses of the first steps by the programs."""
    return losses_of(traced(name, bits), name, steps)


def losses_of(run: TracedRun, name: str, steps: int) -> list[float]:
    """The losses of the first steps of a run on a model's records."""
    inner, state = LoadedProgram(run.inner), begun(run, name)
    place = [output.name for output in run.inner.outputs].index("loss_sum")
    losses = []
    for _ in range(steps):
        before = state[place].item()
        state = inner.run(state)
        losses.append(state[place].item() - before)
    return losses


def native_losses(name: str, steps: int = JOB.max_steps) -> list[float]:
    """The losses of the first steps by PyTorch's float32 and its own AdamW, on the same batches."""
    module = model(name)
    return train_natively(module, loss_of(name, module), records(name)[index(name)[:steps]])


def train_natively(module: nn.Module, loss_of: Loss, batches: torch.Tensor) -> list[float]:
    """The losses of torch's own float32 AdamW on uint8 [steps, batch, width]."""
    groups = [
        {"params": [p for p in module.parameters() if p.dim() > 1], "weight_decay": ADAMW.weight_decay},
        {"params": [p for p in module.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=SCHEDULE.lr, betas=(ADAMW.beta1, ADAMW.beta2), eps=ADAMW.eps)
    losses = []
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = SCHEDULE.lr * min(1.0, (step + 1) / SCHEDULE.round_warmup)
        loss = loss_of(module, batch.long())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    return losses
