/** What is said of the open image, in words beside it. */

import { $, badge, el, icon, score } from "./dom.js";
import { t } from "./words.js";
import { store } from "./store.js";

/** Show a prediction, or the sentence that stands in its place. */
export function drawDetails(found, error, actions) {
  const focused = document.activeElement?.id;
  $("facts").replaceChildren(...(found ? facts(found, actions) : [el("p", { class: "problem", text: error ?? "" })]));
  $("found").replaceChildren(...(found ? [nearest(found, actions), regions(found, actions)] : []));
  if (focused) $(focused)?.focus();
}

function facts(found, actions) {
  const threshold = store.state?.thresholds.image;
  const made = [
    el("h3", { class: "file", text: found.name, title: found.name }),
    el("p", { class: "verdict" }, badge(found.verdict), el("span", { class: "big", text: score(found.score) })),
    gauge(found.score, threshold, found.before?.score),
  ];
  if (found.before) made.push(change(found));
  made.push(marks(found, actions));
  return made;
}

/** The score on its scale, with the threshold as a line and the saved score as a dot. */
function gauge(value, threshold, before) {
  const at = (place) => `${Math.min(Math.max(place, 0), 1) * 100}%`;
  const bar = el("span", { class: "bar" });
  bar.style.width = at(value);
  const made = el("div", { class: "gauge", "aria-hidden": "true" }, bar);
  for (const [kind, place] of [
    ["line", threshold],
    ["dot", before],
  ]) {
    if (place === null || place === undefined) continue;
    const one = el("span", { class: kind });
    one.style.left = at(place);
    made.append(one);
  }
  const words =
    threshold === null || threshold === undefined ? "" : t("details.threshold", { threshold: score(threshold) });
  return el("div", {}, made, el("p", { class: "hint", text: words }));
}

function change({ before, score: now, verdict }) {
  const rising = now > before.score;
  return el(
    "dl",
    { class: "change" },
    el("dt", { text: t("details.saved") }),
    el("dd", {}, el("b", { text: score(before.score) }), badge(before.verdict)),
    el("dt", { text: t("details.draft") }),
    el("dd", {}, el("b", {}, score(now), icon(rising ? "up" : "down")), badge(verdict)),
  );
}

function marks(found, actions) {
  const buttons = [
    ["good", "good"],
    ["defective", "defective"],
    ["none", null],
  ].map(([kind, value]) => {
    const input = el("input", {
      type: "radio",
      name: "mark",
      id: `mark-${kind}`,
      value: kind,
      checked: found.mark === value,
      on: { change: () => actions.mark(value) },
    });
    return el("label", { class: "choice" }, input, el("span", { text: t(`mark.${kind}`) }));
  });
  return el(
    "fieldset",
    { class: "marks" },
    el("legend", { text: t("mark.title") }),
    el("div", { class: "choices" }, ...buttons),
  );
}

function nearest({ nearest: like }, actions) {
  const made = el("div", { class: "nearest" }, el("h3", { text: t("details.nearest") }));
  if (!like) return (made.append(el("p", { class: "hint", text: t("details.nearest.none") })), made);
  const picture = el("img", { src: actions.picture(like.uid), alt: "", on: { error: () => picture.remove() } });
  const type = t(`kind.${like.kind}`, { type: like.defect_type });
  const alike = t("details.alike", { part: Math.round(like.similarity * 100) });
  made.append(
    el(
      "div",
      { class: "like" },
      picture,
      el("div", {}, el("b", { text: type }), el("span", { text: like.name }), el("span", { text: alike })),
    ),
  );
  return made;
}

function regions({ regions: all, width, height }, actions) {
  const made = el(
    "div",
    { class: "regions" },
    el("h3", { text: all.length ? t("details.regions", { n: all.length }) : t("details.regions.none") }),
  );
  if (!all.length) return made;
  const list = el("ol", {});
  all.slice(0, 12).forEach((one, place) => {
    const number = place + 1;
    const size = t("details.size", { width: Math.round(one.box[2]), height: Math.round(one.box[3]) });
    list.append(
      el(
        "li",
        {},
        el("button", {
          type: "button",
          class: "quiet",
          id: `region-${number}`,
          text: `${score(one.score)} · ${size}`,
          "aria-label": t("details.show", { number, score: score(one.score), size }),
          on: { click: () => actions.frame(one.box) },
        }),
        el("button", {
          type: "button",
          class: "small",
          id: `use-${number}`,
          text: t("details.use"),
          "aria-label": t("details.use.label", { number }),
          on: { click: () => actions.use(one.peak) },
        }),
      ),
    );
  });
  made.append(list);
  if (all.length > 12) made.append(el("p", { class: "hint", text: t("details.more", { n: all.length - 12 }) }));
  return made;
}
