// Who reads whom: state in, page out. The state is also the address after "#", so that it can be
// linked to:  #model/sample/layer/head/token/way
"use strict";

const byId = (id) => document.getElementById(id);
const NAMES = ["model", "sample", "layer", "head", "token"];
const state = { model: 0, sample: 0, layer: 0, head: 0, token: 1, way: "reads" };

const models = () => ATTENTION.models;
const sample = () => models()[state.model].samples[state.sample];
const layer = () => sample().layers[state.layer];

// Thousandths from token `asks` to token `answers`; null where the layer does not join the two.
function weight(asks, answers) {
  const row = layer().asks.indexOf(asks);
  const column = layer().answers.indexOf(answers);
  if (row < 0 || column < 0) return null;
  const heads = layer().heads;
  if (state.head > 0) return heads[state.head - 1][row][column];
  return heads.reduce((sum, head) => sum + head[row][column], 0) / heads.length;
}

function shown(other) {
  return state.way === "reads" ? weight(state.token, other) : weight(other, state.token);
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name, i) => new Option(name, i, false, i === chosen)));
}

// Keep every number within what there is: another model has other layers and tokens.
function settle() {
  state.model = Math.min(state.model, models().length - 1);
  state.sample = Math.min(state.sample, models()[state.model].samples.length - 1);
  state.layer = Math.min(state.layer, sample().layers.length - 1);
  state.head = Math.min(state.head, layer().heads.length);
  state.token = Math.min(state.token, sample().tokens.length - 1);
  // A patch that only answers in this layer, or a word that only asks, is shown the other way.
  const asks = layer().asks.includes(state.token);
  const answers = layer().answers.includes(state.token);
  if (state.way === "reads" && !asks && answers) state.way = "read";
  else if (state.way === "read" && !answers && asks) state.way = "reads";
}

function paint() {
  const { side, pixels } = sample();
  const bytes = Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0));
  const canvas = byId("canvas");
  canvas.width = canvas.height = side;
  canvas.setAttribute("aria-label", sample().title);
  const image = new ImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    image.data.set([bytes[3 * i], bytes[3 * i + 1], bytes[3 * i + 2], 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function buttonOf(token, index) {
  const button = document.createElement("button");
  const part = shown(index);
  button.dataset.token = index;
  button.setAttribute("aria-pressed", index === state.token);
  button.tabIndex = index === state.token ? 0 : -1;
  const percent = part === null ? "" : (part / 10).toFixed(part < 100 ? 1 : 0) + "%";
  button.setAttribute("aria-label", `${token.text} ${percent}`);
  if (part === null) button.classList.toggle("outside", index !== state.token);
  else button.style.background = `rgba(var(--main), ${Math.min(0.85, part / 1000)})`;
  if (token.patch === undefined) {
    const number = document.createElement("small");
    number.textContent = percent;
    button.append(token.text, number);
  } else {  // a frame, so that the digit stays to be seen
    button.style.background = "none";
    button.style.boxShadow = `inset 0 0 0 ${(part ?? 0) / 60}px rgb(var(--main))`;
    button.textContent = percent;
  }
  button.addEventListener("click", () => choose(index));
  return button;
}

function sentence() {
  const name = sample().tokens[state.token].text;
  const parts = sample().tokens
    .map((token, i) => [token.text, shown(i)])
    .filter(([, part]) => part !== null)
    .sort((a, b) => b[1] - a[1])
    .slice(0, 3)
    .map(([text, part]) => `${text} (${(part / 10).toFixed(0)}%)`);
  if (!parts.length) return `"${name}" takes no part in this layer: ${layer().name}.`;
  return state.way === "reads"
    ? `"${name}" reads most of all: ${parts.join(", ")}.`
    : `"${name}" is read most of all by: ${parts.join(", ")}.`;
}

function draw(focus) {
  settle();
  fill(byId("model"), models().map((m) => m.name), state.model);
  fill(byId("sample"), models()[state.model].samples.map((s) => s.title), state.sample);
  fill(byId("layer"), sample().layers.map((l) => l.name), state.layer);
  fill(byId("head"), ["mean of heads", ...layer().heads.map((_, i) => `head ${i + 1}`)], state.head);
  byId("way").value = state.way;
  paint();
  const buttons = sample().tokens.map(buttonOf);
  const isPatch = (button) => sample().tokens[button.dataset.token].patch !== undefined;
  byId("patches").replaceChildren(...buttons.filter(isPatch));
  byId("words").replaceChildren(...buttons.filter((button) => !isPatch(button)));
  byId("said").textContent = sentence();
  history.replaceState(null, "", "#" + [...NAMES.map((n) => state[n]), state.way].join("/"));
  if (focus) buttons[state.token].focus();
}

function choose(token) {
  state.token = token;
  draw(true);
}

function step(event) {
  if (!event.target.dataset || event.target.dataset.token === undefined) return;
  const across = sample().tokens[state.token].patch !== undefined ? 3 : 1;
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
  if (!(event.key in moves)) return;
  event.preventDefault();
  const count = sample().tokens.length;
  choose((state.token + moves[event.key] + count) % count);
}

function readAddress() {
  const parts = location.hash.slice(1).split("/");
  NAMES.forEach((name, i) => {
    const value = Number.parseInt(parts[i], 10);
    if (value >= 0) state[name] = value;
  });
  if (parts[5] === "reads" || parts[5] === "read") state.way = parts[5];
}

for (const name of ["model", "sample", "layer", "head"]) {
  byId(name).addEventListener("change", (event) => {
    state[name] = Number(event.target.value);
    draw(false);
  });
}
byId("way").addEventListener("change", (event) => {
  state.way = event.target.value;
  draw(false);
});
document.addEventListener("keydown", step);
readAddress();
draw(false);
