"use strict";
for (const box of document.querySelectorAll("[data-reweigh]")) {
  const sliders = [...box.querySelectorAll("input[type=range]")];
  const signed = (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(4);
  const show = () => {
    let margin = 0;
    for (const slider of sliders) {
      const part = slider.value * slider.dataset.effect;
      const row = slider.closest("tr");
      const factor = "\u00d7 " + Number(slider.value).toFixed(2);
      margin += part;
      slider.setAttribute("aria-valuetext", factor);
      row.querySelector("[data-factor]").textContent = factor;
      row.querySelector("[data-part]").textContent = signed(part);
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
