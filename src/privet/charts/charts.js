"use strict";

// Elements are written as text and attributes, never as markup: [tag, {name: value}, child, ...].
const SVG = "http://www.w3.org/2000/svg";
const build = (of, within = "") => {
  if (typeof of === "string") return document.createTextNode(of);
  const [tag, attributes, ...children] = of;
  const space = tag === "svg" || within === SVG ? SVG : "http://www.w3.org/1999/xhtml";
  const made = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.map((child) => build(child, space)));
  return made;
};

// A pointer, a finger or the arrow keys read a chart. `columns()` are the places that the keys go
// through, from left to right and within each; `at(i)` is [x, y] in per cent, y null for all heights;
// `told(i)` is a head and rows of [key, name, text]; what `spans` the frame is near everywhere.
const readable = (plot, { columns, at, told, reach = Infinity,
  near = () => 0, spans = () => false, on = () => {} }) => {
  const tip = build(["div", { class: "tip", role: "status", hidden: "" }]);
  const cross = build(["i", { class: "cross", hidden: "" }]);
  plot.append(cross, tip);
  let reading = -1;

  const read = (index) => {
    if (index === reading) return;
    if (reading >= 0) on(reading, false);
    reading = index;
    tip.hidden = index < 0;
    cross.hidden = index < 0 || at(index)[1] !== null || columns().length < 2;
    if (index < 0) return;
    on(index, true);
    const { head, rows } = told(index);
    const lines = rows.map(([key, name, text]) => {
      const line = build(["div", {}, ["span", {}, name], ["b", {}, text]]);
      if (key) line.prepend(key.cloneNode(true));
      return line;
    });
    tip.replaceChildren(build(["strong", {}, head]), ...lines);
    const [x, y] = at(index);
    cross.style.left = `${x}%`;
    const isHigh = y === null || y <= 50;
    Object.assign(tip.style, { top: isHigh ? "" : "auto", bottom: isHigh ? "" : ".4rem", left: "0px" });
    // Beside the place, and within the window at any width.
    const box = plot.getBoundingClientRect();
    const px = (x / 100) * box.width;
    const beside = x > 50 ? px - tip.offsetWidth - 13 : px + 13;
    const room = document.documentElement.clientWidth - 8 - box.left - tip.offsetWidth;
    tip.style.left = `${Math.max(8 - box.left, Math.min(beside, room))}px`;
  };

  const nearest = (event) => {
    const box = plot.getBoundingClientRect();
    const distance = (index) => {
      const [x, y] = at(index);
      const dx = spans(index) ? 0 : (x / 100) * box.width - (event.clientX - box.left);
      const dy = y === null ? 0 : (1 - y / 100) * box.height - (event.clientY - box.top);
      return Math.hypot(dx, dy) + near(index);
    };
    let [best, least] = [-1, reach];
    for (const index of columns().flat()) {
      const far = distance(index);
      if (far < least) [best, least] = [index, far];
    }
    read(best);
  };

  const step = (event) => {
    if (event.key === "Escape") return read(-1);
    const all = columns();
    const column = all.findIndex((each) => each.includes(reading));
    const place = column < 0 ? 0 : all[column].indexOf(reading);
    const moves = {
      ArrowLeft: [column - 1, 0], ArrowRight: [column + 1, 0], Home: [0, 0], End: [all.length - 1, 0],
      ...(all.some((each) => each.length > 1)
        ? { ArrowDown: [column, place + 1], ArrowUp: [column, place - 1] } : {}),
    };
    if (!(event.key in moves) || !all.length) return undefined;
    event.preventDefault();
    const within = (index, length) => Math.max(0, Math.min(index, length - 1));
    const chosen = all[within(moves[event.key][0], all.length)];
    return read(chosen[within(moves[event.key][1], chosen.length)]);
  };

  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("pointerleave", () => read(-1));
  plot.addEventListener("keydown", step);
  plot.addEventListener("blur", () => read(-1));
  return read;
};

// What a chart says of itself: columns of values, and a legend whose entries bring out their shapes.
const enliven = (root) => {
  for (const plot of root.querySelectorAll("[data-hover]")) {
    const { at, heads, names, styles, texts } = JSON.parse(plot.dataset.hover);
    const entries = [...(plot.closest("figure")?.querySelectorAll(".legend li") ?? [])];
    const keys = styles.map((style) => entries.find((e) => e.dataset.style === style)?.firstChild);
    const columns = at.map((_, index) => [index]);
    readable(plot, {
      columns: () => columns,
      at: (index) => [at[index], null],
      told: (index) => ({
        head: heads[index],
        rows: names.map((name, i) => [keys[i], name, texts[i][index]]).filter((row) => row[2] !== null),
      }),
    });
  }
  for (const entry of root.querySelectorAll("figure .legend li")) {
    const titles = [...entry.closest("figure").querySelectorAll(".plot title")];
    const shapes = titles.map((title) => title.parentNode);
    const own = titles.map((title) => title.textContent === entry.textContent);
    if (!own.includes(true)) continue;
    const dim = (on) => shapes.forEach((shape, i) => shape.classList.toggle("dim", on && !own[i]));
    entry.addEventListener("pointerenter", () => dim(true));
    entry.addEventListener("pointerleave", () => dim(false));
  }
};
enliven(document);

// Paper has no buttons: print with everything unfolded.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
