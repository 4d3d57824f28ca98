// The form is the state: its values make the address after the #, and the address fills the form.

const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("controls"), note = document.getElementById("note");
const field = (name) => form.elements[name];
const known = collect(data);

// Radii on the slider, in pixel units: what it shows, and the most that makes sense.
const in255ths = { max: 64, step: 1, start: 8, eps: (v) => v / 255, text: (v) => `${v}/255` };
const inPixels = { max: 4, step: 0.05, start: 0.5, eps: (v) => v, text: (v) => v.toFixed(2) };
const RADII = {
  fgsm: { ...in255ths, norm: "in every colour of every pixel" },
  "pgd-linf": { ...in255ths, norm: "in every colour of every pixel" },
  "pgd-l2": { ...inPixels, norm: "over the whole picture (l2)" },
  "pgd-pixel-l2": { ...in255ths, norm: "in every pixel's colour vector (l2)" },
};

function fillForm() {
  for (const [name, { bytes, title }] of Object.entries(known)) {
    const canvas = make("canvas", { width: 32, height: 32, title });
    paint(canvas, toPlanes(bytes), title);
    canvas.setAttribute("role", "img");
    const input = make("input", { type: "radio", name: "picture", value: name, ariaLabel: title });
    document.getElementById("own-picture").before(make("label", { className: "thumb" }, input, canvas));
  }
  for (const select of [field("network"), field("second")]) {
    select.append(...data.networks.map(({ name, title }) => make("option", { value: name }, title)));
  }
  field("label").append(...data.classes.map((name, k) => make("option", { value: k }, name)));
}

const START = {
  mode: "attack", picture: Object.keys(known)[0], own: "", label: "", network: data.networks[0].name,
  second: data.networks[1].name, attack: "pgd-linf", steps: "10", at: "50", restarts: "1",
  seed: "0", sigma: "0.25", n: "1000", reach: "1",
};

// Fields without a choice hold any text: whether it means something.
const MEANS = { own: isPicture, seed: (text) => /^\d{1,9}$/.test(text) };

// Fills the form; what it cannot hold is named, and the usual value is taken.
function restore(hash) {
  const given = Object.fromEntries(new URLSearchParams(hash)), refused = [];
  // One's own picture stays while another is looked at: in this entry of the history, or in the form.
  const wanted = { ...START, own: history.state?.own ?? field("own").value, ...given };
  const refuse = (name) => refused.push(`${name}=${given[name].slice(0, 20)}`);
  const set = (name, value) => {
    field(name).value = value;
    return field(name).value === value;
  };
  field("at").max = START.at;
  for (const name of Object.keys(START)) {
    if (set(name, wanted[name]) && (MEANS[name]?.(wanted[name]) ?? true)) continue;
    refuse(name);
    set(name, START[name]);
  }
  setOwn(field("own").value);
  seeChosen();
  for (const name of ["two", "strike"]) {
    field(name).checked = given[name] === "on";
    if (name in given && !field(name).checked) refuse(name);
  }
  scaleEps();
  if (given.eps && !set("eps", given.eps)) {
    refuse("eps");
    scaleEps();
  }
  note.textContent = refused.length ? `This page has no ${refused.join(", ")}; the usual value is shown.` : "";
}

function isPicture(text) {
  try {
    return text === "" || bytesOf(text).length === PIXELS;
  } catch {
    return false;
  }
}

// The reader's own picture is part of the address, too.
function setOwn(text) {
  field("own").value = text;
  const label = document.getElementById("own-picture");
  label.hidden = !text;
  if (text) paint(label.querySelector("canvas"), toPlanes(bytesOf(text)), "your own picture");
  else if (field("picture").value === "own") field("picture").value = START.picture;
}

function seeChosen() {
  const { parentElement: label } = form.querySelector("[name=picture]:checked"), tray = label.parentElement;
  tray.scrollLeft = label.offsetLeft - tray.offsetLeft; // on a phone it would be out of sight
}

function useOwn(bytes, label = "") {
  closeCamera();
  setOwn(toBase64(bytes));
  field("picture").value = "own";
  seeChosen();
  field("label").value = label;
  note.textContent = "";
  update();
  writeAddress();
}

function scaleEps() {
  const { max, step, start } = RADII[field("attack").value];
  Object.assign(field("eps"), { max, step, value: start });
}

// The step that is shown: the last one stays the last one.
function followSteps(steps) {
  const { value, max } = field("at");
  field("at").max = steps;
  if (value === max) field("at").value = steps;
}

const pen = document.getElementById("pen");
// A stroke changes the picture, and not its class.
const showOnSheet = makePad(pen.querySelector("canvas"), pen.querySelector("input"),
  (bytes) => useOwn(bytes, field("label").value || (picture.label ?? "")));

let closeCamera = () => {};
let picture = { key: "", x: null, label: null };
function chosen() {
  const name = field("picture").value, key = name === "own" ? field("own").value : name;
  if (key !== picture.key) {
    const { bytes, label } = name === "own" ? { bytes: bytesOf(key), label: null } : known[name];
    picture = { key, x: toPlanes(bytes), label };
    showOnSheet(picture.x);
  }
  return picture;
}

// Browsers limit how often an address may change: a key that is held changes the form more often.
let writing = 0;
function writeAddress() {
  clearTimeout(writing);
  writing = setTimeout(writeNow, 400);
}

function writeNow() {
  const values = new FormData(form);
  for (const name of ["steps", "restarts"]) values.set(name, field(name).value); // FGSM disables them
  const own = values.get("own");
  if (values.get("picture") !== "own") values.delete("own");
  history.replaceState({ own }, "", `#${new URLSearchParams(values)}`);
}

// Reads the form, shows the numbers beside the sliders, asks the sides.
function update() {
  form.dataset.mode = field("mode").value;
  const number = (name) => Number(field(name).value), attack = field("attack").value;
  const { x, label } = chosen(), radius = RADII[attack], eps = number("eps");
  const steps = attack === "fgsm" ? 1 : number("steps");
  followSteps(steps);
  const written = field("label").value;
  const options = {
    mode: field("mode").value, x, label: written === "" ? label : Number(written),
    attack, eps: radius.eps(eps), within: `${radius.text(eps)} ${radius.norm}`,
    steps, at: number("at"), restarts: number("restarts"), seed: number("seed"),
    sigma: number("sigma"), n: number("n"), strike: field("strike").checked, reach: number("reach"),
  };
  for (const name of ["steps", "restarts"]) field(name).disabled = attack === "fgsm";
  const texts = { eps: radius.text(eps), steps, at: options.at, restarts: options.restarts, reach: `${options.reach} R` };
  for (const [name, text] of Object.entries(texts)) {
    field(name).setAttribute("aria-valuetext", text);
    field(name).nextElementSibling.textContent = text;
  }
  field("label").options[0].textContent = label === null ? "what the network says" : data.classes[label];
  const two = field("two").checked;
  document.getElementById("sides").className = two ? "two" : "one";
  sides[0].show({ ...options, network: field("network").value });
  if (two) sides[1].show({ ...options, network: field("second").value });
  else sides[1].rest();
}

async function attempt(work) {
  try {
    note.textContent = "";
    await work();
  } catch (error) {
    note.textContent = error.message;
  }
}

function listen() {
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("input", ({ target }) => {
    if (target.form !== form || target.type === "file") return;
    note.textContent = ""; // it was about what stood here before
    if (target.name === "attack" && RADII[target.value].max !== Number(field("eps").max)) scaleEps();
    if (target.name === "picture") {
      field("label").value = ""; // it was that of the other picture
      closeCamera();
    }
    update();
  });
  document.addEventListener("change", ({ target }) => target.form === form && writeAddress());
  window.addEventListener("hashchange", () => {
    restore(location.hash.slice(1));
    update();
  });
  document.getElementById("again").addEventListener("click", () => {
    field("seed").value = Number(field("seed").value) + 1;
    update();
    writeAddress();
  });
  pen.querySelector("button").addEventListener("click", () => useOwn(new Uint8Array(PIXELS).fill(255)));
  listenToFiles();
  listenToCamera();
}

function listenToFiles() {
  const file = document.getElementById("file");
  let last = 0; // of files given one after another the last counts, whichever is read first
  const take = (given) => attempt(async () => {
    const mine = ++last, bytes = await bytesOfFile(given);
    if (mine === last) useOwn(bytes);
  });
  file.addEventListener("change", () => {
    if (file.files[0]) take(file.files[0]);
    file.value = ""; // the same file may be given again
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const [dropped] = event.dataTransfer.files;
    if (dropped) take(dropped);
  });
}

function listenToCamera() {
  const [button, cancel] = ["camera", "cancel"].map((id) => document.getElementById(id));
  const video = document.querySelector("video");
  let camera = null, opening = false;
  const show = (opened) => {
    camera = opened;
    video.hidden = cancel.hidden = !camera;
    button.textContent = camera ? "Take the picture" : "Camera";
  };
  closeCamera = () => {
    camera?.close();
    show(null);
  };
  cancel.addEventListener("click", closeCamera);
  button.addEventListener("click", () => attempt(async () => {
    if (opening) return; // two clicks would open two cameras, and end one
    if (camera) return useOwn(camera.take());
    opening = true;
    show(await openCamera(video).finally(() => { opening = false; }));
  }));
}

const sides = [...document.querySelectorAll(".side")].map((root) => makeSide(root, data));
fillForm();
restore(location.hash.slice(1));
listen();
update();
