"""Fine-tuning: the ``finetune`` job.

``packing`` and ``batches`` prepare what the model reads, ``model`` loads the model, ``trainer``
is the loop, and ``run`` connects them. Importing this package imports none of them.
"""
