"""The native CPU engine: a Llama computed by our own library (``images/native``), without Paddle.

:mod:`.config` reads a checkpoint's configuration, :mod:`.packing` its weights, which are packed
once and mapped into memory; :mod:`.model` decodes; :mod:`.library` is the library's interface.
"""
