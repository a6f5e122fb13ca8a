"use strict";
// Without this script the page has the browser's own players. With it: one player at a time, waveforms
// to seek in, spectrograms on demand, sorting, keys, and a blind mode.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const cellOf = (element) => element.closest("td, th");
const audioIn = (cell) => cell && cell.querySelector("audio");
let current = null; // the cell whose clip was played last

// -- players -------------------------------------------------------------------------------------

function nameOf(cell) {
  const name = cell.dataset.letter || cell.dataset.name || "the prompt";
  return `${name}, prompt ${cell.closest("tr").dataset.prompt}`;
}

function play(cell, from) {
  const audio = audioIn(cell);
  if (!audio) return;
  if (from === undefined) {
    audio.play().catch(() => {});
    return;
  }
  const start = () => { audio.currentTime = from; audio.play().catch(() => {}); };
  if (audio.readyState > 0) { start(); return; }
  audio.addEventListener("loadedmetadata", start, { once: true });
  audio.preload = "auto";
  audio.load();
}

function toggle(cell) {
  const audio = audioIn(cell);
  if (!audio) return;
  if (audio.paused) play(cell); else audio.pause();
}

function seek(cell, seconds) {
  const audio = audioIn(cell);
  if (!audio || !cell.querySelector(".player")) return;
  const wanted = Math.max(0, Math.min(seconds, Number(cell.querySelector(".player").dataset.seconds) - 0.05));
  if (audio.readyState === 0) { play(cell, wanted); return; }
  audio.currentTime = wanted;
  update(cell);
}

function update(cell) {
  const audio = audioIn(cell);
  const box = cell.querySelector(".player");
  if (!box) return;
  const seconds = Number(box.dataset.seconds);
  const at = Math.min(audio.currentTime, seconds);
  const playing = !audio.paused && !audio.ended;
  cell.classList.toggle("playing", playing);
  cell.classList.toggle("begun", playing || at > 0);
  const button = box.querySelector(".play");
  button.textContent = playing ? "❚❚" : "▶";
  button.setAttribute("aria-label", `${playing ? "Pause" : "Play"} ${nameOf(cell)}`);
  const wave = box.querySelector(".wave");
  wave.querySelector(".at").style.left = `${(100 * at) / seconds}%`;
  wave.setAttribute("aria-label", `Position in ${nameOf(cell)}`);
  wave.setAttribute("aria-valuenow", at.toFixed(1));
  const part = at < Number(box.dataset.start) ? ", in the prompt" : "";
  wave.setAttribute("aria-valuetext", `${at.toFixed(1)} of ${seconds.toFixed(1)} seconds${part}`);
  box.querySelector(".time").textContent = playing || at > 0 ? `${at.toFixed(1)} s` : `${seconds.toFixed(0)} s`;
}

function setUp(cell) {
  const audio = audioIn(cell);
  const box = cell.querySelector(".player");
  if (!audio || !box) { cell.classList.add("problematic"); return; }
  audio.controls = false;
  audio.hidden = true;
  box.hidden = false;
  all(".more", cell).forEach((more) => { more.hidden = false; });
  box.querySelector(".play").addEventListener("click", () => toggle(cell));
  all(".skip", cell).forEach((b) => b.addEventListener("click", () => play(cell, Number(box.dataset.start))));
  all(".draw", cell).forEach((b) => b.addEventListener("click", () => draw(cell)));
  const wave = box.querySelector(".wave");
  wave.addEventListener("pointerdown", (event) => {
    const area = wave.getBoundingClientRect();
    seek(cell, ((event.clientX - area.left) / area.width) * Number(box.dataset.seconds));
  });
  wave.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -5, PageUp: 5 };
    if (event.key in steps) seek(cell, audio.currentTime + steps[event.key]);
    else if (event.key === "Home") seek(cell, 0);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  for (const event of ["play", "pause", "ended", "timeupdate", "seeked"]) {
    audio.addEventListener(event, () => update(cell));
  }
  audio.addEventListener("play", () => start(cell));
  audio.addEventListener("error", () => {
    box.querySelector(".time").textContent = "⚠";
    document.getElementById("now").textContent = `${nameOf(cell)} cannot be played`;
  });
  update(cell);
}

function start(cell) {
  for (const audio of all("audio")) if (audio !== audioIn(cell)) audio.pause();
  if (current) all(".wave", current).forEach((wave) => { wave.tabIndex = -1; });
  current = cell;
  cell.querySelector(".wave").tabIndex = 0;
  document.getElementById("now").textContent = `Playing ${nameOf(cell)}`;
}

function draw(cell) {
  const button = cell.querySelector(".draw");
  if (!button) return;
  const known = cell.querySelector(".drawing");
  if (known) {
    known.remove();
    button.setAttribute("aria-expanded", "false");
    return;
  }
  const drawing = document.createElement("div");
  drawing.className = "drawing";
  const image = document.createElement("img");
  image.className = "spectrogram";
  image.alt = `Spectrogram of ${nameOf(cell)}`;
  image.src = button.dataset.image;
  const axis = document.createElement("p");
  axis.className = "axis";
  axis.textContent = "0 Hz to half the sample rate, upwards; −90 to −10 dB";
  drawing.append(image, axis);
  cell.querySelector(".more").after(drawing);
  button.setAttribute("aria-expanded", "true");
}

// -- sorting -------------------------------------------------------------------------------------

function sortRows(section) {
  const [by, of, way] = ["by", "of", "way"].map((name) => section.querySelector(`.tools .${name}`));
  const body = section.querySelector(".players tbody");
  const value = (row) => {
    if (by.value === "") return Number(row.dataset.index);
    const cell = all("td", row).find((td) => td.dataset.column === of.value);
    const text = cell.dataset.values.split(";")[Number(by.value)];
    return text === "" ? NaN : Number(text) * Number(way.value);
  };
  of.disabled = way.disabled = by.value === "";
  const rows = all("tr", body).map((row) => [value(row), row]);
  rows.sort(([a, rowA], [b, rowB]) => {
    if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1; // without a value: last
    return (a - b || 0) || rowA.dataset.index - rowB.dataset.index;
  });
  body.append(...rows.map(([, row]) => row));
}

function numberIn(text) {
  const found = text.replace(/−/g, "-").replace(/,/g, "").match(/-?\d+(\.\d+)?/);
  return found ? Number(found[0]) : NaN;
}

function sortTable(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const down = heading.getAttribute("aria-sort") !== "descending";
  all("th", table).forEach((th) => th.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const text = (row) => row.cells[column].textContent;
  const rows = all("tbody tr", table);
  const byText = heading.classList.contains("left");
  rows.sort((a, b) => {
    const sign = down ? -1 : 1;
    if (byText) return sign * text(a).localeCompare(text(b));
    const [x, y] = [numberIn(text(a)), numberIn(text(b))];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return sign * (x - y);
  });
  rows.forEach((row) => row.classList.remove("group"));
  table.tBodies[0].append(...rows);
}

// -- blind mode ----------------------------------------------------------------------------------

function shuffled(list) {
  const out = [...list];
  for (let i = out.length - 1; i > 0; i -= 1) {
    const j = Math.floor(Math.random() * (i + 1));
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

function nameRow(row, blind) {
  const shown = !blind || row.querySelector(".reveal").getAttribute("aria-pressed") === "true";
  for (const cell of all("td", row)) {
    const { name, letter } = cell.dataset;
    cell.querySelector(".who").textContent = blind && letter ? (shown ? `${letter}: ${name}` : letter) : name;
    all("audio", cell).forEach((audio) => audio.setAttribute("aria-label", shown ? name : letter));
    all("img.spectrogram", cell).forEach((image) => { image.alt = `Spectrogram of ${nameOf(cell)}`; });
    if (audioIn(cell)) update(cell);
  }
}

function setBlind(blind) {
  // What is playing or drawn now is known by name: it would give its clip away.
  all("audio").forEach((audio) => audio.pause());
  all(".drawing").forEach((drawing) => draw(cellOf(drawing)));
  document.body.classList.toggle("blind", blind);
  document.getElementById("blind").setAttribute("aria-pressed", String(blind));
  for (const section of all("section")) {
    all(".tools", section).forEach((tools) => { tools.hidden = blind; });
    const by = section.querySelector(".tools .by");
    if (blind && by) { by.value = ""; sortRows(section); }
    for (const row of all(".players tbody tr", section)) {
      const cells = all("td", row).sort((a, b) => a.dataset.column - b.dataset.column);
      const order = blind ? shuffled(cells.filter(audioIn)) : cells;
      row.append(...order);
      cells.forEach((cell) => { delete cell.dataset.letter; });
      if (blind) order.forEach((cell, i) => { cell.dataset.letter = `clip ${String.fromCharCode(65 + i)}`; });
      const reveal = row.querySelector(".reveal");
      reveal.hidden = !blind;
      reveal.setAttribute("aria-pressed", "false");
      nameRow(row, blind);
    }
  }
  const said = blind ? "Blind mode: the clips of each row are shuffled and unnamed" : "Blind mode is off";
  document.getElementById("now").textContent = said;
}

const isBlind = () => document.body.classList.contains("blind");

// -- keys ----------------------------------------------------------------------------------------

function neighbour(step) {
  const rows = all(".players tbody tr", current.closest("section"));
  const row = rows[rows.indexOf(current.closest("tr")) + step];
  return row && row.cells[current.cellIndex];
}

function goTo(cell) {
  if (!audioIn(cell)) return;
  play(cell, 0);
  cell.scrollIntoView({ block: "nearest", inline: "nearest" });
}

const KEYS = {
  " ": () => toggle(current),
  n: () => goTo(neighbour(1)),
  p: () => goTo(neighbour(-1)),
  j: () => seek(current, audioIn(current).currentTime - 2),
  l: () => seek(current, audioIn(current).currentTime + 2),
  e: () => play(current, Number(current.querySelector(".player").dataset.start)),
  s: () => draw(current),
};

document.addEventListener("keydown", (event) => {
  const { target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, select, textarea")) return;
  const key = event.key.toLowerCase();
  if (key === " " && target.closest("button, summary, a")) return;
  if (key === "b") {
    setBlind(!isBlind());
    return;
  }
  current = current || all(".players tbody .player").map(cellOf)[0];
  if (!current) return;
  if (/^\d$/.test(key)) goTo(current.closest("tr").cells[Number(key)]);
  else if (key in KEYS) KEYS[key]();
  else return;
  event.preventDefault();
});

// -- start ---------------------------------------------------------------------------------------

document.getElementById("tools").hidden = false;
document.getElementById("blind").addEventListener("click", () => setBlind(!isBlind()));
for (const section of all("section")) {
  all(".players tbody tr", section).forEach((row, i) => {
    row.dataset.index = i;
    all("td", row).forEach((cell, column) => { cell.dataset.column = column; });
    all("th, td", row).forEach(setUp);
    row.querySelector(".reveal").addEventListener("click", (event) => {
      const pressed = event.target.getAttribute("aria-pressed") === "true";
      event.target.setAttribute("aria-pressed", String(!pressed));
      nameRow(row, isBlind());
    });
  });
  all(".tools", section).forEach((tools) => { tools.hidden = false; });
  all(".tools select", section).forEach((select) => select.addEventListener("change", () => sortRows(section)));
}
for (const heading of all(".numbers th")) {
  const button = document.createElement("button");
  button.type = "button";
  const text = heading.querySelector(".head");
  text.replaceWith(button);
  button.append(text);
  button.addEventListener("click", () => sortTable(heading));
}
