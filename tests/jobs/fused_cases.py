"""Run many fused models in forks of one process: ``python fused_cases.py IN.json OUT.json``.

A fused model's parameters have fixed names, so that a process can have one; the import of Paddle
takes longer than a tiny model. A case is ``{"name", "script", "words"}``, of what
``entrypoints.fused`` runs; or ``{"name", "losses": MODEL, "words"}``, for how well a model
predicts a row of tokens; or ``{"name", "margins": MODEL, "of": NAME}``, for how far the tokens of
another case are from the likeliest ones of a model in float32. ``{"models": FOLDER}`` makes
models of ``FOLDER/tiny``'s tokenizer.

IN.json has ``cases``, the ``backend`` that they take themselves for, and in ``without`` the names
of patches that are left out: then each case imports the package again, and one that fails gives
the error's name.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from entrypoints.cpu import operators

ROW = [(number * 7919 + 13) % 997 + 3 for number in range(64)]
"""Tokens of a text without any sense: the models are random."""
MODELS = {
    "mha": {"num_key_value_heads": 4},
    "gqa-tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
}


def make_models(folder: Path) -> None:
    """Make Llamas whose tokens depend on every part: weights are large, norms are not ones."""
    import paddle
    from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM

    common = json.loads((folder / "tiny" / "config.json").read_text())
    kept = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    for name, kind in MODELS.items():
        paddle.seed(7)
        config = LlamaConfig(
            **{key: common[key] for key in kept},
            **kind,
            hidden_size=256,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            initializer_range=0.08,
            dtype="float32",
        )
        model = LlamaForCausalLM(config)
        for parameter, value in model.named_parameters():
            if "norm" in parameter:
                value.set_value(1 + 0.1 * paddle.randn(value.shape))
        shutil.copytree(folder / "tiny", folder / name)
        (folder / name / "model.safetensors").unlink()
        model.save_pretrained(str(folder / name), safe_serialization=True)


def losses(model: str, words: list[str]) -> list[float]:
    """Return the negative log-likelihood of each token of :data:`ROW` behind the first."""
    import numpy as np
    import paddle

    if not words:
        from entrypoints.inference import model as models

        logits = models.load(Path(model)).begin(1).read_all(np.array([ROW[:-1]]))
        return _losses(paddle.to_tensor(logits))
    from entrypoints.fused import models as fused
    from entrypoints.fused.block import BlockPredictor
    from entrypoints.fused.options import parse

    options = parse("predict/predictor.py", ["--model_name_or_path", model, *words])
    paddle.set_default_dtype(options.dtype)
    network = fused.load(options)
    prefixes = [ROW[:n] for n in range(1, len(ROW))]
    predictor = BlockPredictor(
        options, fused.config_of(options), network, fused.length_of(options), [2], 2
    )
    state = predictor._state(prefixes)
    state |= {"caches": predictor._caches, **predictor._new_scales(len(prefixes))}
    with paddle.no_grad():
        logits = network(**network.prepare_inputs_for_generation(**state))
    return _losses(logits.cast("float32"))


def _losses(logits: Any) -> list[float]:
    import paddle

    chosen = paddle.to_tensor(ROW[1:])
    found = paddle.nn.functional.cross_entropy(logits, chosen, reduction="none")
    return [float(value) for value in found.reshape([-1])]


def margins(model: str, prompts: list[list[int]], answers: list[list[int]]) -> list[float]:
    """Return how far tokens are below the likeliest, in the logits' standard deviations."""
    import paddle
    from paddlenlp.transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    network.eval()
    worst = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with paddle.no_grad():
            logits = network(paddle.to_tensor([prompt + answer]))
        logits = (logits[0] if isinstance(logits, tuple) else logits)[0, len(prompt) - 1 : -1]
        chosen = paddle.take_along_axis(logits, paddle.to_tensor(answer).unsqueeze(1), axis=1)
        worst.append(float(((logits.max(axis=1, keepdim=True) - chosen) / logits.std()).max()))
    return worst


def tokens_of(words: list[str]) -> list[list[int]]:
    """Return the tokens of a case's prompts."""
    from entrypoints.fused import predict, prompts
    from entrypoints.fused.options import parse
    from entrypoints.inference.text import load

    options = parse("predict/predictor.py", words)
    text = load(options.model, options.src_length + 1, raw=False)
    return predict._tokens(text, prompts.read(options), options)


def compute(case: dict[str, Any], done: dict[str, Any]) -> Any:
    """Return what a case gives."""
    if "models" in case:
        return make_models(Path(case["models"]))
    if "losses" in case:
        return losses(case["losses"], case["words"])
    if "margins" in case:
        prompts = tokens_of(case["words"])
        return margins(case["margins"], prompts, done[case["of"]])
    from entrypoints.fused import __main__ as program
    from entrypoints.fused.options import parse

    return program.run(case["script"], parse(case["script"], case["words"]))


def in_fork(case: dict[str, Any], done: dict[str, Any], without: str = "") -> Any:
    """Compute a case in a process of its own."""
    answer = Path(f"answer-{os.getpid()}.json")
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        assert status == 0, f"{case}: status {status}"
        text = answer.read_text()
        answer.unlink()
        return json.loads(text)
    status = 1
    try:
        if without:
            prepare(without)
        answer.write_text(json.dumps(compute(case, done)))
        status = 0
    except BaseException as error:
        traceback.print_exc()
        if without:
            answer.write_text(json.dumps(type(error).__name__))
            status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def prepare(without: str = "") -> None:
    """Install the patches but one."""
    from entrypoints.runtime.logging import libraries_log_to
    from entrypoints.upstream_patches import PATCHES, hook
    from paddle_stacks.jobs import backends

    libraries_log_to(None)
    backend = backends.current()
    kept = [patch for patch in PATCHES if backend in patch.backends and patch.name != without]
    hook.install(kept)


def main(given: dict[str, Any], out: Path) -> None:
    """Compute all cases, the one after the other."""
    without = given.get("without", [])
    if not without:
        prepare()
    import paddlenlp.transformers  # noqa: F401

    import entrypoints.inference.model

    if not without:
        import entrypoints.fused.models  # noqa: F401
    done: dict[str, Any] = {}
    for case in given["cases"]:
        for name in without or [""]:
            print(f"case {case['name']} {name}", file=sys.stderr, flush=True)
            done[f"{case['name']} {name}".strip()] = in_fork(case, done, name)
    out.write_text(json.dumps(done))


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    changed = operators.variables(os.environ)
    if os.environ.get("CUSTOM_DEVICE_ROOT") != changed["CUSTOM_DEVICE_ROOT"]:
        # Paddle takes the operators when it is imported, and a warm container's has been.
        changed["PADDLE_STACKS_BACKEND"] = given.get("backend", "cpu")
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **changed})
    main(given, Path(sys.argv[2]))
