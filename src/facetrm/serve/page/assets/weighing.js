// The reward under other weights, from the scores of an answer and its gate: what the server computes for
// `objective_weights` and `mask`, so that a slider needs no request.
//
//   weight_k      = factor_k * share_k           share: the gate's weights, renormalised over what is not dropped
//   coefficient_j = sum_k weight_k * matrix_kj * (1 if k = j else factor_j)
//   reward        = sum_j coefficient_j * score_j = base + sum_j contribution_j

export const plain = () => ({ weights: {}, mask: [] });
export const factorOf = (edit, name) => (edit.mask.includes(name) ? 0 : (edit.weights[name] ?? 1));
export const isPlain = (edit) =>
  edit.mask.length === 0 && Object.values(edit.weights).every((factor) => factor === 1);

// The edit as the server takes it, for the objectives of one task.
export function asked(edit, names) {
  const objective_weights = {};
  for (const name of names) {
    const factor = edit.weights[name] ?? 1;
    if (factor !== 1 && !edit.mask.includes(name)) objective_weights[name] = factor;
  }
  return { objective_weights, mask: names.filter((name) => edit.mask.includes(name)) };
}

// Returns null if no objective with a weight is left.
export function weigh(row, mixture, edit) {
  if (isPlain(edit)) return row;
  const { matrix, reference, factors } = mixture.sum;
  const names = mixture.names;
  const gone = names.map((name) => edit.mask.includes(name) || mixture.sum.dropped.includes(name));
  const factor = names.map((name, k) => (gone[k] ? 0 : factors[k] * (edit.weights[name] ?? 1)));
  const shares = names.map((name, k) => (gone[k] ? 0 : row.weights[name] / factors[k]));
  const total = edit.mask.length ? shares.reduce((sum, share) => sum + share, 0) : 1;
  if (!(total > 0)) return null;
  const weights = {}, coefficients = {}, contributions = {};
  names.forEach((name, k) => (weights[name] = (factor[k] * shares[k]) / total));
  let base = 0, reward = 0;
  names.forEach((name, j) => {
    let coefficient = 0;
    names.forEach((other, k) => (coefficient += weights[other] * matrix[k][j] * (k === j ? 1 : factor[j])));
    coefficients[name] = coefficient;
    contributions[name] = coefficient * (row.scores[name] - reference[j]);
    base += coefficient * reference[j];
    reward += contributions[name];
  });
  return { ...row, reward: base + reward, base, weights, coefficients, contributions };
}

// The objectives of a pair, the largest difference first.
export function compare(a, b) {
  const names = Object.keys(a.contributions).filter((name) => name in b.contributions);
  const lines = names.map((name) => ({
    name,
    a: a.contributions[name],
    b: b.contributions[name],
    difference: a.contributions[name] - b.contributions[name],
  }));
  const all = lines.reduce((sum, line) => sum + Math.abs(line.difference), 0);
  for (const line of lines) line.share = all > 0 ? Math.abs(line.difference) / all : 0;
  lines.sort((x, y) => Math.abs(y.difference) - Math.abs(x.difference) || (x.name < y.name ? -1 : 1));
  return { lines, baseDifference: a.base - b.base, margin: a.reward - b.reward };
}

export const chance = (margin, beta) => 1 / (1 + Math.exp(-beta * margin));

// The change of one rating that ties the pair: delta score = -margin / coefficient for A, the opposite for B.
export function ratingFlips(a, b, margin, mixture, objectives) {
  const found = [];
  mixture.names.forEach((name, k) => {
    const moves = [];
    for (const [side, row, sign] of [["a", a, -1], ["b", b, 1]]) {
      const delta = (sign * margin) / row.coefficients[name];
      if (!Number.isFinite(delta)) continue;
      const { low, high } = objectives[name];
      const target = row.ratings[name] + delta * mixture.per_unit[k];
      const slack = 1e-6 * (high - low);
      const reachable = low - slack <= target && target <= high + slack;
      moves.push({ name, side, delta, from: row.ratings[name], target, reachable });
    }
    moves.sort(nearer);
    if (moves.length) found.push(moves[0]);
  });
  return found.sort(nearer);
}

const nearer = (x, y) => y.reachable - x.reachable || Math.abs(x.delta) - Math.abs(y.delta);

// The factor on one weight, and on the penalties that act through it, that ties the pair. The margin is a straight
// line in each factor, so two values of it are enough. The smallest change comes first.
export function weightFlips(rowA, rowB, mixture, edit) {
  const marginAt = (name, factor) => {
    const other = { ...edit, weights: { ...edit.weights, [name]: factor } };
    const [a, b] = [weigh(rowA, mixture, other), weigh(rowB, mixture, other)];
    return a && b ? a.reward - b.reward : NaN;
  };
  const found = [];
  for (const name of mixture.names) {
    if (edit.mask.includes(name)) continue;
    const now = edit.weights[name] ?? 1;
    const none = marginAt(name, 0);
    const slope = marginAt(name, 1) - none;
    const margin = none + slope * now;
    const factor = -none / slope;
    if (!Number.isFinite(factor) || factor < 0 || slope === 0) continue;
    found.push({ name, factor, now, change: Math.abs(factor - now), drops: none * margin < 0 });
  }
  return found.sort((x, y) => x.change - y.change || (x.name < y.name ? -1 : 1));
}
