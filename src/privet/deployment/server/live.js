"use strict";

// Whatever the server says is written as text, never as markup.
const EVERY = 2000;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
const shown = {};
let chosen = location.hash.slice(1);
let offset = 0;

const make = (tag, className, ...content) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
};

const ago = (moment) => {
  const seconds = Math.max(0, Math.round(Date.now() / 1000 + offset - moment));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
};

// Rebuilt only when something changed, and a focused row keeps the focus.
const show = (id, state, build) => {
  const text = JSON.stringify(state);
  if (shown[id] === text) return;
  shown[id] = text;
  const place = at(id);
  const focused = place.contains(document.activeElement) && document.activeElement.dataset.job;
  place.replaceChildren(...build());
  if (focused) [...place.querySelectorAll("button")].find((b) => b.dataset.job === focused)?.focus();
};

const silo = ({ name, online, working_on, since }) => {
  const card = make("li", online ? "online" : "offline", make("strong", "", name));
  const state = online ? "online" : "offline";
  card.append(make("span", "", since ? `${state} for ${ago(Date.parse(since) / 1000)}` : "not seen yet"));
  card.append(make("span", "work", online && working_on ? `works on ${working_on}` : ""));
  return card;
};

const job = (told) => {
  const bar = make("progress");
  bar.max = Math.max(1, told.rounds);
  bar.value = told.round;
  bar.setAttribute("aria-label", "rounds finished");
  const button = make(
    "button",
    "",
    make("span", "id", make("code", "", told.id), make("small", "", `by ${told.requester}`)),
    make("span", "what", String(told.task), make("small", "", told.detail)),
    make("span", "progress", bar, make("small", "", `round ${told.round} of ${told.rounds}`)),
    make("span", `mark ${told.state}`, told.state),
  );
  button.type = "button";
  button.dataset.job = told.id;
  button.setAttribute("aria-pressed", String(told.id === shown.chosen));
  button.addEventListener("click", () => {
    chosen = told.id;
    history.replaceState(null, "", `#${told.id}`);
    renew();
  });
  return make("li", "", button);
};

const digits = (value) => String(Number(value.toPrecision(4)));

// From low to high in about four round steps.
const scale = (low, high) => {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  const from = Math.floor(low / step) * step;
  const to = Math.max(from + step, Math.ceil(high / step) * step);
  const ticks = [];
  for (let i = 0; from + i * step <= to + step / 2; i++) ticks.push(from + i * step);
  return { from, to, ticks };
};

const tick = (className, side, percent, text) => {
  const label = make("span", className, text);
  label.style[side] = `${percent}%`;
  return label;
};

const chart = ({ title, curves }, rounds) => {
  const values = curves.flatMap(({ points }) => points.map(([, value]) => value));
  const low = title === "epsilon" ? 0 : Math.min(...values);
  const y = scale(low, Math.max(...values));
  const last = Math.max(1, rounds, ...curves.flatMap(({ points }) => points.map(([x]) => x)));
  const up = (value) => (100 * (value - y.from)) / (y.to - y.from);
  const plot = make("div", "plot");
  for (const value of y.ticks) {
    const line = make("i");
    line.style.bottom = `${up(value)}%`;
    plot.append(line, tick("y", "bottom", up(value), digits(value)));
  }
  for (const round of new Set([0, Math.round(last / 2), last])) {
    plot.append(tick("x", "left", (100 * round) / last, String(round)));
  }
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 1000 1000");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  curves.forEach(({ points }, index) => {
    const path = document.createElementNS(SVG, "path");
    const spots = points.map(([x, value]) => `${(1000 * x) / last} ${1000 - 10 * up(value)}`);
    path.setAttribute("class", index ? "curve second" : "curve");
    path.setAttribute("d", `M${spots.length > 1 ? spots.join("L") : `${spots[0]}h.01`}`);
    svg.append(path);
  });
  const [round, value] = curves[0].points.at(-1);
  svg.setAttribute("aria-label", `${title} by round: ${digits(value)} in round ${round}`);
  plot.append(svg);
  const name = title[0].toUpperCase() + title.slice(1);
  const figure = make("figure", "", make("figcaption", "", name, make("b", "", digits(value))));
  figure.append(make("div", "chart", plot));
  const names = curves.map(({ name }, index) => make("li", index ? "second" : "", name));
  figure.append(make("ul", "legend", ...names));
  return figure;
};

const draw = (told) => {
  offset = told.time - Date.now() / 1000;
  document.title = `${told.project}, privet`;
  at("project").textContent = told.project;
  const here = told.silos.filter(({ online }) => online).length;
  const running = told.jobs.filter(({ state }) => state === "running").length;
  at("subtitle").textContent =
    `${here} of ${told.silos.length} silos online, ${running || "no"} job${running > 1 ? "s" : ""} running`;
  const minute = Math.floor(told.time / 10);
  show("silos", [told.silos, minute], () => told.silos.map(silo));
  shown.chosen = told.chosen;
  show("jobs", [told.jobs, told.chosen], () =>
    told.jobs.length ? told.jobs.map(job) : [make("li", "empty", "No job yet: privet submit")]);
  const one = told.jobs.find(({ id }) => id === told.chosen);
  at("chosen").hidden = !one;
  if (!one) return;
  at("chosen-title").textContent = `${one.task}, ${one.id}`;
  at("chosen-note").textContent =
    `${one.state} for ${ago(one.since)}, round ${one.round} of ${one.rounds}` +
    (told.charts.length ? "" : "; no curves yet");
  show("charts", [told.charts, one.rounds], () => told.charts.map((each) => chart(each, one.rounds)));
};

const alarm = (text) => {
  at("alarm").textContent = text;
  at("alarm").hidden = !text;
};

let asking = 0;
const renew = async () => {
  const mine = ++asking;
  let told;
  try {
    const answer = await fetch(`/page/state?job=${encodeURIComponent(chosen)}`, {
      cache: "no-store", signal: AbortSignal.timeout(10000),
    });
    if (mine !== asking) return undefined;
    if (answer.status === 403) {
      clearInterval(timer);
      return alarm("This page is closed. The command privet page opens a new one.");
    }
    if (!answer.ok) throw new Error(answer.status);
    told = await answer.json();
  } catch {
    if (mine === asking) alarm("No answer from the server; trying on.");
    return undefined;
  }
  alarm("");
  return draw(told);
};

const timer = setInterval(() => document.hidden || renew(), EVERY);
document.addEventListener("visibilitychange", () => document.hidden || renew());
renew();
