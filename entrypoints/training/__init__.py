"""Fine-tuning: what the ``finetune`` job is made of.

``data`` → ``packing`` → ``batches`` make what the model reads, ``model`` what
reads it, ``trainer`` the loop around it on PaddleNLP's ``Trainer``,
``checkpoints``, ``metrics`` and ``plot`` what is left on the disk, and ``run``
puts them together. Importing this package imports none of them.
"""
