"""The training loop of fine-tuning, with the loss on answers."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from entrypoints.finetuning.batches import Batches
from entrypoints.finetuning.model import AnswerHead
from entrypoints.runtime.stop import StopSignal
from entrypoints.training.adapter import trainable_parameters
from entrypoints.training.data import IGNORED
from entrypoints.training.loop import Arguments, Loop, LoopCallback, RunOutputs
from paddle_stacks.errors import JobError

__all__ = ["Finetuner"]


class Finetuner(Loop):
    """Trains a model on batches.

    Args:
        model: a causal language model, or a LoRA model.
        args: upstream's arguments.
        tokenizer: saved with every checkpoint, or None.
        train: the training batches.
        dev: the evaluation batches, or None.
        outputs: the outputs of the run.
    """

    def __init__(
        self,
        model: Any,
        args: Arguments,
        tokenizer: Any,
        *,
        train: Batches,
        dev: Batches | None,
        outputs: RunOutputs,
    ) -> None:
        super().__init__(
            model,
            args,
            tokenizer,
            outputs,
            _EpochCallback(outputs.stop, train),
            train_dataset=train.rows,
            eval_dataset=dev.rows if dev else None,
        )
        self._staged = args.pipeline_parallel_degree > 1
        self._head = None if self._staged else AnswerHead(model)
        self._train = train
        self._dev = dev

    def get_train_dataloader(self) -> Batches:
        """Return the training batches."""
        return self._train

    def create_optimizer(self, lr_scheduler: Any = None) -> Any:
        """Return upstream's AdamW, for the trainable parameters only."""
        named = trainable_parameters(self.model)
        decayed = {p.name for name, p in named if not any(s in name for s in ("bias", "norm"))}
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
        if self.args.fp16_opt_level == "O2":
            settings["multi_precision"] = True
        clip = self.args.max_grad_norm
        self.optimizer = kind(
            learning_rate=lr_scheduler or self.lr_scheduler,
            parameters=[p for _, p in named],
            apply_decay_param_fun=decayed.__contains__,
            weight_decay=self.args.weight_decay,
            grad_clip=nn.ClipGradByGlobalNorm(clip) if clip > 0 else None,
            **settings,
        )
        return self.optimizer

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        """Return the mean cross entropy of a batch's labels."""
        assert self._head is not None
        losses, logits = self._head.losses(inputs, model)
        loss = losses.mean()
        return (loss, logits) if return_outputs else loss

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Return loss and next-token accuracy over all labels of the evaluation data.

        With pipeline parallelism, only the loss.
        """
        if self._dev is None:
            raise JobError(
                "the evaluation data is missing",
                remedy="add a dev.json to the data folder, or set do_eval to false",
            )
        self.model_wrapped.eval()
        sums = [0.0, 0.0, 0.0]  # of losses, correct tokens, labels
        with paddle.no_grad():
            for number, inputs in enumerate(self._dev, start=1):
                parts = self._of_stages(inputs) if self._staged else self._of_labels(inputs)
                sums = [old + new for old, new in zip(sums, parts, strict=True)]
                if number == self.args.max_evaluate_steps:
                    break
        self.model_wrapped.train()
        # Processes that share a model have equal sums, which does not change the quotients.
        loss, right, count = self._summed(sums)
        result = {"eval_loss": loss / count}
        if not self._staged:
            result["eval_accuracy"] = right / count
        self.log(dict(result))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        return result

    def _of_labels(self, inputs: dict[str, Any]) -> list[float]:
        assert self._head is not None
        with self.autocast_smart_context_manager():
            losses, logits = self._head.losses(inputs)
        right = (logits.argmax(-1) == inputs["targets"]).astype("int64").sum()
        return [float(losses.sum()), float(right), float(losses.shape[0])]

    def _of_stages(self, inputs: dict[str, Any]) -> list[float]:
        """Return the sums of one row; the criterion returns the mean over its labels."""
        count = float((inputs["labels"] != IGNORED).astype("int64").sum())
        mean = self.prediction_pipeline_step(self.model_wrapped, inputs, True)[0]
        return [float(mean) * count, 0.0, count]

    def _summed(self, sums: list[float]) -> list[float]:
        if self.args.world_size == 1:
            return sums
        parts = self._nested_gather(paddle.to_tensor([sums], dtype="float64"))
        total: list[float] = parts.sum(0).tolist()
        return total


class _EpochCallback(LoopCallback):
    """Also sets the order of each epoch's batches."""

    def __init__(self, stop: StopSignal, train: Batches) -> None:
        super().__init__(stop)
        self._train = train

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the order for the epoch of the next step."""
        self._train.epoch = state.global_step // max(
            1, len(self._train) // args.gradient_accumulation_steps
        )
