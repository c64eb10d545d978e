"""Make and drop caches of 60 MB a hundred times: prints by how many MiB the process grew.

``python cache_memory.py``, in an image. The first twenty are not counted.
"""

from __future__ import annotations

import psutil
from paddlenlp.transformers import LlamaConfig

from entrypoints.inference.decoding import Cache
from entrypoints.inference.llama import llama_config


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def main() -> None:
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    cache = Cache(llama_config(config), 8, 448)
    before = 0
    for number in range(100):
        if number == 20:
            before = resident()
        cache.gather([(cache, range(8))], 448 + number % 3)
    print((resident() - before) // 2**20)


if __name__ == "__main__":
    main()
