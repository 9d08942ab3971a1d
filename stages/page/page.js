// The page works without this script; with it, sounds play, examples come in tabs, and the theme can be chosen.
"use strict";

for (const player of document.querySelectorAll(".player")) {
  const audio = player.querySelector("audio");
  const bars = player.querySelectorAll("rect");
  const button = player.querySelector(".play");
  button.addEventListener("click", () => {
    if (!audio.paused) return audio.pause();
    document.querySelectorAll("audio").forEach((other) => other !== audio && other.pause());
    audio.play();
  });
  const follow = () => {
    player.classList.toggle("playing", !audio.paused);
    button.setAttribute("aria-label", audio.paused ? "Play" : "Pause");
    bars.forEach((bar, i) => bar.classList.toggle("heard", i / bars.length <= audio.currentTime / audio.duration));
    if (!audio.paused) requestAnimationFrame(follow);
  };
  for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, follow);
}

for (const group of document.querySelectorAll("[data-tabs]")) {
  const panels = [...group.querySelectorAll(":scope > [data-tab]")];
  const bar = Object.assign(document.createElement("div"), { className: "tabs" });
  bar.setAttribute("role", "tablist");
  const choose = (chosen) => panels.forEach((panel, i) => {
    panel.hidden = panel !== chosen;
    bar.children[i].setAttribute("aria-selected", panel === chosen);
  });
  for (const panel of panels) {
    const tab = Object.assign(document.createElement("button"), { type: "button", textContent: panel.dataset.tab });
    tab.setAttribute("role", "tab");
    tab.addEventListener("click", () => choose(panel));
    bar.append(tab);
    panel.querySelector("h3")?.remove();
  }
  group.prepend(bar);
  choose(panels[0]);
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
});
