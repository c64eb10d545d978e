"use strict";
// Markdown as elements. Nothing of a text becomes markup: elements are made one by one, and
// what is in them is set as text. Images are not loaded; links are to the web or to mail.

const LINK_SCHEMES = /^(ht+ps?|mailto):$/;
const INLINE = /(`+)([\s\S]+?)\1|\*\*([\s\S]+?)\*\*|\*([^\s*][^*\n]*?)\*|(?<!!)\[([^\]\n]{1,500})\]\(([^()\s]{1,2000})\)/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

function element(name, text) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  return node;
}

function link(text, address) {
  let url;
  try {
    url = new URL(address);
  } catch {}
  if (!url || !LINK_SCHEMES.test(url.protocol)) return document.createTextNode(`[${text}](${address})`);
  const node = element("a", text);
  node.href = url.href;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return node;
}

function inline(parent, text) {
  let rest = text;
  for (let found; (found = INLINE.exec(rest)); rest = rest.slice(found.index + found[0].length)) {
    parent.append(rest.slice(0, found.index));
    const [, ticks, code, bold, emphasis, label, address] = found;
    if (ticks) parent.append(element("code", code.trim() || code));
    else if (bold) inline(parent.appendChild(element("strong")), bold);
    else if (emphasis) inline(parent.appendChild(element("em")), emphasis);
    else parent.append(link(label, address));
  }
  parent.append(rest);
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function tableRow(line, kind) {
  const row = element("tr");
  for (const cell of cells(line)) inline(row.appendChild(element(kind)), cell);
  return row;
}

// Takes the lines of one block from the front of `lines` and returns its element.
function block(lines) {
  const line = lines.shift();
  const fence = /^\s*(```+|~~~+)\s*([\w+#.-]*)/.exec(line);
  if (fence) {
    const code = [];
    while (lines.length && !lines[0].trim().startsWith(fence[1])) code.push(lines.shift());
    lines.shift();
    const pre = element("pre");
    if (fence[2]) pre.dataset.language = fence[2];
    pre.tabIndex = 0; // it scrolls
    pre.append(element("code", code.join("\n")));
    return pre;
  }
  const heading = /^(#{1,6})\s+(.*)$/.exec(line);
  if (heading) {
    // Above them stand the page's own two.
    const node = element(`h${Math.min(heading[1].length + 2, 6)}`);
    inline(node, heading[2]);
    return node;
  }
  if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) return element("hr");
  if (line.startsWith(">")) {
    const quoted = [line];
    while (lines.length && lines[0].startsWith(">")) quoted.push(lines.shift());
    const node = element("blockquote");
    blocks(node, quoted.map((each) => each.replace(/^> ?/, "")));
    return node;
  }
  if (ITEM.test(line)) return list(line, lines);
  if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[0] ?? "")) {
    lines.shift();
    const table = element("table");
    table.append(tableRow(line, "th"));
    while (lines.length && lines[0].includes("|")) table.append(tableRow(lines.shift(), "td"));
    return table;
  }
  const paragraph = [line];
  while (lines.length && lines[0].trim() && !/^(\s*(```|~~~)|#{1,6}\s|>)/.test(lines[0]) && !ITEM.test(lines[0])) {
    paragraph.push(lines.shift());
  }
  const node = element("p");
  inline(node, paragraph.join("\n"));
  return node;
}

function list(line, lines) {
  const [, indent, mark] = ITEM.exec(line);
  const ordered = /\d/.test(mark);
  const node = element(ordered ? "ol" : "ul");
  if (ordered) node.start = parseInt(mark, 10);
  lines.unshift(line);
  for (;;) {
    const found = ITEM.exec(lines[0] ?? "");
    if (!found || found[1].length !== indent.length || /\d/.test(found[2]) !== ordered) return node;
    lines.shift();
    const inner = [found[3]];
    // What is indented further belongs to the item.
    while (lines.length && lines[0].search(/\S/) > indent.length) {
      inner.push(lines.shift().slice(indent.length + 2));
    }
    blocks(node.appendChild(element("li")), inner);
  }
}

function blocks(parent, lines) {
  const left = [...lines];
  while (left.length) {
    if (left[0].trim()) parent.append(block(left));
    else left.shift();
  }
}

// Shows a text as Markdown in an element.
function showMarkdown(node, text) {
  node.replaceChildren();
  blocks(node, text.split("\n"));
}
