"""Parts for CPUs only: Gloo collectives, faster training kernels, CPU operators."""
