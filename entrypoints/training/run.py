"""One fine-tuning, from a checked request to a finished run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from entrypoints.console import note, phase, report
from entrypoints.training import batches, data, kernels, model, packing, plot, saving
from entrypoints.training.loop import Keeping, arguments
from entrypoints.training.metrics import Metrics, peak_memory_mib
from entrypoints.training.request import LOSS, METRICS, NO_TEMPLATE, RESULT, Request
from entrypoints.training.stop import StopSignal
from entrypoints.training.trainer import Finetuner
from paddle_stacks.errors import RequestError, Stopped
from paddle_stacks.jobs import records, workspace
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.jobs.schema import Config

__all__ = ["train"]


def train(request: Request, stop: StopSignal) -> Path:
    """Train, leave the run finished, and return the folder of what was trained.

    Raises:
        RequestError: the data or the model does not fit the configuration.
        JobError: the loss is not a number any more.
        Stopped: a signal came; there is a checkpoint.
    """
    began = time.monotonic()
    stop.install()
    config = request.config
    tokenizer = model.load_tokenizer(
        request.tokenizer,
        request.template[0] if request.template else None,
        chat=config["chat_template"] != NO_TEMPLATE,
    )
    phase("tokenize")
    train_batches, dev_batches = _batches(request, tokenizer)
    phase("load the model")
    trainer, metrics = _trainer(request, tokenizer, train_batches, dev_batches, stop)
    phase("train")
    stop.defer()
    trainer.train(resume_from_checkpoint=str(request.resume.folder) if request.resume else None)
    plot.draw(metrics.entries(), request.run.name, request.run / LOSS)
    if stop.received is not None and trainer.state.global_step < trainer.state.max_steps:
        raise Stopped(
            stop.received,
            f"stopped after step {trainer.state.global_step}, which is saved; "
            "the same command goes on from there",
        )
    phase("save")
    output = _save(trainer.model, request)
    _finish(request, metrics, output, trainer.state, time.monotonic() - began)
    return output


def _batches(request: Request, tokenizer: Any) -> tuple[batches.Batches, batches.Batches | None]:
    config = request.config
    padding = batches.Padding(
        token=tokenizer.pad_token_id,
        multiple_of=config["pad_to_multiple_of"] or 1,
        length=config["max_length"] if config["pad_to_max_length"] else None,
    )
    rows = _rows(request, tokenizer, "train")
    train_batches = batches.Batches(
        rows,
        config["per_device_train_batch_size"],
        padding,
        seed=config["seed"],
        accumulation=config["gradient_accumulation_steps"],
        convert=lambda batch: {**model.as_tensors(batch), "tokens": batch.tokens},
    )
    _say_what_is_left_out(train_batches, config)
    if not config["do_eval"]:
        return train_batches, None
    dev_batches = batches.Batches(
        _rows(request, tokenizer, "dev"),
        config["per_device_eval_batch_size"],
        padding,
        convert=model.as_tensors,
    )
    return train_batches, dev_batches


def _rows(request: Request, tokenizer: Any, split: str) -> tuple[packing.Row, ...]:
    config = request.config
    encoder = data.Encoder(tokenizer, config["src_length"], config["max_length"])
    encoded = encoder.encode_all(records.read(request.data, split))
    count = len(encoded.examples)
    tokens = sum(len(example.input_ids) for example in encoded.examples)
    labels = sum(label != data.IGNORED for e in encoded.examples for label in e.labels)
    text = f"{split}: {count} records, {tokens} tokens, {labels} of them in answers"
    if encoded.cut:
        limits = f"src_length {config['src_length']}, max_length {config['max_length']}"
        text += f"; {encoded.cut} records cut ({limits})"
    if encoded.dropped:
        text += f"; {encoded.dropped} left out: nothing of their answers remained"
    if not count:
        raise RequestError(
            f"no record of the {split} data keeps any of its answer",
            where=str(request.data),
            remedy='raise "max_length"',
        )
    if config["zero_padding"]:
        packed = packing.pack(
            encoded.examples, config["max_length"], greedy=config["greedy_zero_padding"]
        )
        note(f"{text}; packed into {len(packed)} rows")
        return packed
    note(text)
    return packing.rows(encoded.examples)


def _say_what_is_left_out(train_batches: batches.Batches, config: Config) -> None:
    size = config["per_device_train_batch_size"]
    left = -(-len(train_batches.rows) // size) - len(train_batches)
    if left:
        accumulation = config["gradient_accumulation_steps"]
        note(
            f"each epoch leaves out {left} batches, others every time: "
            f"a step takes {accumulation}, and an epoch has whole steps"
        )


def _trainer(
    request: Request,
    tokenizer: Any,
    train_batches: batches.Batches,
    dev_batches: batches.Batches | None,
    stop: StopSignal,
) -> tuple[Finetuner, Metrics]:
    import paddle
    from paddlenlp.trainer import set_seed

    config = request.config
    paddle.set_device(config["device"])
    if config["device"] == "cpu":
        kernels.use_cheaper()
    settings = arguments(config, request.run)
    set_seed(config["seed"])
    network = model.load_model(request.base, config, settings)
    if config["lora"]:
        network = model.add_lora(network, request.base, request.adapter, config)
    if config["neftune"]:
        model.add_noise(network, config["neftune_noise_alpha"])
    trained = sum(p.size for _, p in model.trainable_parameters(network))
    whole = sum(p.size for p in network.parameters())
    note(f"training {trained:,} of {whole:,} parameters ({trained / whole:.2%})")
    metrics = Metrics(request.run / METRICS, request.resume.step if request.resume else 0)
    trainer = Finetuner(
        network,
        settings,
        None if config["lora"] else tokenizer,
        train=train_batches,
        dev=dev_batches,
        keeping=Keeping(metrics, stop, request.fingerprints, config["save_total_limit"]),
    )
    return trainer, metrics


def _save(network: Any, request: Request) -> Path:
    """Write what was trained, and return its folder."""
    companions = (request.base, request.tokenizer, *request.template)
    if not request.config["lora"]:
        output = request.run / workspace.MODEL
        saving.save_model(network, companions, output)
        return output
    output = request.run / workspace.ADAPTER
    saving.save_adapter(network, request.base, output)
    if request.config["merge"]:
        phase("merge")
        saving.save_merged(network, companions, request.run / workspace.MERGED)
    return output


def _finish(request: Request, metrics: Metrics, output: Path, state: Any, seconds: float) -> None:
    losses = [entry["loss"] for entry in metrics.entries() if "loss" in entry]
    evaluations = [entry for entry in metrics.entries() if "eval_loss" in entry]
    result: dict[str, Any] = {"output": str(output), "steps": state.global_step}
    if losses:
        result |= {"first_loss": losses[0], "last_loss": losses[-1]}
    if evaluations:
        result |= {key: evaluations[-1][key] for key in ("eval_loss", "eval_accuracy")}
    if state.best_model_checkpoint and request.config["load_best_model_at_end"]:
        result |= {"best_checkpoint": Path(state.best_model_checkpoint).name}
    result |= {"memory_mib": peak_memory_mib(), "seconds": round(seconds, 1)}
    with replacing_file(request.run / RESULT) as stream:
        json.dump(result, stream, indent=2)
        stream.write("\n")
    report("result", **result)
