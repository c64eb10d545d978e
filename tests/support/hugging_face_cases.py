"""Hugging Face folders of many kinds, with transformers' answers.

``tests/parity/tokens.py`` writes the tokens into ``tests/parity/tokens.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support import hugging_face_files

PROMPTS = ("the cat and a hat", "Who <are> you?")
NEW_TOKENS = 16
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"config": {"use_rslora": True}},
    "bfloat16": {"dtype": "BF16"},
}

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_TEMPLATE = (
    "{%- for m in messages %}{%- if m.role == 'system' %}{% continue %}{% endif %}"
    "{{- eos_token + m.role + ': ' + (m.content | tojson) }}\n{% endfor %}"
    "{% if add_generation_prompt %}{% generation %}assistant: {% endgeneration %}{% endif %}\n"
)
_PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}\n"
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tied": True},
    "bfloat16": {"dtype": "BF16", "config": {"dtype": "bfloat16"}},
    "llama3": {"config": {"rope_parameters": _LLAMA3}, "tied": True},
    "linear": {"config": {"rope_theta": 1000.0, "rope_scaling": {"type": "linear", "factor": 2.5}}},
    "dynamic": {"config": {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}},
    "theta": {"config": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}},
    "norm": {"config": {"rms_norm_eps": 0.5, "pretraining_tp": 2, "sliding_window": 2048}},
    "penalty": {"generation": {"repetition_penalty": 1.7, "eos_token_id": [2, 7]}},
    "begin": {"begin_with_bos": True, "tokenizer": {"add_bos_token": False}},
    "no-begin": {"tokenizer": {"add_bos_token": True}},
    "template-file": {"template": _TEMPLATE},
    "named-templates": {
        "tokenizer": {
            "chat_template": [
                {"name": "tool_use", "template": "{{ 1 }}"},
                {"name": "default", "template": _PLAIN},
            ]
        }
    },
}


def write_model(folder: Path, name: str) -> None:
    """Write a model of :data:`MODELS`."""
    options = dict(MODELS[name])
    template = options.pop("template", None)
    begin_with_bos = options.pop("begin_with_bos", False)
    tokenizer: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": hugging_face_files.BOS,
        "chat_template": _PLAIN,
    }
    tokenizer |= options.pop("tokenizer", {})
    if template is not None:
        del tokenizer["chat_template"]
    hugging_face_files.write(folder, tokenizer=tokenizer, **options)
    if begin_with_bos:
        hugging_face_files.begin_with_bos(folder)
    if template is not None:
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        del config["chat_template"]  # the helper's own
        path.write_text(json.dumps(config))
        (folder / "chat_template.jinja").write_text(template)
