const STEP = 200;
const utterances = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const list = document.getElementById("list");
const more = document.getElementById("more");
let found = [];

for (const one of utterances) {
  const said = one.sides.flatMap((side) => side.runs.map((run) => run[2]));
  one.searched = [one.id, one.reference, one.language, ...said].join(" ").toLowerCase();
}

function card(one) {
  const article = document.createElement("article");
  const header = document.createElement("header");
  const [a, b] = one.sides;
  header.append(made("b", one.id), made("span", one.metric + (one.language ? " " + one.language : "")));
  header.append(made("span", a.count + " \u2192 " + b.count + " of " + one.units));
  if (one.growth) header.append(made("span", one.growth > 0 ? "\u25bc worse" : "\u25b2 better"));
  one.sides.forEach((side, number) => {
    if (side.failed) header.append(made("span", "AB"[number] + ": " + side.failed, "badge"));
  });
  article.append(header, row("ref", [["=", "", one.reference]]), row("A", a.runs), row("B", b.runs));
  return article;
}

function show() {
  const shown = list.childElementCount;
  list.append(...found.slice(shown, shown + STEP).map(card));
  more.hidden = list.childElementCount >= found.length;
  const part = more.hidden ? "" : list.childElementCount.toLocaleString("en") + " of ";
  document.getElementById("count").textContent = part + found.length.toLocaleString("en") + " utterances";
}

function changed(one, change) {
  if (change === "failed") return one.sides.some((side) => side.failed);
  return !change || change === (one.growth > 0 ? "worse" : one.growth < 0 ? "better" : "equal");
}

function filter() {
  const [metric, change, text] = [form.metric.value, form.change.value, form.text.value.trim().toLowerCase()];
  found = utterances.filter(
    (one) => (!metric || one.metric === metric) && changed(one, change) && one.searched.includes(text));
  list.replaceChildren();
  show();
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", show);
filter();
