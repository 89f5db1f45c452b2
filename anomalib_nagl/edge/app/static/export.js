/** What can be taken along as a file. */

import { address } from "./api.js";
import { el, icon } from "./dom.js";
import { t } from "./words.js";

const FILES = ["bank", "model.zip", "predictions.csv", "overlays.zip", "regions.json", "report.html"];

/** Build the view. */
export function startExport(view) {
  view.append(
    el("div", { class: "head" }, el("h2", { id: "export-title", text: t("tabs.export") })),
    el("p", { class: "lead", text: t("export.lead") }),
    el("ul", { class: "files" }, ...FILES.map(file)),
  );
  return () => {};
}

function file(name) {
  const link = el(
    "a",
    { class: "button", href: address(`/api/export/${name}`), download: "" },
    icon("download"),
    t(`export.${name}`),
  );
  return el("li", {}, el("p", { text: t(`export.${name}.words`) }), link);
}
