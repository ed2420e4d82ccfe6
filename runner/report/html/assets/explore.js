// Any two columns against each other, coloured and split by others; runs are chosen in it by a click or a frame.
"use strict";

// More values than this are no colours or charts of their own.
const MAX_FACETS = 12;
const MAX_RAMP = 8;
const REACH = 12;

/** Columns that tell runs apart, as options of a choice. */
function columnOptions(state, wanted = () => true) {
  return columnsOf(state.data)
    .filter((column) => !["link"].includes(column.kind) && wanted(column))
    .filter((column) => state.shown.some((row) => row[column.field] != null))
    .map((column) => [column.field, column.title]);
}

function columnOf(state, field) {
  return columnsOf(state.data).find((column) => column.field === field) ?? null;
}

function isNumeric(rows, field) {
  return rows.every((row) => row[field] == null || typeof row[field] === "number");
}

/** How a column's values are said. */
function sayColumn(column) {
  return column.field.startsWith("set.") || !SAY[column.kind] ? (value) => number(value) : SAY[column.kind];
}

/** The first of `fields` among the options that is none of `taken`. */
function firstOf(options, fields, taken = []) {
  const free = options.map(([key]) => key).filter((key) => !taken.includes(key));
  return fields.find((field) => free.includes(field)) ?? free[0];
}

function optional(state, name, label, options) {
  return choice(state, name, label, [["", "–"], ...options], "");
}

function scatter(state) {
  const options = columnOptions(state);
  const axes = Object.keys(state.data.axes)
    .filter((key) => key !== "seed")
    .map((key) => `set.${key}`);
  const x = choice(state, "x", "Across", options, firstOf(options, [...axes, "seed", "output_norm"]));
  const results = ["objective", "loss_last", "apply_latency", "output_norm", "wall_s"];
  const y = choice(state, "y", "Up", options, firstOf(options, results, [x.value]));
  const color = optional(state, "color", "Colour", options);
  const few = ([field]) => new Set(state.shown.map((row) => row[field])).size <= MAX_FACETS;
  const facet = optional(state, "facet", "A chart for each", options.filter(few));
  const rows = state.shown.filter((row) => row[x.value] != null && row[y.value] != null);
  const [across, up] = [x, y].map((one) => columnOf(state, one.value));
  if (!across || !up) return { hint: "No column has values." };
  const colors = colouring(state, rows, color.value && columnOf(state, color.value));
  const scales = { x: columnScale(rows, across, true), y: columnScale(rows, up) };
  const values = facet.value ? [...new Set(rows.map((row) => row[facet.value]))] : [null];
  const caption = `${up.title} against ${across.title}`;
  const split = facet.value && columnOf(state, facet.value);
  return {
    hint: "Click a dot to choose its run, or draw a frame around some; chosen runs are marked in the table too.",
    choices: [x, y, color, facet],
    charts: values.map((value, place) => {
      const own = split ? rows.filter((row) => row[split.field] === value) : rows;
      return {
        caption: split ? `${caption}, ${split.title} ${value ?? "–"}` : caption,
        legend: () => (place ? null : colors.legend()),
        rows: () => own.map((row) => drawnRow(row, [across, up, colors.column, split])),
        draw: (width) => dots(width, own, { scales, colors, state, columns: [across, up] }),
      };
    }),
  };
}

function drawnRow(row, columns) {
  const known = columns.filter(Boolean).map((column) => [column.name, row[column.field]]);
  return Object.fromEntries([["run", row.label], ...known]);
}

/** The scale of a column: of numbers by their size, of words in their order. */
function columnScale(rows, column, across = false) {
  const values = rows.map((row) => row[column.field]);
  if (!isNumeric(rows, column.field)) {
    const domain = [...new Set(values)].sort(compare);
    return (width) => ({ type: "point", label: across ? column.title : null, domain, padding: 0.6, width });
  }
  if (across && values.every(Number.isInteger) && column.kind !== "size" && !isWide(values))
    return () => ({ ...countScale(values, column.title), inset: 12 });
  const scale = (width) => valueScale(values, null, sayColumn(column), { num: across ? numTicks(width) : 5 });
  return (width) => ({ ...scale(width), label: across ? column.title : null, inset: 8, grid: true });
}

function isWide(values) {
  const [low, high] = d3.extent(values);
  return low > 0 && high / low > LOG_RATIO;
}

/** Colours of a column's values: one each for few, a ramp for many numbers, and for other words the most frequent. */
function colouring(state, rows, column) {
  if (!column) return { of: () => "var(--series-1)", legend: () => null, column: null };
  const values = rows.map((row) => row[column.field]).filter((value) => value != null);
  const distinct = [...new Set(values)].sort(compare);
  if (distinct.length > MAX_RAMP && isNumeric(rows, column.field)) {
    const [low, high] = d3.extent(values);
    const place = (isWide(values) ? d3.scaleLog : d3.scaleLinear)([low, high], [0, 1]);
    const of = (row) => (row[column.field] == null ? "var(--soft)" : rampColor(place(row[column.field])));
    return { of, legend: () => rampLegend(column, low, high), column };
  }
  const counts = d3.rollup(values, (own) => own.length, (value) => value);
  const often = distinct.length > MAX_SERIES ? d3.sort(distinct, (value) => -counts.get(value)) : distinct;
  const named = often.slice(0, distinct.length > MAX_SERIES ? MAX_SERIES - 1 : MAX_SERIES);
  const of = (row) => {
    const place = named.indexOf(row[column.field]);
    return place < 0 ? "var(--soft)" : COLORS[place];
  };
  const say = typeof named[0] === "number" ? sayColumn(column) : String;
  const more = distinct.length > named.length ? `, ${distinct.length - named.length} others grey` : "";
  return {
    of,
    column,
    legend: () =>
      element(
        "div",
        { class: "titled" },
        element("span", {}, `${column.title}${more}`),
        legend(named.length > 1 ? named.map((value) => say(value)) : [], [d3.symbolCircle]),
      ),
  };
}

function rampColor(share) {
  return d3.interpolateViridis(0.2 + 0.6 * share);
}

function rampLegend(column, low, high) {
  const svg = d3.create("svg:svg").attr("viewBox", "0 0 100 10").attr("width", 100).attr("height", 10);
  svg.attr("aria-hidden", "true");
  for (const place of d3.range(20))
    svg
      .append("rect")
      .attr("x", place * 5)
      .attr("width", 5.2)
      .attr("height", 10)
      .attr("fill", rampColor(place / 19));
  const say = sayColumn(column);
  return element("div", { class: "titled" }, `${column.title}: ${say(low)} `, svg.node(), ` ${say(high)}`);
}

/** A dot a run; what is chosen stands out, and a frame or a click chooses. */
function dots(width, all, { scales, colors, state, columns }) {
  const rows = thinned(all);
  const [across, up] = columns;
  const some = state.chosen.size > 0;
  const text = (row) => [runTitle(state, row), ...columns.map((one) => `${one.title} ${cellText(row, one)}`)].join("\n");
  const y = scales.y(width);
  const left = y.type === "point" ? namesAtLeft(y.domain.map(String), width) : null;
  const room = roomFor({ x: scales.x(width), y: left ? { ...y, tickFormat: left.y.tickFormat } : y }, width);
  for (const scale of [room.x, room.y]) delete scale.width;
  const data = rows.map((row) => ({ x: row[across.field], y: row[up.field], row, text: text(row) }));
  const chart = plot(width, 340, {
    ...room,
    ...(left ? { marginLeft: left.marginLeft, y: { ...room.y, tickFormat: (name) => left.y.tickFormat(String(name)) } } : {}),
    marks: [
      Plot.dot(data, {
        ...{ x: "x", y: "y", r: ({ row }) => (state.chosen.has(row.id) ? 6 : 4) },
        fill: ({ row }) => colors.of(row),
        fillOpacity: ({ row }) => (some && !state.chosen.has(row.id) ? 0.25 : 0.75),
        stroke: ({ row }) => (state.chosen.has(row.id) ? "var(--ink)" : colors.of(row)),
        strokeOpacity: ({ row }) => (some && !state.chosen.has(row.id) ? 0.3 : 1),
      }),
      tip(data, "x", "y", "text"),
    ],
    color: { type: "identity" },
    opacity: { type: "identity" },
    r: { type: "identity" },
  });
  const circles = () => [...chart.querySelectorAll("[aria-label=dot] circle")];
  addFrame(chart, {
    within: (inside) => circles().filter(inside).map((circle) => rows[circle.__data__].id),
    choose: (ids, more) => chooseFrom(state, ids, more),
  });
  return chart;
}

/** Chooses what a frame holds; what was chosen before stays chosen with Shift. A single run is chosen or no longer. */
function chooseFrom(state, ids, { more, single }) {
  if (single) return choose(state, ids, !state.chosen.has(ids[0]));
  if (!more) state.chosen.clear();
  return choose(state, ids);
}

/** A frame that can be drawn on a chart: what lies in it is chosen; a click chooses what lies next. */
function addFrame(chart, { within, choose: chooses }) {
  const [width, height] = ["width", "height"].map((name) => chart.viewBox.baseVal[name]);
  const brush = d3.brush().extent([
    [0, 0],
    [width, height],
  ]);
  const layer = d3.select(chart).append("g").attr("class", "brush").call(brush);
  brush.on("end", ({ selection, sourceEvent }) => {
    if (!sourceEvent) return;
    const more = sourceEvent.shiftKey;
    const middle = (circle) => {
      const box = circle.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];
    };
    if (selection) {
      const frame = layer.select(".selection").node().getBoundingClientRect();
      const inside = (circle) => {
        const [x, y] = middle(circle);
        return x >= frame.left && x <= frame.right && y >= frame.top && y <= frame.bottom;
      };
      return chooses(within(inside), { more });
    }
    const distance = (circle) => Math.hypot(...middle(circle).map((at, place) => at - [sourceEvent.clientX, sourceEvent.clientY][place]));
    let least = REACH;
    within((circle) => {
      least = Math.min(least, distance(circle));
      return false;
    });
    const [id] = within((circle) => distance(circle) === least);
    if (id != null && least < REACH) chooses([id], { single: true });
    return null;
  });
}
