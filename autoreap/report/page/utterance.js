"use strict";
const TAGS = { "-": ["del", "gone"], "+": ["ins", ""] };

// Every text of an utterance passes here, and only as text.
function made(tag, text, className) {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function marked([kind, reference, output]) {
  if (kind === "=") return document.createTextNode(output);
  if (kind === "~") {
    const both = made("span", "", "sub");
    both.append(made("del", reference), " ", made("b", output));
    return both;
  }
  return made(TAGS[kind][0], output, TAGS[kind][1]);
}

// Text and its differences in a line; `nothing` stands where there is none.
function row(name, runs, nothing = "nothing") {
  const line = made("div", "", "side");
  const text = made("div", "");
  text.dir = "auto";
  for (const run of runs) text.append(marked(run), " ");
  if (!runs.length) text.append(made("i", nothing));
  line.append(made("span", name), text);
  return line;
}
