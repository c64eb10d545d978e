"""Fused models of the ``paddlenlp`` package, run without upstream's source tree.

It does what ``predict/predictor.py`` and ``predict/export_model.py`` do, and takes their
options. Tokens come from the model itself, so that there is no message queue.
"""
