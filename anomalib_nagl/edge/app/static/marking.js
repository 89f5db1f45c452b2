/** Tools on the large image: move, suggestion, brush, eraser and lasso, with the mouse, a pen or the keyboard. */

import { post } from "./api.js";
import { $, say, trying } from "./dom.js";
import { t } from "./words.js";

const KEYS = { v: "move", s: "suggest", b: "brush", e: "eraser", l: "lasso" };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Couples pointer and keys with the strokes on a viewer; `changed()` is called when what is marked changed. */
export class Marking {
  constructor(viewer, strokes, changed) {
    Object.assign(this, { viewer, strokes, changed, tool: "move", size: 24, stroke: null, drag: null, image: null });
    this.keyed = null; // where the keyboard's cross is
    const { stage } = viewer;
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    stage.addEventListener("pointerup", (event) => this.up(event));
    stage.addEventListener("pointercancel", () => this.stop());
    stage.addEventListener("pointerleave", () => this.cursor(null));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("keydown", (event) => this.pressed(event));
    stage.addEventListener("keyup", (event) => this.released(event));
    stage.addEventListener("blur", () => this.stop());
    for (const button of $("tool-buttons").children)
      button.addEventListener("click", () => this.choose(button.dataset.tool));
    $("size").addEventListener("input", () => this.resize(Number($("size").value)));
    for (const [id, action] of [
      ["stroke-undo", "undo"],
      ["stroke-redo", "redo"],
      ["stroke-clear", "clear"],
    ]) {
      $(id).addEventListener("click", () => this.act(action));
    }
    this.choose("move");
  }

  /** Begin on another image: {id, width, height, picture}. */
  begin(image) {
    this.image = image;
    this.keyed = null;
    this.stroke = this.drag = null;
    this.resize(Math.round(Math.max(image.picture.width, image.picture.height) / 28));
    this.show();
  }

  choose(tool) {
    this.tool = tool;
    for (const button of $("tool-buttons").children)
      button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    this.viewer.stage.dataset.tool = tool;
    this.cursor(null);
  }

  /** Another width of brush and eraser, in pixels of the picture. */
  resize(size) {
    this.size = Math.min(Math.max(Math.round(size), 2), 400);
    $("size").max = 400;
    $("size").value = this.size;
    const { cursor } = this.viewer.layers;
    if (cursor) this.cursor(cursor.at, cursor.cross);
  }

  act(action) {
    if (!this.image) return;
    this.strokes[action]();
    this.show();
  }

  show() {
    this.viewer.layers.mark = this.strokes.canvas;
    this.viewer.draw();
    $("stroke-undo").disabled = !this.strokes.done.length;
    $("stroke-redo").disabled = !this.strokes.undone.length;
    $("stroke-clear").disabled = !this.strokes.done.length;
    this.changed();
  }

  /** Take the region that deviates most: at a place of the picture, or the most of all. */
  async suggest(at = null) {
    if (!this.image) return;
    const { id, width, picture } = this.image;
    const wide = width / picture.width;
    const body = at
      ? {
          x: Math.min(Math.max(at[0], 0), picture.width - 1) * wide,
          y: Math.min(Math.max(at[1], 0), picture.height - 1) * wide,
        }
      : {};
    const found = await trying(() => post(`/api/images/${encodeURIComponent(id)}/suggest`, body));
    if (!found || id !== this.image.id) return;
    await this.strokes.add({ tool: "mask", data: found.mask });
    this.show();
    const [, , boxWidth, boxHeight] = found.box.map(Math.round);
    say(t("stage.suggested", { width: boxWidth, height: boxHeight }));
  }

  place(event) {
    const box = this.viewer.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    if (!this.image) return;
    const at = this.place(event);
    this.viewer.stage.setPointerCapture(event.pointerId);
    if (event.button !== 0 || this.tool === "move") {
      this.drag = at;
      return;
    }
    const point = this.viewer.toPicture(at);
    if (this.tool === "suggest") this.suggest(point);
    else this.start(point);
  }

  move(event) {
    if (!this.image) return;
    const at = this.place(event);
    if (this.drag) {
      this.viewer.pan(at[0] - this.drag[0], at[1] - this.drag[1]);
      this.drag = at;
      return;
    }
    const points = event.getCoalescedEvents?.() ?? [];
    for (const one of points.length ? points : [event])
      if (this.stroke) this.extend(this.viewer.toPicture(this.place(one)));
    this.cursor(this.viewer.toPicture(at));
  }

  up() {
    this.drag = null;
    this.stop();
  }

  start(point) {
    this.stroke = { tool: this.tool, points: [rounded(point)] };
    if (this.tool !== "lasso") this.stroke.size = this.size;
    this.extend(point);
  }

  extend(point) {
    this.stroke.points.push(rounded(point));
    if (this.stroke.tool === "lasso") this.viewer.layers.path = this.stroke.points;
    else this.strokes.preview({ ...this.stroke, points: this.stroke.points.slice(-2) });
    this.viewer.draw();
  }

  async stop() {
    const { stroke } = this;
    this.stroke = null;
    this.viewer.layers.path = [];
    if (!stroke) return;
    await this.strokes.add(stroke);
    this.show();
  }

  wheel(event) {
    if (!this.image) return;
    event.preventDefault();
    const factor = Math.exp(-event.deltaY / 500);
    const sized = ["brush", "eraser"].includes(this.tool) && !event.ctrlKey;
    if (sized) this.resize(this.size * factor + Math.sign(factor - 1));
    else this.viewer.zoom(factor, this.place(event));
  }

  cursor(point, cross = false) {
    const radius = ["brush", "eraser"].includes(this.tool) ? this.size / 2 : 0;
    const shown = point && (radius || cross);
    if (!shown && !this.viewer.layers.cursor) return;
    this.viewer.layers.cursor = shown ? { at: point, radius, cross } : null;
    this.viewer.draw();
  }

  pressed(event) {
    if (!this.image) return;
    const { key } = event;
    const control = event.ctrlKey || event.metaKey;
    if (control && key.toLowerCase() === "z") this.act(event.shiftKey ? "redo" : "undo");
    else if (control && key.toLowerCase() === "y") this.act("redo");
    else if (control || event.altKey) return;
    else if (key in ARROWS) this.step(ARROWS[key], event.shiftKey ? 60 : 12);
    else if (key === " " || key === "Enter") this.stamp(event.repeat);
    else if (key === "[") this.resize(this.size / 1.25);
    else if (key === "]") this.resize(this.size * 1.25 + 1);
    else if (key === "+" || key === "=") this.viewer.zoom(1.25);
    else if (key === "-") this.viewer.zoom(0.8);
    else if (key === "0") this.viewer.fit();
    else if (key === "Delete" || key === "Backspace") this.act("clear");
    else if (key.toLowerCase() === "a") this.suggest();
    else if (key.toLowerCase() in KEYS) this.choose(KEYS[key.toLowerCase()]);
    else return;
    event.preventDefault();
  }

  released(event) {
    if ((event.key === " " || event.key === "Enter") && this.stroke) this.stop();
  }

  /** Arrow keys move the picture, or the cross with which the other tools work. */
  step([right, down], length) {
    if (this.tool === "move") {
      this.viewer.pan(-right * 4 * length, -down * 4 * length);
      return;
    }
    const { width, height } = this.image.picture;
    const [x, y] = this.keyed ?? [width / 2, height / 2];
    const scaled = length / this.viewer.view.scale;
    this.keyed = [Math.min(Math.max(x + right * scaled, 0), width), Math.min(Math.max(y + down * scaled, 0), height)];
    if (this.stroke) this.extend(this.keyed);
    this.cursor(this.keyed, true);
  }

  /** Space and Enter are the mouse button of the cross. */
  stamp(repeated) {
    if (this.tool === "move" || repeated) return;
    this.keyed ??= [this.image.picture.width / 2, this.image.picture.height / 2];
    this.cursor(this.keyed, true);
    if (this.tool === "suggest") this.suggest(this.keyed);
    else if (!this.stroke) this.start(this.keyed);
  }
}

const rounded = (point) => point.map((value) => Math.round(value * 10) / 10);
