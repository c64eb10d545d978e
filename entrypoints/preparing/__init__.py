"""What ``prepare`` and ``inspect`` are made of."""
