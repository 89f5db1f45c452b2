/** Small helpers to build and to find what is on the page. */

import { t } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const VERDICTS = { good: "good", "look again": "again", defective: "defective" };
let fading = 0;

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `text`, `on` for listeners, attributes with a dash or colon) and children. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name === "on") for (const [kind, listener] of Object.entries(value)) made.addEventListener(kind, listener);
    else if (name.includes("-") || name === "role" || name === "for" || name === "list") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** An element of a drawing, its attributes as they are written. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A picture of the set of icons; whoever shows it says in words what it means. */
export function icon(name) {
  const use = svg("use", { href: `/static/icons.svg#${name}` });
  return svg("svg", { class: "icon", "aria-hidden": "true", width: 18, height: 18 }, use);
}

/** Put icons before the words of buttons that ask for one. */
export function fillIcons(root) {
  for (const one of root.querySelectorAll("[data-icon]")) {
    const label = el("span", { class: "label" }, ...one.childNodes);
    one.replaceChildren(icon(one.dataset.icon), ...(label.textContent ? [label] : []));
  }
}

/** A verdict as a badge: shape, colour and word. */
export function badge(verdict, status = "scored") {
  const kind = status === "scored" ? VERDICTS[verdict] : status;
  if (!kind) return el("span", { class: "badge none", text: t("verdict.none") });
  return el("span", { class: `badge ${kind}` }, icon(kind), t(`verdict.${kind}`));
}

/** A score as people read it. */
export const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

/** A date and time in the reader's way. */
export function date(value) {
  const read = new Date(value);
  return Number.isNaN(read.getTime())
    ? String(value ?? "")
    : read.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

/** Say something at the foot of the page, and to screen readers. */
export function say(text, kind = "") {
  const place = $("said");
  place.className = `said shown ${kind}`;
  place.textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => place.classList.remove("shown"), kind === "error" ? 12000 : 6000);
}

/** A day, as 2026-01-31, in the reader's way. */
export function day(value) {
  const read = new Date(`${value}T12:00`);
  return Number.isNaN(read.getTime()) ? value : read.toLocaleDateString([], { dateStyle: "medium" });
}

/** Run what may fail; the server's sentence is shown, and undefined is returned. */
export async function trying(action) {
  try {
    return await action();
  } catch (error) {
    say(error.message, "error");
    return undefined;
  }
}

/** A function that runs at most once in so many milliseconds, and once more at the end. */
export function throttled(wait, action) {
  let timer = 0;
  let last = 0;
  return () => {
    clearTimeout(timer);
    const left = last + wait - Date.now();
    timer = setTimeout(
      () => {
        last = Date.now();
        action();
      },
      Math.max(left, 0),
    );
  };
}
