// Parallel coordinates: an upright axis a column, a line a run; a range drawn on axes chooses the runs that pass all.
"use strict";

const MAX_LINES = 400;
const MAX_AXES = 12;

function parallel(state) {
  const options = columnOptions(state, (column) => column.field !== "reason" && column.field !== "started_at");
  const usual = [
    ...Object.keys(state.data.axes).map((key) => `set.${key}`),
    ...["loss_first", "loss_last", "output_norm", "apply_latency", "checkpoint_bytes", "objective"],
  ];
  const varied = ([field]) => new Set(state.shown.map((row) => row[field])).size > 1;
  const fields = options.map(([field]) => field);
  const given = (state.choices.axes ?? "").split(",").filter((field) => fields.includes(field));
  const found = usual.filter((field) => options.some((one) => one[0] === field && varied(one))).slice(0, 8);
  const chosen = given.length > 1 ? given : found.length > 1 ? found : fields.slice(0, 2);
  const color = optional(state, "color", "Colour", options);
  const colors = colouring(state, state.shown, color.value && columnOf(state, color.value));
  const columns = chosen.slice(0, MAX_AXES).map((field) => columnOf(state, field));
  const all = state.shown.length;
  return {
    hint: `A line a run. Draw a range on an axis to choose the runs that pass through it; several ranges choose what passes all.${all > MAX_LINES ? ` ${MAX_LINES} of ${all} runs are drawn, evenly picked.` : ""}`,
    choices: [color],
    body: () => axisChooser(state, options, chosen),
    charts: [
      {
        caption: columns.map((column) => column.title).join(", "),
        legend: () => colors.legend(),
        wide: true,
        rows: () => state.shown.map((row) => drawnRow(row, columns)),
        draw: (width) => lines(width, thinned(state.shown, MAX_LINES), columns, { colors, state }),
      },
    ],
  };
}

/** Which columns are axes: a box each. */
function axisChooser(state, options, chosen) {
  const change = (event) => {
    const { value, checked } = event.target;
    const now = checked ? [...chosen, value] : chosen.filter((field) => field !== value);
    state.choices.axes = now.join(",");
    state.axesOpen = true;
    onChoice(`axis-${value}`);
  };
  const boxes = options.map(([field, title]) =>
    element(
      "label",
      {},
      element("input", { type: "checkbox", id: `axis-${field}`, value: field, checked: chosen.includes(field), change }),
      ` ${title}`,
    ),
  );
  const toggle = (event) => {
    state.axesOpen = event.target.open;
  };
  return element(
    "details",
    { class: "axes", open: state.axesOpen, toggle },
    element("summary", {}, "Axes"),
    element("fieldset", {}, element("legend", {}, "columns that are axes"), boxes),
  );
}

function lines(room, rows, columns, { colors, state }) {
  const height = 320;
  const scaleOf = (range) => columns.map((column) => uprightScale(rows, column, range));
  const first = scaleOf([1, 0])[0].words.map(([, text]) => textWidth(text));
  const left = Math.min(150, 16 + Math.max(30, d3.max(first) ?? 0));
  // Where there is too little room for all axes the chart is wider than its frame.
  const width = Math.max(room, left + 40 + 84 * (columns.length - 1));
  const [top, bottom] = [44, height - 12];
  const place = d3.scalePoint(d3.range(columns.length), [left, width - 40]);
  const scales = scaleOf([bottom, top]);
  const svg = d3.create("svg:svg").attr("viewBox", `0 0 ${width} ${height}`).attr("width", width).attr("height", height);
  svg.attr("font-size", 12).attr("font-family", "system-ui, sans-serif");
  const some = state.chosen.size > 0;
  const path = d3
    .line()
    .defined((point) => point != null)
    .x((point) => point[0])
    .y((point) => point[1]);
  const at = (row, index) => {
    const value = row[columns[index].field];
    return value == null ? null : [place(index), scales[index](value)];
  };
  const order = d3.sort(rows, (row) => state.chosen.has(row.id));
  svg
    .append("g")
    .attr("fill", "none")
    .attr("class", "lines")
    .selectAll("path")
    .data(order)
    .join("path")
    .attr("d", (row) => path(columns.map((_, index) => at(row, index))))
    .attr("stroke", (row) => colors.of(row))
    .attr("stroke-width", (row) => (state.chosen.has(row.id) ? 2.5 : 1.2))
    .attr("stroke-opacity", (row) => (some && !state.chosen.has(row.id) ? 0.12 : 0.7))
    .append("title")
    .text((row) => [runTitle(state, row), ...columns.map((one) => `${one.title} ${cellText(row, one)}`)].join("\n"));
  const between = (width - left - 40) / Math.max(1, columns.length - 1) - 8;
  const titles = shortened(
    columns.map((column) => column.title),
    between,
  );
  columns.forEach((column, index) =>
    upright(svg, {
      ...{ x: place(index), title: titles.get(column.title), scale: scales[index], ends: [top, bottom] },
      most: index ? between - 12 : left - 12,
    }),
  );
  addRanges(svg, { columns, rows, place, scales, state, ends: [top, bottom] });
  return svg.node();
}

function uprightScale(rows, column, range) {
  const values = rows.map((row) => row[column.field]).filter((value) => value != null);
  const numeric = isNumeric(rows, column.field);
  if (!numeric) {
    const scale = d3.scalePoint([...new Set(values)].sort(compare), range).padding(0.3);
    return Object.assign(scale, { words: scale.domain().map((value) => [value, String(value)]) });
  }
  const { type, domain, ticks, tickFormat } = valueScale(values, null, sayColumn(column));
  const ends = d3.extent([...domain, ...ticks]);
  const scale = (type === "log" ? d3.scaleLog : d3.scaleLinear)(ends, range);
  return Object.assign(scale, { words: ticks.map((tick) => [tick, tickFormat(tick)]) });
}

/** One axis: its title above it, its ticks at the left; of many words only those that have room. */
function upright(svg, { x, title, scale, ends, most }) {
  const axis = svg.append("g").attr("transform", `translate(${x},0)`).attr("fill", "currentColor");
  axis.append("line").attr("y1", ends[0]).attr("y2", ends[1]).attr("stroke", "currentColor").attr("stroke-opacity", 0.6);
  axis.append("text").attr("y", 20).attr("text-anchor", "middle").attr("font-weight", 600).text(title);
  const short = shortened(
    scale.words.map(([, text]) => text),
    most,
  );
  let last = Infinity;
  for (const [value, text] of d3.sort(scale.words, ([value]) => -scale(value))) {
    const y = scale(value);
    if (last - y < 13) continue;
    last = y;
    axis.append("line").attr("x1", -4).attr("y1", y).attr("y2", y).attr("stroke", "currentColor");
    axis
      .append("text")
      .attr("x", -7)
      .attr("y", y)
      .attr("dy", "0.32em")
      .attr("text-anchor", "end")
      .attr("class", "halo")
      .text(short.get(text));
  }
}

/** A range on every axis; when one is drawn, the runs that pass all of them are chosen. */
function addRanges(svg, { columns, rows, place, scales, state, ends }) {
  const ranges = (state.ranges ??= new Map());
  const passes = (row) =>
    columns.every(({ field }, index) => {
      const range = ranges.get(field);
      if (!range) return true;
      if (row[field] == null) return false;
      const y = scales[index](row[field]);
      return y >= range[0] && y <= range[1];
    });
  columns.forEach(({ field }, index) => {
    const brush = d3.brushY().extent([
      [-12, ends[0] - 6],
      [12, ends[1] + 6],
    ]);
    const layer = svg.append("g").attr("class", "brush").attr("transform", `translate(${place(index)},0)`).call(brush);
    if (ranges.has(field)) layer.call(brush.move, ranges.get(field));
    brush.on("end", ({ selection, sourceEvent }) => {
      if (!sourceEvent) return;
      selection ? ranges.set(field, selection) : ranges.delete(field);
      state.chosen.clear();
      choose(state, ranges.size ? state.shown.filter(passes).map((row) => row.id) : []);
    });
  });
}
