"""Preparation and inspection of corpora: the ``prepare`` and ``inspect`` jobs."""
