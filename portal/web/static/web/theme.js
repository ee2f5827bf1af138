// Runs before the page is drawn, so that a dark page never flashes white.
(function () {
  "use strict";
  const key = "berth-theme";
  const themes = ["auto", "light", "dark"];
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try {
      const kept = localStorage.getItem(key);
      return themes.includes(kept) ? kept : "auto";
    } catch {
      return "auto";
    }
  }

  function show() {
    const theme = chosen();
    const dark = theme === "dark" || (theme === "auto" && system.matches);
    document.documentElement.setAttribute("data-bs-theme", dark ? "dark" : "light");
    for (const button of document.querySelectorAll("[data-theme-next]")) {
      const label = button.getAttribute("data-label-" + theme);
      button.setAttribute("aria-label", label);
      button.setAttribute("title", label);
      button.hidden = false;
    }
    for (const box of document.querySelectorAll("[data-themes]")) {
      box.hidden = false;
      for (const radio of box.querySelectorAll("input")) radio.checked = radio.value === theme;
    }
  }

  function choose(theme) {
    try {
      localStorage.setItem(key, theme);
    } catch {
      // Without storage the choice is not kept: the page follows the system.
    }
    show();
  }

  show();
  system.addEventListener("change", show);
  document.addEventListener("DOMContentLoaded", function () {
    show();
    for (const button of document.querySelectorAll("[data-theme-next]")) {
      button.addEventListener("click", () => choose(themes[(themes.indexOf(chosen()) + 1) % themes.length]));
    }
    for (const box of document.querySelectorAll("[data-themes]")) {
      box.addEventListener("change", (event) => choose(event.target.value));
    }
  });
})();
