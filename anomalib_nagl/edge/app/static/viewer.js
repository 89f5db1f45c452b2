/** One image large: picture, map, outlines, what is marked; zoom and pan. Its coordinates are pixels of the picture. */

import { drawWindows } from "./windows.js";

const DARK = "#101417";
const NEAREST = 40; // screen pixels to a picture pixel at most

/** Draws on a canvas; `layers` is changed from outside, then `draw()` is called. */
export class Viewer {
  constructor(stage, canvas) {
    this.stage = stage;
    this.canvas = canvas;
    this.view = { scale: 1, x: 0, y: 0 };
    this.layers = {
      picture: null,
      map: null,
      opacity: 0.55,
      outlines: [],
      windows: null,
      mark: null,
      left: null,
      path: [],
      cursor: null,
    };
    this.fitted = true;
    this.pending = false;
    new ResizeObserver(() => this.resize()).observe(stage);
  }

  /** Show another picture, whole. */
  show(picture) {
    this.layers = { ...this.layers, picture, map: null, outlines: [], windows: null, left: null, path: [] };
    this.fit();
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.max(Math.round(this.stage.clientWidth * ratio), 1);
    this.canvas.height = Math.max(Math.round(this.stage.clientHeight * ratio), 1);
    if (this.fitted) this.fit();
    this.draw();
  }

  /** The scale at which the whole picture is seen. */
  get whole() {
    const { picture } = this.layers;
    if (!picture) return 1;
    const room = 24;
    const wide = (this.stage.clientWidth - room) / picture.width;
    return Math.max(Math.min(wide, (this.stage.clientHeight - room) / picture.height), 0.01);
  }

  fit() {
    const { picture } = this.layers;
    this.fitted = true;
    if (picture) {
      const scale = this.whole;
      const x = (this.stage.clientWidth - picture.width * scale) / 2;
      this.view = { scale, x, y: (this.stage.clientHeight - picture.height * scale) / 2 };
    }
    this.draw();
  }

  /** Zoom by a factor around a place of the stage, its middle if none is given. */
  zoom(factor, at = [this.stage.clientWidth / 2, this.stage.clientHeight / 2]) {
    const scale = Math.min(Math.max(this.view.scale * factor, this.whole / 2), Math.max(NEAREST, this.whole));
    const [x, y] = this.toPicture(at);
    this.view = { scale, x: at[0] - x * scale, y: at[1] - y * scale };
    this.fitted = false;
    this.draw();
  }

  pan(right, down) {
    this.view.x += right;
    this.view.y += down;
    this.fitted = false;
    this.draw();
  }

  /** Bring a box of the picture into the middle. */
  frame([left, top, width, height]) {
    const room = 4;
    const scale = Math.min(
      this.stage.clientWidth / (room * width),
      this.stage.clientHeight / (room * height),
      8 * this.whole,
    );
    this.view.scale = Math.max(scale, this.whole);
    this.view.x = this.stage.clientWidth / 2 - (left + width / 2) * this.view.scale;
    this.view.y = this.stage.clientHeight / 2 - (top + height / 2) * this.view.scale;
    this.fitted = false;
    this.draw();
  }

  toPicture([x, y]) {
    return [(x - this.view.x) / this.view.scale, (y - this.view.y) / this.view.scale];
  }

  toStage([x, y]) {
    return [x * this.view.scale + this.view.x, y * this.view.scale + this.view.y];
  }

  /** Draw with the next frame of the screen. */
  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.paint();
    });
  }

  paint() {
    const context = this.canvas.getContext("2d");
    const ratio = devicePixelRatio || 1;
    const { picture, map, opacity, outlines, windows, mark, left, path, cursor } = this.layers;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!picture) return;
    const { scale, x, y } = this.view;
    context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x, ratio * y);
    context.imageSmoothingEnabled = scale < 4;
    context.drawImage(picture, 0, 0);
    context.imageSmoothingEnabled = true;
    for (const [above, alpha] of [
      [map, opacity],
      [left, 1],
      [mark, 0.6],
    ]) {
      if (!above || !alpha) continue;
      context.globalAlpha = alpha;
      context.drawImage(above, 0, 0, picture.width, picture.height);
    }
    context.globalAlpha = 1;
    if (windows) drawWindows(context, windows, scale);
    for (const line of outlines) this.trace(context, line, true);
    if (path.length > 1) this.trace(context, path, false);
    if (cursor) this.ring(context, cursor);
  }

  /** A light line on a dark one: it is seen on any ground. */
  trace(context, points, closed) {
    context.beginPath();
    points.forEach(([x, y], place) => (place ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (closed) context.closePath();
    context.lineJoin = "round";
    for (const [width, colour] of [
      [4, DARK],
      [1.8, "#ffffff"],
    ]) {
      context.lineWidth = width / this.view.scale;
      context.strokeStyle = colour;
      context.stroke();
    }
  }

  ring(context, { at: [x, y], radius, cross }) {
    const round = Array.from({ length: 48 }, (_, k) => [
      x + radius * Math.cos((k * Math.PI) / 24),
      y + radius * Math.sin((k * Math.PI) / 24),
    ]);
    if (radius) this.trace(context, round, true);
    if (!cross) return;
    const arm = 9 / this.view.scale;
    this.trace(
      context,
      [
        [x - arm, y],
        [x + arm, y],
      ],
      false,
    );
    this.trace(
      context,
      [
        [x, y - arm],
        [x, y + arm],
      ],
      false,
    );
  }
}
