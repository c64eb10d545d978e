"""Export of a static graph, with its check and its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import paddle_stacks
from entrypoints.exporting.program import program, signature
from entrypoints.inference import exported, static
from entrypoints.inference import model as models
from entrypoints.inference.llama import llama_config
from entrypoints.inference.protocols import LanguageModel
from entrypoints.runtime.console import phase
from paddle_stacks.errors import JobError
from paddle_stacks.jobs.files import sha256_of
from paddle_stacks.jobs.llama_config import LlamaConfig

__all__ = ["add_static"]

_PROMPTS = (1, 7, 40, 130)  # tokens; the last one exceeds the initial size of a cache
_NEW_TOKENS = 24
_CLOSE = 1e-3  # of logits; the engines use the same kernels, but merging rounds


def add_static(folder: Path, model: Path, adapter: Path | None, about: Mapping[str, Any]) -> None:
    """Write a model's static graph into its folder, and compare it with the dynamic graph.

    Args:
        folder: the complete model with the adapter merged.
        model: the base model.
        adapter: the merged adapter, or None.
        about: the sources, for the manifest.

    Raises:
        JobError: the results differ.
    """
    phase("create the static graph")
    config = llama_config(models.read_config(folder))
    (folder / exported.PROGRAM).write_bytes(program(config))
    manifest: dict[str, Any] = {
        "format": exported.FORMAT,
        **about,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "paddle_stacks": paddle_stacks.__version__,
            "paddlepaddle": version("paddlepaddle"),
            "paddlenlp": version("paddlenlp"),
        },
        "inputs": {
            name: {"shape": size, "dtype": kind} for name, (size, kind) in signature(config).items()
        },
        "outputs": {"logits": {"shape": [config.vocab_size, -1], "dtype": "float32"}},
    }
    _write_manifest(folder, manifest)
    phase("compare it with the dynamic graph")
    manifest["check"] = _compared(static.load(folder), models.load(model, adapter), config)
    _write_manifest(folder, manifest)


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != exported.MANIFEST
    }
    text = json.dumps({**manifest, "files": files}, indent=2, ensure_ascii=False)
    (folder / exported.MANIFEST).write_text(text + "\n", encoding="utf-8")


def _compared(
    static_model: LanguageModel, reference: LanguageModel, config: LlamaConfig
) -> dict[str, Any]:
    """Compare greedy tokens and their logits."""
    random = np.random.default_rng(0)
    prompts = [random.integers(config.vocab_size, size=size).tolist() for size in _PROMPTS]
    tokens, difference = _both(static_model, reference, prompts)
    if difference > _CLOSE or tokens[0] != tokens[1]:
        raise JobError(
            "the static graph differs from the dynamic one: logits by"
            f" {difference:.3g}, tokens {'do not' if tokens[0] == tokens[1] else 'do'}",
            where="export --static",
            remedy="report it with config.json; the output was not written",
        )
    return {
        "against": "the dynamic engine, greedy",
        "prompt_tokens": list(_PROMPTS),
        "new_tokens": _NEW_TOKENS,
        "equal": True,
        "largest_difference_of_logits": difference,
    }


def _both(
    static_model: LanguageModel, reference: LanguageModel, prompts: Sequence[Sequence[int]]
) -> tuple[tuple[list[list[int]], list[list[int]]], float]:
    """Return the greedy tokens of both, and the largest difference of logits."""
    one, two = static_model.start(prompts), reference.start(prompts)
    tokens: tuple[list[list[int]], list[list[int]]] = ([], [])
    difference = 0.0
    for _ in range(_NEW_TOKENS):
        difference = max(difference, float(np.abs(one.logits - two.logits).max()))
        for chosen, decoding in zip(tokens, (one, two), strict=True):
            chosen.append(decoding.logits.argmax(axis=-1).tolist())
        # Both continue with the same token, so that one difference does not cause others.
        one.step(tokens[1][-1])
        two.step(tokens[1][-1])
    return tokens, difference
