const MARGIN = { left: 60, right: 18, top: 30, bottom: 46 };

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A scale from values to pixels, with the values to label.
function scale(low, high, start, end, log) {
  const [from, to] = log ? [Math.log(low), Math.log(high)] : [low, high];
  const pixel = (value) => start + (((log ? Math.log(value) : value) - from) / (to - from || 1)) * (end - start);
  return { pixel, ticks: log ? logTicks(low, high) : linearTicks(low, high, Math.abs(end - start) / 80) };
}

function linearTicks(low, high, number) {
  const rough = (high - low) / Math.max(number, 4);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step); tick * step <= high; tick++) ticks.push(tick * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    ticks.push(...[1, 2, 5].map((factor) => factor * 10 ** power).filter((tick) => tick >= low && tick <= high));
  return ticks.length > 1 ? ticks : linearTicks(low, high, 5);
}

// A label of an axis: no more digits than it needs.
function tickText(name, value, largest) {
  const plain = (number) => String(Number(number.toPrecision(4)));
  const unit = data.units[name];
  if (unit === "bytes") return plain(value / (largest >= 1e9 ? 1e9 : 1e6)) + (largest >= 1e9 ? " GB" : " MB");
  if (unit === "parameters") return plain(value / (largest >= 1e9 ? 1e9 : 1e6)) + (largest >= 1e9 ? " B" : " M");
  if (unit === "seconds") return plain(value) + " s";
  return unit ? unit === "rate" ? plain(100 * value) + "%" : plain(value) : plain(100 * value) + "%";
}

// Size (or another cost) against a score, with intervals.
function drawChart(host, choose) {
  const shown = candidates.map((one) => ({ one, x: measured(one, view.x), y: measured(one, view.y) }))
    .filter(({ x, y }) => x && y);
  if (!shown.length) return host.replaceChildren(made("p", word("front.no-scores"), "note"));
  const width = Math.max(host.clientWidth, 280);
  const height = Math.min(560, Math.max(300, 0.68 * width));
  const fitted = view.fit ? shown.filter(({ one }) => ["front", "baseline"].includes(one.kind)) : shown;
  const log = data.log.includes(view.y) && fitted.some(({ y }) => y[0] > 0);
  const across = data.log.includes(view.x) && fitted.some(({ x }) => x[0] > 0);
  const [xs, ys] = [axisRange(fitted.map(({ x }) => [x[0]]), across), axisRange(fitted.map(({ y }) => y), log)];
  const x = scale(...xs, MARGIN.left, width - MARGIN.right, across);
  const y = scale(...ys, height - MARGIN.bottom, MARGIN.top, log);
  const inside = ({ x: [at], y: [up] }) => !view.fit || (at >= xs[0] && at <= xs[1] && up <= ys[1] && up >= ys[0]);
  const clamp = (value) => Math.min(Math.max(value, ys[0]), ys[1]);
  const placed = shown.filter(inside).map((found) => ({
    ...found, at: x.pixel(Math.max(found.x[0], xs[0])), up: y.pixel(clamp(found.y[0])), ends: found.y.slice(1).map((v) => y.pixel(clamp(v))),
  }));
  placed.sort((a, b) => a.at - b.at || a.up - b.up);
  const keys = placed.map(({ one }) => one.key);
  const entry = keys.includes(view.trial) ? view.trial : keys[0];
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group" });
  chart.setAttribute("aria-label", `${metricName(view.x)}, ${metricName(view.y)}`);
  chart.append(grid(x, y, width, height, [xs, ys, across, log]), ties(placed), staircase(placed));
  const order = ["broken", "trial", "preset", "control", "baseline", "front"];
  placed.sort((a, b) => order.indexOf(a.one.kind) - order.indexOf(b.one.kind));
  chart.append(...placed.map((found) => point(found, choose, entry)), labels(placed));
  chart.addEventListener("keydown", (event) => walk(event, chart, keys, choose));
  const focused = host.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  host.replaceChildren(chart);
  if (focused !== null) focusPoint(chart, focused);
  drawLegend(new Set(placed.flatMap(({ one }) => (one.preset ? [one.kind, "preset"] : [one.kind]))),
    placed.some(({ one }) => one.tied?.length), placed.some(({ ends }) => ends.length));
}

// With room on both sides; on a log scale a zero lies on the floor.
function axisRange(values, log) {
  const flat = values.flat().filter((value) => !log || value > 0);
  const [low, high] = [Math.min(...flat), Math.max(...flat)];
  if (log) return [low / 1.25, high * 1.25];
  const room = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [low - room, high + room];
}

function grid(x, y, width, height, [xs, ys, across, log]) {
  const group = svg("g", { class: "grid" });
  for (const tick of y.ticks) {
    const up = y.pixel(tick);
    group.append(svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: up, y2: up }));
    group.append(svg("text", { x: MARGIN.left - 8, y: up + 4, "text-anchor": "end" }, tickText(view.y, tick, ys[1])));
  }
  const floor = height - MARGIN.bottom;
  for (const tick of x.ticks) {
    const at = x.pixel(tick);
    group.append(svg("line", { x1: at, x2: at, y1: floor, y2: floor + 5 }));
    group.append(svg("text", { x: at, y: floor + 20, "text-anchor": "middle" }, tickText(view.x, tick, xs[1])));
  }
  const title = (name, log) => metricName(name) + (log ? aside(word("front.log")) : "");
  group.append(svg("text", { x: MARGIN.left, y: 10, class: "axis" }, title(view.y, log)));
  group.append(svg("text", { x: width - MARGIN.right, y: height - 6, class: "axis", "text-anchor": "end" },
    title(view.x, across)));
  return group;
}

// A band between front members that the report split can't tell apart.
function ties(placed) {
  const group = svg("g", { class: "tie" });
  const found = new Map(placed.map((one) => [one.one.key, one]));
  for (const { one, at, up } of placed)
    for (const other of (one.tied ?? []).map((trial) => found.get(String(trial))))
      if (other && other.one.trial > one.trial)
        group.append(svg("line", { x1: at, y1: up, x2: other.at, y2: other.up }));
  return group;
}

// Where two objectives are the axes, on the split that was searched, nothing lies below the front.
function staircase(placed) {
  const objectives = Object.keys(data.objectives);
  if (objectives.length !== 2 || view.split !== "search" || ![view.x, view.y].every((one) => objectives.includes(one)))
    return svg("g");
  const front = placed.filter(({ one }) => one.kind === "front").sort((a, b) => a.at - b.at);
  const steps = front.map(({ at, up }, place) => (place ? `H${at}V${up}` : `M${at} ${up}`));
  return svg("path", { d: steps.join(""), class: "stairs" });
}

const focusPoint = (chart, key) => chart.querySelector(`.point[data-key="${CSS.escape(key)}"]`)?.focus();

// Tab reaches one point; from there arrows go to the next one on either side, and Enter chooses.
function walk(event, chart, keys, choose) {
  const place = keys.indexOf(event.target.closest(".point")?.dataset.key);
  const to = { ArrowRight: place + 1, ArrowUp: place + 1, ArrowLeft: place - 1, ArrowDown: place - 1, Home: 0,
    End: keys.length - 1 }[event.key];
  if (keys[to] !== undefined) focusPoint(chart, keys[to]);
  else if (event.key === "Enter" || event.key === " ") choose(keys[place]);
  else if (to === undefined) return;
  event.preventDefault();
}

function point({ one, x, y, at, up, ends }, choose, entry) {
  const words = [called(one), scoreText(view.x, x), `${metricName(view.y)} ${scoreText(view.y, y)}`,
    one.preset && word("details.preset", { name: one.preset })].filter(Boolean);
  const chosen = one.key === view.trial ? " chosen" : "";
  const group = svg("g", { class: `point ${one.kind}${chosen}`, "data-key": one.key, role: "button",
    "aria-label": words.join(", "), "aria-pressed": Boolean(chosen), tabindex: one.key === entry ? 0 : -1 });
  if (ends.length && !["trial", "broken"].includes(one.kind))
    group.append(svg("line", { x1: at, x2: at, y1: ends[0], y2: ends[1], class: "whisker" }));
  if (one.trial !== undefined && one.trial === data.head.trial) group.append(pick(at, up));
  if (chosen) group.append(svg("circle", { cx: at, cy: up, r: 11, class: "ring" }));
  group.append(svg("circle", { cx: at, cy: up, r: 13, class: "target" }));
  group.append(mark(one.kind, at, up, one.preset), svg("title", {}, words.join("\n")));
  group.addEventListener("click", () => choose(one.key));
  return group;
}

// The numbers of the front; where two would overlap, that of the chosen point, or the first.
function labels(placed) {
  const group = svg("g", { class: "labels" });
  const wanted = placed.filter(({ one }) => one.trial !== undefined && (one.front || one.key === view.trial));
  wanted.sort((a, b) => (b.one.key === view.trial) - (a.one.key === view.trial));
  const taken = [];
  for (const { one, at, up } of wanted) {
    const wide = 8 * one.key.length + 6;
    if (taken.some(([x, y]) => Math.abs(x - at) < wide && Math.abs(y - up) < 14)) continue;
    taken.push([at, up]);
    group.append(svg("text", { x: at + 9, y: up - 7 }, one.trial));
  }
  return group;
}

// What is recommended stands in a frame.
const pick = (at, up) => svg("rect", { x: at - 14, y: up - 14, width: 28, height: 28, rx: 4, class: "pick" });

// A preset is a square wherever it lies; colour says whether that is on the front.
function mark(kind, at, up, preset) {
  if (kind === "baseline") return svg("path", { d: `M${at} ${up - 7}l7 7l-7 7l-7 -7z`, class: "mark" });
  if (kind === "control") return svg("path", { d: `M${at} ${up - 7}l7 12h-14z`, class: "mark" });
  if (kind === "preset" || preset) return svg("rect", { x: at - 5, y: up - 5, width: 10, height: 10, class: "mark" });
  return svg("circle", { cx: at, cy: up, r: kind === "front" ? 5.5 : 4, class: "mark" });
}

function drawLegend(kinds, tied, intervals) {
  const shown = ["front", "trial", "preset", "broken", "control", "baseline"].filter((kind) => kinds.has(kind));
  const entries = shown.map((kind) => {
    const swatch = svg("svg", { width: 18, height: 18, class: `point ${kind}` }, mark(kind, 9, 9));
    return [swatch, word("legend." + kind)];
  });
  const whisker = svg("line", { x1: 6, x2: 6, y1: 1, y2: 17, class: "whisker" });
  if (intervals) entries.push([svg("svg", { width: 12, height: 18, class: "point front" }, whisker), word("legend.interval")]);
  const band = svg("svg", { width: 22, height: 18, class: "tie" }, svg("line", { x1: 4, x2: 18, y1: 9, y2: 9 }));
  const frame = svg("svg", { width: 20, height: 20 }, svg("rect", { x: 2, y: 2, width: 16, height: 16, rx: 4, class: "pick" }));
  if (data.head.trial !== null && data.head.is_safe) entries.push([frame, word("legend.recommended")]);
  if (tied) entries.push([band, word("legend.tied")]);
  document.getElementById("legend").replaceChildren(...entries.map(([swatch, text]) => {
    const entry = made("span", "");
    entry.append(swatch, text);
    return entry;
  }));
}
