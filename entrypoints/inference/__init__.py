"""Answers from a causal language model: what the ``infer`` job is made of.

:mod:`.model` loads a base model and an adapter, :mod:`.generate` is the decoding
loop, :mod:`.sampling` chooses tokens, :mod:`.stream` turns them into text;
:mod:`.batch` answers a file and :mod:`.chat` a person.
"""
