"""A tiny Llama with random weights and a tokenizer of numbered words, in the files that mlx_lm loads.

All dimensions that tensor parallelism divides are multiples of 4.
"""

import json
from itertools import product
from pathlib import Path
from typing import Final

import mlx.core as mx
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

LAYERS: Final = 2
HEADS, KV_HEADS, HEAD_SIZE, INTERMEDIATE = 8, 4, 8, 96
HIDDEN: Final = HEADS * HEAD_SIZE
UNKNOWN, END = "<unk>", "</s>"
WORDS: Final = [UNKNOWN, END, *(f"{word}{number}" for word, number in product(("a", "b", "c", "d"), range(32)))]
CHAT_TEMPLATE: Final = "{% for message in messages %}{{ message['content'] }} {% endfor %}"

OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Variables that make a load fail rather than look for a file on the network."""
NO_COMPILER: Final = {"MLX_DISABLE_COMPILE": "1"}
"""On a CPU, mx.compile runs the system's C++ compiler, and keeps the results in the directory for temporary files."""


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

    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(directory / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        "eos_token": END,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return directory


def _weights() -> dict[str, mx.array]:
    """Return the same random weights each time.

    They are large enough for the logits to lie far apart: a sum in another order must not change which one is largest.
    """
    key = mx.random.key(2711)

    def matrix(rows: int, columns: int) -> mx.array:
        nonlocal key
        key, own = mx.random.split(key)
        return mx.random.normal((rows, columns), scale=2 * columns**-0.5, key=own)

    head = matrix(len(WORDS), HIDDEN)
    head[WORDS.index(END)] = 0  # the end never has the largest logit
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
