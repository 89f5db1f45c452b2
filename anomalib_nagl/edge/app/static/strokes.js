/** What somebody marks on a picture: strokes that can be taken back one by one, and the mask they make. */

import { MARK, decode, greyOf, layer, marked, painted } from "./overlay.js";

const KEY = "nagl.strokes";
const COLOUR = `rgb(${MARK.join(",")})`;

/** Strokes are {tool: "brush" | "eraser", size, points}, {tool: "lasso", points}, or {tool: "mask", data}. */
export class Strokes {
  constructor() {
    this.done = [];
    this.undone = [];
    this.image = null;
    this.canvas = null;
  }

  /** Begin on an image; what was marked on it before the page was loaded again is there still. */
  async begin(image, width, height) {
    this.image = image;
    [this.canvas, this.context] = layer(width, height);
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");
    this.done = kept.image === image ? kept.done : [];
    this.undone = [];
    for (const stroke of this.done) await load(stroke);
    this.redraw();
  }

  get empty() {
    return this.box === null;
  }

  /** Add a stroke. */
  async add(stroke) {
    await load(stroke);
    this.done.push(stroke);
    this.undone = [];
    this.change();
  }

  undo() {
    if (this.done.length) this.undone.push(this.done.pop());
    this.change();
  }

  redo() {
    if (this.undone.length) this.done.push(this.undone.pop());
    this.change();
  }

  /** Forget all strokes. */
  clear() {
    this.done = [];
    this.undone = [];
    this.change();
  }

  /** Draw a stroke that is still being made over those that are. */
  preview(stroke) {
    paint(this.context, stroke);
  }

  change() {
    this.redraw();
    try {
      sessionStorage.setItem(KEY, JSON.stringify({ image: this.image, done: this.done }));
    } catch {
      sessionStorage.removeItem(KEY); // too much to keep: only a reload would have needed it
    }
  }

  redraw() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const stroke of this.done) paint(this.context, stroke);
    this.box = this.measure();
  }

  /** [left, top, width, height] of what is marked; null for nothing. */
  measure() {
    const { width, height } = this.canvas;
    const { data } = this.context.getImageData(0, 0, width, height);
    let [left, top, right, bottom] = [width, height, -1, -1];
    for (let place = 3; place < data.length; place += 4) {
      if (data[place] < 128) continue;
      const pixel = (place - 3) / 4;
      const [x, y] = [pixel % width, Math.floor(pixel / width)];
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y);
    }
    return right < 0 ? null : [left, top, right - left + 1, bottom - top + 1];
  }

  /** What is marked as a picture, white on black, or the other way round; an address of the data scheme. */
  mask(inverted = false) {
    const { width, height } = this.canvas;
    const image = this.context.getImageData(0, 0, width, height);
    for (let place = 0; place < image.data.length; place += 4) {
      const white = image.data[place + 3] > 127 !== inverted ? 255 : 0;
      image.data.set([white, white, white, 255], place);
    }
    const [canvas, context] = layer(width, height);
    context.putImageData(image, 0, 0);
    return canvas.toDataURL("image/png");
  }
}

/** A mask of the server is drawn once it has been read; it is kept as text alone. */
async function load(stroke) {
  if (stroke.tool !== "mask" || stroke.drawn) return;
  const picture = await decode(stroke.data);
  const drawn = painted(greyOf(picture), picture.width, picture.height, marked);
  Object.defineProperty(stroke, "drawn", { value: drawn, enumerable: false });
}

function paint(context, stroke) {
  const { tool, points, size } = stroke;
  context.globalCompositeOperation = tool === "eraser" ? "destination-out" : "source-over";
  context.fillStyle = context.strokeStyle = COLOUR;
  if (tool === "mask") {
    context.imageSmoothingEnabled = false;
    context.drawImage(stroke.drawn, 0, 0, context.canvas.width, context.canvas.height);
    return;
  }
  context.beginPath();
  points.forEach(([x, y], place) => (place ? context.lineTo(x, y) : context.moveTo(x, y)));
  if (tool === "lasso") {
    context.closePath();
    context.fill();
    return;
  }
  if (points.length === 1) context.lineTo(points[0][0] + 0.01, points[0][1]);
  context.lineWidth = size;
  context.lineCap = context.lineJoin = "round";
  context.stroke();
}
