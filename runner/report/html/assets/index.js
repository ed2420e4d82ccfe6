// The index of a folder: its sweeps in a table, newest first, and how numbers went from sweep to sweep.
"use strict";

const page = { words: "", metric: null, choice: null };

async function start() {
  page.data = await unpack(document.getElementById("data").textContent);
  const kept = new URLSearchParams(location.hash.slice(1));
  page.words = kept.get("find") ?? "";
  page.metric = kept.get("metric");
  const box = document.getElementById("search");
  box.value = page.words;
  box.oninput = () => {
    page.words = box.value;
    draw();
  };
  draw();
  document.documentElement.dataset.ready = "true";
}

function draw() {
  const kept = new URLSearchParams();
  if (page.words) kept.set("find", page.words);
  if (page.metric) kept.set("metric", page.metric);
  history.replaceState(null, "", String(kept) ? `#${kept}` : location.pathname + location.search);
  const words = page.words.toLowerCase().split(/\s+/).filter(Boolean);
  const textOf = (sweep) => [sweep.name, sweep.command, ...(sweep.layers ?? [])].join("\n").toLowerCase();
  const sweeps = page.data.sweeps.filter((sweep) => words.every((word) => textOf(sweep).includes(word)));
  const all = plural(page.data.sweeps.length, "sweep");
  document.getElementById("count").textContent =
    sweeps.length === page.data.sweeps.length ? all : `${sweeps.length} of ${all}`;
  drawList(sweeps);
  drawHistory(sweeps.filter((sweep) => !sweep.error));
}

function drawList(sweeps) {
  const line = (sweep) => {
    if (sweep.error) return [sweep.name, null, null, null, null, null, null, null, null, sweep.error];
    const link = sweep.has_report
      ? element("a", { href: `${sweep.link}/report.html` }, sweep.name)
      : `${sweep.name} (no report yet: bridge-runner report ${sweep.link})`;
    const [apply, loss] = ["apply_s", "loss_last"].map((name) => sweep.kinds.flatMap((kind) => kind.values[name] ?? []));
    const layers = sweep.layers.length > 4 ? `${sweep.layers.length} layers` : sweep.layers.join(", ");
    const state = (name) => sweep[name] && element("span", { class: `word ${name}` }, String(sweep[name]));
    return [
      ...[link, sweep.written_at, layers, sweep.num_runs, state("done"), state("failed") || 0, sweep.waiting],
      ...[duration(d3.median(apply)), loss.length ? number(d3.min(loss)) : null, sweep.command],
    ];
  };
  const heads = ["sweep", "planned (UTC)", "layer", "runs", "done", "failed", "waiting", "apply, median", "least loss"];
  document.getElementById("list").replaceChildren(plainTable([...heads, "command"], sweeps.map(line).reverse()));
}

// ---- numbers over sweeps

function kindName(kind) {
  const { varied } = page.data;
  return varied.map((key) => (key === "layer" ? kind.settings.layer : `${key}=${kind.settings[key]}`)).join(" ") || "all";
}

function drawHistory(sweeps) {
  const kinds = (name) => sweeps.flatMap((sweep) => sweep.kinds.filter((kind) => kind.values[name]?.length));
  const metrics = Object.entries(page.data.metrics).filter(([name]) => kinds(name).length);
  document.getElementById("history").hidden = !metrics.length;
  if (!metrics.length) return;
  const metric = metrics.some(([name]) => name === page.metric) ? page.metric : metrics[0][0];
  const change = (event) => {
    page.metric = event.target.value;
    draw();
    document.getElementById("metric").focus();
  };
  const options = metrics.map(([key, text]) => element("option", { value: key, selected: key === metric }, text));
  const select = element("label", {}, "Of ", element("select", { id: "metric", change }, options));
  document.getElementById("choices").replaceChildren(select);
  // Those that most sweeps have in common come first: only they have a history.
  const counts = d3.rollup(kinds(metric), (same) => same.length, kindName);
  const names = d3.sort(counts.keys(), (name) => -counts.get(name)).slice(0, MAX_SERIES);
  const say = sayOf(metric);
  const points = sweeps.flatMap((sweep, place) =>
    sweep.kinds
      .filter((kind) => kind.values[metric]?.length && names.includes(kindName(kind)))
      .map((kind) => {
        const found = aggregate(kind.values[metric]);
        const text = `${sweep.name}, ${sweep.written_at}\n${kindName(kind)}\n${inWords(found, say)}`;
        return { x: `${place + 1} ${sweep.name}`, series: kindName(kind), ...found, flags: [], text };
      }),
  );
  const domain = sweeps.map((sweep, place) => `${place + 1} ${sweep.name}`).filter((x) => points.some((one) => one.x === x));
  const ends = points.flatMap((point) => [point.median, point.low, point.high]);
  const more = counts.size > names.length ? `, the ${names.length} most frequent of ${counts.size} kinds` : "";
  const chart = {
    caption: `${page.data.metrics[metric]} over sweeps${more}`,
    rows: () => points,
    legend: () => legend(names),
    draw: (width) =>
      intervals(
        width,
        points,
        { x: { ...axisScale(domain, null), domain }, y: valueScale(ends, null, say) },
        names,
      ),
  };
  const holder = element("div", { class: "chart" });
  const figure = element("figure", {}, element("figcaption", {}, chart.caption), chart.legend(), holder);
  figure.append(saver(page.data.head?.folder ?? "sweeps", chart, holder));
  document.getElementById("charts").replaceChildren(figure);
  const svg = chart.draw(Math.max(300, holder.clientWidth));
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", chart.caption);
  holder.append(svg);
}

chooseTheme();
start();
