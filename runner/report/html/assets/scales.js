// Scales of charts: where their ticks stand, what is written at them, and how much room the words take.
"use strict";

// From this ratio of the largest to the smallest value on, a scale is logarithmic.
const LOG_RATIO = 20;

const FONT = "12px system-ui, sans-serif";
const LEFT = 64;

/** Pixels that a text of a chart takes. */
function textWidth(text, font = FONT) {
  textWidth.context ??= document.createElement("canvas").getContext("2d");
  textWidth.context.font = font;
  return textWidth.context.measureText(text).width;
}

/** Ticks that a chart of this width has room for. */
function numTicks(width) {
  return Math.max(2, Math.floor(width / 110));
}

/** A scale of times, sizes or numbers, logarithmic where values differ by much, unless `log` decides it.
 *
 * `num`: about how many ticks there is room for.
 */
function valueScale(values, label, say, { log = null, num = 5 } = {}) {
  const [low, high] = d3.extent(values.filter((value) => value != null));
  const logarithmic = log ?? (low > 0 && high / low > LOG_RATIO);
  const scale = { label, grid: true };
  if (low === undefined) return { ...scale, type: "linear", domain: [0, 1], ticks: [] };
  if (logarithmic) {
    const ends = low === high ? [low / 1.5, high * 1.5] : [low, high];
    const ticks = logTicks(...ends, num);
    return { ...scale, type: "log", domain: ends, inset: 8, ticks, tickFormat: tickWords(ticks, say) };
  }
  // A single value gets a scale around it: one tick alone is no scale.
  const around = low === high ? Math.abs(low) / 10 || 1 : 0;
  const nice = d3.scaleLinear([low - around, high + around], [0, 1]).nice(num);
  const ticks = nice.ticks(num);
  return { ...scale, type: "linear", domain: nice.domain(), ticks, tickFormat: tickWords(ticks, say) };
}

/** What is written at ticks: with as many digits as tell them apart. */
function tickWords(ticks, say) {
  const digits = d3.range(3, 8).find((count) => new Set(ticks.map((tick) => say(tick, count))).size === ticks.length);
  return (value) => (value === 0 ? "0" : say(value, digits ?? 7));
}

/** The coarsest of the usual ticks of a logarithmic scale of which three or more lie in it, else evenly placed ones. */
function logTicks(low, high, num = 5) {
  const powers = d3.range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)) + 1);
  const within = (ticks) => ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  const every = Math.max(1, Math.ceil(powers.length / (num + 1)));
  const kinds = [powers.filter((power) => power % every === 0).map((power) => 10 ** power)];
  for (const steps of [[1], [1, 3], [1, 2, 5], [1, 2, 3, 5, 7]])
    kinds.push(powers.flatMap((power) => steps.map((step) => step * 10 ** power)));
  return kinds.map(within).find((ticks) => ticks.length >= 3) ?? d3.ticks(low, high, num);
}

/** A scale of whole numbers, as of steps and trials: no tick between two of them. */
function countScale(values, label) {
  const [low, high] = d3.extent(values);
  const whole = (num) => d3.ticks(low, high, num).filter(Number.isInteger);
  const domain = low === high ? {} : { domain: [low, high] };
  return { type: "linear", label, inset: 8, ...domain, ticks: whole(10), fewer: whole, tickFormat: String };
}

/** A scale of an axis of the sweep: numbers by their size, all else in the sweep's order. */
function axisScale(values, label) {
  const distinct = [...new Set(values)];
  if (!distinct.every((value) => typeof value === "number"))
    return { type: "point", label, domain: distinct, padding: 0.6 };
  const sorted = d3.sort(distinct);
  const log = sorted[0] > 0 && sorted.at(-1) / sorted[0] >= 8;
  const scale = { type: log ? "log" : "linear", label, tickFormat: (value) => number(value), inset: 24 };
  if (sorted.length <= 10) return { ...scale, ticks: sorted };
  if (log) return { ...scale, ticks: logTicks(sorted[0], sorted.at(-1), 8) };
  return sorted.every(Number.isInteger) ? { ...countScale(sorted, label), inset: 24 } : scale;
}

/** The options of Plot for scales of x and y: names below a chart stand aslant where they would meet.
 *
 * Where even that is too narrow, and among numbers, only those are written that have room.
 */
function roomFor(scales, width) {
  const x = { ...scales.x };
  const room = width - LEFT - 20 - 2 * (x.inset ?? 0);
  const { fewer } = x;
  delete x.fewer;
  if (x.type !== "point") {
    const ticks = fewer ? fewer(numTicks(width)) : x.ticks;
    return { ...scales, x: Array.isArray(ticks) ? { ...x, ticks: spaced(ticks, x, room) } : x };
  }
  const names = x.domain.map(String);
  const longest = d3.max(names, (name) => textWidth(name)) ?? 0;
  if ((longest + 12) * names.length < room) return { ...scales, x };
  const step = Math.ceil((names.length * 16) / room);
  const most = 150;
  const short = shortened(names, most);
  const below = (Math.min(longest, most) + 8) * Math.SQRT1_2;
  const ticks = x.domain.filter((_, place) => place % step === 0);
  return {
    ...scales,
    height: 280 + below,
    marginBottom: 34 + below,
    x: { ...x, ticks, tickRotate: -45, tickFormat: (name) => short.get(String(name)), labelAnchor: "right" },
  };
}

/** The scale of values across a chart whose names at the left leave `room`. */
function acrossScale(values, say, room, options = {}) {
  const scale = valueScale(values, null, say, { ...options, num: numTicks(room) });
  return { ...scale, ticks: spaced(scale.ticks, scale, room - 2 * (scale.inset ?? 0)) };
}

/** The ticks of `scale` whose words don't meet, from the left. */
function spaced(ticks, { type, domain, tickFormat = String }, room) {
  const place = (type === "log" ? d3.scaleLog : d3.scaleLinear)(domain ?? d3.extent(ticks), [0, room]);
  let end = -Infinity;
  return ticks.filter((tick) => {
    const half = textWidth(tickFormat(tick)) / 2 + 4;
    if (place(tick) - half < end) return false;
    end = place(tick) + half;
    return true;
  });
}

/** Names of rows at the left, at most two fifths of the chart; longer ones are cut, and stay different. */
function namesAtLeft(names, width, scale = {}) {
  const most = Math.floor(width * 0.4);
  const longest = Math.min(d3.max(names, (name) => textWidth(name)) ?? 0, most);
  const short = shortened(names, most);
  return { marginLeft: 20 + longest, y: { ...scale, label: null, domain: names, tickFormat: (name) => short.get(name) } };
}

/** What is written of each name in `most` pixels, in a map: cut at the end, or before where they begin to differ. */
function shortened(names, most) {
  const fits = (text) => textWidth(text) <= most;
  const distinct = [...new Set(names)];
  const cut = (name) => (fits(name) ? name : cutEnd(name, fits));
  const groups = d3.group(distinct, cut);
  const found = new Map();
  for (const [short, same] of groups) {
    if (same.length === 1) found.set(same[0], short);
    else {
      const from = Math.max(0, commonStart(same) - 4);
      const tails = same.map((name) => (from ? cut(`…${name.slice(from)}`) : cut(name)));
      const different = new Set(tails).size === same.length;
      same.forEach((name, place) => found.set(name, different ? tails[place] : `${place + 1}: ${cutEnd(name, fits, 5)}`));
    }
  }
  return found;
}

function cutEnd(name, fits, less = 0) {
  let length = name.length - less - 1;
  while (length > 1 && !fits(`${name.slice(0, length)}…${"0".repeat(less)}`)) length -= 1;
  return `${name.slice(0, length)}…`;
}

/** How many letters `names` have in common at their beginning. */
function commonStart(names) {
  const [first] = names;
  let length = 0;
  while (length < first.length && names.every((name) => name[length] === first[length])) length += 1;
  return length;
}
