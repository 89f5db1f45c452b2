/** Where images and pixels count as defective: two lines over what there is, and what they would mean. */

import { get } from "./api.js";
import { el, say, score, throttled, trying } from "./dom.js";
import { onOpen, open } from "./inspect.js";
import { LineChart } from "./line.js";
import { on, step, store } from "./store.js";
import { t } from "./words.js";

const BINS = 40;

/** Build the view; returns what has to be done when it is seen. */
export function startThresholds(view) {
  const image = new LineChart(t("thresholds.image.line"), {
    moving: throttled(120, () => load()),
    moved: (value) => step("thresholds", { image: value }),
    kinds: 3,
  });
  const pixel = new LineChart(t("thresholds.pixel.line"), {
    moving: () => share(),
    moved: (value) => step("thresholds", { pixel: value }),
    kinds: 1,
  });
  const counts = el("div", { class: "outcome" });
  const words = el("p", { class: "lead" });
  const part = el("p", { class: "hint" });
  const none = el("p", { class: "empty", text: t("thresholds.none"), hidden: true });
  const charts = el(
    "div",
    { class: "charts" },
    el(
      "section",
      { class: "box" },
      el("h3", { text: t("thresholds.image") }),
      words,
      image.element,
      legend(),
      counts,
      back("image"),
    ),
    el(
      "section",
      { class: "box" },
      el("h3", { text: t("thresholds.pixel") }),
      el("p", { class: "lead", text: t("thresholds.pixel.words") }),
      pixel.element,
      part,
      back("pixel"),
    ),
  );
  view.append(
    el(
      "div",
      { class: "head" },
      el("h2", { id: "thresholds-title", text: t("tabs.thresholds") }),
      el("button", { type: "button", id: "calibrate", text: t("thresholds.calibrate"), on: { click: calibrate } }),
    ),
    none,
    charts,
  );
  let asked = 0;

  async function load() {
    const known = store.state.model.has_thresholds;
    none.hidden = known;
    charts.hidden = !known;
    if (view.hidden || !known) return;
    const mine = ++asked;
    const query = image.changed ? { image: image.value } : {};
    const found = await trying(() => get("/api/histogram", query));
    if (!found || mine !== asked) return;
    image.draw(
      found.edges,
      ["unmarked", "good", "defective"].map((kind) => ({ kind, values: found[kind] })),
      found.band,
    );
    image.set(store.state.thresholds.image);
    told(found);
    pixels();
  }

  function told(found) {
    const marked = sum(found.good) + sum(found.defective);
    counts.replaceChildren(
      ...["false_alarms", "misses"].map((kind) =>
        el(
          "div",
          { class: "box" },
          el("b", { class: "big", text: String(found[kind]) }),
          el("span", { text: t(`thresholds.${kind}`) }),
        ),
      ),
    );
    words.textContent = marked ? t("thresholds.image.words", { n: marked }) : t("thresholds.image.unmarked");
  }

  /** Values of the map of the image that is open. */
  function pixels() {
    if (view.hidden || !open.map) return;
    const values = new Array(BINS).fill(0);
    for (const value of open.map.values) values[Math.min(Math.floor((value / 255) * BINS), BINS - 1)] += 1;
    const edges = Array.from({ length: BINS + 1 }, (_, place) => place / BINS);
    pixel.draw(edges, [{ kind: "unmarked", values }], null);
    pixel.set(store.state.thresholds.pixel);
    share();
  }

  function share() {
    if (!open.map || pixel.value === null) return;
    const above = open.map.values.reduce((count, value) => count + (value / 255 > pixel.value ? 1 : 0), 0);
    const percent = ((100 * above) / open.map.values.length).toFixed(1);
    part.textContent = t("thresholds.share", { percent, name: open.found?.name ?? "" });
  }

  const soon = throttled(400, load);
  for (const kind of ["scores", "progress", "lessons"]) on(kind, soon);
  onOpen(pixels);
  return load;
}

function legend() {
  const kinds = ["unmarked", "good", "defective", "band"];
  return el(
    "ul",
    { class: "legend" },
    ...kinds.map((kind) => el("li", {}, el("span", { class: `swatch ${kind}` }), t(`thresholds.legend.${kind}`))),
  );
}

function back(kind) {
  const button = el("button", {
    type: "button",
    id: `back-${kind}`,
    on: { click: () => step("thresholds", { [kind]: 0.5 }) },
  });
  button.textContent = t("thresholds.back", { value: score(0.5) });
  return el("div", { class: "buttons" }, button);
}

async function calibrate() {
  if (await step("calibrate")) say(t("thresholds.calibrated"));
}

const sum = (values) => values.reduce((all, one) => all + one, 0);
