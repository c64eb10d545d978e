"""LiteLLM: two turns, a stream, a completion, and its error for a prompt that is too long."""

import json
import sys

import litellm

common = {"model": "hosted_vllm/fake", "api_base": sys.argv[1], "api_key": "none"}
messages = [{"role": "user", "content": "Name a fruit."}]
first = litellm.completion(messages=messages, temperature=0, **common)
turns = [*messages, first.choices[0].message, {"role": "user", "content": "Another one."}]
second = litellm.completion(messages=turns, temperature=0, **common)
stream = litellm.completion(messages=messages, temperature=0, stream=True, **common)
text = litellm.text_completion(
    **{**common, "model": "text-completion-openai/fake"}, prompt="ab", max_tokens=5, temperature=0
)
try:
    litellm.completion(messages=[{"role": "user", "content": "x" * 5000}], **common)
    error = ""
except litellm.ContextWindowExceededError as raised:
    error = type(raised).__name__
print(
    json.dumps(
        {
            "first": first.choices[0].message.content,
            "second": second.choices[0].message.content,
            "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in stream),
            "text": text.choices[0].text,
            "error": error,
        }
    )
)
