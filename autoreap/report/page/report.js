const at = (id) => document.getElementById(id);
const [axes, filters] = [at("axes"), at("filters")];
const SHOWN_AT_ONCE = 1000;
const sorting = { column: "trial", down: false };

// What may lie across: what follows from a plan alone, then the scores of the split.
const AXES = () => [...data.x, ...data.y[view.split]];

// The address keeps what is shown, so that it can be sent to somebody and survives a reload.
function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(view)) if (said.has(key)) view[key] = said.get(key);
  if (!WORDS[view.lang]) view.lang = "en";
  if (!SPLITS.includes(view.split)) view.split = SPLITS[0];
  if (!AXES().includes(view.x)) view.x = data.x[0];
  if (!data.y[view.split].includes(view.y)) view.y = data.y[view.split].includes(data.drawn) ? data.drawn : data.y[view.split][0];
  if (!byKey.has(view.trial)) view.trial = "";
}

function change(part) {
  Object.assign(view, part);
  const said = Object.entries(view).filter(([, value]) => value !== "");
  history.replaceState(null, "", "#" + new URLSearchParams(said));
  if (Object.keys(part).join() === "trial") showChosen();
  else show();
}

const choose = (key) => {
  change({ trial: key });
  if (key && matchMedia("(max-width: 60rem)").matches) at("details").scrollIntoView({ block: "start" });
};

function show() {
  readAddress();
  document.documentElement.lang = view.lang;
  document.documentElement.dataset.theme = view.theme;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  at("theme").setAttribute("aria-label", word("theme"));
  filters.text.placeholder = word(filters.text.dataset.wordPlaceholder);
  showHead();
  showAxes();
  showStates();
  showTable();
  drawNight(at("night"), choose);
  showChosen();
}

// All that depends on the chosen candidate; the table of a long night takes too long to make it anew for that.
function showChosen() {
  drawChart(at("chart"), choose);
  drawDetails(at("details"), byKey.get(view.trial), choose);
  at("details").scrollTop = 0;
  for (const line of at("trials").tBodies[0].rows) line.classList.toggle("chosen", line.dataset.key === view.trial);
}

// One recommendation, what it rests on, what it fits in, and the command that writes it.
function showHead() {
  const { trial, is_safe, is_shipped, rows: checks, knee } = data.head;
  const model = made("span", data.model?.startsWith("/") ? data.model.split("/").pop() : data.model ?? "");
  if (trial === null) {
    at("head").replaceChildren(sentence("head.no-front", {}, "lead"), ...notes());
    return;
  }
  const [bytes] = data.baseline.scores.search.size_bytes;
  const facts = (number) => {
    const [own] = byKey.get(String(number)).scores.search.size_bytes;
    return { trial: link(number, choose), model, size: size(own), share: `${Math.round((100 * own) / bytes)}%`, unpruned: size(bytes) };
  };
  const told = [sentence(is_safe ? "head.safe" : "head.nearest", facts(trial), "lead")];
  if (is_shipped) told.push(made("p", word("head.shipped")));
  if (checks.length) told.push(checkTable(trial, checks));
  const fit = smallestFit(data.plans[trial]?.memory ?? []);
  if (fit) told.push(made("p", word("head.fits", fit)));
  const name = `${data.study}-trial-${trial}`;
  told.push(copied(`autoreap materialise ${data.study} --trial ${trial} -o ${name}`));
  if (knee !== null && knee !== trial) told.push(sentence("head.knee", facts(knee)));
  at("head").replaceChildren(...told, ...notes());
}

function notes() {
  const untried = data.night.untried;
  const complete = untried === 0 ? word("head.complete") : untried ? word("head.untried", { number: untried }) : "";
  const told = [
    word("head.safe.why"), word("interval"), complete,
    word("head.trials", { trials: data.trials.length, states: counted(STATES), seconds: duration(data.night.seconds) }),
    word(SPLITS.length > 1 ? "split.note" : "split.only-search"),
  ];
  return [made("p", sentences(told), "note")];
}

function checkTable(trial, checks) {
  const titles = [word("head.metric"), "", word("head.unpruned"), word("head.own", { trial }), word("head.difference"),
    word("head.margin"), word("head.verdict")];
  const table = made("table", "", "checks");
  const head = made("tr", "");
  head.append(...titles.map((title) => made("th", title)));
  table.append(head);
  for (const check of checks) {
    const line = made("tr", "");
    const verdict = made("td", word("verdict." + check.verdict, { needed: digits(check.needed ?? 0, 0) }));
    if (check.verdict !== "non-inferior") verdict.className = "bad";
    line.append(made("th", metricName(check.metric)), made("td", word("split." + check.split)),
      made("td", scoreText(check.metric, check.unpruned)), made("td", scoreText(check.metric, check.own)),
      made("td", differenceText(check.metric, check.difference)), made("td", String(check.margin)), verdict);
    table.append(line);
  }
  const scroll = made("div", "", "scroll");
  scroll.append(table);
  return scroll;
}

// The least memory that the candidate fits in as it is stored, for the shortest clip; null where it is not known.
function smallestFit(memory) {
  const [one] = memory;
  const gigabytes = one && data.memory.gigabytes.find((each) => one.weights + one.cache + one.working <= each * 1e9);
  if (!gigabytes) return null;
  return { gigabytes, weights: storedAs(one), duration: clipLength(one.clip_seconds) };
}

function options(select, names, chosen, text) {
  select.replaceChildren(...names.map((name) => {
    const option = made("option", text(name));
    option.value = name;
    option.selected = name === chosen;
    return option;
  }));
}

function showAxes() {
  options(axes.x, AXES(), view.x, metricName);
  options(axes.y, data.y[view.split], view.y, metricName);
  axes.fit.checked = view.fit !== "";
  at("splits").replaceChildren(...SPLITS.filter(() => SPLITS.length > 1).map((split) => {
    const button = made("button", word("split." + split));
    button.type = "button";
    button.setAttribute("aria-pressed", split === view.split);
    button.addEventListener("click", () => change({ split }));
    return button;
  }));
  const hidden = counted(["pruned", "infeasible", "failed", "interrupted", "running"]);
  const number = data.trials.filter((trial) => trial.scores && !measured(trial, view.y)).length;
  at("notes").textContent = sentences([word("front.hint"), hidden && word("front.not-drawn", { hidden }),
    number && word("front.elsewhere", { number })]);
}

function showStates() {
  const present = STATES.filter(count);
  // At first only what has a score: what was pruned or failed is folded away.
  const chosen = filters.state.options.length ? filters.state.value : data.trials.some((trial) => trial.scores) ? "scores" : "";
  const names = { "": "trials.all", scores: "trials.with-scores", front: "trials.front" };
  options(filters.state, ["", "scores", "front", ...present], chosen, (name) => word(names[name] ?? "state." + name));
}

function columns() {
  return ["trial", "state", "size_bytes", ...data.y[view.split], "params", "seconds"];
}

function cellText(trial, column) {
  if (column === "state") return word("state." + trial.state);
  if (column === "params") return params(trial);
  if (column === "trial") return String(trial.trial);
  if (column === "seconds") return trial.seconds == null ? "" : duration(trial.seconds);
  const found = measured(trial, column);
  return found ? scoreText(column, found) : "";
}

function sortValue(trial, column) {
  if (column in trial && column !== "params") return trial[column];
  return column === "params" ? params(trial) : measured(trial, column)?.[0];
}

// What has no value comes last, whichever way the others go.
function compare(a, b) {
  const [first, second] = [a, b].map((trial) => sortValue(trial, sorting.column));
  if (first == null || second == null) return (first == null) - (second == null);
  const order = first < second ? -1 : first > second ? 1 : a.trial - b.trial;
  return sorting.down ? -order : order;
}

function matches(trial) {
  const [state, text] = [filters.state.value, filters.text.value.trim().toLowerCase()];
  if (state === "scores" ? !trial.scores : state === "front" ? !trial.front : state && trial.state !== state) return false;
  return [trial.trial, params(trial), trial.reason, trial.preset].join(" ").toLowerCase().includes(text);
}

function showTable() {
  const heads = columns().map((column) => {
    const head = made("th", "");
    const button = made("button", WORDS[view.lang]["column." + column] ?? metricName(column), "link");
    button.type = "button";
    if (column === sorting.column) head.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
    button.addEventListener("click", () => {
      Object.assign(sorting, { column, down: column === sorting.column && !sorting.down });
      showTable();
    });
    head.append(button);
    return head;
  });
  const line = made("tr", "");
  line.append(...heads);
  const found = data.trials.filter(matches).sort(compare);
  at("trials").tHead.replaceChildren(line);
  at("trials").tBodies[0].replaceChildren(...found.slice(0, SHOWN_AT_ONCE).map(tableRow));
  at("count").textContent = word("trials.shown", { shown: Math.min(found.length, SHOWN_AT_ONCE), all: data.trials.length });
}

function tableRow(trial) {
  const key = String(trial.trial);
  const line = made("tr", "", trial.front ? "front" : "");
  if (key === view.trial) line.classList.add("chosen");
  line.tabIndex = 0;
  line.dataset.key = key;
  line.append(...columns().map((column) => made("td", cellText(trial, column))));
  if (trial.reason) line.title = trial.reason;
  line.addEventListener("click", () => choose(key));
  return line;
}

at("trials").addEventListener("keydown", (event) => {
  const line = event.target.closest("tr[data-key]");
  if (!line) return;
  const next = { ArrowDown: line.nextElementSibling, ArrowUp: line.previousElementSibling }[event.key];
  if (next) next.focus();
  else if (event.key === "Enter" || event.key === " ") choose(line.dataset.key);
  else return;
  event.preventDefault();
});
axes.addEventListener("change", () =>
  change({ x: axes.x.value, y: axes.y.value, fit: axes.fit.checked ? "1" : "" }));
for (const form of [axes, filters]) form.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", showTable);
at("language").addEventListener("click", () => change({ lang: view.lang === "en" ? "zh" : "en" }));
at("theme").addEventListener("click", () => {
  const dark = view.theme ? view.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  change({ theme: dark ? "light" : "dark" });
});
addEventListener("hashchange", show);
addEventListener("resize", () => drawChart(at("chart"), choose));
if (navigator.language.startsWith("zh")) view.lang = "zh";
show();
