"""Shared helpers of the tests: workspaces, fakes, containers, and runs of jobs."""
