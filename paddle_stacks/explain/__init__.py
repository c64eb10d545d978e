"""Explanations of pins, keys, options, settings, checks and failures, from their own files."""
