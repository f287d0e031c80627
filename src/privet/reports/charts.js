"use strict";

// Put a tip beside a place, in per cent from the left, and within the window at any width.
const placeTip = (tip, plot, percent) => {
  tip.style.left = "0px";
  const box = plot.getBoundingClientRect();
  const x = (percent / 100) * box.width;
  const beside = percent > 50 ? x - tip.offsetWidth - 13 : x + 13;
  const room = document.documentElement.clientWidth - 8 - box.left - tip.offsetWidth;
  tip.style.left = `${Math.max(8 - box.left, Math.min(beside, room))}px`;
};

// A pointer, a finger or the arrow keys read the values of a chart at the nearest column.
for (const plot of document.querySelectorAll("[data-hover]")) {
  const { at, heads, names, styles, texts } = JSON.parse(plot.dataset.hover);
  if (!at.length) continue;
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  const cross = Object.assign(document.createElement("i"), { className: "cross", hidden: true });
  tip.setAttribute("role", "status");
  if (at.length > 1) plot.append(cross);
  plot.append(tip);
  let column = -1;

  const line = (name, style, text) => {
    const row = document.createElement("div");
    const key = document.createElement("i");
    if (style.startsWith("#")) key.style.background = style;
    key.className = style.startsWith("#") ? "key block" : `key ${style}`;
    const label = Object.assign(document.createElement("span"), { textContent: name });
    const value = Object.assign(document.createElement("b"), { textContent: text });
    row.append(key, label, value);
    return row;
  };

  const show = (index) => {
    if (index === column) return;
    column = index;
    const head = Object.assign(document.createElement("strong"), { textContent: heads[index] });
    const rows = names
      .map((name, i) => (texts[i][index] === null ? null : line(name, styles[i], texts[i][index])))
      .filter(Boolean);
    tip.replaceChildren(head, ...rows);
    tip.hidden = cross.hidden = false;
    cross.style.left = `${at[index]}%`;
    placeTip(tip, plot, at[index]);
  };

  const hide = () => {
    column = -1;
    tip.hidden = cross.hidden = true;
  };

  const nearest = (event) => {
    const box = plot.getBoundingClientRect();
    const percent = (100 * (event.clientX - box.left)) / box.width;
    let best = 0;
    for (let i = 1; i < at.length; i++) {
      if (Math.abs(at[i] - percent) < Math.abs(at[best] - percent)) best = i;
    }
    show(best);
  };

  const step = (event) => {
    const moves = { ArrowLeft: column - 1, ArrowRight: column + 1, Home: 0, End: at.length - 1 };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(Math.max(0, Math.min(moves[event.key], at.length - 1)));
  };

  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("keydown", step);
  plot.addEventListener("blur", hide);
}

// Pointing at a name in a legend leaves only its line in full colour.
for (const legend of document.querySelectorAll(".legend[data-lines]")) {
  // Drawn last to first, so that the first lies on top.
  const curves = [...legend.closest("figure").querySelectorAll(".curve")].reverse();
  [...legend.children].forEach((entry, index) => {
    const dim = (on) => curves.forEach((curve, i) => curve.classList.toggle("dim", on && i !== index));
    entry.addEventListener("pointerenter", () => dim(true));
    entry.addEventListener("pointerleave", () => dim(false));
  });
}

// Paper has no buttons: print with everything unfolded.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
