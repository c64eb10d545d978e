"""The training loop of pretraining, with learning rate decay and perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import paddle
from paddlenlp.transformers import (
    CosineAnnealingWithWarmupDecay,
    LinearAnnealingWithWarmupDecay,
)

from entrypoints.pretraining.samples import Samples
from entrypoints.training.loop import Arguments, Loop, LoopCallback, RunOutputs
from paddle_stacks.errors import JobError
from paddle_stacks.jobs.schema import Config

__all__ = ["Pretrainer"]

_SCHEDULES = {
    "cosine": CosineAnnealingWithWarmupDecay,
    "linear": LinearAnnealingWithWarmupDecay,
}
_TERA = 1e12


class Pretrainer(Loop):
    """Trains a model on samples.

    Args:
        model: a causal language model, or its pipeline form.
        args: upstream's arguments.
        tokenizer: saved with every checkpoint.
        config: of the pretraining.
        samples: by split: "train", and optionally "eval" and "test".
        flops_per_token: of training, for the utilization.
        peak_tflops: of a process's device, or None.
        outputs: the outputs of the run.
    """

    def __init__(
        self,
        model: Any,
        args: Arguments,
        tokenizer: Any,
        *,
        config: Config,
        samples: Mapping[str, Samples],
        flops_per_token: float,
        peak_tflops: float | None,
        outputs: RunOutputs,
    ) -> None:
        # Training resumes at any sample without reading the previous ones.
        args.ignore_data_skip = True
        super().__init__(
            model,
            args,
            tokenizer,
            outputs,
            LoopCallback(outputs.stop),
            train_dataset=samples["train"],
            eval_dataset=samples.get("eval"),
        )
        self.is_pretraining = True
        self._config = config
        self._samples = samples
        self._flops = flops_per_token
        self._peak = peak_tflops

    @property
    def tokens_per_step(self) -> int:
        """The tokens of an optimizer step in all processes together."""
        config = self._config
        rows = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"]
        return int(rows * self.args.dataset_world_size * config["max_seq_length"])

    def get_train_dataloader(self) -> Samples:
        """Return the training samples."""
        return self._samples["train"]

    def create_scheduler(self, num_training_steps: int) -> Any:
        """Return the schedule: warmup, decay to ``min_learning_rate``, then constant."""
        config = self._config
        warmup = config["warmup_steps"] or int(config["warmup_ratio"] * num_training_steps)
        self.lr_scheduler = _SCHEDULES[config["lr_scheduler_type"]](
            max_lr=config["learning_rate"],
            min_lr=config["min_learning_rate"],
            warmup_step=warmup,
            decay_step=config["decay_steps"] or num_training_steps,
            last_epoch=0,
        )
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Resume learning rate, random numbers and position in the samples."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        self._load_rng_state(checkpoint)
        step = int(checkpoint.rpartition("-")[2])
        self._samples["train"].first = step * self._config["gradient_accumulation_steps"]

    def step_metrics(self) -> dict[str, Any]:
        """Return the number of tokens so far, and the model FLOPs utilization."""
        metrics: dict[str, Any] = {"tokens": self.state.global_step * self.tokens_per_step}
        if self._peak and self._seconds:
            speed = self._tokens * self.args.dataset_world_size / self._seconds
            peak = self._peak * _TERA * self.args.world_size
            metrics["mfu"] = round(speed * self._flops / peak, 4)
        return metrics

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Return loss and perplexity on the evaluation samples, always the same ones."""
        metrics = self.evaluated("eval")
        self.log(dict(metrics))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluated(self, split: str) -> dict[str, float]:
        """Return loss and perplexity on the samples of a split.

        Args:
            split: "eval" or "test"; the prefix of the returned names.
        """
        if split not in self._samples:
            raise JobError(
                f"the {split} split has no samples",
                remedy='assign a share of the corpus to it: "split": "949,50,1"',
            )
        losses = []
        self.model_wrapped.eval()
        with paddle.no_grad():
            for inputs in self._samples[split]:
                del inputs["tokens"]
                losses.append(self._loss(inputs))
        self.model_wrapped.train()
        loss = float(self._nested_gather(paddle.stack(losses).mean()).mean())
        # e^20 exceeds every vocabulary, so larger values are meaningless.
        return {f"{split}_loss": loss, f"{split}_perplexity": math.exp(min(loss, 20.0))}

    def _loss(self, inputs: dict[str, Any]) -> Any:
        if self.args.pipeline_parallel_degree > 1:
            return self.prediction_pipeline_step(self.model_wrapped, inputs, True)[0]
        with self.autocast_smart_context_manager():
            return self.compute_loss(self.model_wrapped, inputs).detach()
