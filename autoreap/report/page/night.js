function drawNight(host, choose) {
  const { night } = data;
  const list = made("ul", "", "plain");
  const { num, scored, answers, seconds } = night.pruned;
  const pruned = { num, scored: digits(scored, 0), answers: digits(answers, 0), seconds: duration(seconds) };
  const sessions = { number: night.sessions.length, trials: listed(night.sessions.map(String)) };
  const interrupted = count("interrupted");
  list.append(
    ...(night.began ? [made("li", word("night.times", night))] : []),
    made("li", night.sessions.length > 1 ? word("night.sessions", sessions) : word("night.session")),
    made("li", num ? word("night.pruned", pruned) : word("night.not-pruned")),
    made("li", word("night.duplicates", { number: data.trials.filter((trial) => trial.duplicate_of !== undefined).length })),
    ...(interrupted ? [made("li", word("night.interrupted", { number: interrupted }))] : []));
  const constraints = night.constraints.map((one) => word("night.broken", one));
  host.replaceChildren(...[
    panel("night.timeline", timeline(choose), list),
    night.hypervolume.length && panel("night.hypervolume", growth(night.hypervolume)),
    panel("night.importance", importance()),
    constraints.length && panel("night.constraints", told(constraints)),
    night.failures.length && panel("night.failures", failures(choose)),
  ].filter(Boolean));
}

function panel(title, ...children) {
  const found = made("div", "", "panel");
  found.append(made("h3", word(title)), ...children);
  return found;
}

function told(lines) {
  const list = made("ul", "", "plain");
  list.append(...lines.map((line) => made("li", line)));
  return list;
}

function failures(choose) {
  const list = made("ul", "", "plain");
  for (const { reason, trials } of data.night.failures) {
    const line = made("li", "");
    line.append(made("b", reason), " ", links(trials.slice(0, 20), choose), trials.length > 20 ? ", …" : "");
    list.append(line);
  }
  return list;
}

// One bar a trial: its time is its height, what became of it its colour.
function timeline(choose) {
  const [width, height] = [400, 130];
  const step = width / Math.max(data.trials.length, 20);
  const longest = Math.max(...data.trials.map((trial) => trial.seconds ?? 0), 0.1);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height + 18}`, class: "timeline", role: "img",
    "aria-label": word("night.timeline") });
  data.trials.forEach((trial, place) => {
    const tall = Math.max(2, ((trial.seconds ?? 0) / longest) * (height - 14));
    const bar = svg("rect", { x: place * step, y: height - tall, width: Math.max(step - 1, step * 0.6), height: tall,
      class: `state-${trial.state}` });
    const took = trial.seconds == null ? "" : duration(trial.seconds);
    bar.append(svg("title", {}, `${word("trial", trial)}${word("colon")}${word("state." + trial.state)} ${took}`));
    bar.addEventListener("click", () => choose(String(trial.trial)));
    chart.append(bar);
    if (data.night.sessions.slice(1).includes(trial.trial))
      chart.append(svg("line", { x1: place * step, x2: place * step, y1: 0, y2: height, class: "session" }));
  });
  chart.append(svg("text", { x: 0, y: 10 }, duration(longest)));
  const last = data.trials.at(-1)?.trial ?? 0;
  chart.append(svg("text", { x: 0, y: height + 14 }, data.trials[0]?.trial ?? ""));
  if (last) chart.append(svg("text", { x: data.trials.length * step, y: height + 14, "text-anchor": "end" }, last));
  const legend = made("p", "", "states");
  for (const state of STATES.filter(count)) {
    const entry = made("span", "");
    entry.append(svg("svg", { width: 12, height: 12 }, svg("rect", { width: 12, height: 12,
      class: `state-${state}` })), ` ${word("state." + state)} ${count(state)}`);
    legend.append(entry);
  }
  const both = made("div", "");
  both.append(chart, legend);
  return both;
}

function growth(steps) {
  const [width, height] = [400, 150];
  const last = Math.max(data.trials.at(-1).trial, 1);
  const at = (trial) => 40 + (trial / last) * (width - 50);
  const up = (share) => 10 + (1 - share) * (height - 20);
  const path = steps.map(([trial, share], place) => (place ? `H${at(trial)}V${up(share)}` : `M${at(trial)} ${up(0)}V${up(share)}`));
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height + 14}`, class: "growth", role: "img",
    "aria-label": word("night.hypervolume") });
  for (const share of [0, 0.5, 1])
    chart.append(svg("line", { x1: 40, x2: width - 10, y1: up(share), y2: up(share) }),
      svg("text", { x: 34, y: up(share) + 4, "text-anchor": "end" }, `${100 * share}%`));
  chart.append(svg("path", { d: path.join("") + `H${at(last)}` }));
  chart.append(svg("text", { x: 40, y: height + 10 }, word("trial", { trial: 0 })),
    svg("text", { x: width - 10, y: height + 10, "text-anchor": "end" }, last));
  const both = made("div", "");
  both.append(chart, made("p", word("night.hypervolume.note"), "note"));
  return both;
}

function importance() {
  const found = Object.entries(data.night.importance);
  if (!found.length)
    return made("p", word("night.importance.none", { needs: data.night.importance_needs, plans: data.night.plans }), "note");
  const all = made("div", "");
  for (const [objective, shares] of found) {
    all.append(made("h4", metricName(objective)));
    const bars = made("div", "", "bars");
    for (const [name, share] of Object.entries(shares).sort((a, b) => b[1] - a[1])) {
      const bar = made("span", "", "bar");
      bar.style.setProperty("--share", share);
      bars.append(made("span", parameterName(name)), bar, made("span", `${Math.round(100 * share)}%`));
    }
    all.append(bars);
  }
  all.append(made("p", word("night.importance.note"), "note"));
  return all;
}
