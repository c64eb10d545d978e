"""Quantizing a Llama after its training, on a CPU: calibration, arithmetic, proof."""
