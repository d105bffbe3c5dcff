"""Generates text with mlx_lm: generates.py MODEL PROMPT. In a group, the model is sharded over the ranks.

Prints one JSON object with the tokens, the text, and the row count of the first query matrix on this rank.
"""

import json
import sys

import mlx.core as mx
from mlx_lm import load, stream_generate
from mlx_lm.utils import sharded_load

path, prompt = sys.argv[1:]
group = mx.distributed.init()
model, tokenizer = load(path) if group.size() == 1 else sharded_load(path, tensor_group=group)
responses = list(stream_generate(model, tokenizer, prompt, max_tokens=8))  # greedy, unless a sampler is given
told = {
    "rank": group.rank(),
    "size": group.size(),
    "rows": model.model.layers[0].self_attn.q_proj.weight.shape[0],
    "tokens": [response.token for response in responses],
    "text": "".join(response.text for response in responses),
}
sys.stdout.write(json.dumps(told) + "\n")
