const data = JSON.parse(document.getElementById("data").textContent);
const WORDS = JSON.parse(document.getElementById("words").textContent);
const SPLITS = Object.keys(data.y);
// What is shown, and in which language; the page's address holds it.
const view = {
  lang: "en", theme: "", split: SPLITS.findLast((split) => data.y[split].includes(data.drawn)), x: data.x[0], y: data.drawn,
  fit: "", trial: String(data.head.trial ?? "baseline"),
};

const candidates = [
  ...data.trials.map((trial) => ({ ...trial, key: String(trial.trial), kind: kindOf(trial) })),
  ...Object.entries(data.controls).map(([name, control]) => ({ ...control, key: name, kind: "control" })),
  { ...data.baseline, key: "baseline", kind: "baseline" },
];
const byKey = new Map(candidates.map((one) => [one.key, one]));

function kindOf(trial) {
  if (trial.front) return "front";
  return trial.broken ? "broken" : trial.preset ? "preset" : "trial";
}

// A word of the interface, with its gaps filled.
function word(key, values = {}) {
  const text = WORDS[view.lang][key] ?? key;
  return text.replace(/\{([^}]+)\}/g, (_, name) => values[name] ?? "");
}

// The same as a paragraph; what fills its gaps may be elements, and text is set in bold.
function sentence(key, values, className) {
  const paragraph = made("p", "", className);
  for (const part of (WORDS[view.lang][key] ?? key).split(/(\{[^}]+\})/)) {
    const value = part.startsWith("{") ? values[part.slice(1, -1)] : null;
    paragraph.append(value === null ? part : value instanceof Node ? value : made("b", value));
  }
  return paragraph;
}

const aside = (text) => word("aside", { text });
const listed = (parts) => parts.filter(Boolean).join(word("list"));
const sentences = (parts) => parts.filter(Boolean).join(word("gap"));

function called(one) {
  if (one.kind === "baseline") return word("baseline");
  return one.kind === "control" ? word("control", { name: one.key }) : word("trial", { trial: one.key });
}

function metricName(name) {
  const base = name.split(/[./]/)[0];
  const known = WORDS[view.lang]["metric." + base];
  return known ? known + name.slice(base.length).replace(/[./]/g, " ") : name.replace(/[./]/g, " ");
}

const digits = (value, number) =>
  value.toLocaleString("en", { minimumFractionDigits: number, maximumFractionDigits: number });

const size = (bytes) => (bytes >= 1e9 ? digits(bytes / 1e9, 2) + " GB" : digits(bytes / 1e6, 2) + " MB");

// A value in the unit of its metric, as `autoreap pareto` prints it.
function amount(name, value) {
  const written = {
    bytes: () => size(value),
    parameters: () => (value >= 1e9 ? digits(value / 1e9, 2) + " B" : digits(value / 1e6, 2) + " M"),
    seconds: () => (value < 1 ? digits(value * 1000, 1) + " ms" : digits(value, 2) + " s"),
    nats: () => `${value.toFixed(3)} ${word("unit.nats")}`,
    ratio: () => value.toFixed(3),
  }[data.units[name]];
  return written ? written() : (100 * value).toFixed(2) + "%";
}

function scoreText(name, [value, low, high]) {
  const text = amount(name, value);
  return low === undefined ? text : `${text} [${amount(name, low)}, ${amount(name, high)}]`;
}

function differenceText(name, { value, low, high }) {
  const rate = !["seconds", "nats", "ratio", "bytes", "parameters"].includes(data.units[name]);
  const signed = (number) => (number < 0 ? "−" : "+") + (rate ? digits(Math.abs(100 * number), 2) : Math.abs(number));
  return `${signed(value)}${rate ? " " + word("unit.points") : ""} [${signed(low)}, ${signed(high)}]`;
}

function duration(seconds) {
  const [whole, h, min, s] = [Math.round(seconds), word("unit.h"), word("unit.min"), word("unit.s")];
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} ${s}`;
  if (whole < 3600) return `${Math.floor(whole / 60)} ${min} ${two(whole % 60)} ${s}`;
  return `${Math.floor(whole / 3600)} ${h} ${two(Math.floor((whole % 3600) / 60))} ${min}`;
}

// [value, low, high] on the split that is shown; what follows from the plan alone is the same on both.
function measured(one, name, split = view.split) {
  const exact = data.x.includes(name) ? one.scores?.search?.[name] : undefined;
  return one.scores?.[split]?.[name] ?? exact;
}

// The split that is shown, or the one that `one` was scored on: the report split is of the front alone.
const splitOf = (one) => (one.scores?.[view.split] ? view.split : "search");

function params(one) {
  const shown = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))) : String(value));
  return listed(Object.entries(one.params ?? {}).map(([name, value]) => `${parameterName(name)} ${shown(value)}`));
}

function parameterName(name) {
  const [own, component] = name.split(".").reverse();
  return (component ? component + " " : "") + (WORDS[view.lang]["param." + own] ?? own);
}

const count = (state) => data.trials.filter((trial) => trial.state === state).length;
const STATES = ["scored", "duplicate", "pruned", "infeasible", "failed", "interrupted", "running"];
const counted = (states) => listed(states.filter(count).map((state) => `${word("state." + state)} ${count(state)}`));
