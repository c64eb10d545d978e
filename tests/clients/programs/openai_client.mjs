// openai-node: two turns, a stream that is left, the stream helper, an error.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const common = { model: "fake", temperature: 0 };
const messages = [{ role: "user", content: "Name a fruit." }];
const first = await client.chat.completions.create({ ...common, messages });
const turns = [...messages, first.choices[0].message, { role: "user", content: "Another one." }];
const second = await client.chat.completions.create({ ...common, messages: turns });

const left = client.chat.completions.stream({
  ...common,
  messages: [{ role: "user", content: "forever" }],
  stream_options: { include_usage: true },
});
let pieces = 0;
let aborted = "";
left.on("content", () => { if (++pieces === 5) left.abort(); });
try { await left.finalMessage(); } catch (error) { aborted = error.constructor.name; }

let streamed = "";
let usage;
const options = { include_usage: true };
for await (const chunk of await client.chat.completions.create({
  ...common, messages, stream: true, stream_options: options,
})) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const helper = await client.chat.completions.stream({ ...common, messages }).finalMessage();
let misspelt = "";
try {
  await client.chat.completions.create({ ...common, messages, temprature: 1 });
} catch (error) { misspelt = error.message; }
console.log(JSON.stringify({
  first: first.choices[0].message.content,
  second: second.choices[0].message.content,
  aborted, pieces, streamed, usage, misspelt,
  helper: helper.content,
  models: (await client.models.list()).data.map((model) => model.id),
}));
