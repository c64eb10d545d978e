"""Images, jobs and checks for PaddlePaddle and PaddleNLP on CPU and Hygon DCU."""

__version__ = "0.1.0"
