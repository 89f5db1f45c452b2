/** A chart with a line that can be dragged, or moved by the keyboard: bars over a scale from 0 to 1. */

import { el, score, svg } from "./dom.js";

const SIZE = { width: 1000, height: 176, left: 10, top: 16, bottom: 24 };
const STEP = 0.005;
const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };

/** A chart of so many kinds of bars; `moving(value)` is called while the line moves, `moved(value)` when it is let go. */
export class LineChart {
  constructor(label, { moving, moved, kinds }) {
    this.kinds = kinds;
    this.value = null;
    this.moving = moving;
    this.moved = moved;
    this.drawing = svg("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, "aria-hidden": "true" });
    this.handle = el("div", {
      class: "handle",
      role: "slider",
      tabIndex: 0,
      "aria-label": label,
      "aria-valuemin": 0,
      "aria-valuemax": 1,
      on: {
        keydown: (event) => this.press(event),
        keyup: () => this.settle(),
        blur: () => this.settle(),
        pointerdown: (event) => this.grab(event),
      },
    });
    this.flag = el("span", { class: "handle-value" });
    this.handle.append(this.flag);
    this.handle.hidden = true; // until it is known where it lies
    this.element = el("div", { class: "chart" }, this.drawing, this.handle);
    this.changed = false; // somebody holds it, or it was let go and is not answered for yet
    this.waiting = false;
  }

  /** Draw stacks of bars: `stacks` is a list of {kind, values} from the bottom up, `band` is {low, high}. */
  draw(edges, stacks, band) {
    const { width, height, left, top, bottom } = SIZE;
    const across = (value) => left + value * (width - 2 * left);
    const tall = height - top - bottom;
    const sums = edges.slice(1).map((_, bin) => stacks.reduce((sum, one) => sum + one.values[bin], 0));
    // Few marked images among thousands would not be seen on an even scale.
    const rise = (count) => Math.sqrt(count / Math.max(...sums, 1)) * tall;
    const parts = this.kinds > 1 ? [patterns()] : [];
    if (band) {
      const [low, high] = [Math.max(band.low, 0), Math.min(band.high, 1)];
      parts.push(
        svg("rect", {
          class: "band",
          x: across(low),
          y: 0,
          width: across(high) - across(low),
          height: height - bottom,
        }),
      );
    }
    sums.forEach((_, bin) => {
      let below = 0;
      for (const { kind, values } of stacks) {
        if (!values[bin]) continue;
        const [y, foot] = [rise(below + values[bin]), rise(below)];
        below += values[bin];
        const x = across(edges[bin]) + 1;
        parts.push(
          svg("rect", {
            class: `bin ${kind}`,
            x,
            y: height - bottom - y,
            width: across(edges[bin + 1]) - x - 1,
            height: y - foot,
          }),
        );
      }
    });
    parts.push(svg("line", { class: "axis", x1: left, x2: width - left, y1: height - bottom, y2: height - bottom }));
    for (const mark of [0, 0.25, 0.5, 0.75, 1]) {
      parts.push(
        svg(
          "text",
          { x: across(mark), y: height - 6, "text-anchor": mark === 0 ? "start" : mark === 1 ? "end" : "middle" },
          String(mark),
        ),
      );
    }
    this.drawing.replaceChildren(...parts);
  }

  /** Put the line at a value; null hides it. */
  set(value, text = "") {
    if (this.changed) return;
    this.show(value, text);
  }

  show(value, text = "") {
    this.value = value;
    this.handle.hidden = value === null;
    if (value === null) return;
    const { left, width } = SIZE;
    this.handle.style.left = `${((left + value * (width - 2 * left)) / width) * 100}%`;
    this.handle.setAttribute("aria-valuenow", value.toFixed(3));
    this.handle.setAttribute("aria-valuetext", text || score(value));
    this.flag.textContent = score(value);
  }

  go(value) {
    this.changed = true;
    this.show(Math.min(Math.max(Math.round(value * 1000) / 1000, 0.001), 0.999));
    this.moving(this.value);
  }

  /** Tell where the line was let go; it stays there until the server has answered. */
  async settle() {
    if (!this.changed || this.waiting) return;
    const { value } = this;
    this.waiting = true;
    await this.moved(value);
    this.waiting = false;
    if (this.value === value) this.changed = false;
    else this.settle(); // moved on meanwhile
  }

  press(event) {
    if (event.key in KEYS) this.go(this.value + KEYS[event.key] * STEP * (event.shiftKey ? 10 : 1));
    else if (event.key === "Home" || event.key === "End") this.go(event.key === "Home" ? 0 : 1);
    else return;
    event.preventDefault();
  }

  grab(event) {
    event.preventDefault();
    this.handle.focus();
    this.handle.setPointerCapture(event.pointerId);
    const box = this.drawing.getBoundingClientRect();
    const { left, width } = SIZE;
    const move = ({ clientX }) => this.go((((clientX - box.left) / box.width) * width - left) / (width - 2 * left));
    const done = () => {
      this.handle.removeEventListener("pointermove", move);
      this.settle();
    };
    this.handle.addEventListener("pointermove", move);
    for (const kind of ["pointerup", "pointercancel"]) this.handle.addEventListener(kind, done, { once: true });
  }
}

/** Marked images are told apart by lines and dots, too. */
function patterns() {
  const hatch = svg(
    "pattern",
    { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { width: 6, height: 6, class: "ground good" }),
    svg("rect", { width: 2, height: 6, class: "ink" }),
  );
  const dots = svg(
    "pattern",
    { id: "dots", width: 6, height: 6, patternUnits: "userSpaceOnUse" },
    svg("rect", { width: 6, height: 6, class: "ground defective" }),
    svg("circle", { cx: 3, cy: 3, r: 1.4, class: "ink" }),
  );
  return svg("defs", {}, hatch, dots);
}
