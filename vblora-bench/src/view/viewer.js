// The selection viewer. view/mod.rs describes the data.

const data = JSON.parse(document.getElementById("data").textContent);
const { h, k, s, steps, sites } = data;
const SIDES = ["A", "B"];
const byId = id => document.getElementById(id);

const now = new Selections(data);
const { indices, weights } = now;

// --- Selected view ---------------------------------------------------------------------------------------------------------------------

/** A row of the map: a site's A or B. */
const all = sites.flatMap((site, number) => site.rows.map(([from, to], side) => ({ site, number, side, from, to })));
const roles = [...new Set(sites.map(site => site.role))];
let rows = [];
let selected = null;

function order() {
  const layer = row => row.site.layer ?? -1;
  const role = row => roles.indexOf(row.site.role);
  const keys = byId("order").value === "layer" ? [layer, role] : [role, layer];
  const side = byId("side").value;
  rows = all.filter(row => side === "" || row.side === Number(side));
  rows.sort((a, b) => keys[0](a) - keys[0](b) || keys[1](a) - keys[1](b) || a.side - b.side);
}

/** The share of a row's weight on each vector. */
function parts(row) {
  const out = new Float32Array(h);
  for (let i = row.from * k; i < row.to * k; i++) out[indices[i]] += weights[i] / 255 / (row.to - row.from);
  return out;
}

function countUses() {
  const uses = new Uint32Array(h);
  for (const index of indices) uses[index] += 1;
  return uses;
}

// One pass over all steps gives a common colour scale.
let scale = 0;
for (let target = 0; target < steps.length; target++) {
  now.goTo(target);
  for (const row of all) for (const part of parts(row)) scale = Math.max(scale, part);
}

// --- Drawing ---------------------------------------------------------------------------------------------------------------------------

/** Space for the names of rows; less in a narrow window. */
let LEFT = 190;
const ratio = window.devicePixelRatio || 1;

function sized(canvas, height) {
  const width = canvas.parentElement.clientWidth;
  LEFT = Math.min(190, Math.round(0.36 * width));
  canvas.style.height = height + "px";
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** White to dark blue; the square root makes small shares visible. */
function colour(part) {
  const t = Math.sqrt(Math.min(1, part / scale));
  return [255 - 247 * t, 255 - 207 * t, 255 - 148 * t];
}

const rowHeight = () => Math.max(5, Math.min(16, 640 / rows.length));

function drawMap() {
  const height = rowHeight();
  const { context, width } = sized(byId("map"), rows.length * height + 18);
  const image = new ImageData(h, rows.length);
  rows.forEach((row, y) => parts(row).forEach((part, x) => image.data.set([...colour(part), 255], 4 * (y * h + x))));
  const cells = new OffscreenCanvas(h, rows.length);
  cells.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = h > width - LEFT;
  context.drawImage(cells, LEFT, 0, width - LEFT, rows.length * height);
  context.font = `${Math.min(11, height)}px sans-serif`;
  context.textBaseline = "middle";
  rows.forEach((row, y) => drawName(context, row, y, height, width));
  context.fillStyle = "#555";
  for (let x = 0; x < h; x += tick()) {
    context.fillText(String(x), LEFT + (x / h) * (width - LEFT), rows.length * height + 10);
  }
}

const tick = () => [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find(step => h / step <= 20) ?? h;

function drawName(context, row, y, height, width) {
  const above = rows[y - 1];
  const group = byId("order").value === "layer" ? row => row.site.layer : row => row.site.role;
  const isFirst = !above || group(above) !== group(row);
  if (isFirst) {
    context.strokeStyle = "#999";
    context.beginPath();
    context.moveTo(0, y * height);
    context.lineTo(width, y * height);
    context.stroke();
  }
  const name = `${row.site.layer ?? ""} ${row.site.role} ${SIDES[row.side]}`;
  const isSelected = selected === row.number;
  context.fillStyle = isSelected ? "#d55e00" : "#222";
  if (height >= 9) context.fillText(name.slice(-34), 4, (y + 0.5) * height, LEFT - 8);
  else if (isFirst) {
    context.font = "10px sans-serif";
    context.fillText(String(group(row) ?? "outside layers").slice(-34), 4, y * height + 6, LEFT - 8);
  }
  if (isSelected) {
    context.strokeStyle = "#d55e00";
    context.strokeRect(LEFT - 1, y * height + 0.5, width - LEFT, height - 1);
  }
}

function popular(uses) {
  return [...uses.keys()].sort((a, b) => uses[b] - uses[a] || a - b).slice(0, 5);
}

function drawUses(uses) {
  const { context, width, height } = sized(byId("uses"), 70);
  const most = Math.max(1, ...uses), top = new Set(popular(uses));
  const bar = (width - LEFT) / h;
  uses.forEach((n, x) => {
    context.fillStyle = n === 0 ? "#c00" : top.has(x) ? "#e69f00" : "#0072b2";
    const tall = n === 0 ? 4 : (n / most) * (height - 4);
    context.fillRect(LEFT + x * bar, height - tall, Math.max(0.7, bar - (bar > 3 ? 1 : 0)), tall);
  });
  context.fillStyle = "#555";
  context.fillText(`0 to ${most} sub-vectors`, 4, 12);
}

// --- Curves ----------------------------------------------------------------------------------------------------------------------------

const curves = ["entropy", "churn", "dead"];
const CURVE = { left: 36, right: 312, top: 8, bottom: 74 };
const last = steps[steps.length - 1] || 1;
const curveX = step => CURVE.left + ((step - steps[0]) / (last - steps[0] || 1)) * (CURVE.right - CURVE.left);

function svg(parent, name, attributes, text) {
  const element = document.createElementNS(parent.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function drawCurve(name) {
  const element = byId(name), values = data[name];
  const low = name === "entropy" ? Math.min(...values) : 0;
  const high = Math.max(...values, low + (name === "dead" ? 1 : 1e-4));
  const y = value => CURVE.bottom - ((value - low) / (high - low)) * (CURVE.bottom - CURVE.top);
  svg(element, "path", { d: values.map((v, i) => `${i ? "L" : "M"}${curveX(steps[i]).toFixed(1)},${y(v).toFixed(1)}`).join("") });
  const short = value => Number(value.toFixed(4));
  svg(element, "text", { x: 2, y: CURVE.top + 4 }, short(high));
  svg(element, "text", { x: 2, y: CURVE.bottom }, short(low));
  svg(element, "text", { x: CURVE.left, y: 87 }, `step ${steps[0]}`);
  svg(element, "text", { x: CURVE.right, y: 87, "text-anchor": "end" }, last);
  svg(element, "line", { class: "cursor", y1: CURVE.top, y2: CURVE.bottom });
  element.addEventListener("click", event => {
    const box = element.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 320;
    const distance = step => Math.abs(curveX(step) - x);
    show(steps.reduce((best, step, i) => (distance(step) < distance(steps[best]) ? i : best), 0));
  });
}

// --- Words -----------------------------------------------------------------------------------------------------------------------------

function element(parent, name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

const hue = vector => `hsl(${(vector * 137.508) % 360} 65% 50%)`;

function drawTile(parent, row) {
  const tile = element(parent, "div", "tile");
  const bar = element(tile, "div", "bar");
  for (let i = row * k; i < (row + 1) * k; i++) {
    const part = element(bar, "div");
    part.style.cssText = `width:${(weights[i] / 255) * 100}%;background:${hue(indices[i])}`;
    if (i - row * k < 3) element(tile, "span", "", `#${indices[i]} ${(weights[i] / 255).toFixed(2)}`);
  }
}

const hint = document.querySelector(".hint");

function drawDetail() {
  const detail = byId("detail");
  if (selected === null) {
    detail.replaceChildren(hint);
    return;
  }
  detail.replaceChildren();
  const site = sites[selected];
  element(detail, "h2", "", `${site.name}, step ${steps[now.frame]}`);
  site.rows.forEach(([from, to], side) => {
    const tiles = (to - from) / data.rank;
    const what = side ? "faces the output" : "faces the input";
    element(detail, "h2", "", `${SIDES[side]} (${what}): ${data.rank} components of ${tiles} sub-vectors`);
    for (let rho = 0; rho < data.rank; rho++) {
      const line = element(detail, "div", "component");
      element(line, "b", "", `${SIDES[side]}[${rho}]`);
      const list = element(line, "div", "tiles");
      for (let t = 0; t < tiles; t++) drawTile(list, from + rho * tiles + t);
    }
  });
}

function drawWords(uses) {
  const step = steps[now.frame];
  byId("step").textContent = `step ${step}, epoch ${(step / data.steps_per_epoch).toFixed(2)} (${now.frame + 1} of ${steps.length})`;
  byId("entropy-now").textContent = `${data.entropy[now.frame].toFixed(4)} of that of even use`;
  byId("churn-now").textContent = `${(100 * data.churn[now.frame]).toFixed(1)} % new`;
  byId("dead-now").textContent = `${data.dead[now.frame]} of ${h}`;
  const dead = [...uses.keys()].filter(vector => uses[vector] === 0);
  byId("dead-list").textContent = dead.slice(0, 40).map(v => "#" + v).join(" ") + (dead.length > 40 ? " ..." : "");
  byId("popular-list").textContent = popular(uses).map(v => `#${v}: ${uses[v]}`).join(", ");
}

// --- Steps and events ------------------------------------------------------------------------------------------------------------------

function show(target) {
  now.goTo(Math.max(0, Math.min(steps.length - 1, target)));
  byId("slider").value = now.frame;
  byId("slider").setAttribute("aria-valuetext", `step ${steps[now.frame]}`);
  redraw();
}

function redraw() {
  const uses = countUses();
  drawUses(uses);
  drawMap();
  drawWords(uses);
  drawDetail();
  for (const line of document.querySelectorAll(".cursor")) {
    line.setAttribute("x1", curveX(steps[now.frame]));
    line.setAttribute("x2", curveX(steps[now.frame]));
  }
}

function choose(site) {
  selected = site;
  byId("site").value = site ?? "";
  redraw();
}

/** The next site above or below that of the chosen row. */
function neighbour(step) {
  const own = rows.flatMap((row, at) => (row.number === selected ? [at] : []));
  if (own.length === 0) return rows.at(step > 0 ? 0 : -1).number;
  let at = step > 0 ? own.at(-1) : own[0];
  while (rows[at]?.number === selected) at += step;
  return (rows[at] ?? rows[own[0]]).number;
}

/** The row of the map and the vector under the pointer. */
function under(event) {
  const box = byId("map").getBoundingClientRect();
  const row = rows[Math.floor((event.clientY - box.top) / rowHeight())];
  const vector = Math.floor(((event.clientX - box.left - LEFT) / (box.width - LEFT)) * h);
  return { row, vector: vector >= 0 && vector < h ? vector : null };
}

function showTip(event) {
  const { row, vector } = under(event), tip = byId("tip");
  tip.hidden = !row;
  if (!row) return;
  let text = `${row.site.name} ${SIDES[row.side]}`;
  if (vector !== null) text += `, vector #${vector}: ${(100 * parts(row)[vector]).toFixed(1)} % of its weight`;
  tip.textContent = text;
  tip.style.left = Math.max(0, Math.min(event.clientX + 14, window.innerWidth - 320)) + "px";
  tip.style.top = event.clientY + 14 + "px";
}

let timer = null;

function play() {
  if (timer !== null) {
    clearInterval(timer);
    timer = null;
  } else {
    if (now.frame + 1 === steps.length) show(0);
    timer = setInterval(() => (now.frame + 1 < steps.length ? show(now.frame + 1) : play()), 80);
  }
  byId("play").textContent = timer === null ? "Play" : "Pause";
}

byId("note").textContent = data.note;
byId("scale").textContent = `white 0, dark blue ${(100 * scale).toFixed(0)} %`;
byId("slider").max = steps.length - 1;
byId("slider").addEventListener("input", event => show(Number(event.target.value)));
byId("play").addEventListener("click", play);
for (const id of ["order", "side"]) byId(id).addEventListener("change", () => { order(); redraw(); });
byId("map").addEventListener("click", event => {
  const { row } = under(event);
  if (row) choose(row.number);
});
byId("map").addEventListener("keydown", event => {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  choose(neighbour(step));
});
sites.forEach((site, number) => {
  const option = element(byId("site"), "option", "", site.name);
  option.value = number;
});
byId("site").addEventListener("change", event => choose(event.target.value === "" ? null : Number(event.target.value)));
byId("map").addEventListener("mousemove", showTip);
byId("map").addEventListener("mouseleave", () => { byId("tip").hidden = true; });
window.addEventListener("resize", redraw);
window.addEventListener("keydown", event => {
  if (event.target.tagName === "SELECT" || event.target.id === "slider") return;
  if (event.key === "ArrowRight") show(now.frame + 1);
  else if (event.key === "ArrowLeft") show(now.frame - 1);
  else if (event.key === "Home") show(0);
  else if (event.key === "End") show(steps.length - 1);
  else if (event.key === " " && event.target.tagName !== "BUTTON") play();
  else return;
  event.preventDefault();
});
curves.forEach(drawCurve);
order();
show(0);
