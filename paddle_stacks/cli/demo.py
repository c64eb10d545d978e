"""The task that shows it all."""

from invoke.context import Context

from paddle_stacks import settings
from paddle_stacks.cli import ROOT, task

__all__ = ["demo"]


@task(help={"backend": "The backend. Default: the setting, else cpu."})
def demo(context: Context, backend: str = "") -> None:
    """Fetch a small model, fine-tune it and compare its answers.

    Finds or installs a container engine, finds or builds the images, and leaves
    runs/demo/ with the adapter, the log and summary.json.
    """
    from paddle_stacks import demo

    demo.run(settings.load(ROOT, {"backend": backend or None}))
