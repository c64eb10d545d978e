"""Shared parts of fine-tuning and pretraining: the loop, checkpoints and outputs."""
