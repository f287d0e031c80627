
// The chart of a sweep. Where every mark stands is reckoned beforehand; this puts it there.
if (document.getElementById("data")) {
  const { marks, views, heights } = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const plot = document.querySelector("#chart .plot");
  const svg = plot.querySelector("svg");
  const drawn = marks.map((_, index) => [...svg.querySelectorAll(`[data-mark="${index}"]`)]);
  const [along, upwards, log] = [find("along"), find("upwards"), find("log")];
  const hidden = new Set();

  const view = () => views[along.value];
  const height = () => heights[upwards.value];
  const scale = () => view().scales[log.checked ? "log" : "linear"];
  const name = (index) => view().names[view().series[index]];
  const isCell = (index) => drawn[index].length === 1;
  const isSeen = (index) => height().at[index] !== null && !hidden.has(name(index)[0]);

  const put = (element, places) => {
    for (const [side, value] of Object.entries(places)) element.setAttribute(side, `${value}%`);
  };

  const drawMark = (elements, index) => {
    const [x, y] = [scale().at[index], 100 - (height().at[index] ?? 0)];
    const [low, high] = [height().low[index], height().high[index]];
    const places = {
      across: { x1: 0, x2: 100, y1: y, y2: y },
      interval: { x1: x, x2: x, y1: 100 - low, y2: 100 - high },
      point: { cx: x, cy: y },
      cell: { cx: x, cy: y },
    };
    const isOff = { across: !view().across.includes(index), interval: low === null };
    for (const element of elements) {
      const [kind] = element.classList;
      put(element, places[kind]);
      const gone = isOff[kind] || !isSeen(index) ? " gone" : "";
      element.setAttribute("class", `${kind} ${name(index)[1]}${gone}`);
    }
  };

  const drawMarks = () => {
    read(-1);
    drawn.forEach(drawMark);
    const isJoined = (index) => isSeen(index) && height().at[index] !== height().never;
    const joins = view().joins.filter((pair) => pair.every(isJoined)).map(([a, b]) => {
      const line = build(["line", { class: `join ${name(a)[1]}` }], SVG);
      const [y1, y2] = [100 - height().at[a], 100 - height().at[b]];
      put(line, { x1: scale().at[a], x2: scale().at[b], y1, y2 });
      return line;
    });
    for (const line of svg.querySelectorAll(".join")) line.remove();
    svg.querySelector("[data-mark]").before(...joins);
  };

  const draw = () => {
    svg.querySelector(".ticks.x").replaceWith(build(scale().axis, SVG));
    svg.querySelector(".ticks.y").replaceWith(build(height().axis, SVG));
    find("chart-title").textContent = height().label;
    find("axis-name").textContent = view().label;
    drawMarks();
  };

  const drawLegend = () => {
    find("series").replaceChildren(build(view().legend));
    for (const entry of find("series").querySelectorAll("li")) {
      const button = build(["button", { type: "button", "aria-pressed": "true" }]);
      const series = entry.textContent;
      button.append(...entry.childNodes);
      entry.append(button);
      button.addEventListener("click", () => {
        if (!hidden.delete(series)) hidden.add(series);
        button.setAttribute("aria-pressed", String(!hidden.has(series)));
        drawMarks();
      });
    }
  };

  const read = readable(plot, {
    // Estimates from left to right, each with its runs.
    columns: () =>
      marks
        .map((_, index) => index)
        .filter((index) => !isCell(index) && isSeen(index))
        .sort((a, b) => scale().at[a] - scale().at[b])
        .map((index) => [index, ...marks.flatMap((mark, i) =>
          isCell(i) && isSeen(i) && mark.setting === marks[index].setting ? [i] : [])]),
    at: (index) => [scale().at[index], height().at[index]],
    told: (index) => ({
      head: marks[index].name,
      rows: [[height().label, height().texts[index]], ...marks[index].rows].map((row) => [null, ...row]),
    }),
    reach: 40,
    spans: (index) => view().across.includes(index),
    near: (index) => (view().across.includes(index) ? 6 : isCell(index) ? 2 : 0), // points before levels
    on: (index, is) => drawn[index].at(-1).classList.toggle("on", is),
  });
  plot.addEventListener("focus", () =>
    plot.matches(":focus-visible") && plot.dispatchEvent(new KeyboardEvent("keydown", { key: "Home" })));

  along.addEventListener("change", () => {
    hidden.clear();
    log.disabled = !view().scales.log;
    log.checked = view().log;
    drawLegend();
    draw();
  });
  upwards.addEventListener("change", draw);
  log.addEventListener("change", draw);
  along.value = upwards.value = 0;
  along.dispatchEvent(new Event("change"));
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
