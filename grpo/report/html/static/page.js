"use strict";
// Starts the page: colours, curves at once, completions as soon as their index is open.

const THEMES = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");

themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  themeButton.textContent = next[0].toUpperCase() + next.slice(1);
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

/** Marks the section in view in the navigation. */
function followSections() {
  const links = new Map([...document.querySelectorAll(".top nav a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        links.forEach((link) => link.classList.remove("here"));
        links.get(entry.target.id).classList.add("here");
      }
    },
    { rootMargin: "-20% 0px -75% 0px" },
  );
  for (const name of links.keys()) watch.observe(document.getElementById(name));
}

/** What the browser holds, in words. */
function extentText() {
  const parts = [];
  page.kept.forEach(({ trained, evaluated }, number) => {
    const who = several ? `${page.runs[number].label}: ` : "";
    for (const [name, { written, kept }] of [["training", trained], ["evaluated", evaluated]]) {
      if (!written) continue;
      if (kept === written) parts.push(`${who}all ${grouped(kept)} ${name} completions`);
      else parts.push(`${who}${grouped(kept)} of ${grouped(written)} ${name} completions, whole groups evenly spaced`);
    }
  });
  return parts.length ? `This page holds ${parts.join("; ")}.` : "No completion was written yet.";
}

async function start() {
  curveTools();
  drawAll();
  new ResizeObserver(resized).observe(document.body);
  followSections();
  document.getElementById("extent").textContent = extentText();
  if (typeof DecompressionStream === "undefined") {
    browser.place.replaceChildren("This browser is too old to open the completions: it has no DecompressionStream.");
    return;
  }
  await loadIndex();
  if (browser.facts.length) {
    buildBrowser();
    await refresh();
  }
  document.documentElement.dataset.ready = "true";
}

start();
