"use strict";
// Draws the charts with uPlot: by step, tokens or time, each run in its colour, bands, smoothing, a legend that reads.

const AXES = {
  step: { label: "steps", format: (value) => grouped(value) },
  tokens: { label: "tokens", format: (value) => short(value, 4) },
  seconds: { label: "time", format: (value) => duration(value, 4) },
};
const WHOLE = [0, 1, 2, 3, 4, 5, 6, 7].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
const SMOOTH_FROM = 30;
const HEIGHT = 210;
const several = page.runs.length > 1;
const drawing = { axis: "step", smooth: true, plots: [] };

function themeColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** `colour` (#rrggbb) with an opacity. */
function faint(colour, opacity) {
  const [red, green, blue] = [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  return `rgba(${red},${green},${blue},${opacity})`;
}

/** Where steps of a run lie on the axis; a step that has no record lies where the last one before it does. */
function placed(run, steps) {
  const axes = page.runs[run].axes;
  const values = axes[drawing.axis];
  if (drawing.axis === "step") return steps;
  const place = new Map(axes.step.map((step, index) => [step, index]));
  let last = 0;
  return steps.map((step) => values[(last = place.has(step) ? place.get(step) : last)]);
}

/** Means over a window around each value, over those that are there. */
function smoothed(values) {
  const half = Math.max(1, Math.round(values.length / 40));
  return values.map((value, place) => {
    if (value === null) return null;
    const near = values.slice(Math.max(0, place - half), place + half + 1).filter((each) => each !== null);
    return near.reduce((sum, each) => sum + each, 0) / near.length;
  });
}

/** The lines of a chart as they are drawn: stacked, or of the whole alone where several runs are compared. */
function linesOf(chart) {
  if (!chart.stacked) return chart.series.map((series) => ({ ...series, shown: series.y }));
  if (several) return chart.series.filter((series) => series.part === 0).map((series) => ({ ...series, shown: series.y }));
  const [whole, ...phases] = chart.series;
  if (!phases.length) return [{ ...whole, shown: whole.y }];
  const rest = whole.y.map((value, place) => Math.max(0, (value ?? 0) - phases.reduce((sum, each) => sum + (each.y[place] ?? 0), 0)));
  const layers = [...phases, { ...whole, part: phases.length + 1, label: "other", y: rest }];
  let below = whole.y.map(() => 0);
  return layers.map((layer) => {
    const floor = below;
    below = layer.y.map((value, place) => floor[place] + (value ?? 0));
    return { ...layer, shown: below, floor };
  });
}

/** The tables that uPlot joins, its series and bands, and what each line of the legend reads. */
function prepared(chart) {
  const tables = [];
  const series = [{}];
  const bands = [];
  const legend = [];
  const lines = linesOf(chart);
  const parts = [...new Set(lines.map((line) => line.part))];
  for (const line of lines) {
    const colour = themeColour(`--c${(several ? line.run : parts.indexOf(line.part)) % 8}`);
    const dash = several ? [[], [6, 4], [2, 3]][Math.min(2, parts.indexOf(line.part))] : [];
    const xs = placed(line.run, line.at);
    const isSmooth = drawing.smooth && !line.points && !line.floor && line.y.length >= SMOOTH_FROM && chart.scale !== "log";
    const own = [];
    const add = (values, look) => {
      tables.push([xs, values]);
      series.push({ spanGaps: true, points: { show: false }, ...look });
      own.push(series.length - 1);
      return series.length - 1;
    };
    if (line.low) {
      const high = add(line.high, { stroke: "transparent", width: 0 });
      const low = add(line.low, { stroke: "transparent", width: 0 });
      bands.push({ series: [high, low], fill: faint(colour, 0.16) });
    }
    if (line.floor) {
      const top = add(line.shown, { stroke: colour, width: 1 });
      const floor = add(line.floor, { stroke: "transparent", width: 0 });
      bands.push({ series: [top, floor], fill: faint(colour, 0.5) });
    } else {
      if (isSmooth && !several) add(line.shown, { stroke: faint(colour, 0.28), width: 1 });
      add(isSmooth ? smoothed(line.shown) : line.shown, {
        stroke: colour,
        width: 2,
        dash,
        points: line.points || line.y.length === 1 ? { show: true, size: 7, fill: colour, stroke: themeColour("--paper"), width: 1 } : { show: false },
      });
    }
    legend.push({ line, colour, dash: several ? Math.min(2, parts.indexOf(line.part)) : 0, own, xs });
  }
  return { data: uPlot.join(tables), series, bands, legend };
}

/** The range of the y axis: what is drawn with a margin; from 0 on where that is the natural floor; shares to 1. */
function rangeOf(chart) {
  return (plot, low, high) => {
    if (low === null || high === null) return [0, 1];
    const isFlat = high - low <= 1e-6 * Math.abs(high);
    const margin = isFlat ? Math.abs(high) * 0.1 || 0.1 : (high - low) * 0.06;
    let bottom = low - margin;
    if (low >= 0 && (chart.scale === "zero" || chart.unit === "percent" || bottom < 0)) bottom = Math.min(0, low);
    if (chart.unit === "percent" && low > 0.25) bottom = Math.max(0, low - margin);
    const top = high + margin;
    return [bottom, chart.unit === "percent" ? Math.min(1.0, Math.max(top, 0.01)) : top];
  };
}

/** Of the splits of a logarithmic axis, the powers of ten alone. */
function decades(plot, splits) {
  return splits.map((value) => (value !== null && Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-6 ? value : null));
}

function optionsOf(chart, { series, bands, legend }, width, show) {
  const muted = themeColour("--muted");
  const grid = { stroke: themeColour("--line"), width: 1 };
  const format = FORMATS[chart.unit] ?? plain;
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const isLog = chart.scale === "log";
  return {
    width,
    height: HEIGHT,
    series,
    bands,
    legend: { show: false },
    cursor: { sync: { key: "report", setSeries: false, scales: ["x", null] }, points: { show: false }, drag: { x: true, y: false }, y: false },
    scales: { x: { time: false }, y: isLog ? { distr: 3 } : { range: rangeOf(chart) } },
    padding: [8, 10, 0, 0],
    axes: [
      { stroke: muted, grid: { show: false }, ticks: { ...grid, size: 4 }, font, size: 28, gap: 3, space: 60, ...(drawing.axis === "step" ? { incrs: WHOLE } : {}), values: (plot, splits) => splits.map(AXES[drawing.axis].format) },
      {
        stroke: muted, grid: isLog ? { ...grid, filter: decades } : grid, filter: isLog ? decades : undefined, ticks: { show: false }, font, gap: 4, space: isLog ? 24 : 34,
        values: (plot, splits) => splits.map((value) => (value === null ? "" : isLog ? plain(value, 1) : format(value, 4))),
        size: (plot, values) => 12 + 6.9 * Math.max(3, ...(values ?? []).map((value) => value.length)),
      },
    ],
    hooks: { setCursor: [(plot) => show(plot.cursor.idx)] },
  };
}

/** The value of a line at the cursor, or its last one: the nearest that is there, on the left first. */
function readAt(entry, xs, index) {
  const values = entry.line.y;
  const at = index === null || index === undefined ? Infinity : xs[index];
  let found = null;
  for (let place = 0; place < values.length; place++) {
    if (entry.xs[place] > at && found !== null) break;
    if (values[place] !== null) found = values[place];
  }
  return found;
}

/** What the legend names: each line, or of several runs with several lines each, the runs and then the lines. */
function legendKeys(entries) {
  const labels = [...new Set(entries.map((entry) => entry.line.label))];
  const runs = [...new Set(entries.map((entry) => entry.line.run))];
  const name = (entry) => (several ? page.runs[entry.line.run].label : entry.line.label);
  if (!several || labels.length === 1) {
    return entries.map((entry) => ({ name: name(entry), colour: entry.colour, dash: 0, read: entry, of: [entry] }));
  }
  const byRun = runs.map((run) => {
    const of = entries.filter((entry) => entry.line.run === run);
    return { name: name(of[0]), colour: of[0].colour, dash: 0, read: of[0], of };
  });
  const byLabel = labels.map((label) => {
    const of = entries.filter((entry) => entry.line.label === label);
    return { name: label, colour: themeColour("--muted"), dash: of[0].dash, read: null, of };
  });
  return [...byRun, ...byLabel];
}

function legendOf(chart, entries, plotOf) {
  const format = FORMATS[chart.unit] ?? plain;
  const hidden = new Set();
  const keys = legendKeys(entries);
  const values = keys.map(() => element("span", { class: "value" }));
  const buttons = keys.map((key, place) => {
    const line = element("span", { class: `line dash-${key.dash}` });
    line.style.borderTopColor = key.colour;
    const button = element("button", { type: "button", "aria-pressed": "true" }, line, element("span", {}, key.name), key.read ? values[place] : null);
    button.addEventListener("click", () => {
      if (!hidden.delete(key)) hidden.add(key);
      button.setAttribute("aria-pressed", String(!hidden.has(key)));
      plotOf().batch(() => {
        for (const entry of entries) {
          const show = ![...hidden].some((each) => each.of.includes(entry));
          entry.own.forEach((index) => plotOf().setSeries(index, { show }));
        }
      });
    });
    return button;
  });
  const show = (index) => {
    const xs = plotOf()?.data[0] ?? [];
    keys.forEach((key, place) => {
      if (!key.read) return;
      const value = readAt(key.read, xs, index);
      values[place].textContent = value === null ? "–" : format(value);
    });
  };
  return { node: element("div", { class: "legend" }, ...buttons), show };
}

function drawChart(figure, chart) {
  const made = prepared(chart);
  let plot = null;
  const legend = legendOf(chart, made.legend, () => plot);
  const room = element("div", { class: "plot" });
  figure.replaceChildren(element("h3", {}, chart.title), element("figcaption", {}, chart.stacked && several ? "of the whole step" : chart.note), legend.node, room);
  plot = new uPlot(optionsOf(chart, made, room.clientWidth || 320, legend.show), made.data, room);
  legend.show(null);
  drawing.plots.push({ plot, room });
}

function drawAll() {
  drawing.plots.splice(0).forEach(({ plot }) => plot.destroy());
  for (const [section, place] of [["curves", "curve-charts"], ["words", "word-charts"]]) {
    const charts = page.charts.filter((chart) => chart.section === section);
    const figures = charts.map((chart) => element("figure", { class: "chart" }));
    document.getElementById(place).replaceChildren(...figures);
    charts.forEach((chart, number) => {
      figures[number].dataset.chart = chart.key;
      drawChart(figures[number], chart);
    });
    if (!charts.length) document.getElementById(place).replaceChildren(element("p", {}, "No step is done yet."));
  }
}

function curveTools() {
  const buttons = Object.entries(AXES).map(([name, { label }]) =>
    element("button", {
      type: "button",
      "aria-pressed": String(name === drawing.axis),
      on: {
        click: (event) => {
          drawing.axis = name;
          buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === event.currentTarget)));
          drawAll();
        },
      },
    }, label),
  );
  const smooth = element("input", { type: "checkbox", checked: drawing.smooth, on: { change: () => { drawing.smooth = smooth.checked; drawAll(); } } });
  const tools = [element("div", { class: "segments", role: "group", "aria-label": "Horizontal axis" }, ...buttons)];
  const isLong = page.charts.some((chart) => chart.series.some((series) => !series.points && series.y.length >= SMOOTH_FROM));
  if (isLong) tools.push(element("label", {}, smooth, "smooth"));
  document.getElementById("curve-tools").replaceChildren(...tools);
}

let lastWidth = 0;
function resized() {
  if (document.body.clientWidth === lastWidth) return;
  lastWidth = document.body.clientWidth;
  drawing.plots.forEach(({ plot, room }) => plot.setSize({ width: room.clientWidth, height: HEIGHT }));
}
