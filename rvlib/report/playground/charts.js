// What a side shows: pictures of 32 x 32 pixels, bars in a table, lines in a chart.

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const draw = (name, attributes, text = "") => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
};

// Shows planes in [0, 1] on a canvas; what lies outside is cut off, on the screen only.
function paint(canvas, x, description) {
  const context = canvas.getContext("2d"), image = context.createImageData(32, 32);
  for (let i = 0; i < 1024; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round(255 * x[1024 * c + i]);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  canvas.ariaLabel = description;
}

const percent = (p) => (p > 0 && p < 0.005 ? "<1 %" : p >= 0.995 && p < 1 ? ">99 %" : `${Math.round(100 * p)} %`);

// A row a class: a bar and a number for the picture, the same for the attacked one if there is one.
// One class has a mark behind its name.
function showAnswers(table, classes, [marked, mark], [title, before], [titleAfter, after]) {
  const heads = ["class", "", title, titleAfter].map((text) => make("th", { scope: "col" }, text));
  const rows = classes.map((name, k) => {
    const bars = [before, after].map((p, i) => {
      const bar = make("div", { className: `bar bar-${i}` });
      bar.style.width = `${100 * (p?.[k] ?? 0)}%`;
      return bar;
    });
    const numbers = [before, after].map((p) => make("td", { className: "number" }, p ? percent(p[k]) : ""));
    const bold = [before, after].map((p, i) => p && argmax(p) === k && numbers[i].classList.add("answer"));
    const head = make("th", { scope: "row", className: bold.some(Boolean) ? "answer" : "" });
    head.append(k === marked ? `${name} (${mark})` : name);
    return make("tr", {}, head, make("td", { className: "bars" }, ...bars), ...numbers);
  });
  table.replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
}

const BOX = { left: 46, right: 294, top: 12, bottom: 128 };

// Lines [{ points: [[x, y], ...], className }], axes { label, min, max, ticks, log, text }, marks.
function showLines(svg, description, { x, y, lines, marks = [], levels = [] }) {
  const place = ({ min, max, log }, value, from, to) => {
    const [a, b, v] = log ? [min, max, value].map(Math.log) : [min, max, value];
    return from + (to - from) * Math.min(Math.max((v - a) / (b - a || 1), 0), 1);
  };
  const px = (value) => place(x, value, BOX.left, BOX.right);
  const py = (value) => place(y, value, BOX.bottom, BOX.top);
  const { left, right, top, bottom } = BOX, parts = [];
  for (const tick of y.ticks) {
    parts.push(draw("line", { x1: left, x2: right, y1: py(tick), y2: py(tick), class: "grid" }));
    parts.push(draw("text", { x: left - 5, y: py(tick) + 4, "text-anchor": "end" }, tick));
  }
  for (const tick of x.ticks) {
    parts.push(draw("text", { x: px(tick), y: bottom + 15, "text-anchor": "middle" }, x.text?.(tick) ?? tick));
  }
  for (const { at, text } of levels) {
    parts.push(draw("line", { x1: left, x2: right, y1: py(at), y2: py(at), class: "level" }));
    parts.push(draw("text", { x: right, y: py(at) - 4, "text-anchor": "end", class: "level" }, text));
  }
  for (const { points, className } of lines) {
    const path = points.map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(1)}`).join(" ");
    parts.push(draw("polyline", { points: path, class: className }));
  }
  for (const { at: [a, b], className } of marks) {
    parts.push(draw("circle", { cx: px(a), cy: py(b), r: 4, class: className }));
  }
  parts.push(draw("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }));
  parts.push(draw("text", { x: (left + right) / 2, y: bottom + 31, "text-anchor": "middle" }, x.label));
  svg.replaceChildren(draw("title", {}, description), ...parts);
  svg.ariaLabel = description;
}

// About five round numbers from `min` to `max`.
function ticks(min, max) {
  const rough = (max - min) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
  const found = [];
  for (let k = Math.ceil(min / step); k * step <= max; k++) found.push(+(k * step).toPrecision(4));
  return found;
}
