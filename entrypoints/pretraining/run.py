"""One pretraining, from a checked request to a finished run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import paddle

from entrypoints.cpu import kernels
from entrypoints.models.tokenizer import load_tokenizer
from entrypoints.pretraining import flops, model, samples
from entrypoints.pretraining.request import Request
from entrypoints.pretraining.trainer import Pretrainer
from entrypoints.runtime.console import note, phase, report
from entrypoints.runtime.stop import StopSignal
from entrypoints.training import plot, saving
from entrypoints.training.data_shard import DataShard
from entrypoints.training.loop import Arguments, RunOutputs, arguments
from entrypoints.training.metrics import Metrics, peak_memory_mib
from entrypoints.training.request import LIBRARY_LOG, LOSS, METRICS, RESULT
from paddle_stacks.errors import Stopped
from paddle_stacks.jobs import workspace
from paddle_stacks.jobs.files import replacing_file

__all__ = ["train"]


def train(request: Request, stop: StopSignal) -> Path:
    """Train, finish the run, and return the folder of the model.

    All processes of a run must call it; the first one writes and reports.

    Raises:
        JobError: the loss is not finite.
        Stopped: a signal was received; a checkpoint is saved.
    """
    began = time.monotonic()
    phase("load the model")
    trainer = _trainer(request, stop)
    phase("train")
    stop.defer()
    trainer.train(resume_from_checkpoint=str(request.resume.folder) if request.resume else None)
    if trainer.is_first:
        entries = trainer.outputs.metrics.entries()
        plot.draw(entries, request.run.name, request.run / LOSS)
    if stop.received is not None and trainer.state.global_step < trainer.state.max_steps:
        raise Stopped(
            stop.received,
            f"stopped after step {trainer.state.global_step}, which is saved",
            "run the same command again to resume",
        )
    tested = {}
    if request.config["do_predict"]:
        phase("test")
        tested = trainer.evaluated("test")
    phase("save")
    output = request.run / workspace.MODEL
    saving.save_distributed(trainer, (request.base, request.tokenizer), output)
    if trainer.is_first:
        _finish(request, trainer, output, tested, time.monotonic() - began)
    return output


def _trainer(request: Request, stop: StopSignal) -> Pretrainer:
    config = request.config
    paddle.set_device(config["device"])
    if config["device"] == "cpu":
        kernels.install()
    settings = arguments(config, request.run, unified_checkpoint=True)
    paddle.seed(config["seed"])
    tokenizer = load_tokenizer(request.tokenizer)
    network = model.load(request.base, config, settings, tokenizer)
    if settings.process_index == 0:
        _report_size(network, settings)
    step = request.resume.step if request.resume else 0
    return Pretrainer(
        network,
        settings,
        tokenizer,
        config=config,
        samples=_samples(request, settings),
        flops_per_token=flops.flops_per_token(network.config, config["max_seq_length"]),
        peak_tflops=request.peak_tflops,
        outputs=RunOutputs(
            Metrics(request.run / METRICS, step, writes=settings.process_index == 0),
            stop,
            request.fingerprints,
            config["save_total_limit"],
        ),
    )


def _samples(request: Request, settings: Arguments) -> dict[str, samples.Samples]:
    config = request.config
    shard = DataShard(settings.dataset_rank, settings.dataset_world_size)
    train, evaluation, test = samples.datasets(
        request.corpus, config, shard, request.run, request.run / LIBRARY_LOG
    )
    batches = config["max_steps"] * config["gradient_accumulation_steps"]
    rows = config["per_device_train_batch_size"]
    samples_by_split = {"train": samples.Samples(train, rows, batches, shard)}
    splits = {"eval": (config["do_eval"], evaluation), "test": (config["do_predict"], test)}
    for split, (is_wanted, dataset) in splits.items():
        if is_wanted:
            rows = config["per_device_eval_batch_size"]
            samples_by_split[split] = samples.Samples(dataset, rows, config["eval_iters"], shard)
    return samples_by_split


def _report_size(network: Any, settings: Arguments) -> None:
    count = sum(parameter.size for parameter in network.parameters())
    shared = max(1, settings.tensor_parallel_degree) * max(1, settings.pipeline_parallel_degree)
    where = f" in this process, one of {shared} that share the model" if shared > 1 else ""
    note(f"training {count:,} parameters{where}")


def _finish(
    request: Request, trainer: Pretrainer, output: Path, tested: dict[str, float], seconds: float
) -> None:
    entries = trainer.outputs.metrics.entries()
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    evaluations = [entry for entry in entries if "eval_loss" in entry]
    state = trainer.state
    result: dict[str, Any] = {"output": str(output), "steps": state.global_step}
    result["tokens"] = state.global_step * trainer.tokens_per_step
    if losses:
        result |= {"first_loss": losses[0], "last_loss": losses[-1]}
    if evaluations:
        result["eval_loss"] = evaluations[-1]["eval_loss"]
    result |= tested
    result |= {"memory_mib": peak_memory_mib(), "seconds": round(seconds, 1)}
    with replacing_file(request.run / RESULT) as stream:
        json.dump(result, stream, indent=2)
        stream.write("\n")
    report("result", **result)
