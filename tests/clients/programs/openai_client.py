"""openai-python: two turns, a stream, tools that are refused, errors."""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
chat = {"model": "fake", "temperature": 0}
messages = [{"role": "user", "content": "Name a fruit."}]
first = client.chat.completions.create(messages=messages, **chat)
turns = {}
for name, message in (
    ("object", first.choices[0].message),
    ("dump", first.choices[0].message.model_dump()),
    ("dict", first.choices[0].message.to_dict()),
):
    again = [*messages, message, {"role": "user", "content": "Another one."}]
    answer = client.chat.completions.create(messages=again, **chat)
    turns[name] = answer.choices[0].message.content
with client.chat.completions.stream(messages=messages, **chat) as stream:
    for _ in stream:
        pass
    final = stream.get_final_completion().choices[0].message.content
try:
    client.responses.create(model="fake", input="hi")
except openai.NotFoundError as error:
    responses = error.message
try:
    client.chat.completions.create(messages=[{"role": "user", "content": "x" * 5000}], **chat)
except openai.BadRequestError as error:
    too_long = error.code
tokens = client.completions.create(model="fake", prompt="ab", echo=True, logprobs=1, max_tokens=0)
print(
    json.dumps(
        {
            "first": first.choices[0].message.content,
            "turns": turns,
            "final": final,
            "responses": responses,
            "too_long": too_long,
            "echo": tokens.choices[0].logprobs.token_logprobs,
        }
    )
)
