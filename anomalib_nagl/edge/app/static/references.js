/** All references: picture and mask, name, type and date; switched on and off, renamed, removed. */

import { address, get } from "./api.js";
import { date, el, icon, say, trying } from "./dom.js";
import { decode, greyOf, marked, painted } from "./overlay.js";
import { on, step } from "./store.js";
import { t } from "./words.js";

/** Build the view; returns what has to be done when it is seen. */
export function startReferences(view) {
  const list = el("ul", { class: "references" });
  const filter = el("select", { id: "reference-filter", "aria-label": t("references.filter"), on: { change: draw } });
  filter.append(
    ...["all", "abnormal", "normal", "off"].map((value) =>
      el("option", { value, text: t(`references.filter.${value}`) }),
    ),
  );
  const count = el("p", { class: "hint" });
  view.append(
    el("div", { class: "head" }, el("h2", { id: "references-title", text: t("tabs.references") }), count, filter),
    el("p", { class: "lead", text: t("references.lead") }),
    list,
  );
  let all = [];

  async function load() {
    if (view.hidden) return;
    all = (await trying(() => get("/api/references"))) ?? all;
    draw();
  }

  function draw() {
    const wanted = {
      all: () => true,
      abnormal: (one) => one.kind === "abnormal",
      normal: (one) => one.kind !== "abnormal",
      off: (one) => !one.active,
    };
    const seen = all.filter(wanted[filter.value]);
    count.textContent = t("references.count", { n: all.length, active: all.filter((one) => one.active).length });
    const focused = document.activeElement?.id;
    list.replaceChildren(...seen.map((one, place) => row(one, place)));
    if (!seen.length) list.append(el("li", { class: "empty", text: t("references.none") }));
    if (focused) document.getElementById(focused)?.focus();
  }

  on("lessons", load);
  return load;
}

function row(one, place) {
  const id = `reference-${place}`;
  const change = (body) => step("reference", { uid: one.uid, ...body });
  const said = el(
    "div",
    { class: "said-of" },
    el(
      "span",
      { class: `badge ${one.kind === "abnormal" ? "defective" : "good"}` },
      icon(one.kind === "abnormal" ? "defective" : "good"),
      t(`references.kind.${one.kind}`),
    ),
    one.pending ? el("span", { class: "badge pending", text: t("references.pending") }) : null,
    one.active ? null : el("span", { class: "badge none", text: t("references.off") }),
    one.kind === "abnormal" && !one.localized ? el("span", { class: "hint", text: t("references.unlocalized") }) : null,
  );
  const about = [date(one.date), one.author].filter(Boolean).join(" · ");
  return el(
    "li",
    { class: one.active ? "" : "off" },
    picture(one),
    el(
      "div",
      { class: "about" },
      field(`${id}-name`, t("lesson.name"), one.name, (name) => change({ name })),
      one.kind === "abnormal"
        ? field(`${id}-type`, t("lesson.type"), one.type, (type) => change({ type }), "types")
        : null,
      said,
      el("p", { class: "hint", text: about }),
    ),
    el(
      "div",
      { class: "buttons" },
      el(
        "label",
        { class: "switch" },
        el("input", {
          type: "checkbox",
          role: "switch",
          id: `${id}-on`,
          checked: one.active,
          "aria-label": t("references.use", { name: one.name }),
          on: { change: (event) => change({ active: event.target.checked }) },
        }),
        el("span", { text: t("references.switch") }),
      ),
      el(
        "button",
        {
          type: "button",
          class: "quiet",
          id: `${id}-remove`,
          "aria-label": t("references.remove", { name: one.name }),
          title: t("references.remove", { name: one.name }),
          on: { click: () => remove(one, change) },
        },
        icon("trash"),
      ),
    ),
  );
}

async function remove(one, change) {
  if (await change({ remove: true })) say(t("references.removed", { name: one.name }));
}

function field(id, label, value, change, list) {
  const input = el("input", { id, value, maxLength: 120, autocomplete: "off", list });
  input.addEventListener("change", async () => {
    const text = input.value.trim();
    if (text && text !== value && (await change(text))) return;
    input.value = value;
  });
  return el("label", { class: "inline" }, el("span", { text: label }), input);
}

/** The picture with its mask over it; where the bank holds none, a word instead. */
function picture(one) {
  const frame = el("div", { class: "reference-picture" });
  if (!one.has_picture) return (frame.append(el("span", { class: "hint", text: t("references.picture.none") })), frame);
  const path = `/api/references/${encodeURIComponent(one.uid)}`;
  frame.append(
    el("img", { src: address(`${path}/picture`), alt: t("references.picture", { name: one.name }), loading: "lazy" }),
  );
  if (one.kind !== "normal" && (one.localized || one.kind === "region")) {
    showMask(address(`${path}/mask`), frame);
  }
  return frame;
}

/** A reference of which the bank holds no mask is shown without. */
async function showMask(source, frame) {
  const found = await decode(source).catch(() => null);
  if (!found) return;
  const mask = painted(greyOf(found), found.naturalWidth, found.naturalHeight, marked);
  mask.className = "reference-mask";
  frame.append(mask);
}
