"""The ``pretrain`` job: a language model trained on tokens of text, in one process or several."""
