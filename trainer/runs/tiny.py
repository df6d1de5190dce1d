"""Tiny configs of the architectures that transformers knows: sizes shrunk by the names of their keys.

What the keys do not tell stands in `SPECIAL`, as data.
"""

import re
from collections.abc import Mapping
from typing import Any

LAYERS = 2

SIZES: tuple[tuple[str, int], ...] = (
    (r".*vocab_size.*|n_vocab", 64),
    (r"num_kv_shared_layers|num_nextn_predict_layers|first_k_dense_replace", 0),
    (r".*layers|n_layer|num_blocks", LAYERS),
    (r"qk_head_dim", 16),
    (r".*head_dim|dim_head|d_kv|mamba_d_head|rotary_dim", 8),
    (r".*key_value_heads|.*kv_heads|multi_query_group_num|num_.*kv_head.*", 2),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8),
    (r".*attention_heads|n_heads?|num_heads|index_n_heads", 4),
    (r"hidden_size|d_model|n_embd|word_embed_proj_dim|embedding_size|emb(ed)?_dim|model_dim", 32),
    (r"hidden_size_global|adapter_(in|out)_dim|adapter_input_size", 32),
    (
        r".*ffn_dim|.*intermediate_size|n_inner|d_ff|dim_ff|.*ffn_hidden_size|.*mlp_dim|dff|d_inner|lru_width",
        48,
    ),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|max_sequence_length", 64),
    (r"num_experts_per_tok.*|moe_top_?k|moe_k|top_k|.*experts_per_token|index_topk", 2),
    (r".*num_(local_|routed_)?experts|n_routed_experts", 4),
    (r"num_expert_group|zero_expert_num", 2),
    (r"hc_sinkhorn_iters", 3),
    (r".*group_vocab|encoder_cross_output_size", 64),
    (r"n_group|topk_group|n_groups|mamba_n_?groups|num_n_group", 1),
    (r"kv_lora_rank|q_lora_rank|.*_rank|hidden_size_per_layer_input", 8),
    (r"state_size|d_state|ssm_state_size|mamba_d_state", 8),
    (r".*chunk_size|block_size|chunk_length", 8),
    (r"sliding_window|attention_window|.*window_size", 6),
    (r"image_size", 16),
    (r"patch_size", 8),
)
"""Pattern of a whole key, and the number that it has in a tiny config; the first that fits counts."""

MISSING = {
    "head_dim": 8,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
}
"""Numbers for keys whose default is none, where a model derives them from others of its defaults."""

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
KINDS = ("layer_types", "mlp_layer_types", "layers_block_type")
"""Keys whose lists name the kind of each layer: a tiny model has one layer of each."""

INDEXER = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
    "indexer_compress_ratio": 4,
}  # fmt: skip
"""What the indexed attention of qwen4_exp needs, and its config leaves out."""

SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "big_bird": {"attention_type": "original_full"},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    },
    "cpmant": {"init_std": 0.02},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots3_note": {"text_config": {"num_key_value_heads": 4, "head_dim": 16}, "num_key_value_heads": 4, "head_dim": 16},
    "dots3_note_text": {"num_key_value_heads": 4, "head_dim": 16},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"intermediate_size": [48, 48], "activation_sparsity_pattern": [0.95, 0.0]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "llava": {"image_token_index": 63},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    "qwen4_exp_text": INDEXER,
    "qwen4_exp": {"text_config": INDEXER},
    "reformer": {
        "is_decoder": True, "axial_pos_shape": [3, 4], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "lsh"],
    },
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "num_hidden_layers": 4,
    },
    "xmod": {"default_language": "en_XX"},
}  # fmt: skip
"""Keys of a model type that the rules miss."""


def tiny_config(model_type: str) -> dict[str, Any]:
    """Return the settings, `model_type` included, of a tiny model of that architecture; raises KeyError."""
    import transformers

    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    return {"model_type": model_type, **_merged(shrunk(known[model_type]), SPECIAL.get(model_type, {}))}


def _merged(settings: Mapping[str, Any], special: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those of a special case on top, key by key in the parts that both have."""
    inner = {
        key: _merged(settings[key], value) if isinstance(settings.get(key), dict) else value
        for key, value in special.items()
    }
    return {**settings, **inner}


def shrunk(kind: type[Any]) -> dict[str, Any]:
    """Return the settings that make a config of a class tiny, those of its parts included."""
    config = kind()
    parts: Mapping[str, Any] = getattr(kind, "sub_configs", {})
    settings = config.to_dict()
    made: dict[str, Any] = {}
    for key, value in settings.items():
        if key in parts:
            part = getattr(config, key)
            if part is not None:
                made[key] = {"model_type": part.model_type, **shrunk(type(part))}
        elif (number := _smaller(key, value)) is not None:
            made[key] = number
    return _with_matching_heads(made) | _one_layer_of_each_kind(settings)


def _with_matching_heads(made: dict[str, Any]) -> dict[str, Any]:
    """Latent attention makes keys of all heads."""
    if "kv_lora_rank" in made and "num_key_value_heads" in made:
        made["num_key_value_heads"] = made["num_attention_heads"]
    return made


def _smaller(key: str, value: Any) -> Any:
    """Return what a key is in a tiny config, None for its default."""
    if ("drop" in key or "jitter" in key) and isinstance(value, float):
        return 0.0
    if value is None:
        return MISSING.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    if key in TOKENS:
        return TOKENS[key]
    for pattern, number in SIZES:
        if re.fullmatch(pattern, key):
            return min(number, value) if value > 0 else value
    return None


def _one_layer_of_each_kind(settings: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: settings[key] for key in KINDS if isinstance(settings.get(key), list) and settings[key]}
    if not named:
        return {}
    rows = list(zip(*named.values(), strict=False))
    kinds = list(dict.fromkeys(rows))
    own = {int(place): keys for place, keys in (settings.get("per_layer_config") or {}).items()}
    overrides = {
        str(place): _with_matching_heads({key: _smaller(key, value) for key, value in own[old].items()})
        for place, old in enumerate(rows.index(kind) for kind in kinds)
        if old in own
    }
    kinds = kinds if len(kinds) >= LAYERS else kinds * LAYERS
    columns = zip(*kinds, strict=True)
    lists: dict[str, Any] = {key: list(column) for key, column in zip(named, columns, strict=True)}
    return lists | {"num_hidden_layers": len(kinds)} | ({"per_layer_config": overrides} if own else {})
