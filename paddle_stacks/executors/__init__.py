"""Executors: run plans with Docker, Slurm or Kubernetes."""
