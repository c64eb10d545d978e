"""Download and conversion of models.

:mod:`.package`, :mod:`.download` and :mod:`.hub` download files; :mod:`.gguf` and
:mod:`.huggingface` convert them to a PaddleNLP checkpoint; :mod:`.checkpoint` checks it.
"""
