
// The chart of a sweep. Where every mark stands is reckoned beforehand; this puts it there.
if (document.getElementById("data")) {
  const { marks, views, heights } = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const plot = document.querySelector("#chart .plot");
  const svg = plot.querySelector("svg");
  const drawn = [...svg.querySelectorAll("[data-mark]")];
  const [along, upwards, log] = [find("along"), find("upwards"), find("log")];
  const hidden = new Set();
  let reading = -1;

  const make = (tag, className, text = "") =>
    Object.assign(document.createElement(tag), { className, textContent: text });
  const tip = Object.assign(make("div", "tip"), { hidden: true });
  tip.setAttribute("role", "status");
  plot.append(tip);

  const view = () => views[along.value];
  const height = () => heights[upwards.value];
  const scale = () => view().scales[log.checked ? "log" : "linear"];
  const style = (index) => view().names[view().series[index]][1];
  const isCell = (index) => drawn[index].classList.contains("cell");
  const isSeen = (index) =>
    height().at[index] !== null && !hidden.has(view().names[view().series[index]][0]);

  const put = (element, places) => {
    for (const [name, value] of Object.entries(places)) element.setAttribute(name, `${value}%`);
  };

  const drawMark = (element, index) => {
    const [x, y] = [scale().at[index], 100 - (height().at[index] ?? 0)];
    const name = isCell(index) ? "cell" : "estimate";
    element.setAttribute("class", `${name} ${style(index)}${isSeen(index) ? "" : " gone"}`);
    if (isCell(index)) return put(element, { cx: x, cy: y });
    const [across, interval, point] = element.children;
    across.classList.toggle("gone", !view().across.includes(index));
    interval.classList.toggle("gone", height().low[index] === null);
    const [low, high] = [height().low[index] ?? 0, height().high[index] ?? 0];
    put(across, { y1: y, y2: y });
    put(interval, { x1: x, x2: x, y1: 100 - low, y2: 100 - high });
    put(point, { cx: x, cy: y });
  };

  const drawJoins = () => {
    const isJoined = (index) => isSeen(index) && height().at[index] !== height().lane[0]?.[0];
    const lines = view().joins.filter((pair) => pair.every(isJoined)).map(([a, b]) => {
      const line = document.createElementNS(svg.namespaceURI, "line");
      line.setAttribute("class", `join ${style(a)}`);
      const [ya, yb] = [100 - height().at[a], 100 - height().at[b]];
      put(line, { x1: scale().at[a], y1: ya, x2: scale().at[b], y2: yb });
      return line;
    });
    svg.querySelector(".joins").replaceChildren(...lines);
  };

  const drawAxes = () => {
    const side = (name, ticks, property) => {
      const box = make("div", `ticks ${name}`);
      box.setAttribute("aria-hidden", "true");
      for (const [at, text] of ticks) {
        const rule = make("i", "");
        const label = make("span", "", text);
        rule.style[property] = label.style[property] = `${at}%`;
        box.append(...(name === "y" ? [rule, label] : [label]));
      }
      return box;
    };
    const { lane } = height();
    const breaks = [view().lane.length && "break x", lane.length && "break y"].filter(Boolean);
    find("axes").replaceChildren(
      side("y", [...height().ticks, ...lane], "bottom"),
      side("x", [...scale().ticks, ...view().lane], "left"),
      ...breaks.map((name) => make("i", name)),
    );
    find("chart-title").textContent = height().label;
    find("axis-name").textContent = view().label;
  };

  const drawLegend = () => {
    const entries = view().names.map(([name, look]) => {
      const button = make("button", "");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      button.append(make("i", `key ${look}`), make("span", "", name));
      button.addEventListener("click", () => {
        if (!hidden.delete(name)) hidden.add(name);
        button.setAttribute("aria-pressed", String(!hidden.has(name)));
        drawMarks();
      });
      const entry = document.createElement("li");
      entry.append(button);
      return entry;
    });
    find("series").replaceChildren(...entries);
  };

  const drawMarks = () => {
    read(-1);
    drawn.forEach(drawMark);
    drawJoins();
  };

  const draw = () => {
    drawAxes();
    drawMarks();
  };

  const row = (name, text) => {
    const line = document.createElement("div");
    line.append(make("span", "", name), make("b", "", text));
    return line;
  };

  // Show what is known of a mark, within the window at any width; -1: of none.
  const read = (index) => {
    if (reading >= 0) drawn[reading].classList.remove("on");
    reading = index;
    tip.hidden = index < 0;
    if (index < 0) return;
    drawn[index].classList.add("on");
    const rows = [[height().label, height().texts[index]], ...marks[index].rows];
    tip.replaceChildren(make("strong", "", marks[index].name), ...rows.map((each) => row(...each)));
    const isHigh = height().at[index] > 50;
    Object.assign(tip.style, { top: isHigh ? "auto" : ".4rem", bottom: isHigh ? ".4rem" : "auto" });
    placeTip(tip, plot, scale().at[index]);
  };

  const nearest = (event) => {
    const box = plot.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [-1, 40];
    for (let i = 0; i < marks.length; i++) {
      if (!isSeen(i)) continue;
      const dx = view().across.includes(i) ? 0 : (scale().at[i] / 100) * box.width - px;
      const dy = (1 - height().at[i] / 100) * box.height - py;
      const beside = view().across.includes(i) ? 6 : isCell(i) ? 2 : 0; // points before levels
      const distance = Math.hypot(dx, dy) + beside;
      if (distance < least) [best, least] = [i, distance];
    }
    if (best !== reading) read(best);
  };

  // Estimates from left to right, each with its cells.
  const columns = () =>
    marks
      .map((_, index) => index)
      .filter((index) => !isCell(index) && isSeen(index))
      .sort((a, b) => scale().at[a] - scale().at[b])
      .map((index) => [index, ...marks.flatMap((mark, i) =>
        isCell(i) && isSeen(i) && mark.setting === marks[index].setting ? [i] : [])]);

  const step = (event) => {
    if (event.key === "Escape") return read(-1);
    const all = columns();
    const column = all.findIndex((each) => each.includes(reading));
    const place = column < 0 ? 0 : all[column].indexOf(reading);
    const moves = {
      ArrowLeft: [column - 1, 0], ArrowRight: [column + 1, 0], Home: [0, 0], End: [all.length - 1, 0],
      ArrowDown: [column, place + 1], ArrowUp: [column, place - 1],
    };
    if (!(event.key in moves) || !all.length) return;
    event.preventDefault();
    const within = (at, length) => Math.max(0, Math.min(at, length - 1));
    const chosen = all[within(moves[event.key][0], all.length)];
    read(chosen[within(moves[event.key][1], chosen.length)]);
  };

  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("pointerleave", () => read(-1));
  plot.addEventListener("keydown", step);
  plot.addEventListener("focus", () => plot.matches(":focus-visible") && reading < 0 && step({ key: "Home", preventDefault() {} }));
  plot.addEventListener("blur", () => read(-1));

  along.addEventListener("change", () => {
    hidden.clear();
    log.disabled = !view().scales.log;
    log.checked = view().log;
    drawLegend();
    draw();
  });
  upwards.addEventListener("change", draw);
  log.addEventListener("change", draw);
  log.disabled = !view().scales.log;
  log.checked = view().log;
  along.value = upwards.value = 0;
  drawLegend();
  draw();
}

// The target of the table of rounds.
const target = document.getElementById("target");
target?.addEventListener("change", () => {
  const { level, share } = target.selectedOptions[0].dataset;
  document.getElementById("target-said").textContent = level;
  document.getElementById("share-said").textContent = share;
  for (const each of document.querySelectorAll("td.rounds")) {
    each.textContent = JSON.parse(each.dataset.rounds)[target.value];
  }
});
for (const controls of document.querySelectorAll(".controls")) {
  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
}
