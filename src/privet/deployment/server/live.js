
// The live page. Whatever the server says is written as text, never as markup.
const EVERY = 2000;
const at = (id) => document.getElementById(id);
const shown = {};
let chosen = location.hash.slice(1);
let offset = 0;

const make = (tag, name, ...content) => {
  const made = build([tag, name ? { class: name } : {}]);
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
const show = (id, state, fill) => {
  const text = JSON.stringify(state);
  if (shown[id] === text) return;
  shown[id] = text;
  const place = at(id);
  const focused = place.contains(document.activeElement) && document.activeElement.dataset.job;
  place.replaceChildren(...fill());
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

const draw = (told) => {
  offset = told.time - Date.now() / 1000;
  document.title = `${told.project}, privet`;
  at("project").textContent = told.project;
  const here = told.silos.filter(({ online }) => online).length;
  const running = told.jobs.filter(({ state }) => state === "running").length;
  at("subtitle").textContent =
    `${here} of ${told.silos.length} silos online, ${running || "no"} job${running > 1 ? "s" : ""} running`;
  // Ages change by themselves: the silos are written anew every ten seconds.
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
  const before = shown.charts;
  show("charts", told.charts, () => told.charts.map((each) => build(each)));
  if (shown.charts !== before) enliven(at("charts"));
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
    // A slow answer must not take the place of a newer one, for another job perhaps.
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
