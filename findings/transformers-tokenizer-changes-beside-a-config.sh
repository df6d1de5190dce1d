#!/usr/bin/env bash
# transformers 5.23.0: AutoTokenizer makes two different tokenizers of the same tokenizer.json and tokenizer_config.json:
# one if they lie alone or beside a Llama's config.json, another beside a Qwen2's.
#
# Expected: tokenizer.json is the whole tokenizer, and the tokenizer_class that save_pretrained wrote
# (TokenizersBackend) says to take it as it is. A model trained on its ids, saved with it into one folder, loads with it.
# What it does: for model types on a list of its own (qwen2, qwen3_5 and others) it takes the class of the type,
# keeps the vocabulary and merges, and puts its own rules for cutting text (and a normalizer) in the place of those in
# tokenizer.json. The ids differ, without an error or a warning: the trained model reads what it was never trained on.
# PreTrainedTokenizerFast.from_pretrained takes the file as it is.
#
# Seen on 2026-11-29 (tokenizers 0.23.3, Python 3.11, x86-64), tokens of one line of text:
#   alone:             TokenizersBackend, 8 tokens
#   beside llama:      TokenizersBackend, 8 tokens
#   beside qwen2:      Qwen2Tokenizer, 23 tokens
#   beside qwen2, by PreTrainedTokenizerFast: 8 tokens
#
# Runs outside CI and without this project's code. Status 0: still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile transformers==5.23.0 tokenizers==0.23.3
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -P -W ignore - 2>/dev/null <<'PYTHON'
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

LINE = "in 2026 it cost 12345 and not 123456"
made = Tokenizer(models.BPE())
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
made.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
made.train_from_iterator([LINE] * 20, trainer)
wrapped = PreTrainedTokenizerFast(tokenizer_object=made)


def loaded(name, by):
    wrapped.save_pretrained(name)
    if name != "alone":
        AutoConfig.for_model(name).save_pretrained(name)
    tokenizer = by.from_pretrained(name)
    return type(tokenizer).__name__, tokenizer.encode(LINE, add_special_tokens=False)


alone, llama, qwen2 = (loaded(name, AutoTokenizer) for name in ("alone", "llama", "qwen2"))
_, plain = loaded("qwen2", PreTrainedTokenizerFast)
print(f"alone:             {alone[0]}, {len(alone[1])} tokens")
print(f"beside llama:      {llama[0]}, {len(llama[1])} tokens")
print(f"beside qwen2:      {qwen2[0]}, {len(qwen2[1])} tokens")
print(f"beside qwen2, by PreTrainedTokenizerFast: {len(plain)} tokens")
as_described = alone == llama and alone[1] == plain and alone[1] != qwen2[1]
sys.exit(0 if as_described else 1)
PYTHON
