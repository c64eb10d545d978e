"""Post-training quantization of a Llama on a CPU."""
