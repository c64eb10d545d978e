"use strict";
// A conversation with the model, by the same API that programs use. What was said is in
// `turns` and nowhere else; the page is drawn from it.

const $ = (id) => document.getElementById(id);
const turns = []; // {role, content, facts: {tokens, seconds, first} | null, end: "", node}
let language = "en";
let model = "";
let stopping = null; // an AbortController while an answer comes

// ---------------------------------------------------------------- words

function say(key, ...values) {
  const word = WORDS[language][key];
  return typeof word === "function" ? word(...values) : word;
}

function speak(to) {
  language = to;
  document.documentElement.lang = to === "zh" ? "zh-CN" : "en";
  $("language").lang = to === "zh" ? "en" : "zh-CN";
  remember("language", to);
  translate(document);
  turns.forEach(drawEnd);
}

function translate(root) {
  for (const node of root.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
  for (const node of root.querySelectorAll("[data-hint]")) node.placeholder = say(node.dataset.hint);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", say(node.dataset.label));
  }
  for (const node of root.querySelectorAll(".turn")) {
    node.querySelector("h2").textContent = say(node.classList.contains("user") ? "you" : "bot");
  }
}

// Storage can be forbidden; then nothing is remembered.
function remember(name, value, store = localStorage) {
  try {
    store.setItem(name, value);
  } catch {}
}

function recall(name, store = localStorage) {
  try {
    return store.getItem(name);
  } catch {
    return null;
  }
}

// ---------------------------------------------------------------- the server

function headers() {
  const found = { "Content-Type": "application/json" };
  if ($("key").value) found.Authorization = `Bearer ${$("key").value}`;
  return found;
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `HTTP ${response.status}`;
  }
}

async function findModel() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (response.status === 401) {
      openSettings(true);
      $("key-field").hidden = false;
      return fault(say("keyNeeded"));
    }
    if (!response.ok) return fault(await reason(response));
    model = (await response.json()).data[0].id;
    $("model").textContent = model;
    document.title = model;
    fault("");
  } catch {
    fault(say("offline"));
  }
}

// Yields the objects of a stream of server-sent events.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const found = JSON.parse(line.slice(6));
      if (found.error) throw new Error(found.error.message);
      yield found;
    }
  }
}

function request() {
  const messages = turns.map(({ role, content }) => ({ role, content }));
  if ($("system").value.trim()) messages.unshift({ role: "system", content: $("system").value });
  const asked = {
    model,
    messages,
    temperature: Number($("temperature").value),
    top_p: Number($("top-p").value),
    max_tokens: Number($("max-tokens").value),
    stream: true,
    stream_options: { include_usage: true },
  };
  if ($("seed").value !== "") asked.seed = Number($("seed").value);
  return asked;
}

// ---------------------------------------------------------------- a turn

async function answer() {
  if (!model) await findModel();
  if (!model) return;
  const body = JSON.stringify(request());
  const turn = add("assistant", "");
  const text = turn.node.querySelector(".text");
  text.textContent = say("waiting");
  text.classList.add("waiting");
  stopping = new AbortController();
  busy(true);
  const begun = performance.now();
  let first = 0;
  let tokens = 0;
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      body,
      signal: stopping.signal,
    });
    if (!response.ok) throw new Error(await reason(response));
    for await (const found of events(response)) {
      if (found.usage) tokens = found.usage.completion_tokens;
      const choice = found.choices[0];
      if (!choice) continue;
      if (choice.finish_reason === "length") turn.end = "length";
      if (!choice.delta.content) continue;
      first = first || performance.now();
      tokens += 1; // until the server says how many
      write(turn, choice.delta.content);
    }
    announce(say("finished"));
  } catch (error) {
    if (error.name === "AbortError") turn.end = "stopped";
    else fault(say("failed", error instanceof TypeError ? say("offline") : error.message));
  }
  const now = performance.now();
  if (turn.content) {
    const seconds = (now - first) / 1000;
    turn.facts = { tokens, seconds, first: (first - begun) / 1000 };
    drawEnd(turn);
  } else {
    giveBack(turn);
  }
  stopping = null;
  busy(false);
  $("question").focus();
}

function write(turn, piece) {
  const text = turn.node.querySelector(".text");
  const list = $("conversation");
  const follow = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  if (text.classList.contains("waiting")) {
    text.classList.remove("waiting");
    text.textContent = "";
  }
  turn.content += piece;
  text.append(piece);
  if (follow) list.scrollTop = list.scrollHeight;
}

function add(role, content) {
  const node = $("turn").content.cloneNode(true).firstElementChild;
  node.classList.add(role);
  node.querySelector(".text").textContent = content;
  const turn = { role, content, facts: null, end: "", node };
  turns.push(turn);
  // Browsers let a page copy only where nobody in between could have changed it.
  node.querySelector(".copy").hidden = !navigator.clipboard;
  node.querySelector(".copy").addEventListener("click", () => copy(turn));
  node.querySelector(".again").addEventListener("click", again);
  $("turns").append(node);
  translate($("turns"));
  $("conversation").scrollTop = $("conversation").scrollHeight;
  drawState();
  return turn;
}

function remove(turn) {
  turns.splice(turns.indexOf(turn), 1);
  turn.node.remove();
  drawState();
}

// Takes an answer of which nothing came off the page, and puts its question back.
function giveBack(turn) {
  const question = turns[turns.indexOf(turn) - 1];
  remove(turn);
  remove(question);
  if (!$("question").value) $("question").value = question.content;
  grow();
}

// What stands below an answer that has ended.
function drawEnd(turn) {
  if (!turn.facts) return;
  const { tokens, seconds, first } = turn.facts;
  // The first token is not made in the time after it.
  const speed = tokens > 1 && seconds > 0 ? ((tokens - 1) / seconds).toFixed(1) : "–";
  const parts = [say("facts", tokens, speed, first.toFixed(2))];
  if (turn.end) parts.push(say(turn.end));
  turn.node.querySelector(".facts").textContent = parts.join(" · ");
  turn.node.querySelector("footer").hidden = false;
  drawState();
}

function drawState() {
  $("empty").hidden = turns.length > 0;
  const idle = !stopping;
  for (const id of ["export-markdown", "export-json", "new"]) $(id).disabled = !turns.length || !idle;
  for (const turn of turns) {
    // Only the last answer can be another one.
    turn.node.querySelector(".again").hidden = turn !== turns.at(-1) || !idle;
  }
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  if (is) announce(say("thinking"));
  drawState();
}

function announce(text) {
  $("news").textContent = text;
}

function fault(text) {
  $("fault").textContent = text;
  $("fault").hidden = !text;
}

// ---------------------------------------------------------------- what a person does

function ask() {
  const content = $("question").value.trim();
  if (!content || stopping) return;
  if (!$("settings").checkValidity()) {
    openSettings(true);
    $("settings").reportValidity();
    return fault(say("invalid"));
  }
  fault("");
  $("question").value = "";
  grow();
  add("user", content);
  answer();
}

function again() {
  if (stopping || turns.at(-1)?.role !== "assistant") return;
  fault("");
  remove(turns.at(-1));
  answer();
}

async function copy(turn) {
  await navigator.clipboard.writeText(turn.content);
  announce(say("copied"));
}

function openSettings(open) {
  $("settings").hidden = !open;
  $("settings-button").setAttribute("aria-expanded", String(open));
}

function grow() {
  const box = $("question");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function download(name, kind, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

function exported() {
  const { messages, stream, stream_options, ...settings } = request();
  return {
    exported: new Date().toISOString(),
    ...settings,
    messages,
    answers: turns.filter((turn) => turn.facts).map(({ facts, end }) => ({ ...facts, end })),
  };
}

function exportMarkdown() {
  const parts = exported().messages.map(({ role, content }) => `## ${role}\n\n${content}\n`);
  download("conversation.md", "text/markdown", `# ${model}\n\n${parts.join("\n")}`);
}

function exportJson() {
  download("conversation.json", "application/json", `${JSON.stringify(exported(), null, 2)}\n`);
}

function anew() {
  while (turns.length) remove(turns.at(-1));
  fault("");
  $("question").focus();
}

// ---------------------------------------------------------------- the beginning

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("question").addEventListener("keydown", (event) => {
  // While an input method composes a character, Enter is its own.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
$("question").addEventListener("input", grow);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && stopping) stopping.abort();
});
$("stop").addEventListener("click", () => stopping?.abort());
$("new").addEventListener("click", anew);
$("export-markdown").addEventListener("click", exportMarkdown);
$("export-json").addEventListener("click", exportJson);
$("language").addEventListener("click", () => speak(language === "en" ? "zh" : "en"));
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("settings-button").addEventListener("click", () => openSettings($("settings").hidden));
$("key").addEventListener("change", () => {
  remember("key", $("key").value, sessionStorage);
  findModel();
});

$("key").value = recall("key", sessionStorage) ?? "";
speak(recall("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
$("question").focus();
findModel();
