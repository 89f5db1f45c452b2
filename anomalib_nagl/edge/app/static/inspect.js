/** The image that is open: what is said of it, and what a person says to it. */

import { address, get, getBlob } from "./api.js";
import { $, el, say, score } from "./dom.js";
import { neighbour, showChosen, startGallery } from "./gallery.js";
import { Marking } from "./marking.js";
import { decode, greyOf, heat, leftOut, painted } from "./overlay.js";
import { drawDetails } from "./details.js";
import { on, step, store } from "./store.js";
import { Strokes } from "./strokes.js";
import { Viewer } from "./viewer.js";
import { windowGrid } from "./windows.js";
import { t } from "./words.js";

/** The open image: what the server said of it, and the values of its map. */
export const open = { item: null, found: null, map: null };

let viewer;
let marking;
const strokes = new Strokes();
const watchers = [];
const KEPT = "nagl.image"; // the image that is open when the page is loaded again
let asked = 0;

/** Be told when another image is open, or the same one has another map. */
export const onOpen = (listener) => watchers.push(listener);

/** Begin with gallery, viewer and tools. */
export function startInspect() {
  viewer = new Viewer($("stage"), $("canvas"));
  marking = new Marking(viewer, strokes, marked);
  const look = {
    opacity: () => (viewer.layers.opacity = $("opacity").value / 100),
    outline: outlines,
    windows,
    saved: () => load(),
  };
  for (const [id, action] of Object.entries(look)) {
    $(id).addEventListener("input", () => {
      action();
      viewer.draw();
    });
  }
  $("zoom-in").addEventListener("click", () => viewer.zoom(1.25));
  $("zoom-out").addEventListener("click", () => viewer.zoom(0.8));
  $("zoom-fit").addEventListener("click", () => viewer.fit());
  $("teach").addEventListener("click", () => lesson("teach"));
  $("fine").addEventListener("click", () => lesson("fine"));
  $("region-only").addEventListener("click", () => region(strokes.mask()));
  $("region-without").addEventListener("click", () => region(strokes.mask(true)));
  $("region-none").addEventListener("click", () => region(null));
  $("stage").addEventListener("keydown", (event) => {
    if (event.key === "n" || event.key === "p") neighbour(event.key === "n" ? 1 : -1);
  });
  on("scores", load);
  on("state", known);
  const kept = sessionStorage.getItem(KEPT);
  if (kept) show({ id: kept });
  startGallery(show, () => $("stage").focus());
  marked();
}

/** Open an image of the gallery; `item` needs its id alone. */
export async function show(item) {
  if (open.item?.id === item.id && open.found) return;
  Object.assign(open, { item, found: null, map: null });
  showChosen(item.id);
  sessionStorage.setItem(KEPT, item.id);
  if (!$("view-inspect").hidden) history.replaceState(null, "", `#/inspect/${encodeURIComponent(item.id)}`);
  viewer.show(null);
  marking.image = null;
  await load();
}

/** Ask what is said of the open image now. */
async function load() {
  if (!open.item) return;
  const mine = ++asked;
  const path = `/api/images/${encodeURIComponent(open.item.id)}`;
  const fresh = open.found === null;
  if (fresh) words(t("stage.loading"));
  try {
    // Both at once, but it is the prediction's sentence that says what is wrong with a file.
    const decoding = fresh ? decode(`${path}/picture`) : null;
    decoding?.catch(() => {});
    const found = await get(`${path}/prediction`);
    const picture = await decoding;
    if (mine !== asked) return;
    open.found = found;
    if (fresh) {
      viewer.show(picture);
      await strokes.begin(found.id, found.picture.width, found.picture.height);
      marking.begin(found);
    }
    const saved = $("saved").checked && found.before !== null ? 1 : 0;
    const bitmap = await createImageBitmap(await getBlob(`${path}/map`, { saved }));
    if (mine !== asked) return;
    open.map = { values: greyOf(bitmap), width: bitmap.width, height: bitmap.height };
    viewer.layers.map = painted(open.map.values, bitmap.width, bitmap.height, heat);
    viewer.layers.left = await outside(found.id);
    if (mine !== asked) return;
  } catch (error) {
    if (mine !== asked) return;
    if (fresh) viewer.show(null);
    words(error.message);
    $("saved-label").hidden = true;
    drawDetails(null, error.message, actions);
    return;
  }
  words("");
  outlines();
  windows();
  viewer.draw();
  describe();
  for (const listener of watchers) listener();
}

async function outside(id) {
  if (!store.state?.region.set) return null;
  const bitmap = await createImageBitmap(await getBlob("/api/region", { image: id }));
  return painted(greyOf(bitmap), bitmap.width, bitmap.height, leftOut);
}

function outlines() {
  const { found } = open;
  if (!found) return;
  const scale = found.picture.width / found.width;
  const lines = $("outline").checked ? found.regions.flatMap((region) => region.outline) : [];
  viewer.layers.outlines = lines.map((line) => line.map(([x, y]) => [x * scale, y * scale]));
}

/** The grid of windows over the picture, where somebody wants to see it. */
function windows() {
  const { picture } = viewer.layers;
  const seen = $("windows").checked && picture && store.state.model.windows;
  viewer.layers.windows = seen ? windowGrid(store.state.model, picture) : null;
}

const actions = {
  mark: (mark) => step("mark", { image: open.item.id, mark }),
  frame: (box) => viewer.frame(box.map((side) => side * (open.found.picture.width / open.found.width))),
  use: (peak) => marking.suggest(peak.map((place) => place * (open.found.picture.width / open.found.width))),
  picture: (uid) => address(`/api/references/${encodeURIComponent(uid)}/picture`),
};

function describe() {
  drawDetails(open.found, null, actions);
  $("saved-label").hidden = open.found.before === null;
  const said = { name: open.found.name, score: score(open.found.score), verdict: open.found.verdict ?? "" };
  $("stage").setAttribute("aria-label", t("stage.label", said));
}

function words(text) {
  $("stage-words").textContent = text;
  $("stage-words").hidden = !text;
}

/** What can be done with what is marked. */
function marked() {
  const nothing = !open.found || !strokes.canvas || strokes.empty;
  for (const id of ["teach", "fine", "region-only", "region-without"]) $(id).disabled = nothing;
  $("lesson-words").textContent = nothing ? t("lesson.hint") : t("lesson.marked", size());
}

function size() {
  const scale = open.found.width / open.found.picture.width;
  const [, , width, height] = strokes.box.map((side) => Math.round(side * scale));
  return { width, height };
}

function known(state) {
  $("types").replaceChildren(...state.types.map((value) => el("option", { value })));
  $("region-none").disabled = !state.region.set;
  $("windows-label").hidden = !state.model.windows;
}

async function lesson(kind) {
  const body = { image: open.found.id, mask: strokes.mask() };
  const [name, type] = [$("lesson-name").value.trim(), $("lesson-type").value.trim()];
  if (name) body.name = name;
  if (type && kind === "teach") body.type = type;
  busy(true);
  const answer = await step(kind, body);
  busy(false);
  if (!answer) return;
  const said = { before: score(answer.before.score), after: score(answer.after.score) };
  say(t(`lesson.done.${kind}`, said));
  $("lesson-name").value = "";
  marking.act("clear");
}

async function region(mask) {
  busy(true);
  const answer = await step("region", mask ? { image: open.found.id, mask } : { mask: null });
  busy(false);
  if (!answer) return;
  say(mask ? t("region.done") : t("region.gone"));
  if (mask) marking.act("clear");
}

function busy(waiting) {
  for (const id of ["teach", "fine", "region-only", "region-without", "region-none"]) $(id).disabled = waiting;
  document.body.classList.toggle("busy", waiting);
  if (!waiting) {
    marked();
    known(store.state);
  }
}
