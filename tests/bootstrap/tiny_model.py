"""A tiny Llama with random weights and a tokenizer of made-up words, in the files that mlx_lm loads.

Every dimension that tensor parallelism splits is a multiple of 4.
"""

import json
from itertools import product
from pathlib import Path
from typing import Final

import mlx.core as mx

LAYERS: Final = 2
HEADS, KV_HEADS, HEAD_SIZE, INTERMEDIATE = 8, 4, 8, 96
HIDDEN: Final = HEADS * HEAD_SIZE
UNKNOWN, END = "<unk>", "</s>"
WORDS: Final = [UNKNOWN, END, *(f"{word}{number}" for word, number in product(("a", "b", "c", "d"), range(32)))]
CHAT_TEMPLATE: Final = "{% for message in messages %}{{ message['content'] }} {% endfor %}"

OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Variables that make loading fail instead of using the network."""
NO_COMPILER: Final = {"MLX_DISABLE_COMPILE": "1"}
"""Variables that turn off mx.compile, which needs a C++ compiler on a CPU and leaves files in TMPDIR."""


def write_model(directory: Path) -> Path:
    """Write the model and the tokenizer; return the directory."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "eos_token_id": WORDS.index(END),
    }
    (directory / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(directory / "model.safetensors"), _weights(), metadata={"format": "mlx"})

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        "eos_token": END,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return directory


def _weights() -> dict[str, mx.array]:
    """Return random weights, the same each time.

    They are large, so that the two largest logits are far apart: shards add in another order, and round differently.
    """
    key = mx.random.key(2711)

    def matrix(rows: int, columns: int) -> mx.array:
        nonlocal key
        key, own = mx.random.split(key)
        return mx.random.normal((rows, columns), scale=2 * columns**-0.5, key=own)

    head = matrix(len(WORDS), HIDDEN)
    head[WORDS.index(END)] = 0  # never the largest logit
    weights = {
        "model.embed_tokens.weight": matrix(len(WORDS), HIDDEN),
        "model.norm.weight": mx.ones(HIDDEN),
        "lm_head.weight": head,
    }
    for layer in range(LAYERS):
        parts = {
            "input_layernorm": mx.ones(HIDDEN),
            "post_attention_layernorm": mx.ones(HIDDEN),
            "self_attn.q_proj": matrix(HEADS * HEAD_SIZE, HIDDEN),
            "self_attn.k_proj": matrix(KV_HEADS * HEAD_SIZE, HIDDEN),
            "self_attn.v_proj": matrix(KV_HEADS * HEAD_SIZE, HIDDEN),
            "self_attn.o_proj": matrix(HIDDEN, HEADS * HEAD_SIZE),
            "mlp.gate_proj": matrix(INTERMEDIATE, HIDDEN),
            "mlp.up_proj": matrix(INTERMEDIATE, HIDDEN),
            "mlp.down_proj": matrix(HIDDEN, INTERMEDIATE),
        }
        weights |= {f"model.layers.{layer}.{name}.weight": weight for name, weight in parts.items()}
    return weights
