"use strict";
// Shows what a model wrote: reasoning folded, matches marked, tokens tinted, long text cut until it is asked for.

const LONG = 8000;
const MOST_MARKS = 500;
const FINE_LOGP = -0.05;
const POOR_LOGP = -4;

/** The pieces of a completion, {text, start, isThinking, isOpen}, by <think> tags; the prompt may have opened one. */
function piecesOf(text, prompt) {
  const pieces = [];
  let isThinking = prompt.trimEnd().endsWith("<think>");
  let place = 0;
  const add = (end, isOpen = false) => {
    if (end > place) pieces.push({ text: text.slice(place, end), start: place, isThinking, isOpen });
    place = end;
  };
  while (place < text.length) {
    const tag = isThinking ? "</think>" : "<think>";
    const found = text.indexOf(tag, place);
    if (found < 0) {
      add(text.length, isThinking);
      break;
    }
    add(isThinking ? found + tag.length : found);
    isThinking = !isThinking;
  }
  return pieces;
}

/** What finds `query` in a text, in any case; null for nothing to find. */
function finder(query) {
  return query ? new RegExp(query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu") : null;
}

/** Text nodes and marks for `text`. */
function marked(text, find) {
  if (!find) return [text];
  const nodes = [];
  let place = 0;
  find.lastIndex = 0;
  for (const match of text.matchAll(find)) {
    if (nodes.length > 2 * MOST_MARKS) break;
    nodes.push(text.slice(place, match.index), element("mark", {}, match[0]));
    place = match.index + match[0].length;
  }
  nodes.push(text.slice(place));
  return nodes;
}

/** A block of text that opens to its whole length on demand. */
function textBlock(text, fill) {
  const block = element("pre", { class: "text" });
  if (text.length <= LONG) {
    block.append(...fill(0, text.length));
    return [block];
  }
  block.append(...fill(0, LONG), "…");
  const button = element("button", { type: "button", class: "quiet" }, `Show all ${grouped(text.length)} characters`);
  button.addEventListener("click", () => {
    block.replaceChildren(...fill(0, text.length));
    button.remove();
  });
  return [block, button];
}

/** The completion of `row` as elements; `tint` is "", "logps" or "advantages". */
function completionNodes(row, { find = null, tint = "", readout = null, unfolded = false } = {}) {
  const tokens = tint ? tokensOf(row) : null;
  const nodes = [];
  for (const piece of piecesOf(row.completion, row.prompt)) {
    const fill = (from, to) => {
      const start = piece.start + from;
      if (tint) return tintedNodes(row, tokens, start, piece.start + to, tint, readout);
      return marked(piece.text.slice(from, to), find);
    };
    const shown = textBlock(piece.text, fill);
    if (!piece.isThinking) {
      nodes.push(...shown);
      continue;
    }
    const found = find && piece.text.search(find) >= 0;
    const size = `${grouped(piece.text.length)} characters${piece.isOpen ? ", never closed" : ""}`;
    nodes.push(element("details", { class: "think", open: Boolean(unfolded || tint || found) }, element("summary", {}, `Thinking, ${size}`), ...shown));
  }
  if (!row.completion) nodes.push(element("p", { class: "hint" }, "(empty)"));
  if (row.length > row.completion.length) nodes.push(element("p", { class: "hint" }, `Cut here for this page; the whole completion has ${grouped(row.length)} characters.`));
  return nodes;
}

// ---- tokens -------------------------------------------------------------------------------------------------------

/** Where each token ends, in UTF-16 units; null where tokens were not kept. Their lengths count characters. */
function tokensOf(row) {
  const lengths = row.verdicts.tokens?.lengths;
  if (!lengths) return null;
  const ends = [];
  let unit = 0;
  for (const length of lengths) {
    for (let left = length; left > 0; left--) unit += row.completion.codePointAt(unit) > 0xffff ? 2 : 1;
    ends.push(unit);
  }
  return ends;
}

/** What colours a value: a log-prob the stronger the less expected its token was; an advantage blue above 0, orange below. */
function colouring(tint) {
  const high = themeColour("--right");
  const low = themeColour("--wrong");
  if (tint === "logps") {
    return (logp) => faint(low, 0.75 * Math.sqrt(Math.min(1, Math.max(0, (logp - FINE_LOGP) / (POOR_LOGP - FINE_LOGP)))));
  }
  return (value) => (value ? faint(value > 0 ? high : low, 0.08 + 0.4 * Math.min(1, Math.abs(value) / 2)) : "transparent");
}

function tintedNodes(row, ends, from, to, tint, readout) {
  const values = tint === "logps" ? row.verdicts.tokens?.logps : row.verdicts.tokens?.advantages;
  const colourOf = colouring(tint);
  if (!ends || !values) {
    const whole = element("span", { class: "tinted" }, row.completion.slice(from, to));
    whole.style.background = tint === "advantages" ? colourOf(row.advantage ?? 0) : "none";
    return [whole];
  }
  const nodes = [];
  let start = 0;
  ends.forEach((end, number) => {
    const low = Math.max(start, from);
    const high = Math.min(end, to);
    start = end;
    if (high <= low) return;
    const value = values[number] ?? 0;
    const token = element("span", { class: "tinted" }, row.completion.slice(low, high));
    token.style.background = colourOf(value);
    const says = tint === "logps" ? `log-prob ${plain(value)}, probability ${plain(100 * Math.exp(value))}${THIN}%` : `advantage ${plain(value)}`;
    token.title = says;
    if (readout) token.addEventListener("pointerenter", () => (readout.textContent = `token ${number + 1} of ${ends.length}: ${says}`));
    nodes.push(token);
  });
  return nodes;
}
