"""What only a CPU needs: Gloo collectives, cheaper training kernels, CPU operators."""
