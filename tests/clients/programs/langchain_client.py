"""LangChain: a conversation, a stream, a batch, a completion."""

import json
import sys

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

common = {"model": "fake", "base_url": sys.argv[1], "api_key": "none", "temperature": 0}
chat = ChatOpenAI(max_retries=0, **common)
question = HumanMessage("Name a fruit.")
first = chat.invoke([SystemMessage("be kind"), question])
second = chat.invoke([question, first, HumanMessage("Another one.")])
print(
    json.dumps(
        {
            "first": first.content,
            "tokens": first.usage_metadata["output_tokens"],
            "second": second.content,
            "streamed": "".join(chunk.content for chunk in chat.stream([question])),
            "whole": chat.invoke([question]).content,
            "batch": [answer.content for answer in chat.batch(["a", "b", "c"])],
            "text": OpenAI(max_tokens=5, **common).invoke("ab"),
        }
    )
)
