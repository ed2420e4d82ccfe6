// The page's data: unpacked, as rows, in words, in groups. The other files build on this one.
"use strict";

// Before a time that is to be read with care, as on the terminal.
const FLAGGED = "~";

// Of intervals of a median, as in runner/stats.py.
const CONFIDENCE = 0.99;

/** The JSON data that runner.report.html.page.pack packed. */
async function unpack(packed) {
  const letters = atob(packed);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place += 1) bytes[place] = letters.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const COMPILING = new Set(
  ["init", "apply"].flatMap((name) => ["trace", "lower", "compile"].map((part) => `${name}_${part}_s`)),
);

/** One object a run. Its properties (the columns, `set.KEY` for an axis) read the data when asked: many are never asked. */
function rowsOf(data) {
  const { columns, pool, axes } = data;
  const own = {
    flagsOf(name) {
      const steady = columns.steady[this.id][data.steady.indexOf(name)];
      return steady ? pool[steady[4]] : this.compile_contended && COMPILING.has(name) ? ["contended"] : [];
    },
  };
  // Tabulator writes back what it has read: that changes nothing.
  const define = (name, get) => Object.defineProperty(own, name, { get, set() {}, enumerable: true });
  for (const name of Object.keys(columns))
    define(name, function () {
      return columns[name][this.id];
    });
  for (const key of Object.keys(axes))
    define(`set.${key}`, function () {
      return axes[key][this.id];
    });
  data.steady.forEach((name, place) => {
    const ends = { "": 0, _low: 1, _high: 2, _num: 3 };
    for (const [end, at] of Object.entries(ends))
      define(name + end, function () {
        return columns.steady[this.id][place]?.[at];
      });
  });
  ["mean", "std", "min", "max"].forEach((name, place) =>
    define(name, function () {
      return columns.outputs[this.id][0]?.[2 + place];
    }),
  );
  define("reason", function () {
    return this.error == null ? null : reasonOf(pool[this.error]);
  });
  define("verdict", function () {
    return worst(columns.checks[this.id].map((place) => pool[place][1]));
  });
  return columns.label.map((_, id) => Object.assign(Object.create(own), { id }));
}

function reasonOf([kind, type, message]) {
  return `${kind}: ${message || type}`;
}

const SEVERITY = ["fail", "warn", "pass", "skipped"];

/** The verdict that matters most; null of none. */
function worst(verdicts) {
  return SEVERITY.find((verdict) => verdicts.includes(verdict)) ?? null;
}

// ---- in words

/** `value` with `digits` digits, in the first unit in which it is below 1000. */
function withUnit(value, units, digits = 3) {
  for (const unit of units.slice(0, -1)) {
    const shown = Number(value.toPrecision(digits));
    if (Math.abs(shown) < 1000) return `${shown} ${unit}`;
    value /= 1000;
  }
  return `${value < 999.5 ? Number(value.toPrecision(digits)) : Math.round(value)} ${units.at(-1)}`;
}

function duration(seconds, digits = 3) {
  return seconds == null ? "–" : withUnit(seconds * 1e9, ["ns", "µs", "ms", "s"], digits);
}

function size(bytes, digits = 3) {
  return bytes == null ? "–" : withUnit(bytes, ["B", "kB", "MB", "GB", "TB"], digits);
}

/** A number with `digits` digits, without a row of zeros in front; whole ones as they are. */
function number(value, digits = 6) {
  if (typeof value !== "number") return String(value ?? "–");
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(value);
  const rounded = Number(value.toPrecision(digits));
  return Math.abs(rounded) < 1e-3 || Math.abs(rounded) >= 1e15 ? rounded.toExponential() : String(rounded);
}

/** How a value of a column of this name is said: seconds, bytes, or a number. */
function sayOf(name) {
  if (name.endsWith("_s")) return duration;
  return name.endsWith("_bytes") ? size : number;
}

/** A time with its mark. */
function flagged(seconds, flags) {
  return (seconds != null && flags?.length ? FLAGGED : "") + duration(seconds);
}

/** Why a time is marked. */
function reasons(flags, data) {
  return flags.map((flag) => data.flags[flag] ?? flag).join(", ");
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

// ---- aggregates over runs, which are the seeds of a kind unless a chart puts kinds together

/** Rank of the lower end of the narrowest symmetric 99 % interval of the median of `num` values; 0 where there is none. */
function intervalRank(num) {
  let logBinomial = 0;
  let tail = 0;
  for (let rank = 0; rank < Math.floor(num / 2); rank += 1) {
    tail += Math.exp(logBinomial - num * Math.LN2);
    if (tail > (1 - CONFIDENCE) / 2) return rank;
    logBinomial += Math.log((num - rank) / (rank + 1));
  }
  return Math.floor(num / 2);
}

/** Median, an interval and what it is; of a few values their range, of one what `alone` says of it. */
function aggregate(values, alone = () => [null, null]) {
  const sorted = values.filter((value) => value != null).sort((a, b) => a - b);
  const num = sorted.length;
  if (!num) return null;
  const median = (sorted[(num - 1) >> 1] + sorted[num >> 1]) / 2;
  if (num === 1) {
    const [low, high] = alone();
    return { num, median, low, high, interval: low == null ? "no interval" : "99 % interval of one run's samples" };
  }
  const rank = intervalRank(num);
  if (rank)
    return { num, median, low: sorted[rank - 1], high: sorted[num - rank], interval: "99 % interval over runs" };
  return { num, median, low: sorted[0], high: sorted[num - 1], interval: "range over runs" };
}

/** Median and interval of a column over rows, and whether any of them is marked. */
function aggregateColumn(rows, name) {
  const found = aggregate(
    rows.map((row) => row[name]),
    () => {
      const row = rows.find((one) => one[name] != null);
      return [row[`${name}_low`] ?? null, row[`${name}_high`] ?? null];
    },
  );
  return found && { ...found, flags: [...new Set(rows.flatMap((row) => row.flagsOf(name)))] };
}

/** `median (low to high, n 5)`, each said by `say`. */
function inWords(found, say = duration) {
  if (!found) return "–";
  const interval = found.low == null ? "" : `${say(found.low)} to ${say(found.high)}, `;
  return `${found.flags?.length ? FLAGGED : ""}${say(found.median)} (${interval}n ${found.num})`;
}

/** Whether the value of one axis tells that of another. */
function tells(data, key, other) {
  const seen = new Map();
  return data.axes[key].every((value, place) => {
    if (!seen.has(value)) seen.set(value, data.axes[other][place]);
    return seen.get(value) === data.axes[other][place];
  });
}

/** The axes that tell kinds of runs apart: not the seed, and none that another one tells. */
function groupKeys(data) {
  data.groupKeys ??= Object.keys(data.axes).reduce(
    (kept, key) => (key === "seed" || kept.some((other) => tells(data, other, key)) ? kept : [...kept, key]),
    [],
  );
  return data.groupKeys;
}

/** The last word of a dotted key, where no other key ends on it. */
function shortName(key, keys) {
  const last = key.split(".").at(-1);
  return keys.some((other) => other !== key && other.split(".").at(-1) === last) ? key : last;
}

/** Rows by the values of `keys`, in the order of the sweep: `{label, rows, values}`. */
function groupsOf(rows, keys) {
  const groups = new Map();
  const all = rows.every((row) => row.layer === rows[0].layer) ? rows[0]?.layer : "all";
  for (const row of rows) {
    const label =
      keys.map((key) => (key === "layer" ? row.layer : `${shortName(key, keys)}=${row[`set.${key}`]}`)).join(" ") ||
      all;
    if (!groups.has(label)) groups.set(label, { label, rows: [], values: keys.map((key) => row[`set.${key}`]) });
    groups.get(label).rows.push(row);
  }
  return [...groups.values()];
}

// ---- the document

/** An element; strings among its children become text, whatever they hold. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value != null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

const NUMBER = /^~?-?[\d.]+(e[+-]?\d+)?( (ns|µs|ms|s|B|kB|MB|GB|TB|×))?$/;

/** A plain table; columns of numbers stand to the right. */
function plainTable(heads, lines) {
  const right = heads.map((_, place) => {
    const texts = lines.map((line) => line[place] ?? "–").filter((text) => text !== "–");
    return (
      texts.length > 0 &&
      texts.every((text) => typeof text === "number" || (typeof text === "string" && NUMBER.test(text)))
    );
  });
  const cell = (name, place, text) =>
    element(name, { class: right[place] ? "number" : null }, text instanceof Node ? text : String(text ?? "–"));
  const body = lines.map((line) =>
    element(
      "tr",
      {},
      line.map((text, place) => cell("td", place, text)),
    ),
  );
  const head = element(
    "tr",
    {},
    heads.map((text, place) => cell(text === "" ? "td" : "th", place, text)),
  );
  return element(
    "div",
    { class: "scroll", tabindex: "0" },
    element("table", {}, element("thead", {}, head), element("tbody", {}, body)),
  );
}
