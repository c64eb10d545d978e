"""What fine-tuning and pretraining share: the loop, its checkpoints and its outputs."""
