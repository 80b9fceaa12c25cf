"use strict";
// The browser of completions: an index to filter and sort by, texts opened block by block, one prompt over training.

const PAGE_ROWS = 25;
const TRAINING = "";
const HELD_OUT = "heldout";
const ORDERS = {
  newest: ["newest step", (a, b) => b.step - a.step],
  oldest: ["oldest step", (a, b) => a.step - b.step],
  best: ["highest reward", (a, b) => (b.reward ?? -Infinity) - (a.reward ?? -Infinity)],
  worst: ["lowest reward", (a, b) => (a.reward ?? Infinity) - (b.reward ?? Infinity)],
  longest: ["longest", (a, b) => b.tokens - a.tokens],
  shortest: ["shortest", (a, b) => a.tokens - b.tokens],
  telling: ["largest advantage", (a, b) => Math.abs(b.advantage ?? 0) - Math.abs(a.advantage ?? 0)],
};
const VERDICTS = { right: "right", wrong: "wrong", none: "not judged" };
const OUTCOME_WORDS = { flat: "zero-variance group", truncated_masked: "truncated, masked", correction_masked: "correction masked" };

const browser = { facts: [], found: [], shown: 0, query: "", tint: "", turn: 0, place: document.getElementById("browser") };

function setName(name) {
  return name === TRAINING ? "training" : name === HELD_OUT ? "held-out" : name;
}

function verdictOf(fact) {
  return fact.right === null ? "none" : fact.right ? "right" : "wrong";
}

/** The index as one object a completion, with its block and its place in it. */
async function loadIndex() {
  const { words, columns, sizes } = await inflated(document.getElementById("index").textContent);
  const texts = ["set", "prompt", "source", "finish", "status", "outcome"];
  const names = Object.keys(columns);
  let block = 0;
  let left = sizes[0] ?? 0;
  for (let number = 0; number < columns.run.length; number++) {
    while (!left) left = sizes[++block];
    const fact = { number, block, place: sizes[block] - left };
    for (const name of names) fact[name] = columns[name][number];
    for (const name of texts) fact[name] = words[fact[name]];
    left--;
    browser.facts.push(fact);
  }
}

/** A completion with its texts: its facts, prompt, completion, its whole length, and the verdicts of the rewards. */
async function openRow(fact) {
  const { prompts, rows } = await openBlock(fact.block);
  const [prompt, completion, length, verdicts] = rows[fact.place];
  return { ...fact, prompt: prompts[prompt], promptId: fact.prompt, completion, length, verdicts };
}

// ---- filters ------------------------------------------------------------------------------------------------------

function distinct(name) {
  return [...new Set(browser.facts.map((fact) => fact[name]))].filter((value) => value !== "" || name === "set");
}

/** A select that keeps what it chose; null where there is nothing to choose between. */
function chooser(label, name, options, matches) {
  if (options.length < 2) return null;
  const select = element("select", { name }, element("option", { value: "\u0000" }, "all"), ...options.map(([value, text]) => element("option", { value }, text)));
  select.addEventListener("change", refresh);
  return { node: element("label", {}, label, select), clear: () => (select.value = "\u0000"), test: (fact) => select.value === "\u0000" || matches(fact, select.value) };
}

/** Two numbers, least and most; empty bounds nothing. */
function bounds(label, name, valueOf) {
  const inputs = ["from", "to"].map((end) => element("input", { type: "number", step: "any", name: `${name}-${end}`, placeholder: end, "aria-label": `${label} ${end}`, on: { input: later } }));
  const test = (fact) => {
    const [low, high] = inputs.map((input) => (input.value === "" ? null : Number(input.value)));
    if (low === null && high === null) return true;
    const value = valueOf(fact);
    return value !== null && (low === null || value >= low) && (high === null || value <= high);
  };
  return { node: element("label", {}, label, element("span", { class: "pair" }, ...inputs)), clear: () => inputs.forEach((input) => (input.value = "")), test };
}

function makeFilters() {
  const named = (name, words = {}) => distinct(name).map((value) => [value, words[value] ?? value]);
  const equal = (name) => (fact, value) => fact[name] === value;
  return [
    chooser("from", "set", distinct("set").map((name) => [name, setName(name)]), equal("set")),
    several ? chooser("run", "run", page.runs.map((run, number) => [String(number), run.label]), (fact, value) => fact.run === Number(value)) : null,
    chooser("verdict", "verdict", Object.entries(VERDICTS).filter(([name]) => browser.facts.some((fact) => verdictOf(fact) === name)), (fact, value) => verdictOf(fact) === value),
    chooser("status", "status", named("status"), equal("status")),
    chooser("finish", "finish", named("finish"), equal("finish")),
    chooser("source", "source", named("source"), equal("source")),
    chooser("outcome", "outcome", named("outcome", OUTCOME_WORDS), equal("outcome")),
    bounds("step", "step", (fact) => fact.step),
    bounds("reward", "reward", (fact) => fact.reward),
    bounds("length in tokens", "tokens", (fact) => fact.tokens),
  ].filter((filter) => filter !== null);
}

function buildBrowser() {
  const search = element("input", { type: "search", name: "query", placeholder: "in completions and prompts", autocomplete: "off", on: { input: later } });
  const order = element("select", { name: "order", on: { change: refresh } }, ...Object.entries(ORDERS).map(([name, [text]]) => element("option", { value: name }, text)));
  const filters = makeFilters();
  const clear = () => {
    search.value = "";
    filters.forEach((filter) => filter.clear());
    refresh();
  };
  Object.assign(browser, { search, order, filters, summary: element("div", { class: "found", role: "status" }), rows: element("div", { class: "rows" }), more: element("button", { type: "button", class: "quiet more", on: { click: showMore } }) });
  browser.place.replaceChildren(
    element("div", { class: "search" }, element("label", {}, "search", search), element("button", { type: "button", class: "quiet", on: { click: clear } }, "Clear")),
    element("details", { class: "more-filters", open: window.innerWidth > 640 }, element("summary", {}, "Filters and order"), element("div", { class: "filters" }, ...filters.map((filter) => filter.node), element("label", {}, "first", order))),
    browser.summary,
    browser.rows,
    browser.more,
  );
}

let waiting = null;
function later() {
  clearTimeout(waiting);
  waiting = setTimeout(refresh, 200);
}

/** Those of `facts` whose completion or prompt holds the query; null if another search began meanwhile. */
async function searched(facts, find, turn) {
  const found = [];
  let done = 0;
  const byBlock = Map.groupBy ? Map.groupBy(facts, (fact) => fact.block) : groupedBy(facts, (fact) => fact.block);
  for (const [block, inBlock] of byBlock) {
    const { prompts, rows } = await openBlock(block);
    if (turn !== browser.turn) return null;
    const holds = prompts.map((prompt) => prompt.search(find) >= 0);
    for (const fact of inBlock) {
      const [prompt, completion] = rows[fact.place];
      if (holds[prompt] || completion.search(find) >= 0) found.push(fact);
    }
    done += inBlock.length;
    if (byBlock.size > 8) browser.summary.replaceChildren(`searched ${grouped(done)} of ${grouped(facts.length)} …`);
  }
  return found;
}

function groupedBy(values, keyOf) {
  const groups = new Map();
  for (const value of values) {
    const key = keyOf(value);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(value);
  }
  return groups;
}

async function refresh() {
  const turn = ++browser.turn;
  browser.query = browser.search.value.trim();
  browser.find = finder(browser.query);
  let found = browser.facts.filter((fact) => browser.filters.every((filter) => filter.test(fact)));
  if (browser.find) found = await searched(found, browser.find, turn);
  if (found === null || turn !== browser.turn) return;
  const compare = ORDERS[browser.order.value][1];
  browser.found = found.sort((a, b) => compare(a, b) || a.number - b.number);
  browser.shown = 0;
  browser.rows.replaceChildren();
  summarise();
  await showMore();
  browser.place.dataset.shown = String(turn);
}

function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

function summarise() {
  const found = browser.found;
  const rewards = found.map((fact) => fact.reward).filter((value) => value !== null);
  const judged = found.filter((fact) => fact.right !== null);
  const parts = [element("b", {}, `${grouped(found.length)} of ${grouped(browser.facts.length)} completions`)];
  if (rewards.length) parts.push(element("span", {}, `mean reward ${plain(mean(rewards))}`));
  if (judged.length) parts.push(element("span", {}, `${plain(100 * mean(judged.map((fact) => fact.right)))}${THIN}% right`));
  if (found.length) parts.push(element("span", {}, `mean length ${plain(mean(found.map((fact) => fact.tokens)))}`));
  browser.summary.replaceChildren(...parts);
}

async function showMore() {
  const turn = browser.turn;
  const facts = browser.found.slice(browser.shown, browser.shown + PAGE_ROWS);
  const rows = await Promise.all(facts.map(openRow));
  if (turn !== browser.turn) return;
  browser.shown += facts.length;
  browser.rows.append(...rows.map(rowNode));
  const left = browser.found.length - browser.shown;
  browser.more.hidden = left <= 0;
  browser.more.textContent = `Show ${Math.min(left, PAGE_ROWS)} more of ${grouped(left)}`;
}

// ---- one completion -----------------------------------------------------------------------------------------------

function factsLine(row, { isCell = false } = {}) {
  const verdict = verdictOf(row);
  const items = [];
  if (verdict !== "none") items.push(element("span", { class: "verdict" }, verdict === "right" ? "✓ right" : "✗ wrong"));
  items.push(element("span", { class: "reward" }, `reward ${plain(row.reward)}`));
  if (!isCell) {
    if (several) items.push(element("span", {}, page.runs[row.run].label));
    items.push(element("span", {}, `${setName(row.set)}, step ${row.step}`), element("span", {}, row.promptId));
  }
  items.push(element("span", {}, `${grouped(row.tokens)} tokens`));
  if (row.finish && row.finish !== "stop") items.push(element("span", { class: "odd" }, `finish: ${row.finish}`));
  if (row.status && row.status !== "scored") items.push(element("span", { class: "odd" }, row.status.replaceAll("_", " ")));
  if (row.advantage !== null && !isCell) items.push(element("span", {}, `advantage ${plain(row.advantage)}`));
  if (row.outcome && row.outcome !== "trained") items.push(element("span", {}, OUTCOME_WORDS[row.outcome] ?? row.outcome));
  return element("div", { class: "facts-line" }, ...items);
}

function rowNode(row) {
  const preview = element("div", { class: "preview" }, ...marked(previewOf(row), browser.find));
  const node = element("details", { class: `row ${verdictOf(row)}` }, element("summary", {}, factsLine(row), preview));
  node.dataset.number = row.number;
  node.addEventListener("toggle", () => {
    if (node.open && node.children.length === 1) node.append(bodyOf(row));
  });
  return node;
}

/** A line of the completion: around the first match, else its beginning. */
function previewOf(row) {
  const place = browser.find ? row.completion.search(browser.find) : -1;
  const start = Math.max(0, place - 40);
  const line = row.completion.slice(start, start + 240).replace(/\s+/g, " ");
  return (start ? "…" : "") + line;
}

function bodyOf(row) {
  const completion = element("div", { class: "completion" });
  const readout = element("span", { class: "readout" });
  const draw = (tint) => completion.replaceChildren(element("h4", {}, "completion"), ...completionNodes(row, { find: browser.find, tint, readout }));
  draw("");
  const prompt = element("div", { class: "prompt" }, element("h4", {}, "prompt"), ...textBlock(row.prompt, (from, to) => marked(row.prompt.slice(from, to), browser.find)));
  return element("div", { class: "body" }, prompt, completion, ...whyNodes(row), actionsOf(row, draw, readout));
}

function actionsOf(row, draw, readout) {
  const button = element("button", { type: "button", class: "quiet", on: { click: () => overTraining(row) } }, "This prompt over training");
  const tints = [["", "no tint"]];
  if (row.verdicts.tokens?.logps) tints.push(["logps", "tint by log-prob"]);
  if (row.advantage !== null) tints.push(["advantages", "tint by advantage"]);
  if (tints.length === 1) return element("div", { class: "actions" }, button);
  const ramp = element("span", {});
  const select = element("select", { "aria-label": "Tint of the tokens" }, ...tints.map(([value, text]) => element("option", { value }, text)));
  select.addEventListener("change", () => {
    draw(select.value);
    readout.textContent = "";
    const ends = { logps: ["expected", "surprising"], advantages: ["discouraged", "encouraged"] }[select.value];
    ramp.replaceChildren(...(ends ? [ends[0], element("span", { class: `ramp ${select.value}` }), ends[1]] : []));
  });
  return element("div", { class: "actions" }, button, select, ramp, readout);
}

/** What each reward said: value, status, extracted answer, why; and a program's tests one by one. */
function whyNodes(row) {
  const { parts = {}, statuses = {}, detail = {}, reported = {}, extracted = {} } = row.verdicts;
  const names = [...new Set([...Object.keys(parts), ...Object.keys(detail)])];
  if (!names.length) return [];
  const lines = names.map((name) => {
    const status = statuses[name] && statuses[name] !== "scored" ? statuses[name].replaceAll("_", " ") : "";
    const isSaid = extracted[name] === undefined || (detail[name] ?? "").includes(extracted[name]);
    const says = [isSaid ? "" : `read: ${extracted[name]}`, detail[name] ?? ""].filter(Boolean).join(" · ");
    return element("tr", {}, element("th", {}, name || "reward"), element("td", {}, name in parts ? plain(parts[name]) : ""), element("td", {}, [status, says].filter(Boolean).join(" · ")));
  });
  const nodes = [element("div", {}, element("h4", {}, "why this reward"), element("table", { class: "why" }, element("tbody", {}, ...lines)))];
  for (const [name, numbers] of Object.entries(reported)) nodes.push(...reportedNodes(name, numbers));
  return nodes;
}

function reportedNodes(name, numbers) {
  const entries = Object.entries(numbers);
  const tests = entries.filter(([key]) => /^test_\d+$/.test(key));
  const others = entries.filter(([key]) => !/^test_\d+$/.test(key));
  const nodes = [];
  if (tests.length) {
    const chips = tests.map(([key, value]) => {
      const state = value === null ? ["", "not run"] : value >= 1 ? ["passed", "✓"] : ["failed", "✗"];
      return element("span", { class: `test ${state[0]}` }, `${key.slice(5)} ${state[1]}`);
    });
    const passed = tests.filter(([, value]) => value >= 1).length;
    nodes.push(element("div", {}, element("h4", {}, `${name}: ${passed} of ${tests.length} tests pass`), element("div", { class: "tests" }, ...chips)));
  }
  if (others.length) nodes.push(element("div", { class: "facts-line" }, `${name}:`, ...others.map(([key, value]) => element("span", {}, `${key} ${plain(value)}`))));
  return nodes;
}

// ---- one prompt over training -------------------------------------------------------------------------------------

const dialog = document.getElementById("over-training");

/** All completions of a row's prompt, in columns by run and step, beside each other. */
async function overTraining(row) {
  const facts = browser.facts.filter((fact) => fact.prompt === row.promptId && fact.set === row.set);
  const prompts = [...new Set(browser.facts.filter((fact) => fact.set === row.set).map((fact) => fact.prompt))];
  const rows = await Promise.all(facts.map(openRow));
  const columns = [...groupedBy(rows, (each) => `${each.run} ${each.step}`).values()].sort((a, b) => a[0].step - b[0].step || a[0].run - b[0].run);
  const step = (by) => async () => {
    const next = prompts[(prompts.indexOf(row.promptId) + by + prompts.length) % prompts.length];
    await overTraining(await openRow(browser.facts.find((fact) => fact.prompt === next && fact.set === row.set)));
  };
  dialog.replaceChildren(
    element(
      "div",
      { class: "dialog-head" },
      element("h2", {}, `${setName(row.set)} prompt ${row.promptId}`),
      element("button", { type: "button", class: "quiet", "aria-label": "Previous prompt", on: { click: step(-1) } }, "←"),
      element("button", { type: "button", class: "quiet", "aria-label": "Next prompt", on: { click: step(1) } }, "→"),
      element("button", { type: "button", class: "quiet", on: { click: () => dialog.close() } }, "Close"),
    ),
    element(
      "div",
      { class: "dialog-body" },
      element("div", { class: "prompt" }, ...textBlock(row.prompt, (from, to) => [row.prompt.slice(from, to)])),
      element("div", { class: "columns" }, ...columns.map(columnNode)),
    ),
  );
  if (!dialog.open) dialog.showModal();
}

function columnNode(rows) {
  const judged = rows.filter((row) => row.right !== null);
  const name = several ? `${page.runs[rows[0].run].label}, step ${rows[0].step}` : rows[0].step === 0 ? "before training" : `step ${rows[0].step}`;
  const says = judged.length ? `${judged.filter((row) => row.right).length} of ${judged.length} right` : `reward ${plain(mean(rows.map((row) => row.reward ?? 0)))}`;
  const cells = rows.map((row) => element("div", { class: `cell ${verdictOf(row)}` }, factsLine(row, { isCell: true }), ...completionNodes(row, { unfolded: row.completion.length < 1500 })));
  return element("div", { class: "column" }, element("h3", {}, name, " ", element("small", {}, says)), ...cells);
}
