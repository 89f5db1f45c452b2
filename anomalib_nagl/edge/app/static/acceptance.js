/** Images that a person marked, scored under what is saved and under the draft: what became worse, what better. */

import { get } from "./api.js";
import { badge, el, icon, score, throttled, trying } from "./dom.js";
import { on } from "./store.js";
import { t } from "./words.js";

/** Build the view; returns what has to be done when it is seen. */
export function startAcceptance(view) {
  const verdict = el("div", { class: "outcome" });
  const rows = el("tbody");
  const head = ["image", "mark", "before", "after", "right"].map((name) =>
    el("th", { scope: "col", text: t(`acceptance.${name}`) }),
  );
  view.append(
    el("div", { class: "head" }, el("h2", { id: "acceptance-title", text: t("tabs.acceptance") })),
    el("p", { class: "lead", text: t("acceptance.lead") }),
    verdict,
    el("table", { class: "table" }, el("thead", {}, el("tr", {}, ...head)), rows),
  );

  async function load() {
    if (view.hidden) return;
    const found = await trying(() => get("/api/acceptance"));
    if (!found) return;
    const right = found.rows.filter((one) => one.right_after).length;
    verdict.replaceChildren(
      el(
        "div",
        { class: "box" },
        el("b", { class: "big", text: t("acceptance.of", { right, all: found.rows.length }) }),
        el("span", { text: t("acceptance.right.now") }),
      ),
      names("worse", found.worse),
      names("better", found.better),
    );
    rows.replaceChildren(...found.rows.map((one) => row(one, found)));
    if (!found.rows.length)
      rows.append(el("tr", {}, el("td", { colSpan: 5, class: "empty", text: t("acceptance.none") })));
  }

  const soon = throttled(500, load);
  for (const kind of ["lessons", "scores", "progress"]) on(kind, soon);
  return load;
}

function names(kind, all) {
  const made = el(
    "div",
    { class: `box ${all.length ? kind : ""}` },
    el("b", { class: "big", text: String(all.length) }),
    el("span", { text: t(`acceptance.${kind}`) }),
  );
  if (all.length) made.append(el("ul", {}, ...all.slice(0, 8).map((name) => el("li", { text: name }))));
  return made;
}

function row(one, { worse }) {
  const name = one.image_id
    ? el("a", { href: `#/inspect/${encodeURIComponent(one.image_id)}`, text: one.name })
    : one.name;
  const right =
    one.right_after === null ? t("verdict.waiting") : t(one.right_after ? "acceptance.yes" : "acceptance.no");
  const made = el(
    "span",
    { class: one.right_after ? "yes" : "no" },
    one.right_after === null ? null : icon(one.right_after ? "good" : "clear"),
    right,
  );
  return el(
    "tr",
    { class: worse.includes(one.name) ? "worse" : "" },
    el("td", {}, name),
    el("td", { text: t(`mark.${one.mark}`) }),
    el("td", {}, judged(one.before)),
    el("td", {}, judged(one.after)),
    el("td", {}, made),
  );
}

const judged = (found) =>
  found ? el("span", { class: "judged" }, el("b", { text: score(found.score) }), badge(found.verdict)) : "–";
