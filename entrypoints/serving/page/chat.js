"use strict";
// A conversation with the model, by the same API that programs use. It is in `turns`, from
// which the page is drawn, and a copy of it in the browser's storage.

const $ = (id) => document.getElementById(id);
const turns = []; // {role, content, facts: {tokens, seconds, first} | null, end: "", node}
let language = "en";
let model = "";
let stopping = null; // an AbortController while an answer comes
let conversation = ""; // its ID in the history; empty until it has a turn
let theme = "system";
const MAX_CONVERSATIONS = 50;
const THEMES = { system: "themeSystem", light: "themeLight", dark: "themeDark" };

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
  drawTheme();
  turns.forEach(drawEnd);
}

function drawTheme() {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").textContent = say(THEMES[theme]);
}

function nextTheme() {
  const names = Object.keys(THEMES);
  theme = names[(names.indexOf(theme) + 1) % names.length];
  remember("theme", theme);
  drawTheme();
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
    draw(turn);
    drawEnd(turn);
    save();
  } else {
    giveBack(turn);
  }
  stopping = null;
  busy(false);
  $("question").focus();
}

// Redraws an answer once a frame, however many pieces come in between.
function write(turn, piece) {
  turn.content += piece;
  if (turn.drawing) return;
  turn.drawing = true;
  requestAnimationFrame(() => {
    turn.drawing = false;
    draw(turn);
  });
}

function draw(turn) {
  const text = turn.node.querySelector(".text");
  const list = $("conversation");
  const follow = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  text.classList.remove("waiting");
  showMarkdown(text, turn.content);
  for (const pre of navigator.clipboard ? text.querySelectorAll("pre") : []) {
    const button = element("button", say("copy"));
    button.type = "button";
    button.addEventListener("click", () => copyText(pre.querySelector("code").textContent));
    pre.append(button);
  }
  if (follow) list.scrollTop = list.scrollHeight;
}

function add(role, content) {
  const node = $("turn").content.cloneNode(true).firstElementChild;
  node.classList.add(role);
  node.querySelector(".text").textContent = content;
  const turn = { role, content, facts: null, end: "", node, drawing: false };
  turns.push(turn);
  // Browsers let a page copy only where nobody in between could have changed it.
  node.querySelector(".copy").hidden = !navigator.clipboard;
  node.querySelector(".copy").addEventListener("click", () => copy(turn));
  node.querySelector(".again").addEventListener("click", again);
  node.querySelector(".edit").addEventListener("click", () => edit(turn));
  node.querySelector(".edit").hidden = role !== "user";
  node.querySelector("footer").hidden = role !== "user";
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
    const again = turn === turns.at(-1) && turn.role === "assistant" && idle;
    turn.node.querySelector(".again").hidden = !again;
    turn.node.querySelector(".edit").disabled = !idle;
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
  openSettings(false);
  openHistory(false);
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

async function copyText(text) {
  await navigator.clipboard.writeText(text);
  announce(say("copied"));
}

function copy(turn) {
  return copyText(turn.content);
}

// Opens an editor for a question. Sending it generates a new answer and removes later turns.
function edit(turn) {
  if (stopping || turn.node.querySelector(".editor")) return;
  const form = $("editor").content.cloneNode(true).firstElementChild;
  const box = form.querySelector("textarea");
  const shown = [turn.node.querySelector(".text"), turn.node.querySelector("footer")];
  const close = () => {
    form.remove();
    for (const node of shown) node.hidden = false;
  };
  box.value = turn.content;
  form.querySelector(".cancel").addEventListener("click", close);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const content = box.value.trim();
    if (!content || stopping) return;
    close();
    while (turns.at(-1) !== turn) remove(turns.at(-1));
    turn.content = turn.node.querySelector(".text").textContent = content;
    fault("");
    answer();
  });
  for (const node of shown) node.hidden = true;
  translate(form);
  turn.node.append(form);
  box.focus();
}

// ---------------------------------------------------------------- the history

function saved() {
  try {
    const found = JSON.parse(recall("conversations") ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

// Stores conversations, the newest first; drops the oldest ones where storage is full.
function store(all) {
  let fitting = all.slice(0, MAX_CONVERSATIONS);
  for (;;) {
    try {
      localStorage.setItem("conversations", JSON.stringify(fitting));
      return;
    } catch {
      if (!fitting.length) return; // storage is forbidden
      fitting = fitting.slice(0, -1);
    }
  }
}

function save() {
  conversation = conversation || `${Date.now()}-${Math.random().toString(36).slice(2)}`;
  const entry = {
    id: conversation,
    time: Date.now(),
    system: $("system").value,
    turns: turns.map(({ role, content, facts, end }) => ({ role, content, facts, end })),
  };
  store([entry, ...saved().filter(({ id }) => id !== conversation)]);
  if (!$("history").hidden) drawHistory();
}

function drawHistory() {
  const all = saved();
  $("no-history").hidden = all.length > 0;
  $("forget").hidden = !all.length;
  $("conversations").replaceChildren(
    ...all.map((entry) => {
      const node = $("entry").content.cloneNode(true).firstElementChild;
      const title = String(entry.turns?.[0]?.content ?? "").slice(0, 80);
      const open = node.querySelector(".open");
      open.textContent = `${title} · ${new Date(entry.time).toLocaleString(document.documentElement.lang)}`;
      if (entry.id === conversation) open.setAttribute("aria-current", "true");
      open.addEventListener("click", () => reopen(entry));
      node.querySelector(".delete").addEventListener("click", () => {
        store(saved().filter(({ id }) => id !== entry.id));
        if (entry.id === conversation) conversation = "";
        drawHistory();
      });
      return node;
    }),
  );
  translate($("conversations"));
}

function reopen(entry) {
  if (stopping) return;
  anew();
  conversation = entry.id;
  $("system").value = entry.system ?? "";
  for (const { role, content, facts, end } of entry.turns) {
    const turn = add(role === "user" ? "user" : "assistant", String(content));
    Object.assign(turn, { facts, end: end ?? "" });
    if (turn.role === "assistant") draw(turn);
    drawEnd(turn);
  }
  openHistory(false);
}

function openHistory(open) {
  $("history").hidden = !open;
  $("history-button").setAttribute("aria-expanded", String(open));
  if (!open) return;
  openSettings(false);
  drawHistory();
}

function openSettings(open) {
  if (open) openHistory(false);
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
  conversation = "";
  openHistory(false);
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
  if (event.key !== "Escape") return;
  $("more").open = false;
  stopping?.abort();
});
document.addEventListener("click", (event) => {
  // A choice is made, or the menu is not meant.
  if (!(event.target instanceof Element && event.target.closest("#more > summary"))) {
    $("more").open = false;
  }
});
$("theme").addEventListener("click", nextTheme);
$("history-button").addEventListener("click", () => openHistory($("history").hidden));
$("forget").addEventListener("click", () => {
  store([]);
  conversation = "";
  drawHistory();
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
theme = Object.hasOwn(THEMES, recall("theme") ?? "") ? recall("theme") : "system";
speak(recall("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
$("question").focus();
findModel();
