// Evaluations and runs that were named when the server started.

import { ask } from "./ask.js";
import { fill, fixed, h, percent, problem, shown, signed, tell } from "./dom.js";
import { gateMap } from "./map.js";

const PAGE = 20;

export function browsePart(known) {
  const node = h("div", { class: "browse" }, h("p", { class: "muted" }, "Loading the results."));
  ask("v1/browse").then(
    (found) => fill(node, whole(found, known)),
    (error) => fill(node, problem(error)),
  );
  return { node };
}

function whole(found, known) {
  return [
    h("h1", null, "Evaluations and runs"),
    found.notes.map((note) => h("p", { class: "note" }, note)),
    found.benchmarks.length > 0 && benchmarks(found.benchmarks, known),
    found.runs.map((run) => runCard(run, known)),
  ];
}

function choice(id, label, options, changed) {
  const select = h("select", { id, onchange: changed }, options.map(([value, text]) => h("option", { value }, text)));
  return { select, node: h("div", { class: "choice" }, h("label", { for: id }, label), select) };
}

function benchmarks(list, known) {
  const card = h("section", { class: "card", "aria-labelledby": "browsed-title" });
  const body = h("div");
  let offset = 0;
  const which = choice("benchmark", "Benchmark", list.map((one) => [one.name, one.title || one.name]), () => models());
  const first = choice("model", "Model", [], () => show());
  const second = choice("other", "Compare with", [], () => show());
  const kind = choice("kind", "Questions", [
    ["errors", "most confident errors"], ["disagreements", "disagreements"], ["all", "all"],
  ], () => show());
  const part = () => list.find((one) => one.name === which.select.value);

  function models() {
    const names = part().models;
    fill(first.select, names.map((name) => h("option", { value: name }, name)));
    fill(second.select, h("option", { value: "" }, "no other model"), names.map((name) => h("option", { value: name }, name)));
    second.select.value = names[1] ?? "";
    show();
  }

  function show() {
    offset = 0;
    const one = part();
    const [model, other] = [first.select.value, second.select.value];
    const none = !other || other === model;
    if (none && kind.select.value === "disagreements") kind.select.value = "errors";
    kind.select.options[1].disabled = none;
    const questions = h("div");
    fill(body,
      one.note && h("p", { class: "note" }, one.note),
      figures(one, model, none ? null : other),
      heat(one, model),
      h("h2", { id: "asked-title" }, "Questions"), questions,
      h("h2", null, "Gate map"), gateMap(known, one.name, model));
    page(questions, one, model, none ? null : other);
  }

  async function page(place, one, model, other) {
    const asked = new URLSearchParams({ benchmark: one.name, model, kind: kind.select.value, offset, limit: PAGE });
    if (other) asked.set("other", other);
    try {
      const given = await ask(`v1/browse/questions?${asked}`);
      const move = (by, text, off) => h("button", {
        type: "button", disabled: off,
        onclick: async () => {
          offset += by;
          await page(place, one, model, other);
          place.querySelector("summary")?.focus();
        },
      }, text);
      const last = Math.min(offset + PAGE, given.total);
      const said = given.total ? `${offset + 1} to ${last} of ${given.total}, the most certain first.` : "There are none.";
      fill(place, h("p", { class: "note" }, said),
        given.questions.map((row) => question(row, other ? [model, other] : [model], known)),
        given.total > PAGE && h("p", { class: "row" }, move(-PAGE, "Earlier", offset === 0), move(PAGE, "Later", last >= given.total)));
      tell(said);
    } catch (error) {
      fill(place, problem(error));
    }
  }

  fill(card, h("h2", { id: "browsed-title" }, "Benchmarks"),
    h("div", { class: "choices" }, which.node, first.node, second.node, kind.node), body);
  models();
  return card;
}

function figures(one, model, other) {
  const systems = [...one.models, ...one.baselines];
  const cell = (value) => h("td", { class: "n" }, value ? [fixed(value[0], 3), h("small", null, `${fixed(value[1], 3)} to ${fixed(value[2], 3)}`)] : "");
  const apart = other && one.differences.find((d) => [d.first, d.second].includes(model) && [d.first, d.second].includes(other));
  let said = null;
  if (apart?.value) {
    const turn = apart.first === model ? 1 : -1;
    const [value, ...ends] = apart.value.map((v) => turn * v);
    const [low, high] = ends.sort((x, y) => x - y);
    const sure = low > 0 || high < 0 ? "" : "; the interval holds 0, so this does not tell them apart";
    said = h("p", { class: "verdict small" }, `${model} \u2212 ${other}: ${signed(value, 3)} (${signed(low, 3)} to ${signed(high, 3)}${sure}).`);
  }
  return [said, h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Figures" }, h("table", null,
    h("caption", null, "Figures with their 95% intervals"),
    h("thead", null, h("tr", null, h("th", { scope: "col" }, "figure"), systems.map((name) => h("th", { scope: "col", class: "n" }, name)))),
    h("tbody", null, Object.entries(one.figures).map(([name, row]) => h("tr", null,
      h("th", { scope: "row" }, name), systems.map((system) => cell(row[system])))))))];
}

function heat(one, model) {
  const found = one.shares[model];
  if (!found) return h("p", { class: "note" }, `${model} gives no contributions, so there is nothing to show by objective.`);
  const most = Math.max(...found.values.flat(), 1e-9);
  return h("details", { open: true }, h("summary", null, `What decides for ${model}, by task`),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Shares by task" }, h("table", { class: "heat" },
      h("caption", null, "Share of each objective in all differences of contributions"),
      h("thead", null, h("tr", null, h("th", { scope: "col" }, "objective"), found.tasks.map((task) => h("th", { scope: "col", class: "n" }, task)))),
      h("tbody", null, found.objectives.map((name, k) => h("tr", null, h("th", { scope: "row" }, name),
        found.values[k].map((share) => h("td", { class: "n", place: { "--share": `${(45 * share) / most}%` } }, percent(share)))))))));
}

function question(row, models, known) {
  const word = (side) => `${side.verdict}${side.margin === null ? "" : ` by ${shownMargin(side.margin)}`}`;
  const texts = row.prompt === null
    ? h("p", { class: "note" }, "The texts are not in the result.")
    : [h("h3", null, "Prompt"), row.prompt.map((turn) => h("p", { class: "text" }, row.prompt.length > 1 ? `${turn.role}: ${turn.content}` : turn.content)),
      row.right.map((text) => [h("h3", null, "Right answer"), h("p", { class: "text" }, text)]),
      row.wrong.map((text) => [h("h3", null, "Wrong answer"), h("p", { class: "text" }, text)]),
      h("p", { class: "row" }, h("button", { type: "button", onclick: () => known.open(row.prompt, [...row.right, ...row.wrong]) },
        `Score these with ${known.model.id}`))];
  return h("details", { class: "question" },
    h("summary", null,
      h("span", { class: "clip" }, row.prompt?.at(-1).content ?? row.id),
      h("small", null, [row.subset, row.task !== row.subset && row.task].filter(Boolean).join(", "), " \u00b7 ",
        models.map((name) => `${name}: ${word(row.sides[name])}`).join(" \u00b7 "))),
    texts,
    h("div", { class: "two" }, models.map((name) => {
      const parts = Object.entries(row.sides[name].contributions).sort((x, y) => Math.abs(y[1]) - Math.abs(x[1]));
      return parts.length > 0 && h("table", null,
        h("caption", null, `${name}: differences of contributions, right answer \u2212 wrong answer`),
        h("tbody", null, parts.map(([objective, value]) => h("tr", null, h("th", { scope: "row" }, objective), h("td", { class: "n" }, signed(value))))));
    })));
}

const shownMargin = (margin) => (Math.abs(margin) < 10 ? signed(margin, 3) : (margin < 0 ? "" : "+") + shown(margin));

function runCard(run, known) {
  const systems = [...new Set(Object.values(run.accuracy).flatMap(Object.keys))];
  return h("section", { class: "card" }, h("h2", null, `Run ${run.name}`),
    run.statement && h("p", { class: run.good ? null : "problem" }, run.statement),
    systems.length > 0 && h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": `Accuracies of ${run.name}` }, h("table", null,
      h("caption", null, "Pair accuracy on held-out pairs"),
      h("thead", null, h("tr", null, h("th", { scope: "col" }, "pairs"), systems.map((name) => h("th", { scope: "col", class: "n" }, name)))),
      h("tbody", null, Object.entries(run.accuracy).map(([name, row]) => h("tr", null, h("th", { scope: "row" }, name),
        systems.map((system) => h("td", { class: "n" }, row[system] === undefined ? "" : fixed(row[system], 3)))))))),
    run.pair && h("p", { class: "row" }, h("button", { type: "button", onclick: () => known.open(run.pair.prompt, run.pair.answers) },
      `Score its explained pair with ${known.model.id}`)),
    h("p", { class: "note" }, `A run keeps no list of its test pairs. To browse questions: facetrm eval ${run.name} --on FILE --out RESULTS`));
}
