// Start the page: learn what is served, then show the part that the address names.

import { Refusal, ask, useKey } from "./ask.js";
import { browsePart } from "./browse.js";
import { fill, h, problem } from "./dom.js";
import { reviewPart } from "./review.js";
import { scorePart } from "./score.js";

const PARTS = { score: scorePart, browse: browsePart, review: reviewPart };
const place = document.getElementById("part");
const trouble = document.getElementById("page-problem");
const made = {};

const later = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function learn() {
  for (;;) {
    try {
      const [models, page] = await Promise.all([ask("v1/models"), ask("v1/page")]);
      return { model: models.data[0], page };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.status === 401) await keyGiven(error);
      else if (error.status === 503) {
        fill(place, h("p", { class: "muted" }, `The server says: ${error.message}.`));
        await later(1);
      } else throw error;
    }
  }
}

function keyGiven(error) {
  return new Promise((done) => {
    const field = h("input", { id: "key", type: "password", autocomplete: "off", required: true });
    const form = h("form", {
      class: "card key",
      onsubmit: (event) => {
        event.preventDefault();
        useKey(field.value);
        done();
      },
    },
    h("h1", null, "This server asks for a key"),
    problem(error),
    h("label", { for: "key" }, "Key"), field,
    h("p", { class: "note" }, "It is kept in this tab only."),
    h("button", { type: "submit", class: "main" }, "Open the page"));
    fill(place, form);
    field.focus();
  });
}

function show(known) {
  const wanted = location.hash.slice(1) || "score";
  const name = wanted in PARTS && (wanted !== "browse" || known.page.browses) ? wanted : "score";
  const before = place.dataset.part;
  for (const link of document.querySelectorAll("nav [data-part]")) {
    if (link.dataset.part === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  made[name] ??= PARTS[name](known);
  place.dataset.part = name;
  fill(place, made[name].node);
  made[name].shown?.();
  document.title = `${{ score: "Score", browse: "Browse", review: "Review" }[name]} \u2013 ${known.model.id} \u2013 facetrm`;
  if (before && before !== name) document.getElementById("main").focus();
}

async function start() {
  try {
    const known = await learn();
    known.open = (prompt, answers) => {
      made.score ??= scorePart(known);
      made.score.open(prompt, answers);
      location.hash = "#score";
    };
    document.getElementById("model-name").textContent = known.model.id;
    document.querySelector('nav [data-part="browse"]').hidden = !known.page.browses;
    addEventListener("hashchange", () => {
      if (location.hash.slice(1) in PARTS) show(known);
    });
    show(known);
  } catch (error) {
    fill(place);
    fill(trouble, problem(error), h("button", { type: "button", onclick: () => location.reload() }, "Try again"));
  }
}

start();
