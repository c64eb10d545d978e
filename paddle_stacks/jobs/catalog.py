"""All jobs, and the image that runs each of them."""

from __future__ import annotations

from dataclasses import dataclass

from paddle_stacks.errors import RequestError, suggest

__all__ = ["JOBS", "Job", "find"]


@dataclass(frozen=True)
class Job:
    """A program that runs in a container.

    Args:
        name: its name on the command line; the module ``entrypoints.<name>`` runs it, with
            underscores for dashes.
        image: the smallest image that can run it.
        summary: one line for the list of jobs and for its help.
        computes: whether it needs the backend's devices.
        writes: the folders of the workspace that it always writes to.
    """

    name: str
    image: str
    summary: str
    computes: bool = True
    writes: tuple[str, ...] = ()


JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job(
            "fetch",
            "infer",
            "fetch a model into models/ as a PaddleNLP checkpoint",
            computes=False,
            writes=("models",),
        ),
        Job(
            "fetch-data",
            "infer",
            "fetch demo data into data/",
            computes=False,
            writes=("data",),
        ),
        Job(
            "prepare",
            "train",
            "tokenize raw text for pretraining",
            computes=False,
            writes=("data",),
        ),
        Job(
            "inspect", "train", "show statistics and samples of a tokenized corpus", computes=False
        ),
        Job("data", "train", "show or convert a data set for fine-tuning", computes=False),
        Job(
            "finetune",
            "train",
            "fine-tune a model, LoRA or full, from a configuration",
            writes=("runs",),
        ),
        Job(
            "pretrain",
            "train",
            "pretrain a model on a tokenized corpus",
            writes=("runs",),
        ),
        Job(
            "quantize",
            "train",
            "quantize a model to int8 and measure the difference",
            writes=("models", "runs"),
        ),
        Job("export", "train", "merge an adapter, or export a model for other tools"),
        Job("infer", "infer", "answer a prompt, a chat or a file of prompts"),
        Job("serve", "infer", "serve a model over HTTP: OpenAI API and a chat page"),
        Job(
            "upstream",
            "train",
            "run a script of PaddleNLP's llm/ unchanged",
            writes=("models", "data", "runs"),
        ),
    )
}


def find(name: str) -> Job:
    """Return the job of that name.

    Raises:
        RequestError: it does not exist. The message lists all jobs.
    """
    try:
        return JOBS[name]
    except KeyError:
        raise RequestError(
            f'no job is named "{name}"', remedy=suggest(name, JOBS, "jobs")
        ) from None
