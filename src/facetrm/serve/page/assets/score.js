// The first part: a prompt and its answers in, the verdict out.

import { ask } from "./ask.js";
import { fill, fixed, h, letter, problem, sentence, tell } from "./dom.js";
import { editPanel } from "./edits.js";
import { addToReview } from "./kept.js";
import { flips, ownSums, ratings, reasonSentence, verdictSentence, waterfall } from "./verdict.js";
import { asked, chance, compare, isPlain, plain, weigh } from "./weighing.js";

export function scorePart(known) {
  const { model, page } = known;
  const state = { edit: plain(), prompt: "", answers: [], rows: [], failed: [], pair: null, remote: null, before: [], folds: {} };
  const results = h("div", { class: "results" });
  const input = inputForm(known, score);
  let running = null;

  async function score(prompt, answers, before) {
    running?.abort();
    running = new AbortController();
    input.busy(true);
    try {
      const body = { prompt: talk(before, prompt), responses: answers, on_error: "skip" };
      const given = await ask("v1/rewards", body, { signal: running.signal });
      Object.assign(state, { prompt, answers, before, pair: null, remote: null });
      state.rows = given.scores.filter((row) => row.reward !== null);
      state.failed = given.scores.filter((row) => row.reward === null);
      input.trouble(state.failed);
      if (!isPlain(state.edit)) await reweigh();
      show();
    } catch (error) {
      if (error.name === "AbortError") return;
      input.problem(error);
      fill(results);
    } finally {
      input.busy(false);
    }
  }

  const taskOf = (row) => model.tasks.find((task) => task.name === row.task);
  const mixtureOf = (row) => page.mixtures.find((mixture) => mixture.task === row.task);
  const current = (row) => {
    if (isPlain(state.edit)) return row;
    if (mixtureOf(row).sum) return weigh(row, mixtureOf(row), state.edit);
    return state.remote?.get(row.index) ?? row;
  };

  // A reward that is no weighted sum cannot be computed here: the server is asked for it.
  async function reweigh() {
    if (!state.rows.length || mixtureOf(state.rows[0]).sum) return;
    state.remote = isPlain(state.edit) ? null : await serverRows();
  }

  async function serverRows() {
    const names = mixtureOf(state.rows[0]).names;
    const responses = state.rows.map((row) => state.answers[row.index]);
    const given = await ask("v1/rewards", { prompt: talk(state.before, state.prompt), responses, ...asked(state.edit, names) });
    return new Map(given.scores.map((row, n) => [state.rows[n].index, row]));
  }

  const panel = editPanel(known, state, {
    changed: async () => {
      try {
        await reweigh();
        showVerdict();
      } catch (error) {
        fill(parts.verdict, problem(error));
      }
    },
    serverRows,
    current,
  });
  const parts = {};

  function show() {
    if (!state.rows.length) {
      fill(results);
      tell("No answer was scored.");
      return;
    }
    for (const name of ["verdict", "ranking", "why", "rated", "turn", "about"]) parts[name] = h("div");
    fill(results,
      h("section", { class: "card", "aria-labelledby": "verdict-title" },
        h("h2", { id: "verdict-title" }, "Verdict"), parts.verdict, parts.ranking),
      h("section", { class: "card", "aria-labelledby": "why-title", hidden: state.rows.length < 2 },
        h("h2", { id: "why-title" }, "Why"), parts.why),
      h("section", { class: "card", "aria-labelledby": "edit-title" },
        h("h2", { id: "edit-title" }, "What if it weighed differently?"), panel.node),
      h("section", { class: "card", "aria-labelledby": "turn-title", hidden: state.rows.length < 2 },
        h("h2", { id: "turn-title" }, "What would turn it round?"), parts.turn),
      h("section", { class: "card", "aria-labelledby": "rated-title", hidden: state.rows.length < 2 },
        h("h2", { id: "rated-title" }, "Ratings on their own scales"), parts.rated),
      parts.about);
    panel.show(state.rows[0], mixtureOf(state.rows[0]), taskOf(state.rows[0]));
    showVerdict(true);
  }

  function showVerdict(fresh) {
    const rows = state.rows.map(current);
    if (rows.some((row) => row === null)) {
      fill(parts.verdict, h("p", { class: "problem" }, "No objective with a weight is left. Switch one on again."));
      for (const name of ["ranking", "why", "turn", "rated"]) fill(parts[name]);
      tell("No objective with a weight is left.");
      return;
    }
    const order = rows.map((_, n) => n).sort((x, y) => rows[y].reward - rows[x].reward);
    if (rows.length < 2) {
      const said = `Answer ${letter(rows[0].index)} has the reward ${fixed(rows[0].reward)}.`;
      fill(parts.verdict, h("p", { class: "verdict" }, said));
      fill(parts.ranking, h("p", { class: "note" }, "Give a second answer to compare it with."));
      panel.update(rows[0]);
      tell(said);
      return;
    }
    const two = state.pair ?? (rows.length === 2 ? [0, 1] : order.slice(0, 2));
    const [x, y] = two;
    const [first, second] = [letter(rows[x].index), letter(rows[y].index)];
    const mixture = mixtureOf(rows[x]), task = taskOf(rows[x]);
    const objectives = Object.fromEntries(task.objectives.map((one) => [one.name, one]));
    const pair = compare(rows[x], rows[y]);
    const said = verdictSentence(pair, first, second, task.beta);
    const because = reasonSentence(pair, first, second);
    fill(parts.verdict, h("p", { class: "verdict" }, said), h("p", null, because),
      isPlain(state.edit) ? null : h("p", { class: "edited" }, editedSentence(pair, x, y)),
      ...rows.filter((row) => row.truncated).map((row) =>
        h("p", { class: "problem" }, `Answer ${letter(row.index)} was cut before it was read.`)));
    fill(parts.ranking, rows.length > 2 && ranking(rows, order, two, task),
      h("p", { class: "row" },
        h("button", { type: "button", onclick: () => keep(rows, x, y, pair, task) }, "Add to the review sheet")));
    fill(parts.why, waterfall(pair, first, second, state.folds), ownSums(rows[x], rows[y], pair, first, second),
      h("p", { class: "note" }, "This is bookkeeping over the objectives, exact to rounding. It does not say which words of a text caused it."));
    fill(parts.rated, ratings(rows[x], rows[y], pair.lines.map((line) => line.name), objectives, mixture.unproven, first, second, state.folds));
    const turned = mixture.sum
      ? flips(state.rows[x], state.rows[y], rows[x], rows[y], mixture, objectives, state.edit, first, second)
      : [h("p", { class: "note" }, "Not defined for this task: its reward is no weighted sum of ratings with a free gate.")];
    fill(parts.turn, turned);
    if (fresh) fill(parts.about, about());
    panel.update(rows[x]);
    tell(`${said} ${because}`);
  }

  function editedSentence(pair, x, y) {
    const before = state.rows[x].reward - state.rows[y].reward;
    const turned = before * pair.margin < 0 ? "The change turns the order round: the" : "The";
    return `${turned} margin is ${fixed(pair.margin)} with your weights and ${fixed(before)} without them.`.replaceAll("-", "\u2212");
  }

  function ranking(rows, order, two, task) {
    const pick = (which, index) => h("input", {
      type: "radio", name: `pair-${which}`, checked: two[which] === index,
      "aria-label": `${which ? "Second" : "First"} of the compared pair: answer ${letter(rows[index].index)}`,
      onchange: () => {
        const other = two[1 - which] === index ? two[which] : two[1 - which];
        state.pair = which ? [other, index] : [index, other];
        showVerdict();
        document.querySelector(`input[name="pair-${which}"]:checked`)?.focus();
      },
    });
    return h("table", { class: "ranking" },
      h("caption", null, "The answers from best to worst. The marks choose the pair that is explained below."),
      h("thead", null, h("tr", null, ["rank", "answer", "reward", "P(best beats it)", "1st", "2nd"].map((name, n) =>
        h("th", { scope: "col", class: n === 0 || n === 2 || n === 3 ? "n" : null }, name)))),
      h("tbody", null, order.map((index, rank) => h("tr", null,
        h("td", { class: "n" }, rank + 1),
        h("th", { scope: "row" }, letter(rows[index].index), h("small", { class: "clip" }, state.answers[rows[index].index])),
        h("td", { class: "n" }, fixed(rows[index].reward).replace("-", "\u2212")),
        h("td", { class: "n" }, rank ? chance(rows[order[0]].reward - rows[index].reward, task.beta).toFixed(2) : ""),
        h("td", null, pick(0, index)), h("td", null, pick(1, index))))));
  }

  function keep(rows, x, y, pair, task) {
    addToReview({
      before: state.before, prompt: state.prompt, a: state.answers[rows[x].index], b: state.answers[rows[y].index],
      task: task.name, margin: pair.margin, model: model.id, model_hash: model.hash,
      lines: pair.lines.map(({ name, difference, share }) => ({ name, difference, share })),
      edit: isPlain(state.edit) ? null : asked(state.edit, mixtureOf(rows[x]).names),
    });
    tell("Added to the review sheet.");
    input.note("Added to the review sheet.");
  }

  function about() {
    const [row] = state.rows;
    const facts = [
      ["model", `${model.id}, hash ${model.hash.slice(0, 12)}`],
      ["task", row.confidence !== null && model.tasks.length > 1
        ? `${row.task}, chosen with confidence ${(100 * row.confidence).toFixed(0)}%` : row.task],
      ["tokens", state.rows.map((one) => `${letter(one.index)} ${one.tokens}`).join(", ")],
      ["reading", `${model.mode} mode, ${model.dtype}`],
    ];
    return h("dl", { class: "about" }, facts.map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
  }

  return {
    node: h("div", { class: "scoring" }, input.node, results),
    open: (turns, answers) => {
      const [before, prompt] = [turns.slice(0, -1), turns.at(-1).content];
      input.set(prompt, answers, before);
      score(prompt, answers, before);
    },
  };
}

const talk = (before, prompt) => (before.length ? [...before, { role: "user", content: prompt }] : prompt);

function inputForm({ model, page }, submit) {
  const list = h("div", { class: "answers" });
  const said = h("div", { role: "alert" });
  const noted = h("p", { class: "note" });
  const prompt = area("prompt", "Prompt", 3);
  const button = h("button", { type: "submit", class: "main" }, "Score");
  const fields = [];
  const earlier = h("div");
  let before = [];

  function area(id, label, rows) {
    const field = h("textarea", { id, rows, "aria-describedby": `${id}-problem`, spellcheck: "false" });
    const wrong = h("p", { id: `${id}-problem`, class: "problem" });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) node.requestSubmit();
    });
    field.addEventListener("input", () => mark({ field, wrong }, ""));
    return { field, wrong, node: h("div", { class: "field" }, h("label", { for: id }, label), field, wrong) };
  }

  function mark({ field, wrong }, text) {
    wrong.textContent = text;
    if (text) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }

  let made = 0;
  function add(text = "") {
    const one = area(`answer-${(made += 1)}`, "", 4);
    one.field.value = text;
    one.remove = h("button", { type: "button", class: "small", onclick: () => drop(one) }, "Remove");
    one.node.firstChild.after(one.remove);
    fields.push(one);
    list.append(one.node);
    letters();
    return one;
  }

  function drop(one) {
    const at = fields.indexOf(one);
    fields.splice(at, 1);
    one.node.remove();
    letters();
    fields[Math.min(at, fields.length - 1)].field.focus();
  }

  function letters() {
    fields.forEach((one, n) => {
      one.node.firstChild.textContent = `Answer ${letter(n)}`;
      one.remove.setAttribute("aria-label", `Remove answer ${letter(n)}`);
      one.remove.hidden = fields.length <= 2;
    });
    more.hidden = fields.length >= model.max_answers;
  }

  const more = h("button", { type: "button", onclick: () => add().field.focus() }, "Add an answer");
  const node = h("form", {
    class: "card input", novalidate: true, "aria-label": "Prompt and answers",
    onsubmit: (event) => {
      event.preventDefault();
      fill(said);
      noted.textContent = "";
      const all = [prompt, ...fields];
      for (const one of all) mark(one, one.field.value.trim() ? "" : one === prompt ? "Write a prompt." : "Write an answer, or remove it.");
      const first = all.find((one) => !one.field.value.trim());
      if (first) first.field.focus();
      else submit(prompt.field.value, fields.map((one) => one.field.value), before);
    },
  },
  h("h1", null, "Which answer is better, and why?"),
  earlier, prompt.node, list, h("div", { class: "row" }, button, more), h("p", { class: "note keys" }, "Ctrl+Enter scores."), said, noted);

  function set(text, answers, turns = []) {
    before = turns;
    fill(earlier, turns.length > 0 && h("details", { class: "earlier" },
      h("summary", null, `${turns.length} earlier ${turns.length > 1 ? "turns" : "turn"}`),
      turns.map((turn) => [h("h3", null, turn.role), h("p", { class: "text" }, turn.content)]),
      h("button", { type: "button", class: "small", onclick: () => {
        set(prompt.field.value, fields.map((one) => one.field.value));
        prompt.field.focus();
      } }, "Remove the earlier turns")));
    prompt.field.value = text;
    while (fields.length) fields.pop().node.remove();
    for (const answer of answers) add(answer);
    for (const one of [prompt, ...fields]) mark(one, "");
  }
  set(page.example.prompt, page.example.answers);

  return {
    node,
    set,
    busy: (is) => {
      button.setAttribute("aria-busy", String(is));
      button.textContent = is ? "Scoring" : "Score";
    },
    problem: (error) => {
      const one = Number.isInteger(error.row) ? fields[error.row] : undefined;
      if (one) mark(one, sentence(error.message));
      fill(said, problem(error));
    },
    trouble: (rows) => {
      for (const { index, error } of rows) {
        mark(fields[index], `Not scored: ${sentence(error.message)}${error.fix ? ` ${sentence(error.fix)}` : ""}`);
      }
      fill(said, rows.length > 0 && h("p", { class: "problem" },
        `Not scored: answer ${rows.map((row) => letter(row.index)).join(", ")}. The reason is at the text.`));
    },
    note: (text) => (noted.textContent = text),
  };
}
