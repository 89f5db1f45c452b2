/** How alike the images of each day are to the good references: a chart, a sentence for each day that left the range. */

import { get } from "./api.js";
import { day, el, score, svg, throttled, trying } from "./dom.js";
import { on } from "./store.js";
import { t } from "./words.js";

const SIZE = { width: 1000, height: 240, left: 46, right: 12, top: 10, bottom: 26 };
const LABELS = 9; // days that are named below the chart, at most
const TOLD = 5; // sentences, the newest first
const NARROW = 34; // a day is no wider than that

/** Build the view, and the line beside the gallery that leads to it; returns what has to be done when it is seen. */
export function startDrift(view, notice) {
  const sentences = el("div", { class: "sentences" });
  const rest = el("p", { class: "hint" });
  const chart = el("div", { class: "chart" });
  const legend = el(
    "ul",
    { class: "legend" },
    ...["band", "usual", "half", "left", "few"].map((kind) =>
      el("li", {}, el("span", { class: `swatch ${kind}` }), t(`drift.legend.${kind}`)),
    ),
  );
  const rows = el("tbody");
  const head = ["day", "images", "low", "median", "high", "range"].map((name) =>
    el("th", { scope: "col", text: t(`drift.${name}`) }),
  );
  const table = el(
    "details",
    {},
    el("summary", { text: t("drift.table") }),
    el("table", { class: "table" }, el("thead", {}, el("tr", {}, ...head)), rows),
  );
  const box = el("section", { class: "box drift" }, chart, legend, rest, table);
  view.append(
    el("div", { class: "head" }, el("h2", { id: "drift-title", text: t("tabs.drift") })),
    el("p", { class: "lead", text: t("drift.lead") }),
    sentences,
    box,
  );

  let shown = ""; // what stays is not drawn anew, under somebody's pointer

  async function load() {
    if (view.hidden) return;
    const found = await trying(() => get("/api/drift"));
    if (!found || shown === JSON.stringify(found)) return;
    shown = JSON.stringify(found);
    sentences.replaceChildren(...told(found));
    box.hidden = !found.days.length;
    chart.replaceChildren(drawn(found));
    rows.replaceChildren(...[...found.days].reverse().map((one) => row(one, found)));
    rest.textContent = ["waiting", "earlier"]
      .filter((kind) => found[kind])
      .map((kind) => t(`drift.${kind}`, { n: found[kind] }))
      .join(" ");
  }

  on("drift", throttled(600, load));
  on("drift", ({ drift: { latest } }) => {
    notice.hidden = !latest;
    notice.textContent = latest ? t(`drift.${latest.side}.short`, { day: day(latest.day) }) : "";
  });
  return load;
}

/** What is said above the chart. */
function told({ days, references, allowed }) {
  const left = days.filter((one) => one.side).reverse();
  const words = left.slice(0, TOLD).map((one) => {
    const range = { low: score(allowed.low), high: score(allowed.high), usual: score(references.middle) };
    return t(`drift.${one.side}`, { day: day(one.day), median: score(middle(one)), ...range });
  });
  if (words.length) return words.map((text) => el("p", { class: "told", text }));
  return [el("p", { class: "hint", text: t(!days.length ? "drift.none" : references ? "drift.fine" : "drift.alone") })];
}

const middle = ({ quantiles }) => quantiles[Math.floor(quantiles.length / 2)];

function row(one, { references, fewest }) {
  const { quantiles, side } = one;
  const cells = [day(one.day), one.images, score(quantiles[0]), score(middle(one)), score(quantiles.at(-1))];
  return el(
    "tr",
    { class: side ? "worse" : "" },
    ...cells.map((text) => el("td", { text })),
    el("td", { text: t(`drift.range.${side ?? (one.images < fewest ? "few" : references ? "in" : "unknown")}`) }),
  );
}

/** The chart: a column of quantiles for each day, the range of the references as a band behind them. */
function drawn({ days, references, allowed, fewest }) {
  const { width, height, left, right, top, bottom } = SIZE;
  const all = [...days.flatMap((one) => one.quantiles), ...Object.values(allowed ?? {})];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const room = Math.max((high - low) * 0.06, 0.005);
  const floor = height - bottom;
  const down = (value) => floor - ((value - low + room) / (high - low + 2 * room)) * (floor - top);
  const column = (width - left - right) / Math.max(days.length, 1);
  const across = (place) => left + (place + 0.5) * column;
  const wide = Math.min(column * 0.6, NARROW);
  const label = t("drift.chart", { n: days.length });
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  if (references) {
    const [from, to, usual] = [allowed.high, allowed.low, references.middle].map(down);
    made.append(svg("rect", { class: "band", x: left, y: from, width: width - left - right, height: to - from }));
    made.append(svg("line", { class: "usual", x1: left, x2: width - right, y1: usual, y2: usual }));
  }
  for (const part of [0, 0.5, 1]) {
    const value = low + part * (high - low);
    made.append(svg("text", { x: left - 6, y: down(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
  }
  made.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: floor, y2: floor }));
  const every = Math.ceil(days.length / LABELS);
  days.forEach((one, place) => {
    made.append(mark(one, across(place), wide, down, one.images < fewest));
    if (place % every) return;
    made.append(svg("text", { x: across(place), y: height - 7, "text-anchor": "middle" }, day(one.day)));
  });
  return made;
}

/** A day: a line from the lowest to the highest quantile, a box around half of the images, a sign at the middle. */
function mark(one, x, wide, down, few) {
  const [lowest, lower, median, upper, highest] = one.quantiles.map(down);
  const words = `${day(one.day)}: ${one.images}, ${score(middle(one))}`;
  const kind = `day ${one.side ? "left" : ""} ${few ? "few" : ""}`;
  const sign = one.side
    ? svg("rect", {
        class: "middle",
        x: x - 5,
        y: median - 5,
        width: 10,
        height: 10,
        transform: `rotate(45 ${x} ${median})`,
      })
    : svg("circle", { class: "middle", cx: x, cy: median, r: 4.5 });
  return svg(
    "g",
    { class: kind },
    svg("title", {}, words),
    svg("line", { x1: x, x2: x, y1: highest, y2: lowest }),
    svg("rect", { class: "half", x: x - wide / 2, y: upper, width: wide, height: Math.max(lower - upper, 1) }),
    sign,
  );
}
