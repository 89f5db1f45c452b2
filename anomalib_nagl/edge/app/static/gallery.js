/** The gallery: only the rows on the screen are in the document and asked for, however many images there are. */

import { get } from "./api.js";
import { $, badge, el, icon, score, throttled, trying } from "./dom.js";
import { on, store } from "./store.js";
import { done, t } from "./words.js";

const FILTERS = ["all", "defective", "look again", "good", "marked", "changed", "failed", "waiting"];
const SORTS = ["-score", "score", "name", "-name", "newest"];
const CARD = { width: 118, height: 156 };
const SPARE = 2; // rows above and below what is seen

const items = new Map(); // index -> item
const cards = new Map(); // id of the image, or its place while it is not known -> element
let total = 0;
let epoch = "";
let active = -1;
let wanted = -1; // a place that somebody went to before it was known what is there
let chosen = null; // id of the image that is open
let choose = () => {};
let asked = 0;

const scroller = $("scroller");
const floor = el("div", { class: "floor", role: "presentation" });

/** Begin; `open(item)` is called with the image that somebody picks, `enter()` when they go on to it. */
export function startGallery(open, enter) {
  choose = open;
  scroller.append(floor);
  for (const [id, values] of [
    ["filter", FILTERS],
    ["sort", SORTS],
  ]) {
    $(id).append(...values.map((value) => el("option", { value, text: t(`gallery.${id}.${value}`) })));
    $(id).addEventListener("change", again);
  }
  $("search").addEventListener("input", throttled(250, again));
  scroller.addEventListener("scroll", throttled(40, look));
  scroller.addEventListener("keydown", (event) => press(event, enter));
  scroller.addEventListener("click", (event) => {
    const card = event.target.closest("[data-index]");
    if (card) pick(Number(card.dataset.index), true, card.item);
  });
  new ResizeObserver(() => look()).observe(scroller);
  const fresh = throttled(500, load);
  on("scores", fresh);
  on("progress", fresh);
  on("state", progress);
  load();
}

/** Show which image is open. */
export function showChosen(id) {
  chosen = id;
  draw();
}

/** Open the next image or the one before. */
export function neighbour(step) {
  pick(Math.min(Math.max(active + step, 0), total - 1));
}

function again() {
  items.clear();
  scroller.scrollTop = 0;
  active = wanted = -1;
  load();
}

function shape() {
  const columns = Math.max(Math.floor(scroller.clientWidth / CARD.width), 1);
  const first = Math.max(Math.floor(scroller.scrollTop / CARD.height) - SPARE, 0);
  const rows = Math.ceil(scroller.clientHeight / CARD.height) + 2 * SPARE;
  return { columns, offset: first * columns, limit: Math.min(Math.max(rows * columns, columns), 100) };
}

/** Ask for what is seen, if any of it is not known yet. */
function look() {
  const { offset, limit } = shape();
  const end = Math.min(offset + limit, total);
  for (let index = offset; index < end; index++) {
    if (!items.has(index)) {
      load();
      break;
    }
  }
  draw();
}

async function load() {
  const { offset, limit } = shape();
  const mine = ++asked;
  const query = { offset, limit, sort: $("sort").value, filter: $("filter").value, search: $("search").value };
  const page = await trying(() => get("/api/gallery", query));
  if (!page || mine !== asked) return;
  // Rows that are not on the screen may have other scores, and other places, now.
  if (page.epoch !== epoch || page.total !== total) items.clear();
  ({ epoch, total } = page);
  page.items.forEach((item, place) => items.set(offset + place, item));
  const place = page.items.findIndex((item) => item.id === chosen);
  if (place >= 0) active = offset + place;
  draw();
  if (items.has(wanted)) pick(wanted, false);
  else if (chosen === null && page.items.length) pick(0, false);
}

function draw() {
  const { columns, offset, limit } = shape();
  const width = Math.floor(scroller.clientWidth / columns);
  floor.style.height = `${Math.ceil(total / columns) * CARD.height}px`;
  const end = Math.min(offset + limit, total);
  const seen = new Set();
  for (let index = offset; index < end; index++) {
    const card = cardOf(index);
    seen.add(card);
    card.style.width = `${width}px`;
    card.style.transform = `translate(${(index % columns) * width}px, ${Math.floor(index / columns) * CARD.height}px)`;
  }
  for (const [key, card] of cards) {
    if (!seen.has(card)) {
      card.remove();
      cards.delete(key);
    }
  }
  const current = cards.get(keyOf(active));
  if (current) scroller.setAttribute("aria-activedescendant", current.id);
  else scroller.removeAttribute("aria-activedescendant");
  const empty = $("gallery-empty");
  empty.hidden = total > 0;
  const whole = store.state?.gallery.total ?? 0;
  empty.textContent = whole ? t("gallery.none") : t("gallery.empty");
}

/** An image keeps its card when it moves to another place: what somebody is about to click stays what it was. */
const keyOf = (index) => items.get(index)?.id ?? `place ${index}`;

function cardOf(index) {
  const item = items.get(index);
  const key = keyOf(index);
  let card = cards.get(key);
  if (!card) {
    card = el("div", { class: "card", role: "option", id: `card ${key}`.replaceAll(" ", "-") });
    cards.set(key, card);
    floor.append(card);
  }
  card.dataset.index = index;
  card.item = item;
  const told = JSON.stringify([item, item?.id === chosen, total, index]);
  if (card.told === told) return card;
  card.told = told;
  card.setAttribute("aria-selected", String(item !== undefined && item.id === chosen));
  card.setAttribute("aria-setsize", total);
  card.setAttribute("aria-posinset", index + 1);
  if (!item) card.setAttribute("aria-label", t("gallery.loading"));
  card.replaceChildren(...(item ? inside(item) : [el("div", { class: "thumb" })]));
  return card;
}

function inside(item) {
  const thumb = el("div", { class: "thumb" });
  if (item.status === "failed") thumb.append(icon("failed"));
  else
    thumb.append(el("img", { src: `/api/images/${encodeURIComponent(item.id)}/thumbnail`, alt: "", draggable: false }));
  thumb.append(badge(item.verdict, item.status));
  if (item.mark) {
    const words = t(`mark.${item.mark}`);
    const hidden = el("span", { class: "hidden", text: `${t("mark.title")} ${words}` });
    thumb.append(el("span", { class: `flag ${item.mark}`, title: words }, icon("mark"), hidden));
  }
  const line = el("div", { class: "score" }, el("span", { text: item.status === "scored" ? score(item.score) : "" }));
  if (item.before && Math.abs(item.before.score - item.score) >= 0.0005) {
    const rising = item.score > item.before.score;
    line.append(
      el("span", { class: "was" }, icon(rising ? "up" : "down"), t("gallery.was", { score: score(item.before.score) })),
    );
  }
  const short = item.name.split("/").pop();
  return [thumb, line, el("div", { class: "name", text: short, title: done("error", item.error_words, item.error) ?? item.name })];
}

/** Open the image at a place; `shown` is what a card showed there when it was clicked, whatever lies there by now. */
function pick(index, following = true, shown = undefined) {
  const item = shown ?? items.get(index);
  active = index;
  if (following) seen(index);
  wanted = item ? -1 : index;
  if (!item) {
    look();
    return;
  }
  chosen = item.id;
  choose(item);
  draw();
}

function seen(index) {
  const { columns } = shape();
  const top = Math.floor(index / columns) * CARD.height;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  const below = top + CARD.height - scroller.clientHeight;
  if (below > scroller.scrollTop) scroller.scrollTop = below;
}

function press(event, enter) {
  const { columns, limit } = shape();
  const steps = {
    ArrowRight: 1,
    ArrowLeft: -1,
    ArrowDown: columns,
    ArrowUp: -columns,
    PageDown: limit - columns * 2 * SPARE,
    PageUp: -(limit - columns * 2 * SPARE),
    Home: -total,
    End: total,
  };
  if (event.key in steps) {
    event.preventDefault();
    neighbour(steps[event.key]);
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    if (active < 0) pick(0);
    enter();
  }
}

function progress(state) {
  const { total: all, scored, failed, waiting } = state.gallery;
  const bar = $("progress");
  bar.max = Math.max(all, 1);
  bar.value = all - waiting;
  bar.classList.toggle("done", waiting === 0);
  const seen = ["defective", "look again", "good"].filter((kind) => state.counts[kind]);
  const counts = seen.map((kind) => t(`gallery.count.${kind}`, { n: state.counts[kind] }));
  if (failed) counts.push(t("gallery.count.failed", { n: failed }));
  $("progress-words").textContent = waiting ? t("gallery.scoring", { scored, all }) : all ? counts.join(" · ") : "";
}
