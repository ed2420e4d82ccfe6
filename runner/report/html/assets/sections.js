// The parts with charts on the page: in order, folded or open, drawn as they come into view, with what can be chosen.
"use strict";

/** Puts every part that has something to show in its place; it is drawn when it is open and comes into view. */
function drawFigures() {
  watcher.disconnect();
  const before = new Map([...document.querySelectorAll("#figures > section")].map((made) => [made.id, made]));
  const sections = orderedFigures(state).map((figure) => sectionOf(figure, before.get(figure.id)));
  const read = [...before.values()].find((part) => part.getBoundingClientRect().bottom > 0);
  const top = read?.getBoundingClientRect().top;
  document.getElementById("figures").replaceChildren(...sections);
  // What is being read stays where it is, whatever comes above it.
  const again = top < innerHeight ? document.getElementById(read.id) : null;
  if (again) scrollBy(0, again.getBoundingClientRect().top - top);
  for (const made of sections) watcher.observe(made);
  drawParts();
}

function sectionOf(figure, old) {
  const body = element("div", { class: "body" });
  const remember = () => {
    // Before the click has its effect.
    state.open.set(figure.id, !fold.open);
    onSettled();
  };
  const summary = element("summary", { click: remember }, element("h2", {}, figure.title));
  const fold = element("details", { class: "part", open: figure.open }, summary, body);
  const made = element("section", { id: figure.id }, fold);
  // As high as it was, so that nothing jumps under the reader.
  if (figure.open) made.style.minHeight = `${old?.offsetHeight || 380}px`;
  const numbersOpen = Boolean(old?.querySelector("details.numbers")?.open);
  made.fill = () => {
    made.fill = null;
    fold.open = true;
    fillSection(made, body, figure.make(state), numbersOpen);
  };
  fold.addEventListener("toggle", () => {
    if (fold.open) made.fill?.();
    else made.style.minHeight = "";
  });
  return made;
}

function fillSection(made, body, figure, open) {
  const numbers =
    figure.numbers &&
    element(
      "details",
      { class: "numbers", open, toggle: (event) => fillNumbers(event.target, figure.numbers) },
      element("summary", {}, "numbers"),
    );
  const choosers = (figure.choices ?? []).filter((choice) => choice.options.length > 1).map(chooser);
  const parts = [
    figure.hint ? element("p", { class: "hint" }, figure.hint) : null,
    choosers.length ? element("p", { class: "choices" }, choosers) : null,
    figure.charts ? drawCharts(figure.charts) : null,
    figure.body?.() ?? null,
    numbers ?? null,
  ];
  body.append(...parts.filter(Boolean));
  requestAnimationFrame(() => {
    made.style.minHeight = "";
  });
}

/** The charts, drawn as wide as there is room for; `holders` are in the document first, so that they have a width. */
function drawCharts(charts) {
  const holders = charts.map(({ wide }) => element("div", { class: wide ? "chart wide" : "chart", tabindex: wide && 0 }));
  const figures = charts.map((chart, place) =>
    element(
      "figure",
      {},
      element("figcaption", {}, chart.caption),
      chart.legend?.() ?? null,
      holders[place],
      saver(state.data.sweep, chart, holders[place]),
    ),
  );
  const all = element("div", { class: "charts" }, figures);
  const draw = (holder, { caption, draw: drawn }) => {
    const chart = drawn(Math.max(300, holder.clientWidth || 640));
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", caption);
    holder.append(chart);
  };
  requestAnimationFrame(() => holders.forEach((holder, place) => draw(holder, charts[place])));
  return all;
}

function fillNumbers(details, make) {
  if (details.open && details.childElementCount === 1) details.append(make());
}

function chooser({ name, label, options, value }) {
  const change = (event) => {
    state.choices[name] = event.target.value;
    onChoice(`choose-${name}`);
  };
  const all = options.map(([key, text]) => element("option", { value: key, selected: key === value }, text));
  return element("label", {}, `${label} `, element("select", { id: `choose-${name}`, change }, all));
}

/** After a choice in a part: all is drawn again, and the reader stays where the choice was made. */
function onChoice(id) {
  drawFigures();
  onSettled();
  const back = () => document.getElementById(id)?.focus({ preventScroll: true });
  requestAnimationFrame(() => requestAnimationFrame(back));
}

const watcher = new IntersectionObserver(
  (seen) => {
    for (const { isIntersecting, target } of seen)
      if (isIntersecting && target.querySelector("details").open) target.fill?.();
  },
  { rootMargin: "200px" },
);

/** Links to the parts that are there. */
function drawParts() {
  const sections = [...document.querySelectorAll("main > section:not([hidden]), #figures > section")];
  const links = sections.map((part) => [part.id, part.querySelector("h2")?.textContent]).filter(([, title]) => title);
  const link = ([id, title]) => {
    const click = (event) => {
      event.preventDefault();
      showPart(id);
    };
    return element("a", { href: `#${id}`, click }, title);
  };
  document.getElementById("parts").replaceChildren(...links.map(link));
}

/** Opens a part and brings it into view; the address keeps what is chosen. */
function showPart(id) {
  const part = document.getElementById(id);
  const fold = part?.querySelector(":scope > details");
  if (fold && !fold.open) {
    state.open.set(id, true);
    fold.open = true;
    onSettled();
  }
  part?.scrollIntoView();
}
