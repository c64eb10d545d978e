"""The tasks of ``./inv``, from ``paddle_stacks/cli/``."""

from importlib import import_module

from invoke.collection import Collection

# Each module is a group of tasks; its collection() or its @task functions are added.
GROUPS = (
    "demo",
    "jobs",
    "recipes",
    "build",
    "images",
    "advisories",
    "test",
    "bench",
    "simulated",
    "top",
    "doctor",
    "cluster",
    "memory",
    "docs",
    "explain",
    "release",
    "bundle",
)
# The groups whose name is part of their tasks' names, such as cluster.status.
NAMED = ("advisories", "bundle", "cluster", "docs", "images")

namespace = Collection()
for group in GROUPS:
    module = import_module(f"paddle_stacks.cli.{group}")
    collection = (
        module.collection() if hasattr(module, "collection") else Collection.from_module(module)
    )
    if group in NAMED:
        namespace.add_collection(collection)
        continue
    for task in collection.tasks.values():
        namespace.add_task(task)
