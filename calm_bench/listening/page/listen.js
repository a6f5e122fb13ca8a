"use strict";
// One question at a time. The server decides what is asked and knows what was answered; this page only
// plays clips and reports. An answer can be given once some of what follows the prompt was heard.

const QUESTIONS = {
  meaningfulness: {
    text: "Which is more meaningful and natural speech?",
    hint: "Both clips begin with the same words; judge how they go on.",
    choices: [["first", "A"], ["tie", "No difference"], ["second", "B"]],
  },
  enjoyment: {
    text: "Which do you enjoy more?",
    hint: "Both clips begin with the same music; judge how they go on.",
    choices: [["first", "A"], ["tie", "No difference"], ["second", "B"]],
  },
  quality: {
    text: "How good is the sound?",
    hint: "Judge how it sounds, not what is said or played.",
    choices: [[5, "Excellent"], [4, "Good"], [3, "Fair"], [2, "Poor"], [1, "Bad"]],
  },
};
const AFTER_PROMPT = 2; // seconds of the continuation that must have been heard

const $ = (id) => document.getElementById(id);
const state = { rater: "", question: null, shownAt: 0, players: [] };

async function post(path, body) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The server does not answer. Your earlier answers are saved; start it again and open its new address.");
  }
  const data = await response.json();
  if (!response.ok) throw new Error(data.error);
  return data;
}

function complain(error) {
  $("problem").textContent = error ? error.message : "";
  $("problem").hidden = !error;
}

function show(section) {
  for (const id of ["welcome", "question", "end"]) $(id).hidden = id !== section;
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

class Player {
  constructor(source, name, promptSeconds) {
    this.name = name;
    this.promptSeconds = promptSeconds;
    this.audio = new Audio(source);
    this.audio.preload = "auto";
    this.button = element("button", { type: "button" });
    this.slider = element("input", { type: "range", min: 0, max: 1, step: "0.1", value: 0, "aria-label": `Position in ${name}` });
    this.time = element("span");
    this.heardText = element("span", {}, "not heard yet");
    this.box = element("div", { class: "clip", role: "group", "aria-label": name },
      element("h3", {}, name, this.heardText), this.button, this.slider, element("p", {}, this.time));
    this.button.addEventListener("click", () => this.toggle());
    this.slider.addEventListener("input", () => { this.audio.currentTime = Number(this.slider.value); });
    for (const event of ["play", "pause", "timeupdate", "loadedmetadata", "ended"]) {
      this.audio.addEventListener(event, () => this.update());
    }
    this.audio.addEventListener("play", () => {
      for (const other of state.players) if (other !== this) other.audio.pause();
    });
    this.audio.addEventListener("error", () => complain(new Error(`${name} cannot be played: reload the page.`)));
    this.update();
  }

  toggle() {
    if (this.audio.paused) this.audio.play().catch(() => {}); else this.audio.pause();
  }

  heard(from = 0) {
    let seconds = 0;
    const { played } = this.audio;
    for (let i = 0; i < played.length; i += 1) {
      seconds += Math.max(0, played.end(i) - Math.max(played.start(i), from));
    }
    return seconds;
  }

  heardEnough() {
    const { duration } = this.audio;
    if (!duration) return false;
    const needed = Math.min(AFTER_PROMPT, (duration - this.promptSeconds) * 0.9);
    return this.heard(this.promptSeconds) >= needed;
  }

  update() {
    const { audio } = this;
    const playing = !audio.paused && !audio.ended;
    this.button.textContent = `${playing ? "❚❚ Pause" : "▶ Play"} ${this.name}`;
    this.box.classList.toggle("playing", playing);
    if (audio.duration) {
      this.slider.max = audio.duration;
      this.slider.value = audio.currentTime;
      this.slider.setAttribute("aria-valuetext", `${clock(audio.currentTime)} of ${clock(audio.duration)}`);
      this.time.textContent = `${clock(audio.currentTime)} / ${clock(audio.duration)}`;
    }
    if (this.heardEnough()) this.heardText.textContent = "✓ heard";
    allow();
  }
}

function allow() {
  const missing = state.players.filter((player) => !player.heardEnough()).map((player) => player.name);
  const locked = missing.length > 0 || state.players.length === 0;
  for (const input of $("choices").querySelectorAll("input")) input.disabled = locked;
  const chosen = $("answer").querySelector("input:checked");
  $("send").disabled = locked || !chosen;
  const text = locked ? `Listen to ${missing.join(" and ")} beyond the prompt, then answer.` : "";
  if ($("missing").textContent !== text) $("missing").textContent = text;
}

function ask(question) {
  state.question = question;
  state.rater = question.rater;
  for (const player of state.players) { player.audio.pause(); player.audio.removeAttribute("src"); }
  state.players = [];
  if (!question.question) {
    show("end");
    $("end").querySelector("h2").focus();
    return;
  }
  const kind = QUESTIONS[question.kind];
  $("progress").textContent = `Question ${question.done + 1} of ${question.of}`;
  $("bar").max = question.of;
  $("bar").value = question.done;
  $("asked").textContent = kind.text;
  $("hint").textContent = kind.hint;
  const names = question.clips.length === 2 ? ["Clip A", "Clip B"] : ["the clip"];
  state.players = question.clips.map((clip, i) => new Player(clip, names[i], question.prompt_seconds));
  $("clips").replaceChildren(...state.players.map((player) => player.box));
  $("clips").classList.toggle("two", names.length === 2);
  $("choices").replaceChildren(...kind.choices.map(choice));
  allow();
  state.shownAt = performance.now();
  show("question");
  $("asked").focus();
}

function choice([value, text], i) {
  const paired = typeof value === "string";
  const key = paired ? i + 1 : value;
  const words = paired ? (value === "tie" ? text : `Clip ${text}`) : `${value} – ${text}`;
  const input = element("input", { type: "radio", name: "answer", value: JSON.stringify(value), "data-key": key });
  input.addEventListener("change", allow);
  return element("label", { class: "choice" }, input, words, element("kbd", { "aria-hidden": "true" }, String(key)));
}

$("start").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    ask(await post("question", { rater: $("rater").value }));
    complain(null);
  } catch (error) {
    complain(error);
  }
});

$("answer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const chosen = $("answer").querySelector("input:checked");
  if (!chosen || $("send").disabled) return;
  $("send").disabled = true;
  const vote = {
    rater: state.rater,
    question: state.question.question,
    answer: JSON.parse(chosen.value),
    heard: state.players.map((player) => Math.round(player.heard() * 100) / 100),
    seconds: Math.round(performance.now() - state.shownAt) / 1000,
  };
  try {
    ask(await post("vote", vote));
    complain(null);
  } catch (error) {
    $("send").disabled = false;
    complain(error);
  }
});

document.addEventListener("keydown", (event) => {
  if ($("question").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  const player = state.players["ab".indexOf(key)];
  if (key.length === 1 && player) {
    player.toggle();
  } else if (/^[1-5]$/.test(key)) {
    const input = $("choices").querySelector(`input[data-key="${key}"]:not(:disabled)`);
    if (!input) return;
    input.checked = true;
    input.focus();
    allow();
  } else if (key === "enter" && !event.target.closest("button, summary, form")) {
    $("answer").requestSubmit();
  } else {
    return;
  }
  event.preventDefault();
});
