// The gate map: the served model's gate weights for the prompts of a benchmark, along their two principal directions.

import { ask } from "./ask.js";
import { fill, h, percent, problem, tell } from "./dom.js";

const MOST = 100;
const BATCH = 20;
const SVG = "http://www.w3.org/2000/svg";
const SHAPES = 6;

function draw(tag, settings, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(settings)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

// The two directions of largest variance of rows, by power iteration, and each row's place along them.
export function principal(rows) {
  const size = rows[0].length;
  const mean = rows[0].map((_, k) => rows.reduce((sum, row) => sum + row[k], 0) / rows.length);
  let rest = rows.map((row) => row.map((value, k) => value - mean[k]));
  const total = rest.flat().reduce((sum, value) => sum + value * value, 0);
  const found = [];
  for (let turn = 0; turn < 2; turn += 1) {
    let direction = Array.from({ length: size }, (_, k) => Math.sin(1 + k + 7 * turn));
    for (let step = 0; step < 300; step += 1) {
      const next = new Array(size).fill(0);
      for (const row of rest) {
        const along = row.reduce((sum, value, k) => sum + value * direction[k], 0);
        row.forEach((value, k) => (next[k] += along * value));
      }
      const length = Math.hypot(...next);
      if (length < 1e-15) break;
      direction = next.map((value) => value / length);
    }
    const norm = Math.hypot(...direction);
    direction = direction.map((value) => value / norm);
    const places = rest.map((row) => row.reduce((sum, value, k) => sum + value * direction[k], 0));
    const share = total > 0 ? places.reduce((sum, value) => sum + value * value, 0) / total : 0;
    found.push({ direction, places, share });
    rest = rest.map((row, n) => row.map((value, k) => value - places[n] * direction[k]));
  }
  return found;
}

export function gateMap(known, benchmark, model) {
  const place = h("div");
  const button = h("button", { type: "button", onclick: make }, "Map the gate over these prompts");
  async function make() {
    button.disabled = true;
    try {
      const asked = new URLSearchParams({ benchmark, model, kind: "all", limit: MOST });
      const { questions } = await ask(`v1/browse/questions?${asked}`);
      const kept = questions.filter((row) => row.prompt !== null && row.right.length);
      const rows = [];
      for (let at = 0; at < kept.length; at += BATCH) {
        fill(place, h("p", { class: "muted" }, `Read ${at} of ${kept.length} prompts.`));
        const some = kept.slice(at, at + BATCH);
        const conversations = some.map((row) => [
          ...row.prompt, { role: "assistant", content: row.right[0] }]);
        const given = await ask("v1/rewards", { conversations, on_error: "skip" });
        given.scores.forEach((score, n) => {
          if (score.reward !== null && Object.keys(score.weights).length) rows.push({ asked: some[n], score });
        });
      }
      fill(place, rows.length < 3
        ? h("p", { class: "note" }, "Fewer than three prompts have gate weights, so there is no map.")
        : mapped(rows));
      tell(`The map shows ${rows.length} prompts.`);
    } catch (error) {
      fill(place, problem(error));
    } finally {
      button.disabled = false;
    }
  }
  return h("div", null,
    h("p", { class: "note" }, `The gate of ${known.model.id}, the served model, for at most ${MOST} prompts of this benchmark. Prompts for which it weighs alike lie together.`),
    h("p", { class: "row" }, button), place);
}

function mapped(rows) {
  const task = mostFrequent(rows.map((row) => row.score.task));
  const same = rows.filter((row) => row.score.task === task);
  const names = Object.keys(same[0].score.weights);
  const [x, y] = principal(same.map((row) => names.map((name) => row.score.weights[name])));
  const group = (row) => row.asked.task ?? row.asked.subset;
  const groups = [...new Set(same.map(group))];
  const means = groups.map((one) => {
    const own = same.filter((row) => group(row) === one);
    return names.map((name) => own.reduce((sum, row) => sum + row.score.weights[name], 0) / own.length);
  });
  if (x.share === 0) return [h("p", { class: "note" }, "The gate gives every prompt the same weights."), table(groups, names, means)];
  return [
    h("figure", null, scatter(same, x, y, groups, group, names),
      h("figcaption", { class: "note" }, `${same.length} prompts; the two directions hold ${percent(Math.min(1, x.share + y.share))} of the variance of the weights.`),
      h("ul", { class: "legend" }, groups.map((one, n) => h("li", null, mark(n), one)))),
    table(groups, names, means),
  ];
}

const mostFrequent = (list) => list.reduce((best, one) =>
  (list.filter((x) => x === one).length > list.filter((x) => x === best).length ? one : best), list[0]);

const mark = (n) => {
  const svg = draw("svg", { viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": "true" });
  svg.append(point(0, 0, n));
  return svg;
};

// Groups differ in shape and colour, so that the map can be read without colours.
function point(x, y, n) {
  const kind = n % SHAPES, colour = `group-${n % 8}`;
  if (kind === 0) return draw("circle", { cx: x, cy: y, r: 5, class: colour });
  if (kind === 1) return draw("rect", { x: x - 4.5, y: y - 4.5, width: 9, height: 9, class: colour });
  const corners = {
    2: [[0, -6], [5.5, 4.5], [-5.5, 4.5]], 3: [[0, -6], [6, 0], [0, 6], [-6, 0]],
    4: [[-5.5, -4.5], [5.5, -4.5], [0, 6]], 5: [[-2, -6], [2, -6], [2, -2], [6, -2], [6, 2], [2, 2], [2, 6], [-2, 6], [-2, 2], [-6, 2], [-6, -2], [-2, -2]],
  }[kind];
  return draw("polygon", { points: corners.map(([dx, dy]) => `${x + dx},${y + dy}`).join(" "), class: colour });
}

function scatter(rows, x, y, groups, group, names) {
  const [width, height, edge] = [640, 360, 26];
  const spread = (places, size) => {
    const low = Math.min(...places), range = Math.max(...places) - low || 1;
    return (value) => edge + ((value - low) / range) * (size - 2 * edge);
  };
  const [right, down] = [spread(x.places, width), spread(y.places, height)];
  const axis = (direction) => {
    const order = names.map((_, k) => k).sort((a, b) => Math.abs(direction[b]) - Math.abs(direction[a])).slice(0, 2);
    return order.map((k) => `${direction[k] < 0 ? "less" : "more"} ${names[k]}`).join(", ");
  };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "map", "aria-label": `Map of the gate weights of ${rows.length} prompts; the table below has the means by group` });
  rows.forEach((row, n) => {
    const one = point(right(x.places[n]), height - down(y.places[n]), groups.indexOf(group(row)));
    const title = draw("title", {});
    title.textContent = `${group(row)}: ${row.asked.prompt.at(-1).content.slice(0, 160)}`;
    one.append(title);
    svg.append(one);
  });
  // Beside the drawing, not in it: its text would shrink with it on a phone.
  return [h("p", { class: "axis" }, `\u2191 ${axis(y.direction)}`), svg, h("p", { class: "axis" }, `${axis(x.direction)} \u2192`)];
}

function table(groups, names, means) {
  return h("details", null, h("summary", null, "Mean weights as a table"),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Mean gate weights" }, h("table", null,
      h("caption", { class: "unseen" }, "Mean gate weights by group of prompts"),
      h("thead", null, h("tr", null, h("th", { scope: "col" }, "objective"), groups.map((one) => h("th", { scope: "col", class: "n" }, one)))),
      h("tbody", null, names.map((name, k) => h("tr", null, h("th", { scope: "row" }, name),
        means.map((mean) => h("td", { class: "n" }, percent(mean[k])))))))));
}
