"""How a model gets into ``models/``: where it comes from, and what it becomes.

:mod:`.package`, :mod:`.download` and :mod:`.hub` bring files here; :mod:`.gguf`
and :mod:`.huggingface` turn them into a PaddleNLP checkpoint; :mod:`.checkpoint`
says what a whole checkpoint is.
"""
