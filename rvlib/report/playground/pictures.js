// Where pictures come from: those in the page, our own drawings, the reader's file, pen or camera.
// All become planes of 32 x 32 values that are multiples of 1/255.

const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const toBase64 = (bytes) => btoa(String.fromCharCode(...bytes));
const toPlanes = (bytes) => Float32Array.from(bytes, (value) => value / 255);

// The middle square of anything that a canvas can draw, as 3072 bytes.
function bytesFrom(source, width, height) {
  const canvas = make("canvas", { width: 32, height: 32 });
  const context = canvas.getContext("2d", { willReadFrequently: true }), side = Math.min(width, height);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, 32, 32); // under pictures with transparent parts
  context.imageSmoothingQuality = "high";
  context.drawImage(source, (width - side) / 2, (height - side) / 2, side, side, 0, 0, 32, 32);
  return bytesOn(context);
}

function bytesOn(context) {
  const { data } = context.getImageData(0, 0, 32, 32);
  return Uint8Array.from({ length: PIXELS }, (_, i) => data[4 * (i % 1024) + Math.floor(i / 1024)]);
}

// Colour and corners of polygons, one over the other, on a ground of two colours with a horizon.
const DRAWINGS = {
  ship: {
    sky: "#dfe9f5", ground: "#6f9fc4", horizon: 19, label: "ship",
    shapes: [
      ["#3b3b44", 2, 17, 30, 17, 26, 24, 6, 24], ["#f2f2f2", 8, 12, 22, 12, 22, 17, 8, 17],
      ["#c8402f", 11, 6, 15, 6, 15, 12, 11, 12], ["#7a2a22", 6, 22, 27, 22, 26, 24, 7, 24],
    ],
  },
  airplane: {
    sky: "#6fa6dd", ground: "", horizon: 32, label: "airplane",
    shapes: [
      ["#eef0f4", 1, 15, 6, 13, 27, 13, 31, 16, 27, 18, 5, 18], ["#c3c9d4", 12, 15, 20, 15, 11, 27, 8, 27],
      ["#d8dde6", 13, 13, 19, 13, 14, 6, 11, 6], ["#b9c0cd", 1, 15, 6, 14, 4, 7, 1, 7],
    ],
  },
  car: {
    sky: "#ffffff", ground: "#c9ccd0", horizon: 21, label: "automobile",
    shapes: [
      ["#d8b21f", 2, 16, 8, 15, 12, 9, 22, 9, 26, 15, 30, 17, 30, 24, 2, 24],
      ["#1f2b3a", 10, 15, 13, 11, 17, 11, 17, 15], ["#1f2b3a", 18, 15, 18, 11, 21, 11, 24, 15],
      ["#17171a", 6, 21, 8, 20, 11, 21, 12, 24, 10, 27, 7, 27, 5, 24],
      ["#17171a", 21, 21, 23, 20, 26, 21, 27, 24, 25, 27, 22, 27, 20, 24],
    ],
  },
};

function drawOwn({ sky, ground, horizon, shapes }) {
  const context = make("canvas", { width: 32, height: 32 }).getContext("2d");
  for (const [colour, top, height] of [[sky, 0, horizon], [ground, horizon, 32]]) {
    context.fillStyle = colour;
    context.fillRect(0, top, 32, height);
  }
  for (const [colour, ...corners] of shapes) {
    context.fillStyle = colour;
    context.beginPath();
    for (let i = 0; i < corners.length; i += 2) context.lineTo(corners[i], corners[i + 1]);
    context.fill();
  }
  return bytesOn(context);
}

// All that the page has: { name: { bytes, label, title } }.
function collect({ classes, pictures }) {
  const found = {};
  pictures.forEach(({ bytes, label }, i) => {
    found[`cifar-${i}`] = { bytes: bytesOf(bytes), label, title: `CIFAR-10 test image: ${classes[label]}` };
  });
  for (const [name, drawing] of Object.entries(DRAWINGS)) {
    const label = classes.indexOf(drawing.label);
    found[name] = { bytes: drawOwn(drawing), label, title: `drawn by this page: ${drawing.label}` };
  }
  return found;
}

async function bytesOfFile(file) {
  try {
    const picture = await createImageBitmap(file), bytes = bytesFrom(picture, picture.width, picture.height);
    picture.close();
    return bytes;
  } catch {
    throw new Error(`${file.name} is no picture that this browser reads: give a PNG or a JPEG file.`);
  }
}

// A pen on a canvas, for mouse, finger and keys; `changed(bytes)` after each stroke.
function makePad(canvas, colour, changed) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let pen = { x: 16, y: 16 };
  const dot = (x, y) => {
    context.fillStyle = colour.value;
    context.fillRect(Math.round(x) - 1, Math.round(y) - 1, 2, 2);
  };
  // Dots without a gap from where the pen is; where it does not move, one.
  const drawTo = ({ x, y }) => {
    const steps = Math.ceil(Math.hypot(x - pen.x, y - pen.y)) || 1;
    for (let i = 1; i <= steps; i++) dot(pen.x + ((x - pen.x) * i) / steps, pen.y + ((y - pen.y) * i) / steps);
    pen = { x, y };
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: (32 * (event.clientX - box.left)) / box.width, y: (32 * (event.clientY - box.top)) / box.height };
  };
  // A stroke is what the first finger, or the left button, does until it is lifted.
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary) return;
    canvas.setPointerCapture(event.pointerId);
    pen = place(event);
    drawTo(pen);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.isPrimary && canvas.hasPointerCapture(event.pointerId)) drawTo(place(event));
  });
  canvas.addEventListener("lostpointercapture", () => changed(bytesOn(context)));
  canvas.addEventListener("keydown", (event) => {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
    if (dx === undefined) return;
    event.preventDefault();
    drawTo({ x: Math.min(Math.max(pen.x + dx, 1), 31), y: Math.min(Math.max(pen.y + dy, 1), 31) });
    changed(bytesOn(context));
  });
  return (x) => paint(canvas, x, canvas.ariaLabel);
}

// Shows the camera's picture in `video`; returns how to take it, and how to end the camera.
async function openCamera(video) {
  if (!navigator.mediaDevices) throw new Error("This browser lends no camera to a page from disk.");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    throw new Error(`No camera (${error.name}): allow it for this page, or drop a file.`);
  }
  await video.play();
  return {
    take: () => bytesFrom(video, video.videoWidth, video.videoHeight),
    close: () => {
      for (const track of video.srcObject.getTracks()) track.stop();
      video.srcObject = null;
    },
  };
}
