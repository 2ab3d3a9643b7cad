// The cursor of each time line: it follows the sound, moves where one clicks, drags or types, and says what is there.
"use strict";

function timeline(figure) {
  const data = JSON.parse(figure.querySelector(".frames").textContent);
  const [tracks, cursor, readout, clock, button, audio] =
    [".tracks", ".cursor", ".readout", ".clock", ".play", "audio"].map((name) => figure.querySelector(name));
  const lane = tracks.querySelector(".axis .lane");
  let now = 0, frame = 0;                               // seconds; the animation frame that was asked for

  function show(seconds) {
    now = Math.min(Math.max(seconds, 0), data.seconds);
    cursor.style.left = lane.offsetLeft + lane.offsetWidth * now / data.seconds + "px";
    cursor.classList.toggle("resting", now === 0);
    clock.textContent = `${now.toFixed(2)} / ${data.seconds.toFixed(2)} s`;
    tracks.setAttribute("aria-valuenow", now.toFixed(2));
    const t = Math.min(Math.floor(now * data.rate), data.attention.length - 1);
    const shares = data.labels.map((label, c) => [data.posterior[t][c], label]).sort((a, b) => b[0] - a[0]);
    const [first, ...rest] = shares.map(([share, label]) => `${label} ${share} %`);
    readout.replaceChildren();
    const strong = document.createElement("b");
    strong.textContent = `${now.toFixed(2)} s: ${first}`;
    const truth = data.truth && data.truth.filter(([start]) => start <= now).at(-1)[1];
    readout.append(strong, `, ${rest.slice(0, 3).join(", ")} · attention ${data.attention[t].toFixed(1)} × the mean`
      + (truth ? ` · truth: ${truth}` : "") + (data.units ? ` · unit ${data.units[t]}` : ""));
  }

  function seek(seconds) {
    show(seconds);
    if (audio) audio.currentTime = now;
  }

  function follow() {
    show(audio.currentTime);
    frame = audio.paused ? 0 : requestAnimationFrame(follow);
  }

  const at = (event) => {
    const box = lane.getBoundingClientRect();
    return (event.clientX - box.left) / box.width * data.seconds;
  };
  tracks.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    tracks.setPointerCapture(event.pointerId);
    seek(at(event));
  });
  tracks.addEventListener("pointermove", (event) => { if (tracks.hasPointerCapture(event.pointerId)) seek(at(event)); });

  function toggle() {
    if (!audio) return;
    if (!audio.paused) return audio.pause();
    document.querySelectorAll("audio").forEach((other) => other.pause());
    if (now >= data.seconds - 0.01) seek(0);
    audio.play();
  }

  tracks.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.5, PageUp: 0.5 }[event.key];
    if (step) seek(now + step * (event.shiftKey ? 10 : 1));
    else if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(data.seconds);
    else if (event.key === " ") toggle();
    else return;
    event.preventDefault();
  });
  if (audio) {
    button.addEventListener("click", toggle);
    audio.addEventListener("play", () => { button.textContent = "❚❚"; if (!frame) follow(); });
    audio.addEventListener("pause", () => { button.textContent = "▶"; });
    audio.addEventListener("ended", () => show(data.seconds));
  }
  new ResizeObserver(() => show(now)).observe(lane);
}
document.querySelectorAll(".timeline").forEach(timeline);

document.querySelectorAll(".theme").forEach((button) => button.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}));
