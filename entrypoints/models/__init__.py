"""Model files: configuration, weights, adapters, tokenizers and chat templates."""
