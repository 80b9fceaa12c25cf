"use strict";
// The page's data, and the only ways in which elements are made. Text of a model becomes text nodes, never markup.

const page = JSON.parse(document.getElementById("data").textContent);

/** An element with properties, and children that are elements or texts. `data` and `aria` are by name. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (name.startsWith("aria-") || name === "for" || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The value in base64 of deflated JSON. */
async function inflated(text) {
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let place = 0; place < binary.length; place++) bytes[place] = binary.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

const blockElements = document.getElementsByClassName("block");
const openedBlocks = new Map();

/** A block of texts, opened once: {prompts, rows} with rows [prompt, completion, its whole length, verdicts]. */
function openBlock(number) {
  if (!openedBlocks.has(number)) openedBlocks.set(number, inflated(blockElements[number].textContent));
  return openedBlocks.get(number);
}

// ---- numbers as people read them --------------------------------------------------------------------------------

const MINUS = "\u2212";
const THIN = "\u202f";

function grouped(number) {
  return number.toLocaleString("en-US");
}

function plain(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-3 ? value.toExponential(digits - 1).replace("e+", "e") : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", MINUS);
}

function short(value, digits = 3) {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (Math.abs(value) >= size) return plain(value / size, digits) + THIN + unit;
  }
  return plain(value, digits);
}

function duration(seconds, digits = 3) {
  if (seconds < 300) return plain(seconds, digits) + THIN + "s";
  if (seconds < 7200) return plain(seconds / 60, digits) + THIN + "min";
  return plain(seconds / 3600, digits) + THIN + "h";
}

const FORMATS = {
  percent: (value, digits) => plain(100 * value, digits) + THIN + "%",
  number: plain,
  tokens: short,
  seconds: duration,
  tiny: (value) => plain(value, 2),
};
