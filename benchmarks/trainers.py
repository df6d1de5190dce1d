"""The opponents: one Llama over bytes, one recipe, trained natively and exactly.

Every trainer starts from the same weights and sees the same tokens in the same order, so that losses and times differ
by arithmetic alone.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from trainer.programs.conversion import bundle_of, to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import NODE_BY_NODE, RunOptions
from trainer.programs.tracing.capture import TraceConfig, trace_run
from trainer.programs.tracing.optimiser import AdamW
from trainer.programs.tracing.schedule import Schedule
from trainer.runs.data.packing import Packer
from trainer.runs.data.texts import python_reference
from trainer.runs.models import build_model
from trainer.runs.tasks import causal_lm_loss
from verification import codec
from verification.arithmetic.shapes import DEFAULT_BITS
from verification.program import Program, decode_program, encode_program
from verification.tensors import decode_bundle

HEAD_WIDTH = 64
SEED = 0
"""Of the weights and the order of records where only time is measured."""
MAX_STATE = 1 << 36
"""Bytes of a working state that `load` reads; it is our own file."""


@dataclass(frozen=True)
class Method:
    """How a model is trained, alike by every opponent: AdamW, at a rate that grows to `RATE` over `WARMUP` steps.

    From there it stays, or falls to `final_share` of it on half a cosine by the last step. A step's gradient is the
    mean over `accumulate` equal parts of its batch, and `adamw` bounds its norm.
    """

    adamw: AdamW
    curve: Literal["constant", "cosine"] = "constant"
    final_share: float = 0.0
    accumulate: int = 1

    def traced(self, steps: int) -> Schedule:
        """Return the rates of `steps` steps for programs."""
        return Schedule(RATE, steps, self.curve, WARMUP, final_share=self.final_share)

    def native(self, optimiser: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """Return the same rates by PyTorch's own schedulers."""
        grows = LinearLR(optimiser, 1 / WARMUP, total_iters=WARMUP - 1)
        after: LRScheduler = ConstantLR(optimiser, 1.0)
        if self.curve == "cosine":
            after = CosineAnnealingLR(optimiser, steps - WARMUP, self.final_share * RATE)
        return SequentialLR(optimiser, [grows, after], [WARMUP])


@dataclass(frozen=True)
class Recipe:
    """A Llama over bytes and how it is trained: `steps` batches of `batch` records of `length` tokens.

    A `vocabulary` of more than 256 has tokens that no record holds; its embedding is the head's weight too.
    """

    hidden: int
    inner: int
    layers: int
    batch: int
    length: int
    steps: int
    method: Method
    vocabulary: int = 256

    @property
    def heads(self) -> int:
        """Heads of attention."""
        return max(1, self.hidden // HEAD_WIDTH)

    @property
    def config(self) -> dict[str, Any]:
        """The model as Hugging Face's config."""
        return {
            "model_type": "llama", "vocab_size": self.vocabulary, "hidden_size": self.hidden,
            "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.heads,
            "max_position_embeddings": self.length, "tie_word_embeddings": self.vocabulary > 256,
            "bos_token_id": 0, "eos_token_id": 0,
        }  # fmt: skip

    def model(self, seed: int, attention: str) -> nn.Module:
        """Return a fresh model in training mode, its weights drawn from `seed`."""
        model: Any = build_model(self.config, seed)
        model.set_attn_implementation(attention)
        made: nn.Module = model
        return made


@dataclass(frozen=True)
class GPT2(Recipe):
    """A GPT-2 (Radford et al., 2019) in its published form, with no dropout: learned places, a tied embedding."""

    @property
    def heads(self) -> int:
        """Heads of attention, half as wide where the width is no multiple of `HEAD_WIDTH`."""
        return self.hidden // (HEAD_WIDTH if self.hidden % HEAD_WIDTH == 0 else HEAD_WIDTH // 2)

    @property
    def config(self) -> dict[str, Any]:
        """The model as Hugging Face's config."""
        return {
            "model_type": "gpt2", "vocab_size": self.vocabulary, "n_embd": self.hidden, "n_inner": self.inner,
            "n_layer": self.layers, "n_head": self.heads, "n_positions": max(PLACES, self.length),
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0,
        }  # fmt: skip


PLACES = 1024
"""Tokens in a row that GPT-2 knows."""
ADAMW = AdamW(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
RATE, WARMUP = 1e-3, 30
"""The learning rate of every opponent, and over how many steps it grows to that."""
PLAIN = Method(ADAMW)


def _gpt2(hidden: int, layers: int, vocabulary: int = 50_257) -> GPT2:
    return GPT2(hidden, 4 * hidden, layers, 1, 256, 16, PLAIN, vocabulary)


MODELS = {
    "d256": Recipe(256, 704, 4, 8, 256, 16, PLAIN),
    "d512": Recipe(512, 1408, 4, 8, 256, 16, PLAIN),
    "d768": Recipe(768, 2048, 4, 8, 256, 16, PLAIN),
    "d768-deep": Recipe(768, 2048, 12, 8, 256, 16, PLAIN),
    "d2048": Recipe(2048, 5504, 8, 8, 512, 4, PLAIN),
    "d64": Recipe(64, 176, 2, 2, 32, 16, PLAIN),
    "d768-large": Recipe(768, 2048, 12, 8, 256, 16, PLAIN, 50_257),
    "gpt2-0.1": _gpt2(64, 1, 256),
    "gpt2-1": _gpt2(128, 4, 256),
    "gpt2-3": _gpt2(192, 6, 256),
    "gpt2-10": _gpt2(160, 6),
    "gpt2-30": _gpt2(384, 6),
    "gpt2-124": _gpt2(768, 12),
    "gpt2-350": _gpt2(1024, 24),
    "gpt2-774": _gpt2(1280, 36),
}
"""The models whose step is timed. By their width: 3, 13 and 29 million parameters, one as deep as GPT-2 (85 million),
400 million for GPUs, a toy, and one of GPT-2's size (124 million, a vocabulary of 50,257). By their millions of
parameters: GPT-2 in three of its published shapes, and smaller ones, down to a toy."""


class Trainer(Protocol):
    """One opponent, ready to train."""

    def step(self) -> float:
        """Do the next step and return its loss, in nats a byte."""

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the float32 parameters as they are now, by name."""


class NativeTrainer:
    """PyTorch's own training: `torch.optim.AdamW`, weight decay on matrices only; its schedulers and its clipping."""

    def __init__(
        self,
        model: nn.Module,
        tokens: torch.Tensor,
        method: Method,
        *,
        autocast: torch.dtype | None = None,
        fused: bool = False,
        loss: Callable[[nn.Module, torch.Tensor], torch.Tensor] = causal_lm_loss,
    ) -> None:
        """`tokens`: uint8 [steps, batch, length + 1] on the model's device; `autocast`: dtype of products.

        `fused` takes AdamW's fused kernel instead of PyTorch's default one.
        """
        self.model, self.tokens, self._method = model, tokens, method
        self._loss = loss
        adamw = method.adamw
        decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        plain = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
        groups: Any = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        betas = (adamw.beta1, adamw.beta2)
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=RATE,
            betas=betas,
            eps=adamw.eps,
            weight_decay=adamw.weight_decay,
            fused=fused or None,
        )
        device = tokens.device.type
        self._context: Any = nullcontext() if autocast is None else torch.autocast(device, autocast)
        self._rates = method.native(self.optimiser, len(tokens))
        self.done = self.clipped = 0

    def step(self) -> float:
        """Do the next step and return its loss; `clipped` counts the steps whose gradient was too long."""
        batch = self.tokens[self.done % len(self.tokens)].to(torch.int64)
        self.done += 1
        self.optimiser.zero_grad()
        losses = [self._backward(part) for part in batch.chunk(self._method.accumulate)]
        if limit := self._method.adamw.clip_norm:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
            self.clipped += bool(norm > limit)
        self.optimiser.step()
        self._rates.step()
        return sum(losses)

    def _backward(self, part: torch.Tensor) -> float:
        """Add a part's gradient to what is there, and return its loss, each over the number of parts."""
        with self._context:
            loss = self._loss(self.model, part) / self._method.accumulate
        loss.backward()
        return float(loss.detach())

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the parameters as they are now, by name."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}


class ExactTrainer:
    """The same training as programs of exact arithmetic."""

    def __init__(
        self, inner: Program, state: Sequence[torch.Tensor], options: RunOptions = NODE_BY_NODE
    ) -> None:
        """`state` is a working bundle, as the prologue returns it, each tensor in memory of its own that a step may
        write over; raises as `LoadedProgram`."""
        self.inner = LoadedProgram(inner, options)
        self.state = [tensor.to(self.inner.device) for tensor in state]
        self._ports = [port.name for port in inner.inputs]
        self._loss = self._ports.index("loss_sum")

    @classmethod
    def trace(
        cls,
        model: nn.Module,
        tokens: torch.Tensor,
        method: Method,
        bits: int = DEFAULT_BITS,
        options: RunOptions = NODE_BY_NODE,
    ) -> "ExactTrainer":
        """Trace `model`; `tokens`: uint8 [steps, batch, length + 1]; `bits`: 14 or 8, the precision of products."""
        inner, state = _traced(model, tokens, method, bits)
        return cls(inner, [tensor.clone() for tensor in state], options)

    @classmethod
    def load(cls, folder: Path, options: RunOptions = NODE_BY_NODE) -> "ExactTrainer":
        """Return what `dump` wrote, without tracing: as a peer begins that fetched a run's programs."""
        inner = decode_program((folder / "inner").read_bytes())
        bundle = decode_bundle((folder / "state").read_bytes(), MAX_STATE)
        return cls(inner, [to_torch(tensor) for tensor in bundle.tensors], options)

    @staticmethod
    def dump(model: nn.Module, tokens: torch.Tensor, method: Method, folder: Path) -> None:
        """Trace `model` and write its inner step and first working state into `folder`."""
        inner, state = _traced(model, tokens, method, DEFAULT_BITS)
        (folder / "inner").write_bytes(encode_program(inner))
        (folder / "state").write_bytes(codec.encode(bundle_of(state)))

    def step(self) -> float:
        """Do the next step, over the state before it as a peer does, and return its loss."""
        self.state[self._loss] = torch.zeros_like(self.state[self._loss])
        self.state = self.inner.advance(self.state)
        return float(self.state[self._loss])

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the parameters as they are now, by name."""
        prefix = "working/parameter/"
        named = zip(self._ports, self.state, strict=True)
        return {name.removeprefix(prefix): tensor for name, tensor in named if name.startswith(prefix)}


def _traced(
    model: nn.Module, tokens: torch.Tensor, method: Method, bits: int
) -> tuple[Program, list[torch.Tensor]]:
    """Return the inner step and the first working state."""
    steps, batch, width = tokens.shape
    config = TraceConfig(
        steps * batch, width - 1, batch, steps, 1, 12, method.adamw, method.traced(steps), 0.7, 0.6, bits,
        accumulate=method.accumulate,
    )  # fmt: skip
    traced = trace_run(model, causal_lm_loss, config)
    index = torch.arange(steps * batch).view(steps, batch)
    start = [
        *map(to_torch, traced.start.tensors),
        tokens.reshape(steps * batch, width),
        index,
        torch.tensor(0),
    ]
    return traced.inner, LoadedProgram(traced.prologue).run(start)


def data(recipe: Recipe, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return batches, uint8 [steps, batch, length + 1], and held-out records, uint8 [n, length + 1].

    Records of the Python language reference in an order drawn from `seed`, each once an epoch.
    """
    tokens = np.frombuffer(python_reference(), np.uint8).astype(np.int64)
    records = torch.from_numpy(Packer(recipe.length, None).add(tokens, True).astype(np.uint8))
    kept, held_out = records.split([len(records) - (end := round(0.05 * len(records))), end])
    generator = torch.Generator().manual_seed(seed)
    wanted = recipe.steps * recipe.batch
    epochs = -(-wanted // len(kept))
    order = torch.cat([torch.randperm(len(kept), generator=generator) for _ in range(epochs)])[:wanted]
    return kept[order].view(recipe.steps, recipe.batch, recipe.length + 1), held_out


def held_out_loss(model: nn.Module, parameters: dict[str, torch.Tensor], records: torch.Tensor) -> float:
    """Return the mean cross entropy, nats a byte, over records uint8 [n, length + 1], in native float32 for all."""
    model.load_state_dict(parameters, strict=False)
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for part in records.to(torch.int64).split(16):
            logits = model(input_ids=part[:, :-1]).logits
            total += float(
                functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
            )
    return total / (records.shape[0] * (records.shape[1] - 1))
