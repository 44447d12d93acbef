// The review sheet: agree or disagree with explanations, and take the judgements away as preferences.

import { fill, h, percent, signed, tell } from "./dom.js";
import { keepReviewed, reviewed } from "./kept.js";

export function reviewPart() {
  const node = h("div", { class: "review" });
  const figures = h("div");
  let list = [];

  function show() {
    list = reviewed();
    fill(node,
      h("h1", null, "Review sheet"),
      h("p", { class: "note" }, "Say whether you agree with each explanation. The sheet is kept in this browser until you clear it."),
      list.length === 0
        ? h("section", { class: "card" }, h("p", null, "There is nothing to review. Score two answers and choose \u201cAdd to the review sheet\u201d."))
        : [h("section", { class: "card", "aria-labelledby": "agreement-title" }, h("h2", { id: "agreement-title" }, "Agreement"), figures),
          list.map((one, n) => card(one, n))]);
    if (list.length) sum();
  }

  function changed() {
    keepReviewed(list);
    sum();
  }

  function sum() {
    const ready = list.filter((one) => one.better === "A" || one.better === "B");
    const judged = list.filter((one) => one.agrees !== null);
    const agreed = judged.filter((one) => one.agrees).length;
    fill(figures,
      h("p", { class: "verdict small" }, judged.length
        ? `${agreed} of ${judged.length} explanations agreed with (${percent(agreed / judged.length)}); ${list.length - judged.length} not judged.`
        : `${list.length} to judge.`),
      judged.length > 0 && [tally("By the objective that counts most", judged, (one) => one.lines[0]?.name ?? "none", true),
        tally("By task", judged, (one) => one.task, false)],
      h("p", { class: "row" },
        h("button", { type: "button", class: "main", disabled: ready.length === 0, onclick: () => download(ready) }, `Download ${ready.length} as JSONL`),
        h("button", { type: "button", onclick: clear }, "Clear the sheet")),
      h("p", { class: "note" }, "Rows with a better answer become preferences: prompt, chosen, rejected. Train on them with ",
        h("code", null, "facetrm train --pairs reviewed.jsonl \u2026"), "."));
  }

  function tally(title, judged, key, off) {
    const names = [...new Set([...judged.map(key), ...(off ? judged.flatMap((one) => one.off) : [])])];
    return h("table", { class: "tally" }, h("caption", null, title),
      h("thead", null, h("tr", null, h("th", { scope: "col" }, off ? "objective" : "task"), h("th", { scope: "col", class: "n" }, "agreed"),
        h("th", { scope: "col", class: "n" }, "share"), off && h("th", { scope: "col", class: "n" }, "named as off"))),
      h("tbody", null, names.map((name) => {
        const own = judged.filter((one) => key(one) === name);
        const yes = own.filter((one) => one.agrees).length;
        return h("tr", null, h("th", { scope: "row" }, name), h("td", { class: "n" }, `${yes} of ${own.length}`),
          h("td", { class: "n" }, own.length ? percent(yes / own.length) : ""),
          off && h("td", { class: "n" }, judged.filter((one) => one.off.includes(name)).length));
      })));
  }

  function card(one, n) {
    const ahead = one.margin > 0 ? "A" : "B";
    const radios = (name, legend, options, chosen, set) => h("fieldset", null, h("legend", null, legend),
      options.map(([value, text], k) => h("span", { class: "option" },
        h("input", { type: "radio", id: `${name}-${n}-${k}`, name: `${name}-${n}`, checked: chosen === value, onchange: () => { set(value); changed(); } }),
        h("label", { for: `${name}-${n}-${k}` }, text))));
    const text = (title, said) => h("div", null, h("h3", null, title), h("p", { class: "text" }, said));
    return h("section", { class: "card", "aria-labelledby": `review-${n}` },
      h("div", { class: "row apart" }, h("h2", { id: `review-${n}` }, `${n + 1}. Answer ${ahead} is ahead by ${Math.abs(one.margin).toFixed(4)}`),
        h("button", { type: "button", class: "small", "aria-label": `Remove explanation ${n + 1}`, onclick: () => { keepReviewed(list.filter((x) => x !== one)); show(); tell("Removed."); } }, "Remove")),
      h("p", null, one.lines.slice(0, 4).map((line) => `${line.name} ${signed(line.difference)}`).join(", "), one.lines.length > 4 && ` and ${one.lines.length - 4} more`),
      h("p", { class: "note" }, `${one.model}, task ${one.task}`, one.edit && ", with changed weights"),
      one.before.map((turn) => text(`Earlier: ${turn.role}`, turn.content)),
      text("Prompt", one.prompt),
      h("div", { class: "two" }, text("Answer A", one.a), text("Answer B", one.b)),
      radios("better", "Which answer is better?", [["A", "A"], ["B", "B"], ["neither", "cannot say"]], one.better, (value) => (one.better = value)),
      radios("agrees", "Do you agree with the explanation?", [[true, "agree"], [false, "disagree"]], one.agrees, (value) => (one.agrees = value)),
      h("fieldset", null, h("legend", null, "Which objectives are off?"), one.lines.map((line, k) => h("span", { class: "option" },
        h("input", { type: "checkbox", id: `off-${n}-${k}`, checked: one.off.includes(line.name), onchange: (event) => {
          one.off = one.off.filter((name) => name !== line.name);
          if (event.target.checked) one.off.push(line.name);
          changed();
        } }), h("label", { for: `off-${n}-${k}` }, line.name)))),
      h("div", { class: "field" }, h("label", { for: `note-${n}` }, "Note"),
        h("textarea", { id: `note-${n}`, rows: 2, value: one.note, oninput: (event) => { one.note = event.target.value; keepReviewed(list); } })));
  }

  function clear() {
    if (!confirm("Remove all explanations and judgements from this browser?")) return;
    keepReviewed([]);
    show();
    tell("The sheet is empty.");
  }

  return { node, shown: show };
}

export function preferenceRow(one) {
  const [chosen, rejected] = one.better === "A" ? [one.a, one.b] : [one.b, one.a];
  const said = (role, content) => [{ role, content }];
  return {
    id: one.id, source: "review", task: one.task,
    prompt: [...one.before, ...said("user", one.prompt)], chosen: said("assistant", chosen), rejected: said("assistant", rejected),
    review: {
      agrees: one.agrees, off: one.off, note: one.note, model: one.model, model_hash: one.model_hash, edit: one.edit,
      model_prefers: one.margin > 0 === (one.better === "A") ? "chosen" : "rejected", margin: Math.abs(one.margin),
    },
  };
}

function download(ready) {
  const lines = ready.map((one) => JSON.stringify(preferenceRow(one)) + "\n");
  const address = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  h("a", { href: address, download: "reviewed.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  tell(`Downloaded ${ready.length} preferences.`);
}
