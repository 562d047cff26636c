"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const NS = "http://www.w3.org/2000/svg"; // a name, never fetched
const AXES = [["step", "steps"], ["tokens", "tokens"], ["seconds", "seconds of training"]];
const hidden = new Set();
let axis = "step", lateOnly = false, smooth = false;

function make(name, attributes, parent, text) {
  const node = name.startsWith("svg:") ? document.createElementNS(NS, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}
function short(value) {
  for (const [unit, size] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["K", 1e3]]) if (Math.abs(value) >= size) return +(value / size).toPrecision(4) + unit;
  return String(+value.toPrecision(4));
}
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1, size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find(m => m * size >= rough), found = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-12); i++) found.push(+(i * step).toPrecision(12));
  return found;
}
// A frame with axes: returns its parts and the two scales.
function frame(place, low, high, xName, yName) {
  place.replaceChildren();
  const width = Math.max(300, Math.min(1200, place.clientWidth || 900)), height = Math.max(240, Math.min(440, width * .55));
  const left = 52, right = 14, top = 10, bottom = 40;
  const svg = make("svg:svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yName} against ${xName}`}, place);
  const x = v => left + (v - low[0]) / (high[0] - low[0] || 1) * (width - left - right);
  const y = v => height - bottom - (v - low[1]) / (high[1] - low[1] || 1) * (height - top - bottom);
  for (const v of ticks(low[0], high[0], width / 110)) {
    make("svg:line", {class: "grid", x1: x(v), x2: x(v), y1: top, y2: height - bottom}, svg);
    make("svg:text", {x: x(v), y: height - bottom + 16, "text-anchor": "middle"}, svg, short(v));
  }
  for (const v of ticks(low[1], high[1], height / 55)) {
    make("svg:line", {class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v)}, svg);
    make("svg:text", {x: left - 6, y: y(v) + 4, "text-anchor": "end"}, svg, short(v));
  }
  make("svg:text", {class: "soft", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle"}, svg, xName);
  make("svg:text", {class: "soft", x: 0, y: 0, "text-anchor": "middle", transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`}, svg, yName);
  return {svg, x, y, width, height, left, right, top, bottom, back: px => low[0] + (px - left) / (width - left - right) * (high[0] - low[0])};
}
function bounds(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
  return [low, high];
}
function tip(place, px, py, lines, scale) {
  let box = place.querySelector(".tip") || make("div", {class: "tip"}, place);
  box.replaceChildren(...lines.map(([colour, text]) => {
    const line = make("div");
    if (colour) make("span", {class: "swatch", style: `background:${colour}`}, line);
    line.append(text);
    return line;
  }));
  const left = px * scale + 12;
  box.style.left = Math.max(0, Math.min(left, place.clientWidth - box.offsetWidth - 2)) + "px";
  box.style.top = Math.max(0, py * scale - 10) + "px";
}
// Means over a twentieth of the curve's points about each.
function smoothed(loss) {
  const half = Math.floor(loss.length / 40), sums = [0];
  for (const v of loss) sums.push(sums.at(-1) + v);
  return loss.map((_, i) => {
    const reach = Math.min(half, i, loss.length - 1 - i);
    return (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1);
  });
}
function drawCurves() {
  const place = document.getElementById("curves");
  const shown = DATA.curves.filter(c => !hidden.has(c.row) && c.step.length).map(c => smooth ? {...c, loss: smoothed(c.loss)} : c);
  if (!shown.length) { place.textContent = DATA.curves.length ? "All curves are hidden." : "No run has recorded steps."; return; }
  const far = Math.max(...shown.map(c => c[axis].at(-1))), from = lateOnly ? far / 2 : 0;
  const visible = shown.flatMap(c => c.loss.filter((_, i) => c[axis][i] >= (lateOnly ? from : far * .05)));
  let [low, high] = bounds(visible.length ? visible : shown.flatMap(c => c.loss));
  const f = frame(place, [from, low - (high - low) * .03], [far, high + (high - low) * .03], AXES.find(a => a[0] === axis)[1], "loss, nats per byte");
  const clip = make("svg:clipPath", {id: "inside"}, make("svg:defs", {}, f.svg));
  make("svg:rect", {x: f.left, y: f.top, width: f.width - f.left - f.right + 4, height: f.height - f.top - f.bottom}, clip);
  const group = make("svg:g", {"clip-path": "url(#inside)"}, f.svg);
  for (const c of shown) {
    const path = c.loss.map((v, i) => `${i ? "L" : "M"}${f.x(c[axis][i]).toFixed(1)} ${f.y(v).toFixed(1)}`).join("");
    make("svg:path", {d: path, fill: "none", stroke: c.colour, "stroke-width": 1.6, "stroke-dasharray": c.dash, "data-label": c.label}, group);
    for (const [i, v] of c.heldout) make("svg:circle", {cx: f.x(c[axis][i]), cy: f.y(v), r: 3.5, fill: c.colour}, group);
  }
  const cross = make("svg:line", {class: "grid", y1: f.top, y2: f.height - f.bottom, visibility: "hidden"}, f.svg);
  const move = event => {
    const box = f.svg.getBoundingClientRect(), scale = box.width / f.width, px = (event.clientX - box.left) / scale;
    const at = Math.max(from, Math.min(far, f.back(px)));
    const lines = shown.filter(c => at <= c[axis].at(-1) * 1.0001).map(c => {
      let i = c[axis].findIndex(v => v >= at);
      if (i < 0) i = c.loss.length - 1;
      return [c.loss[i], c.colour, `${c.label}: ${c.loss[i].toFixed(4)}`];
    }).sort((a, b) => a[0] - b[0]);
    const more = lines.length - 15;
    cross.setAttribute("x1", f.x(at)); cross.setAttribute("x2", f.x(at)); cross.setAttribute("visibility", "visible");
    tip(place, f.x(at), (event.clientY - box.top) / scale, [["", `${short(at)} ${AXES.find(a => a[0] === axis)[1]}`], ...lines.slice(0, 15).map(l => l.slice(1)), ...(more > 0 ? [["", `and ${more} more`]] : [])], scale);
  };
  f.svg.addEventListener("pointermove", move);
  f.svg.addEventListener("pointerdown", move);
  f.svg.addEventListener("pointerleave", () => { cross.setAttribute("visibility", "hidden"); place.querySelector(".tip")?.remove(); });
}
function drawScatter() {
  const place = document.getElementById("scatter"), rows = DATA.rows.filter(r => r.speed && r.loss !== null);
  if (!rows.length) { place.textContent = "No row has both a throughput and a loss."; return; }
  const [x0, x1] = bounds(rows.map(r => r.speed)), [y0, y1] = bounds(rows.flatMap(r => [r.loss, r.low ?? r.loss, r.high ?? r.loss]));
  const dx = (x1 - x0) * .12 || x1 * .1, dy = (y1 - y0) * .08 || .05;
  const f = frame(place, [Math.max(0, x0 - dx), y0 - dy], [x1 + dx, y1 + dy], "target tokens per second", "last-100 loss, nats per byte");
  const front = DATA.rows.filter(r => r.front).sort((a, b) => a.speed - b.speed);
  if (front.length > 1) make("svg:path", {id: "front", d: front.map((r, i) => `${i ? "L" : "M"}${f.x(r.speed)} ${f.y(r.loss)}`).join(""), fill: "none", stroke: "currentColor", "stroke-opacity": .4, "stroke-dasharray": "5 4"}, f.svg);
  for (const r of rows) {
    const g = make("svg:g", {}, f.svg), text = `${r.label}: ${r.loss.toFixed(4)} at ${short(r.speed)} tok/s${r.front ? ", on the front" : ""}`;
    if (r.low !== null) make("svg:line", {x1: f.x(r.speed), x2: f.x(r.speed), y1: f.y(r.low), y2: f.y(r.high), stroke: r.colour, "stroke-width": 1.5}, g);
    make("svg:circle", {cx: f.x(r.speed), cy: f.y(r.loss), r: r.front ? 6 : 4.5, fill: r.colour}, g);
    make("svg:title", {}, g, text);
    if (rows.length <= 25) {
      const end = f.x(r.speed) > f.width * .75;
      make("svg:text", {x: f.x(r.speed) + (end ? -9 : 9), y: f.y(r.loss) + 4, "text-anchor": end ? "end" : "start"}, g, r.label);
    }
    g.addEventListener("pointerenter", () => tip(place, f.x(r.speed), f.y(r.loss), [[r.colour, text]], f.svg.getBoundingClientRect().width / f.width));
    g.addEventListener("pointerleave", () => place.querySelector(".tip")?.remove());
  }
}
function sortable(table) {
  const body = table.tBodies[0], original = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const before = head.getAttribute("aria-sort"), down = before === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const number = head.classList.contains("n");
    const order = (a, b) => {
      const [ka, kb] = [key(a), key(b)];
      if (ka === "" || kb === "") return (ka === "") - (kb === ""); // rows without a value come last either way
      return (number ? ka - kb : ka.localeCompare(kb, undefined, {numeric: true})) * (down ? -1 : 1);
    };
    body.append(...[...original].sort(order));
  }));
}
function start() {
  document.querySelectorAll("table.sortable").forEach(sortable);
  const controls = document.getElementById("axis");
  for (const [key, name] of AXES) {
    const label = make("label", {}, controls), input = make("input", {type: "radio", name: "axis", value: key}, label);
    input.checked = key === axis;
    label.append(" " + name);
    input.addEventListener("change", () => { axis = key; drawCurves(); });
  }
  for (const [id, name, set] of [["late", "second half only", on => { lateOnly = on; }], ["smooth", "smooth", on => { smooth = on; }]]) {
    const label = make("label", {}, controls), box = make("input", {type: "checkbox", id}, label);
    label.append(" " + name);
    box.addEventListener("change", () => { set(box.checked); drawCurves(); });
  }
  DATA.rows.forEach((row, number) => {
    if (!DATA.curves.some(c => c.row === number)) return;
    const button = make("button", {type: "button", "aria-pressed": "true"}, document.getElementById("legend"));
    make("span", {class: "swatch", style: `background:${row.colour}`}, button);
    button.append(row.label);
    button.addEventListener("click", () => {
      if (!hidden.delete(number)) hidden.add(number);
      button.setAttribute("aria-pressed", String(!hidden.has(number)));
      drawCurves();
    });
  });
  const draw = () => { drawCurves(); drawScatter(); };
  draw();
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => { d.open = true; }));
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; draw(); } });
}
start();
