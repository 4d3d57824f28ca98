// An explorer: sliders, a picture, and a sentence with the numbers that the picture shows.
// Live (anywidget) the kernel draws every frame; in an exported page all frames are in the page.

const CSS = `
.explorer { margin: 0; max-width: 720px; font: 16px/1.35 system-ui, sans-serif; color: #111 }
.explorer, .explorer .picture { background: #fff }
.explorer .sliders { display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 2px 0 }
.explorer .sliders > div { display: flex; align-items: center; gap: 6px; flex-wrap: wrap;
  flex: 1 1 min(320px, 100%); min-width: 0; min-height: 28px }
.explorer label { flex: 0 0 auto; min-width: 7.2em }
.explorer label:has(+ select) { min-width: 0 }
.explorer :is(input, select) { flex: 1 1 4em; min-width: 0; margin: 0; font: inherit }
.explorer .value { flex: 0 0 auto; min-width: 4.6em }
.explorer button { font: inherit; padding: 0 8px }
.explorer .picture { position: relative; aspect-ratio: var(--shape) }
.explorer img { display: block; width: 100%; height: auto; max-width: none; margin: 0 }
.explorer .frame { position: absolute; inset: 0 }
.explorer .below { display: flex; gap: 8px }
.explorer figcaption { flex: 1; min-height: 4.05em; padding: 2px 0 }
.explorer .tools { display: grid; grid-template-columns: auto auto; gap: 2px; margin-top: 4px;
  height: max-content; font-size: .875em }
.explorer .tools button { height: 1.7em }
.explorer .tools button:last-child { grid-column: 1 / 3 }
.explorer [aria-pressed=true] { background: #0072b2; color: #fff }
.explorer .cover { position: absolute; inset: 0; width: 100%; background: #eee; font-size: 22px }
.explorer:fullscreen { display: flex; flex-direction: column; justify-content: center;
  max-width: none; padding: 2vh 4vw; font-size: 2.4vh; overflow: auto }
.explorer:fullscreen .picture { flex: 1; min-height: 0; max-height: calc(92vw / (var(--shape)));
  align-self: center }`;

const WAITING = "Waiting for the kernel: it is busy, or was restarted. The picture is the last one drawn.";
const RESTARTED = "The kernel of this picture is gone. Run its cell again.";

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

// The choice of one value; `moved` is called when the reader has chosen another.
function makeControl({ label, values, start, menu, plays, blinks }, moved) {
  const id = `control-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const value = make("span", { className: "value" });
  value.ariaHidden = "true"; // a screen reader hears the slider's own value text
  const hidden = values.length === 1; // of one value only the text is left
  const input = menu
    ? make("select", { id, hidden }, ...values.map((text, i) => make("option", { value: i }, text)))
    : make("input", { id, hidden, type: "range", min: 0, max: values.length - 1 });
  const set = (at) => {
    input.value = at;
    if (menu && !hidden) return;
    value.textContent = values[at];
    input.setAttribute("aria-valuetext", values[at]);
  };
  // JupyterLab would take its arrow keys for moves between cells.
  input.dataset.lmSuppressShortcuts = "";
  input.addEventListener("input", () => { set(+input.value); moved(); });
  set(start);
  const row = make("div", {}, make("label", { htmlFor: id }, label), input, ...(menu && !hidden ? [] : [value]));
  const go = (at) => { set(at); moved(); };
  const next = () => go((+input.value + 1) % values.length);
  let chosen = start;
  const blink = () => {
    if (+input.value) [chosen, input.value] = [+input.value, 0];
    else input.value = chosen;
    go(+input.value);
  };
  if (plays) row.append(makeTimer("▶", `Play: ${label}`, 700, next));
  if (blinks) row.append(makeTimer("blink", `Blink: ${label} at ${values[0]} and as set`, 500, blink));
  return { row, input, set, go, start, position: () => +input.value };
}

const makeButton = (textContent, title, click) => {
  const button = make("button", { type: "button", textContent, title });
  button.ariaLabel = title;
  button.addEventListener("click", click);
  return button;
};

// A button that does something again and again, until it is pressed once more.
function makeTimer(symbol, title, milliseconds, act) {
  let timer = 0;
  const button = makeButton(symbol, title, () => {
    const tick = () => button.isConnected ? act() : clearInterval(timer);
    timer = timer ? clearInterval(timer) : setInterval(tick, milliseconds);
    button.ariaPressed = Boolean(timer);
  });
  button.ariaPressed = false;
  return button;
}

function stopTimers(root) {
  for (const timer of root.querySelectorAll(".sliders [aria-pressed=true]")) timer.click();
}

// Reset, full screen, and "guess first": each move is covered until the reader asks for it.
function makeTools(root, controls, picture, below) {
  let last; // the control that was moved: the next key is for it again
  const cover = makeButton("Guess first, then click here to see.", "Show", () => {
    hide(false);
    last.input.focus();
  });
  cover.className = "cover";
  const hide = (hidden) => {
    if (hidden) picture.append(cover);
    else cover.remove();
    picture.firstChild.setAttribute("aria-hidden", hidden); // its text would tell
    below.firstChild.style.visibility = hidden ? "hidden" : "";
  };
  const guess = makeButton("guess", "Guess first: cover the picture after each move", () => {
    guess.ariaPressed = guess.ariaPressed !== "true";
    if (guess.ariaPressed !== "true") hide(false);
  });
  guess.ariaPressed = false;
  const reset = makeButton("reset", "Reset: all as at the start", () => {
    stopTimers(root);
    for (const control of controls) control.set(control.start);
    controls[0].go(controls[0].start);
    hide(false);
  });
  const full = makeButton("full screen", "Full screen", () =>
    document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen());
  full.hidden = !document.fullscreenEnabled; // in some frames it is not allowed
  below.append(make("div", { className: "tools" }, guess, reset, full));
  return (control) => {
    last = control;
    if (guess.ariaPressed === "true") hide(true);
  };
}

// Builds the page's elements; `moved` is called with the positions of all controls.
function build(root, { name, controls, width, height }, moved) {
  root.classList.add("explorer", `explorer-${name}`);
  root.dataset.preventSwipe = ""; // on a slide a finger moves the slider, not the slide
  const positions = () => made.map((control) => control.position());
  const made = controls.map((control, i) => makeControl(control, () => {
    cover(made[i]);
    moved(positions());
  }));
  const frame = make("img", { className: "frame", width, height });
  const picture = make("div", { className: "picture" }, frame, make("div", { className: "frame" }));
  picture.style.setProperty("--shape", `${width} / ${height}`);
  const status = make("figcaption");
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");
  const below = make("div", { className: "below" }, status);
  root.replaceChildren(make("style", {}, CSS),
    make("div", { className: "sliders" }, ...made.map((control) => control.row)), picture, below);
  const overlay = picture.lastChild, cover = makeTools(root, made, picture, below);
  return {
    frame, overlay, positions,
    set: (at) => made.forEach((control, i) => control.set(at[i])),
    disable: () => {
      stopTimers(root);
      root.querySelectorAll(":is(.sliders, .tools) :is(input, select, button)")
        .forEach((control) => { control.disabled = true; });
    },
    say: (text) => { status.textContent = text; },
    show: (text) => { frame.alt = status.textContent = text; },
  };
}

// Live: a move goes to the kernel, which answers with a frame.
function render({ model, el }) {
  let timer = 0, address = "";
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => page.say(WAITING), 500);
  };
  const page = build(el.appendChild(make("figure")), model.get("spec"), (positions) => {
    wait();
    model.set("positions", positions);
    model.save_changes();
  });
  const show = () => {
    const { positions, text } = model.get("frame");
    if (positions.join() === page.positions().join()) clearTimeout(timer);
    else page.set(model.get("positions"));
    URL.revokeObjectURL(address);
    address = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    page.frame.src = address;
    page.show(text);
  };
  const dead = () => {
    clearTimeout(timer);
    page.disable();
    page.say(RESTARTED);
  };
  page.set(model.get("positions"));
  show();
  model.on("change:frame", show);
  model.on("comm_live_update", dead);
  return () => { clearTimeout(timer); URL.revokeObjectURL(address); };
}

// Exported: `frames` holds by positions the sentence, and the tiles (of 5 x 5) that differ from the
// first picture's, as pairs of place and number among `images`.
function still(id, spec, images, frames) {
  // A page may show the same explorer twice: each script takes one that none has taken.
  const root = document.querySelector(`#${id}:not(.explorer)`);
  const first = root.querySelector("img").src;
  const layer = ([place, number]) =>
    `url(${images[number]}) ${25 * (place % 5)}% ${25 * Math.floor(place / 5)}% / 20% 20% no-repeat`;
  const show = (positions) => {
    const [tiles, text] = frames[positions.join()];
    page.overlay.style.background = tiles.map(layer).join();
    page.show(text);
  };
  const page = build(root, spec, show);
  page.frame.src = first;
  show(page.positions());
}

export default { render };
