// Kinds of charts, each from plain rows. Observable Plot draws them as SVG, so they print sharply and take the page's colours.
"use strict";

// Okabe and Ito's colours, which colour-blind eyes tell apart; page.css has one set for light and dark.
const COLORS = [1, 2, 3, 4, 5, 6, 7, 8].map((place) => `var(--series-${place})`);
const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "cross", "wye", "asterisk"];
const MAX_SERIES = COLORS.length;

// SVG gets slow beyond a few thousand marks: evenly picked ones stand for the others.
const MAX_MARKS = 2000;

function plot(width, height, options) {
  const style = { background: "transparent", fontSize: "12px", overflow: "visible" };
  const chart = Plot.plot({ width, height, style, marginLeft: LEFT, marginBottom: 42, ...options });
  // Plot names its groups, which only those with a role may be.
  for (const group of chart.querySelectorAll("g[aria-label]")) group.setAttribute("role", "group");
  return chart;
}

/** What a pointer near a mark tells; text as it is. */
function tip(rows, x, y, text, pointer = Plot.pointer) {
  return Plot.tip(rows, pointer({ x, y, title: text, fontSize: 12, lineWidth: 40, lineHeight: 1.3 }));
}

/** Evenly picked rows, `most` of them. */
function thinned(rows, most = MAX_MARKS) {
  if (rows.length <= most) return rows;
  return Array.from({ length: most }, (_, place) => rows[Math.round((place * (rows.length - 1)) / (most - 1))]);
}

const SHAPES = [
  d3.symbolCircle,
  d3.symbolSquare,
  d3.symbolTriangle,
  d3.symbolDiamond,
  d3.symbolStar,
  d3.symbolCross,
  d3.symbolWye,
  d3.symbolAsterisk,
];

/** Which colour and shape is which series. */
function legend(names, shapes = SHAPES) {
  if (names.length < 2) return null;
  const symbol = (place) => {
    const svg = d3
      .create("svg:svg")
      .attr("viewBox", "-8 -8 16 16")
      .attr("width", 14)
      .attr("height", 14)
      .attr("aria-hidden", "true");
    const shape = d3.symbol(shapes[place % shapes.length], 60)();
    svg
      .append("path")
      .attr("d", shape)
      .attr("fill", COLORS[place % MAX_SERIES])
      .attr("stroke", COLORS[place % MAX_SERIES]);
    return svg.node();
  };
  return element(
    "ul",
    { class: "legend" },
    names.map((name, place) => element("li", {}, symbol(place), ` ${name}`)),
  );
}

/** Colour of a series by its name. */
function colorOf(series) {
  return (name) => COLORS[series.indexOf(name) % MAX_SERIES];
}

/** Points with intervals over an axis, one series a colour and shape; hollow points are to be read with care.
 *
 * rows: `{x, series, median, low, high, flags, text}`; scales: Plot's options of x and y.
 */
function intervals(width, rows, scales, series) {
  const color = colorOf(series);
  const spread = scales.x.type === "point" ? Math.min(12, (width - LEFT) / scales.x.domain.length / series.length) : 0;
  const marks = series.flatMap((name, place) => {
    const own = rows.filter((row) => row.series === name);
    const dx = (place - (series.length - 1) / 2) * spread;
    const shape = {
      x: "x",
      y: "median",
      symbol: SYMBOLS[place % MAX_SERIES],
      r: 4.5,
      stroke: color(name),
      strokeWidth: 1.6,
      dx,
    };
    return [
      Plot.ruleX(
        own.filter((row) => row.low != null),
        { x: "x", y1: "low", y2: "high", stroke: color(name), strokeWidth: 1.4, dx },
      ),
      Plot.dot(
        own.filter((row) => !row.flags.length),
        { ...shape, fill: color(name) },
      ),
      Plot.dot(
        own.filter((row) => row.flags.length),
        { ...shape, fill: "var(--paper)" },
      ),
    ];
  });
  const lines =
    scales.x.type === "point"
      ? []
      : series.map((name) =>
          Plot.line(
            rows.filter((row) => row.series === name),
            { x: "x", y: "median", sort: "x", stroke: color(name), strokeOpacity: 0.5 },
          ),
        );
  return plot(width, 300, { ...roomFor(scales, width), marks: [...lines, ...marks, tip(rows, "x", "median", "text")] });
}

/** One dot a run, a line a kind, with the median of each as a bar; hollow dots are to be read with care.
 *
 * dots: `{x, y, flags, text}`; medians: `{y, median, low, high}`; scale: that of x for the room it has.
 */
function strips(width, dots, medians, scale) {
  const names = medians.map((row) => row.y);
  const places = new Map(names.map((name, place) => [name, place]));
  const many = dots.length > 20 * names.length;
  // Many dots lie beside each other, by fixed steps that never meet.
  const aside = (place) => (many ? (((place * 0.618) % 1) - 0.5) * 0.6 : 0);
  const shown = thinned(dots).map((dot, place) => ({ ...dot, at: places.get(dot.y) + aside(place) }));
  const shape = { x: "x", y: "at", r: many ? 2 : 3, stroke: "var(--series-1)", strokeOpacity: 0.7 };
  const lines = medians.map((row, place) => ({ ...row, at: place, from: place - 0.38, to: place + 0.38 }));
  const { marginLeft, y } = namesAtLeft(names, width);
  return plot(width, 60 + (many ? 48 : 30) * names.length, {
    marginLeft,
    x: scale(width - marginLeft - 20),
    y: {
      label: null,
      domain: [names.length - 0.5, -0.5],
      ticks: d3.range(names.length),
      tickFormat: (place) => y.tickFormat(names[place]),
      tickSize: 0,
    },
    marks: [
      Plot.dot(
        shown.filter((row) => !row.flags.length),
        { ...shape, fill: "var(--series-1)", fillOpacity: 0.5 },
      ),
      Plot.dot(
        shown.filter((row) => row.flags.length),
        { ...shape, fill: "var(--paper)", fillOpacity: 0.5 },
      ),
      Plot.ruleY(
        lines.filter((row) => row.low != null),
        { y: "at", x1: "low", x2: "high", stroke: "currentColor", strokeWidth: 1.5 },
      ),
      Plot.ruleX(lines, { x: "median", y1: "from", y2: "to", stroke: "currentColor", strokeWidth: 2.5 }),
      tip(shown, "x", "at", "text"),
    ],
  });
}

/** Dots on a line a row, a colour and shape a part: `{y, part, value, text}`. A bar of seconds would hide microseconds. */
function lanes(width, rows, parts, say) {
  const known = rows.filter((row) => row.value > 0);
  const names = [...new Set(rows.map((row) => row.y))];
  const color = colorOf(parts);
  const marks = parts.map((part, place) =>
    Plot.dot(
      known.filter((row) => row.part === part),
      { x: "value", y: "y", symbol: SYMBOLS[place], r: 4.5, fill: color(part), fillOpacity: 0.75, stroke: color(part) },
    ),
  );
  const left = namesAtLeft(names, width, { type: "point", padding: 0.6, grid: true });
  const values = known.map((row) => row.value);
  return plot(width, 60 + 26 * names.length, {
    ...left,
    x: acrossScale(values, say, width - left.marginLeft - 20, { log: true }),
    marks: [...marks, tip(known, "value", "y", "text")],
  });
}

/** Points with intervals on lines of their own, beside a line at `at`: `{y, series, median, low, high, flags, text}`. */
function ratios(width, rows, series, at, say, { log = true } = {}) {
  const names = [...new Set(rows.map((row) => row.y))];
  const color = colorOf(series);
  const marks = series.flatMap((name, place) => {
    const own = rows.filter((row) => row.series === name);
    const dy = (place - (series.length - 1) / 2) * 10;
    const shape = { x: "median", y: "y", symbol: SYMBOLS[place], r: 4.5, stroke: color(name), strokeWidth: 1.6, dy };
    return [
      Plot.ruleY(
        own.filter((row) => row.low != null),
        { y: "y", x1: "low", x2: "high", stroke: color(name), strokeWidth: 1.4, dy },
      ),
      Plot.dot(
        own.filter((row) => !row.flags.length),
        { ...shape, fill: color(name) },
      ),
      Plot.dot(
        own.filter((row) => row.flags.length),
        { ...shape, fill: "var(--paper)" },
      ),
    ];
  });
  const left = namesAtLeft(names, width, { type: "point", padding: 0.6 });
  const ends = rows.flatMap((row) => [row.median, row.low, row.high]);
  return plot(width, 70 + 34 * names.length, {
    ...left,
    x: acrossScale([at, ...ends], say, width - left.marginLeft - 20, { log: log || null }),
    marks: [
      Plot.ruleX([at], { stroke: "currentColor", strokeDasharray: "4 3" }),
      ...marks,
      tip(rows, "median", "y", "text"),
    ],
  });
}

/** How values lie, a column a run: a thin line from min to max, a thick one of mean ± std, a bar at the mean. */
function distributions(width, rows, scales) {
  const shown = thinned(rows, 120);
  const thick = Math.max(2, Math.min(12, (width / shown.length) * 0.5));
  return plot(width, 280, {
    ...roomFor(scales, width),
    marks: [
      Plot.ruleX(shown, { x: "x", y1: "min", y2: "max", stroke: "var(--series-1)", strokeWidth: 1 }),
      Plot.ruleX(shown, {
        x: "x",
        y1: "low",
        y2: "high",
        stroke: "var(--series-1)",
        strokeWidth: thick,
        strokeOpacity: 0.55,
      }),
      Plot.dot(shown, { x: "x", y: "mean", r: 2.5, fill: "currentColor" }),
      tip(shown, "x", "mean", "text", Plot.pointerX),
    ],
  });
}

/** Curves: `{x, y, series, run, text}`, thin ones a run; `medians` thick over them. */
function curves(width, rows, medians, scales, series) {
  const color = colorOf(series);
  const stroke = (row) => color(row.series);
  return plot(width, 300, {
    ...roomFor(scales, width),
    marks: [
      Plot.line(rows, { x: "x", y: "y", z: "run", stroke, strokeWidth: 1, strokeOpacity: medians.length ? 0.35 : 0.9 }),
      Plot.line(medians, { x: "x", y: "y", z: "series", stroke, strokeWidth: 2.5 }),
      tip(medians.length ? medians : thinned(rows), "x", "y", "text"),
    ],
  });
}

/** A dot a trial and the best so far as steps: `{x, value, best, text}`; trials without a value are crosses at the foot. */
function trialDots(width, rows, scales) {
  const told = thinned(rows.filter((row) => row.value != null));
  const failed = thinned(rows.filter((row) => row.value == null));
  const cross = { x: "x", symbol: "times", r: 4, stroke: "var(--series-6)", strokeWidth: 1.6 };
  return plot(width, 300, {
    ...roomFor(scales, width),
    marks: [
      Plot.line(
        rows.filter((row) => row.best != null),
        { x: "x", y: "best", curve: "step-after", stroke: "var(--series-2)", strokeWidth: 2 },
      ),
      Plot.dot(told, { x: "x", y: "value", r: 3.5, fill: "var(--series-1)" }),
      Plot.dot(failed, { ...cross, frameAnchor: "bottom", dy: -6 }),
      tip(told, "x", "value", "text"),
    ],
  });
}

/** Bars with a second value as a bar across: `{y, value, other, text}`. */
function bars(width, rows, say) {
  const names = rows.map((row) => row.y);
  const left = namesAtLeft(names, width);
  return plot(width, 60 + 26 * names.length, {
    ...left,
    x: acrossScale([0, ...rows.map((row) => row.value)], say, width - left.marginLeft - 20),
    marks: [
      Plot.barX(rows, { x: "value", y: "y", fill: "var(--series-6)", inset: 1 }),
      Plot.tickX(rows, { x: "other", y: "y", stroke: "currentColor", strokeWidth: 2.5 }),
      tip(rows, "value", "y", "text", Plot.pointerY),
    ],
  });
}
