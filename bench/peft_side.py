"""The transformers and peft side of bench/finetune.py: LoRA in a plain loop.

``python peft_side.py convert CHECKPOINT FOLDER`` writes a fetched Llama checkpoint in
Hugging Face's layout. ``python peft_side.py train FOLDER BATCHES.json SETTINGS.json``
trains, and prints a line of JSON for every step. A plain loop is used because ``Trainer`` is
slower.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100  # what cross_entropy leaves out


def convert(checkpoint: Path, folder: Path) -> None:
    """Convert a checkpoint: PaddleNLP stores linear layers as [in, out], torch as [out, in]."""
    weights = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        linear = name.endswith("_proj.weight") or name == "lm_head.weight"
        new = name.replace("llama.", "model.", 1) if name.startswith("llama.") else name
        weights[new] = tensor.T.contiguous() if linear else tensor
    config = LlamaConfig(**json.loads((checkpoint / "config.json").read_text()))
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    allowed = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if unexpected or set(missing) - allowed:
        sys.exit(f"the checkpoint does not fit: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.save_pretrained(folder)


def train(folder: Path, batches: Path, settings: dict[str, Any]) -> None:
    """Train one step per batch with the job's settings."""
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    model.config.use_cache = False
    rank = settings["lora_rank"]
    model = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS)
    )
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=0.0)
    for step, rows in enumerate(json.loads(batches.read_text()), start=1):
        inputs, labels = collate(rows, settings["padding"])
        logits = model(**inputs).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        print(json.dumps({"step": step, "loss": loss.item()}), flush=True)


def collate(rows: list[Any], padding: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Pad on the right to the longest row.

    A label is the token that follows, as in the job, so transformers' own loss, which
    shifts labels and needs a token more in each row for it, is not used.
    """
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    tokens = torch.full(shape, padding)
    labels = torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for number, (ids, following) in enumerate(rows):
        tokens[number, : len(ids)] = torch.tensor(ids)
        labels[number, : len(ids)] = torch.tensor(following)
        mask[number, : len(ids)] = 1
    return {"input_ids": tokens, "attention_mask": mask}, labels


if __name__ == "__main__":
    if sys.argv[1] == "convert":
        convert(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        train(Path(sys.argv[2]), Path(sys.argv[3]), json.loads(Path(sys.argv[4]).read_text()))
