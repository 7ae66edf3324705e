function section(title, ...children) {
  const found = made("section", "");
  found.append(made("h4", title), ...children.filter(Boolean));
  return found;
}

function rows(entries) {
  const table = made("table", "", "values");
  for (const cells of entries) {
    const line = made("tr", "");
    cells.forEach((cell, place) => line.append(made(place ? "td" : "th", cell)));
    table.append(line);
  }
  const scroll = made("div", "", "scroll");
  scroll.append(table);
  return scroll;
}

// Everything about one candidate.
function drawDetails(host, one, choose) {
  if (!one) return host.replaceChildren(made("p", word("details.none"), "note"));
  const [detail, plan] = [data.details[one.duplicate_of ?? one.trial], data.plans[one.duplicate_of ?? one.trial]];
  const close = made("button", "×", "close");
  close.type = "button";
  close.setAttribute("aria-label", word("close"));
  close.addEventListener("click", () => choose(""));
  const head = made("h3", called(one));
  head.append(close);
  const isTrial = one.trial !== undefined;
  host.replaceChildren(...[
    head,
    isTrial && made("p", [word("state." + one.state), one.preset && word("details.preset", { name: one.preset }), params(one)]
      .filter(Boolean).join(" · "), "note"),
    one.duplicate_of !== undefined && sentence("details.duplicate", { trial: link(one.duplicate_of, choose) }, "note"),
    one.reason && section(word("details.reason"), made("p", one.reason)),
    one.broken && made("p", word("details.broken", { constraints: one.broken.join(word("clause")) }), "bad"),
    one.unhealed !== undefined && unhealed(one.unhealed, choose),
    one.worse?.length && made("p", word("details.worse-elsewhere", { metrics: listed(one.worse.map(metricName)) }), "bad"),
    one.tied?.length && sentence("details.tied", { trials: links(one.tied, choose) }, "tiednote"),
    one.scores && command(one, isTrial),
    one.scores && values(one),
    against(detail?.[splitOf(one)], splitOf(one)),
    one.scores && sizes(one, plan),
    fits(plan?.memory ?? (one.kind === "baseline" ? data.memory.baseline : null)),
    plan && keeps(plan),
    worst(detail?.[splitOf(one)], splitOf(one)),
    isTrial && one.scores && !Object.keys(detail ?? {}).length && section(word("details.worst"),
      made("p", word("details.no-details"), "note"), copied(`autoreap show ${data.study} --trial ${one.trial}`)),
  ].filter(Boolean));
}

function link(trial, choose) {
  const button = made("button", word("trial", { trial }), "link");
  button.type = "button";
  button.addEventListener("click", () => choose(String(trial)));
  return button;
}

function links(trials, choose) {
  const all = made("span", "");
  trials.forEach((trial, place) => all.append(place ? word("list") : "", link(trial, choose)));
  return all;
}

// What healing gave: the scores of the same plan without it.
function unhealed(trial, choose) {
  const other = data.trials.find((found) => found.trial === trial);
  const names = Object.keys(data.objectives).filter((name) => name !== "size_bytes");
  const scores = names.map((name) => `${metricName(name)} ${scoreText(name, measured(other, name, "search"))}`);
  return sentence("details.unhealed", { trial: link(trial, choose), scores: listed(scores) }, "note");
}

function command(one, isTrial) {
  if (!isTrial) return null;
  const name = `${data.study}-trial-${one.trial}`;
  return section(word("details.write"), copied(`autoreap materialise ${data.study} --trial ${one.trial} -o ${name}`));
}

function copied(text) {
  const box = made("div", "", "command");
  const button = made("button", word("details.copy"));
  button.type = "button";
  const code = made("code", text);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = word("details.copied");
    } catch {
      getSelection().selectAllChildren(code);  // a page opened from a file may not write to the clipboard
    }
  });
  box.append(code, button);
  return box;
}

function values(one) {
  const split = splitOf(one);
  const found = data.y[split].filter((name) => measured(one, name, split))
    .map((name) => [metricName(name), scoreText(name, measured(one, name, split))]);
  return section(word("details.values") + aside(word("split." + split)),
    found.length ? rows(found) : made("p", word("front.no-scores"), "note"));
}

function against(compared, split) {
  if (!compared) return null;
  const lines = Object.entries(compared.differences).map(([name, found]) => {
    const line = made("li", "");
    const verdict = made("b", word("details." + found.verdict), found.verdict === "worse" ? "bad" : "");
    line.append(`${metricName(name)} ${differenceText(name, found)}${word("colon")}`, verdict);
    const few = found.verdict === "no significant difference" && found.low * found.high > 0 && word("details.few");
    line.append(made("small", aside([word("details.pairs", found), few].filter(Boolean).join(word("clause")))));
    return line;
  });
  const list = made("ul", "", "plain");
  list.append(...lines);
  return section(word("details.against") + aside(word("split." + split)), list);
}

function sizes(one, plan) {
  const unpruned = data.baseline.scores.search;
  const known = ["size_bytes", "size_8bit_bytes", "size_4bit_bytes"]
    .filter((name) => one.scores.search[name] && unpruned[name]);
  return section(word("details.sizes"), rows(known.map((name) => {
    const [value] = one.scores.search[name];
    const share = one.kind === "baseline" ? "" : `${Math.round((100 * value) / unpruned[name][0])}%`;
    const as = plan?.memory[0] ? storedAs(plan.memory[0]) : data.memory.stored;
    const stored = name === "size_bytes" && as ? aside(as) : "";
    return [word("details.size." + name) + stored, size(value), share];
  })));
}

function fits(memory) {
  if (!memory) return null;
  if (!memory.length) return section(word("details.fits"), made("p", word("details.fits.unknown"), "note"));
  const table = made("table", "", "fits");
  const head = made("tr", "");
  head.append(made("th", "GB"), ...data.memory.gigabytes.map((gigabytes) => made("th", gigabytes)));
  table.append(head);
  let clip = null;
  for (const one of memory) {
    const total = one.weights + one.cache + one.working;
    const line = made("tr", "");
    if (one.clip_seconds !== clip) {
      clip = one.clip_seconds;
      table.append(across(word("details.clip", { duration: clipLength(clip) }), "clip"));
    }
    line.append(made("th", storedAs(one)));
    for (const gigabytes of data.memory.gigabytes)
      line.append(total <= gigabytes * 1e9 ? made("td", "✓", "yes") : made("td", "–", "no"));
    table.append(line, across(word("details.needs", {
      total: size(total), weights: size(one.weights), cache: size(one.cache), working: size(one.working),
      tokens: digits(one.tokens, 0), token: `${digits(one.cache / one.tokens, 0)} B` }), "needs"));
  }
  const scroll = made("div", "", "scroll");
  scroll.append(table);
  return section(word("details.fits"), scroll, made("p", word("details.fits.note"), "note"));
}

// In what the weights are stored that an entry of `memory` counts.
function storedAs(one) {
  if (one.stored) return word(one.stored.experts === one.stored.rest ? "stored.alike" : "stored.mixed", one.stored);
  return one.bits === 16 ? data.memory.stored : word("details.bits", one);
}

const clipLength = (seconds) => (seconds % 60 ? duration(seconds) : `${seconds / 60} ${word("unit.min")}`);

// A row of one cell.
function across(text, className) {
  const line = made("tr", "", className);
  const cell = made("td", text);
  cell.colSpan = 1 + data.memory.gigabytes.length;
  line.append(cell);
  return line;
}

function keeps(plan) {
  const found = Object.entries(plan.maps).flatMap(([component, encoded]) => {
    const num = plan.dense.includes(component) ? 1 : data.experts[component];
    const layers = encoded.map((layer) => expertMarks(layer, num));
    const kept = layers.filter(Boolean);
    const experts = kept[0].replaceAll("0", "").length;
    const text = { component, kept: kept.length, all: layers.length, experts, num };
    const said = word(plan.dense.includes(component) ? "details.layers.dense" : "details.layers", text);
    return [made("p", said), heatMap(layers, num, said)];
  });
  const dropped = [plan.strip_vision && "details.vision", plan.drop_speech && "details.speech"].filter(Boolean);
  return section(word("details.keeps"), ...found,
    made("p", word(plan.dense.length ? "details.map.dense" : "details.map"), "note"),
    ...dropped.map((key) => made("p", word(key))));
}

// Four experts a hexadecimal digit -> 1 for each kept one and 0 for each cut one; empty for a cut layer.
const expertMarks = (layer, num) =>
  [...layer].map((digit) => parseInt(digit, 16).toString(2).padStart(4, "0")).join("").slice(0, num);

// One row a layer, one cell an expert. Paths, not a thousand elements: 48 layers have 6,144 experts, without gaps
// between those of a row, which would be too fine to see.
function heatMap(layers, num, label) {
  const cell = num > 64 ? 4 : 12;
  const [gap, wide] = num > 64 ? [1, cell] : [2, cell - 2];
  const box = (row, column) => `M${column * cell} ${row * cell}h${wide}v${cell - gap}h${-wide}z`;
  const paths = { "1": "", "0": "" };
  const cut = [];
  const names = layers.map((layer, row) => {
    if (!layer) cut.push(`M0 ${row * cell + (cell - gap) / 2}h${num * cell - gap}`);
    [...layer].forEach((kept, column) => { paths[kept] += box(row, column); });
    const experts = [...layer].flatMap((kept, column) => (kept === "1" ? [column] : []));
    const name = layer ? word("details.layer", { layer: row, experts: experts.join(" ") }) : word("details.layer.cut", { layer: row });
    return svg("rect", { x: 0, y: row * cell, width: num * cell, height: cell, fill: "transparent" }, svg("title", {}, name));
  });
  const [width, height] = [num * cell, layers.length * cell];
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "map", role: "img", "aria-label": label,
    style: `max-width:${width * 2}px` },
    svg("path", { d: paths["0"], class: "cut" }), svg("path", { d: paths["1"], class: "kept" }),
    svg("path", { d: cut.join(""), class: "gonelayer" }), ...names);
}

function worst(compared, split) {
  if (!compared) return null;
  if (!compared.worst.length) return null;
  return section(word("details.worst") + aside(word("split." + split)), ...compared.worst.map(card));
}

function card(one) {
  const article = made("article", "");
  const header = made("header", "");
  const [before, after] = one.sides.map((side) => side.count);
  const counted = word(data.log.includes(one.metric) ? "details.errors" : "details.right",
    { before, after, units: one.units });
  header.append(made("b", one.id), made("span", `${metricName(one.metric)} ${one.language}`), made("span", counted));
  const { failed } = one.sides[1];
  if (failed) header.append(made("span", WORDS[view.lang]["reason." + failed] ?? failed, "badge"));
  article.append(header, row(word("details.reference"), [["=", "", one.reference]]));
  one.sides.forEach((side, place) =>
    article.append(row(word(place ? "details.is" : "details.was"), side.runs, word("details.nothing"))));
  const recording = data.recordings[one.recording];
  if (recording) {
    const player = made("audio", "");
    player.controls = true;
    player.preload = "none";
    player.setAttribute("aria-label", word("details.audio", one));
    player.src = "data:audio/mpeg;base64," + recording;
    article.append(player);
  }
  return article;
}
