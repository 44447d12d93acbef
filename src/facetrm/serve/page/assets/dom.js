// Elements without HTML strings: every text goes in as a text node, so a "<script>" in an answer stays a text.

export function h(tag, settings, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(settings ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "place") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  fill(node, ...children);
  return node;
}

export function fill(node, ...children) {
  const kept = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  node.replaceChildren(...kept);
  return node;
}

// A long table shows its first rows, and all of them on demand. `folds` remembers the choice while the table is redrawn.
export const FEW = 10;
export function folded(table, rows, folds, name, others) {
  if (rows.length <= FEW + 1) {
    others?.remove();
    return [table];
  }
  const button = h("button", { type: "button", class: "small", onclick: () => {
    folds[name] = !folds[name];
    apply();
  } });
  function apply() {
    const all = folds[name] === true;
    rows.slice(FEW).forEach((row) => (row.hidden = !all));
    if (others) others.hidden = all;
    button.textContent = all ? `Show the first ${FEW}` : `Show all ${rows.length}`;
    button.setAttribute("aria-expanded", String(all));
  }
  apply();
  return [table, h("p", null, button)];
}

let waiting = 0;

// Say something to screen readers. The pause makes them read the same sentence again.
export function tell(sentence) {
  const place = document.getElementById("told");
  place.textContent = "";
  clearTimeout(waiting);
  waiting = setTimeout(() => (place.textContent = sentence), 60);
}

export function problem(error) {
  const fix = error.fix ? ` ${sentence(error.fix)}` : "";
  return h("p", { class: "problem" }, sentence(error.message), fix);
}

export function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : whole + ".";
}

export const fixed = (value, digits = 4) => (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toFixed(digits);
export const signed = (value, digits = 4) => {
  const text = fixed(Math.abs(value), digits);
  return (Number(text) === 0 ? "" : value < 0 ? "\u2212" : "+") + text;
};
export const minus = (text) => text.replace("-", "\u2212");
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}%`;
export const shown = (value) => {
  const size = Math.abs(value);
  return minus(fixed(value, size < 10 ? 2 : size < 100 ? 1 : 0));
};
export const letter = (index) => (index < 26 ? String.fromCharCode(65 + index) : `#${index + 1}`);
