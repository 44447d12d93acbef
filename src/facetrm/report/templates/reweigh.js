"use strict";
for (const box of document.querySelectorAll("[data-reweigh]")) {
  const sliders = [...box.querySelectorAll("input[type=range]")];
  const signed = (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(4);
  const terms = JSON.parse(box.dataset.reweigh);
  const show = () => {
    const factors = {}, parts = {};
    for (const slider of sliders) {
      factors[slider.dataset.name] = Number(slider.value);
      parts[slider.dataset.name] = 0;
    }
    for (const [weight, score, value] of terms) {
      parts[score] += value * factors[weight] * (weight === score ? 1 : factors[score]);
    }
    let margin = 0;
    for (const slider of sliders) {
      const name = slider.dataset.name;
      const row = slider.closest("tr");
      const factor = "\u00d7 " + factors[name].toFixed(2);
      margin += parts[name];
      slider.setAttribute("aria-valuetext", factor);
      row.querySelector("[data-factor]").textContent = factor;
      row.querySelector("[data-part]").textContent = signed(parts[name]);
    }
    const ahead = margin > 0 ? "A" : "B";
    const said = box.querySelector("[data-said]");
    const tie = Math.abs(margin) < 5e-5;
    said.textContent = tie ? "A tie" : ahead + " is ahead by " + Math.abs(margin).toFixed(4);
    said.className = "reward " + (tie ? "" : ahead + "-ink");
  };
  box.addEventListener("input", show);
  box.querySelector("[data-reset]").addEventListener("click", () => {
    for (const slider of sliders) slider.value = 1;
    show();
  });
  box.hidden = false;
  show();
}
