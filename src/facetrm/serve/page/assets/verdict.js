// The verdict on two answers: one sentence, the waterfall, the ratings, and what would turn it round.

import { FEW, fixed, folded, h, minus, percent, shown, signed } from "./dom.js";
import { chance, compare, ratingFlips, weightFlips } from "./weighing.js";

export function verdictSentence(pair, first, second, beta) {
  const { margin } = pair;
  const sure = beta === undefined ? "" : `; P(${first} > ${second}) = ${chance(margin, beta).toFixed(2)}`;
  if (Math.abs(margin) < 5e-7) return `Answers ${first} and ${second} are tied${sure}.`;
  const ahead = margin > 0 ? first : second;
  return `Answer ${ahead} is ahead of ${margin > 0 ? second : first} by ${fixed(Math.abs(margin), 4)}${sure}.`;
}

export function reasonSentence(pair, first, second) {
  const lead = pair.lines[0];
  if (!lead || lead.share === 0) return "No objective tells them apart.";
  const side = lead.difference > 0 ? first : second;
  if (lead.share > 0.5) return `${lead.name} alone makes up ${percent(lead.share)} of all differences, for ${side}.`;
  const named = pair.lines.filter((line) => line.share >= 0.1).slice(0, 3);
  return `Most counts: ${named.map((line) => `${line.name} (${percent(line.share)})`).join(", ")}.`;
}

// A table whose last column is drawn as a waterfall: each bar starts where the one above it ends.
export function waterfall(pair, first, second, folds) {
  const steps = [];
  let at = 0;
  const lines = pair.lines.map((line) => ({ ...line }));
  if (Math.abs(pair.baseDifference) > 1e-6) {
    lines.unshift({ name: "base (the prompts differ)", difference: pair.baseDifference });
  }
  for (const line of lines) {
    steps.push({ ...line, from: at, to: at + line.difference });
    at += line.difference;
  }
  const edges = steps.flatMap((step) => [step.from, step.to]).concat(0, pair.margin);
  const low = Math.min(...edges), width = Math.max(...edges) - low || 1;
  const spot = (value) => `${(100 * (value - low)) / width}%`;
  const bar = (from, to, kind) =>
    h("div", { class: "track", "aria-hidden": "true" },
      h("i", { class: "zero", place: { left: spot(0) } }),
      h("i", {
        class: `bar ${kind}`,
        place: { left: spot(Math.min(from, to)), width: `${(100 * Math.abs(to - from)) / width}%` },
      }),
      h("i", { class: "edge", place: { left: spot(to) } }));
  const number = (value, label) =>
    h("td", { class: "n", "data-label": label }, value === undefined ? "" : signed(value));
  const kept = steps.slice(0, FEW), rest = steps.slice(FEW);
  const side = (difference) => (Math.abs(difference) < 5e-5 ? "no" : difference > 0 ? "first" : "second");
  const row = (step) => h("tr", null,
    h("th", { scope: "row" }, step.name),
    number(step.a, first), number(step.b, second),
    h("td", { class: `n ${side(step.difference)}-ink`, "data-label": `${first} \u2212 ${second}` }, signed(step.difference)),
    h("td", { class: "drawn" }, bar(step.from, step.to, side(step.difference))));
  const sum = (key) => rest.reduce((total, step) => total + (step[key] ?? 0), 0);
  const rows = steps.map(row);
  const others = rest.length > 0 && row({
    name: `${rest.length} others`, a: sum("a"), b: sum("b"), difference: sum("difference"), from: kept.at(-1).to, to: at,
  });
  const table = h("table", { class: "waterfall" },
    h("caption", null, `What each objective adds to the reward of ${first} and of ${second}. `,
      `The differences add up to the margin: to the right for ${first}, to the left for ${second}.`),
    h("thead", null, h("tr", null,
      h("th", { scope: "col" }, "objective"),
      h("th", { scope: "col", class: "n" }, first),
      h("th", { scope: "col", class: "n" }, second),
      h("th", { scope: "col", class: "n" }, `${first} \u2212 ${second}`),
      h("th", { scope: "col" }, h("span", { class: "unseen" }, "drawn")))),
    h("tbody", null, rows, others),
    h("tfoot", null, h("tr", null,
      h("th", { scope: "row" }, "margin"), h("td"), h("td"),
      h("td", { class: `n ${side(pair.margin)}-ink` }, signed(pair.margin)),
      h("td", { class: "drawn" }, bar(0, pair.margin, `${side(pair.margin)} whole`)))));
  return folded(table, rows, folds, "why", others || null);
}

// Each answer's own sum: base + contributions = reward.
export function ownSums(a, b, pair, first, second) {
  const row = (name, x, y, kind) => h("tr", { class: kind },
    h("th", { scope: "row" }, name), h("td", { class: "n" }, signed(x)), h("td", { class: "n" }, signed(y)));
  return h("details", null, h("summary", null, "Each answer by itself"),
    h("table", null,
      h("caption", null, "reward = base + contributions; the base is the reward of a typical answer to this prompt"),
      h("thead", null, h("tr", null, h("th", { scope: "col" }, "part"),
        h("th", { scope: "col", class: "n" }, first), h("th", { scope: "col", class: "n" }, second))),
      h("tbody", null, row("base", a.base, b.base),
        pair.lines.map((line) => row(line.name, line.a, line.b)), row("reward", a.reward, b.reward, "total"))));
}

// Marks that are closer than this share of the scale would hide each other.
const CLOSE = 0.06;

export function ratings(a, b, names, objectives, unproven, first, second, folds) {
  const rows = names.map((name) => {
    const { low, high, direction, meaning } = objectives[name];
    const share = (value) => Math.min(1, Math.max(0, (value - low) / (high - low)));
    const dot = (value, kind) => {
      const beyond = value < low || value > high;
      return h("i", { class: `dot ${kind}${beyond ? " beyond" : ""}`, place: { left: `${100 * share(value)}%` } });
    };
    const close = Math.abs(share(a.ratings[name]) - share(b.ratings[name])) < CLOSE;
    const notes = [direction === "lower" ? "lower is better" : "", unproven.includes(name) ? "not reliable" : ""];
    return h("tr", null,
      h("th", { scope: "row" }, name, meaning && h("small", null, meaning)),
      h("td", { class: "n first-ink" }, shown(a.ratings[name])),
      h("td", { class: "n second-ink" }, shown(b.ratings[name])),
      h("td", { class: "scale" },
        h("div", { class: `gauge${close ? " stacked" : ""}`, "aria-hidden": "true" },
          dot(a.ratings[name], "first"), dot(b.ratings[name], "second")),
        h("div", { class: "ends" }, h("span", null, minus(String(Number(low.toPrecision(4))))),
          h("span", null, notes.filter(Boolean).join(", ")), h("span", null, minus(String(Number(high.toPrecision(4))))))));
  });
  const table = h("table", { class: "ratings" },
    h("caption", null, "Each rating on the scale of its source. A rating outside its scale is drawn at the end, " +
      "and two at one place one above the other."),
    h("thead", null, h("tr", null, h("th", { scope: "col" }, "objective"),
      h("th", { scope: "col", class: "n" }, first), h("th", { scope: "col", class: "n" }, second),
      h("th", { scope: "col" }, "scale"))),
    h("tbody", null, rows));
  return folded(table, rows, folds, "rated");
}

export function flips(rowA, rowB, a, b, mixture, objectives, edit, first, second) {
  const margin = a.reward - b.reward;
  if (Math.abs(margin) < 5e-7) return [h("p", null, "The answers are tied already.")];
  const letters = { a: first, b: second };
  const rating = ratingFlips(a, b, margin, mixture, objectives)[0];
  const found = weightFlips(rowA, rowB, mixture, edit);
  const said = [];
  if (rating?.reachable) {
    said.push(`The smallest change of one rating: ${rating.name} of answer ${letters[rating.side]} ` +
      `from ${shown(rating.from)} to ${shown(rating.target)}.`);
  } else {
    said.push("No change of a single rating within its scale is enough.");
  }
  if (found.length) {
    const { name, factor, now } = found[0];
    const beside = now === 1 ? "" : ` (it is \u00d7 ${now.toFixed(2)} now)`;
    said.push(`The smallest change of one weight: ${name} \u00d7 ${factor.toFixed(2)}${beside}.`);
  } else {
    said.push("No change of a single weight is enough.");
  }
  const drops = found.filter((flip) => flip.drops).map((flip) => flip.name);
  if (drops.length) said.push(`Without the weight of any one of these, the order turns round: ${drops.join(", ")}.`);
  return [
    h("p", { class: "note" }, "Each of these makes the pair a tie if everything else stays as it is."),
    h("ul", { class: "facts" }, said.map((one) => h("li", null, one))),
  ];
}

export { compare };
