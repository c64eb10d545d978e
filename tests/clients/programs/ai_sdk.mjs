// The AI SDK with its two providers: two turns, a stream, and the Responses API that is not there.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const baseURL = process.argv[2];
const openai = createOpenAI({ baseURL, apiKey: "none" });
const models = {
  compatible: createOpenAICompatible({ name: "server", baseURL, includeUsage: true })("fake"),
  openai: openai.chat("fake"),
};
const common = { temperature: 0, maxRetries: 0 };
const question = { role: "user", content: "Name a fruit." };
const found = {};
for (const [name, model] of Object.entries(models)) {
  const first = await generateText({ ...common, model, messages: [question] });
  const turns = [question, ...first.response.messages, { role: "user", content: "Another one." }];
  const second = await generateText({ ...common, model, messages: turns });
  const stream = streamText({ ...common, model, messages: [question] });
  let streamed = "";
  for await (const part of stream.textStream) streamed += part;
  found[name] = {
    first: first.text, second: second.text, streamed,
    tokens: (await stream.usage).outputTokens, reason: await stream.finishReason,
  };
}
try {
  await generateText({ ...common, model: openai("fake"), messages: [question] });
} catch (error) { found.responses = error.message; }
console.log(JSON.stringify(found));
