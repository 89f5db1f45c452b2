/** The windows in which a model sees large images: in words, and as a grid over the picture. */

import { t } from "./words.js";

const INK = "#101417";
const LIGHT = "#8fd3ff";
const SHADE = "rgb(143 211 255 / 20%)";

/** What a model says of its windows, which are null where it sees images as a whole. */
export function windowWords({ size, overlap, overview, count }) {
  const said = t("windows.words", { n: count, width: size[1], height: size[0], overlap });
  return `${said} ${t(`windows.${overview ? "overview" : "alone"}`)}`;
}

/** Where windows begin and end in a picture: pairs along both axes, in pixels of it. */
export function windowGrid({ windows, input }, { width, height }) {
  const along = (starts, side, to, of) => starts.map((start) => [start * (to / of), (start + side) * (to / of)]);
  return {
    columns: along(windows.lefts, windows.size[1], width, input[1]),
    rows: along(windows.tops, windows.size[0], height, input[0]),
    width,
    height,
  };
}

/** Draw them: a line at each border, light on dark, and a shade where neighbours overlap. */
export function drawWindows(context, { columns, rows, width, height }, scale) {
  context.fillStyle = SHADE;
  for (const [from, to] of shared(columns)) context.fillRect(from, 0, to - from, height);
  for (const [from, to] of shared(rows)) context.fillRect(0, from, width, to - from);
  context.beginPath();
  for (const x of new Set(columns.flat())) (context.moveTo(x, 0), context.lineTo(x, height));
  for (const y of new Set(rows.flat())) (context.moveTo(0, y), context.lineTo(width, y));
  for (const [thickness, colour] of [
    [2.6, INK],
    [1.2, LIGHT],
  ]) {
    context.lineWidth = thickness / scale;
    context.strokeStyle = colour;
    context.stroke();
  }
}

/** What one window along an axis has in common with the next. */
const shared = (pairs) => pairs.slice(1).map(([start], place) => [start, pairs[place][1]]);
