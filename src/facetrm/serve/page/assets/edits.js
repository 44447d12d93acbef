// Sliders and switches: other weights at once, checked against the server, saved as a model.

import { ask } from "./ask.js";
import { fill, folded, h, percent, problem, tell } from "./dom.js";
import { asked, isPlain } from "./weighing.js";

export function editPanel({ model, page }, state, { changed, serverRows, current }) {
  const node = h("div");
  let rows = [];
  let mixture = null;
  const checked = h("p", { class: "note", role: "status" });
  const line = h("code");
  const reset = h("button", { type: "button", onclick: () => {
    state.edit.weights = {};
    state.edit.mask = [];
    for (const one of rows) {
      if (one.slider) one.slider.value = 1;
      one.on.checked = true;
    }
    moved();
    tell("All weights are as the model has them.");
  } }, "Reset all");
  const check = h("button", { type: "button", onclick: compareWithServer }, "Check with the server");

  function show(row, given, task) {
    mixture = given;
    const sliders = given.sum !== null && task.editable.includes("objective_weights");
    const heard = given.names.map((_, k) => k).sort((x, y) =>
      (row.weights[given.names[y]] ?? 0) - (row.weights[given.names[x]] ?? 0) || x - y);
    rows = heard.map((k) => objectiveRow(given.names[k], k, sliders));
    fill(node,
      h("p", { class: "note" }, sliders
        ? "A slider multiplies the weight of an objective and the penalties that act through it; nothing else changes. A switch drops an objective, and the gate shares its weight among the others. The ranking follows at once, from the scores that are here already."
        : "The reward of this task cannot be taken apart here, so a switch asks the server."),
      folded(h("table", { class: "weights" },
        h("caption", { class: "unseen" }, "Weights of the objectives"),
        h("thead", null, h("tr", null, h("th", { scope: "col" }, "on"), h("th", { scope: "col" }, "objective"),
          h("th", { scope: "col" }, "gate weight for this prompt"),
          sliders && h("th", { scope: "col" }, "factor"), sliders && h("th", { scope: "col", class: "n" }, "\u00d7"))),
        h("tbody", null, rows.map((one) => one.node))), rows.map((one) => one.node), state.folds, "weights"),
      h("p", { class: "row" }, reset, check),
      checked,
      h("p", { class: "note command" }, "The same edit on the command line: ", line),
      page.saves && saveForm());
    update(row);
  }

  function objectiveRow(name, k, sliders) {
    const dropped = mixture.sum?.dropped.includes(name) ?? false;
    const one = { name, bar: h("i"), share: h("span"), factor: h("td", { class: "n" }) };
    one.on = h("input", {
      type: "checkbox", id: `on-${k}`, checked: !state.edit.mask.includes(name), disabled: dropped, "aria-label": `${name} counts`,
      onchange: () => {
        state.edit.mask = state.edit.mask.filter((other) => other !== name);
        if (!one.on.checked) state.edit.mask.push(name);
        moved();
      },
    });
    one.slider = sliders && h("input", {
      type: "range", id: `factor-${k}`, min: 0, max: 3, step: 0.05, value: state.edit.weights[name] ?? 1,
      "aria-label": `Factor on the weight of ${name}`,
      oninput: () => {
        state.edit.weights[name] = Number(one.slider.value);
        moved();
      },
    });
    one.node = h("tr", null, h("td", null, one.on),
      h("th", { scope: "row" }, h("label", { for: `on-${k}` }, name), dropped && h("small", null, "dropped by the model")),
      h("td", { class: "weight" }, h("div", { class: "meter", "aria-hidden": "true" }, one.bar), one.share),
      sliders && h("td", { class: "slide" }, one.slider), sliders && one.factor);
    return one;
  }

  function moved() {
    checked.textContent = "";
    changed();
  }

  function update(row) {
    const top = Math.max(...Object.values(row.weights), 1e-9);
    for (const one of rows) {
      const weight = row.weights[one.name];
      one.share.textContent = weight === undefined ? "no gate" : percent(weight);
      one.bar.style.setProperty("width", `${(100 * (weight ?? 0)) / top}%`);
      const off = state.edit.mask.includes(one.name);
      one.node.classList.toggle("off", off);
      if (!one.slider) continue;
      const factor = state.edit.weights[one.name] ?? 1;
      one.slider.disabled = off;
      one.factor.textContent = off ? "off" : factor.toFixed(2);
      one.slider.setAttribute("aria-valuetext", `times ${factor.toFixed(2)}`);
    }
    const still = isPlain(state.edit);
    reset.disabled = check.disabled = still;
    line.parentNode?.toggleAttribute("hidden", still);
    const { objective_weights, mask } = asked(state.edit, mixture.names);
    const options = [...Object.entries(objective_weights).map(([name, factor]) => `--scale "${name}=${factor}"`),
      ...mask.map((name) => `--drop "${name}"`)];
    line.textContent = `facetrm score ${model.id} --data FILE.jsonl ${options.join(" ")}`;
  }

  async function compareWithServer() {
    try {
      const server = await serverRows();
      let apart = 0;
      for (const row of state.rows) {
        const [here, there] = [current(row), server.get(row.index)];
        apart = Math.max(apart, Math.abs(here.reward - there.reward));
        for (const name of Object.keys(there.contributions)) {
          apart = Math.max(apart, Math.abs(here.contributions[name] - there.contributions[name]));
        }
      }
      checked.dataset.apart = String(apart);
      checked.textContent = apart <= 1e-5
        ? `The server gives the same rewards and contributions (largest difference ${apart.toExponential(1)}).`
        : `The server differs by up to ${apart.toExponential(1)}. Trust the server, and report this.`;
    } catch (error) {
      fill(checked, problem(error));
    }
  }

  function saveForm() {
    const said = h("div", { role: "status" });
    const name = h("input", { id: "save-name", type: "text", pattern: "[A-Za-z0-9][A-Za-z0-9_\\-]{0,63}", maxlength: 64, autocomplete: "off", spellcheck: "false" });
    const button = h("button", { type: "submit" }, "Save as a model");
    return h("form", {
      class: "save", novalidate: true,
      onsubmit: async (event) => {
        event.preventDefault();
        if (isPlain(state.edit)) return fill(said, h("p", { class: "problem" }, "Change a weight first."));
        if (!name.value || !name.validity.valid) {
          name.focus();
          return fill(said, h("p", { class: "problem" }, "Give a name of letters, digits, '-' and '_'."));
        }
        try {
          const saved = await ask("v1/edited-models", { name: name.value, ...asked(state.edit, mixture.names) });
          return fill(said, h("p", null, "Saved as ", h("code", null, saved.folder), `, hash ${saved.hash.slice(0, 12)}. Its manifest records the edit.`));
        } catch (error) {
          return fill(said, problem(error));
        }
      },
    }, h("label", { for: "save-name" }, "Name of the new model"), h("div", { class: "row" }, name, button), said);
  }

  return { node, show, update };
}
