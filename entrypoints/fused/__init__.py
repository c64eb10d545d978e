"""Inference with the fused models of the ``paddlenlp`` package, without upstream's source tree.

It replaces ``predict/predictor.py`` and ``predict/export_model.py`` with the same options. The
model returns the tokens itself, so no message queue is needed.
"""
