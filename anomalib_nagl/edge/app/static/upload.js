/** Images that are dropped on the page or picked from a folder go into the gallery. */

import { upload } from "./api.js";
import { $, say } from "./dom.js";
import { refresh } from "./store.js";
import { t } from "./words.js";

/** Take files wherever on the page they are dropped. */
export function startUpload() {
  let inside = 0;
  const show = (shown) => ($("drop").hidden = !shown);
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => carries(event) && show((inside += 1) > 0));
  addEventListener("dragleave", (event) => carries(event) && show((inside -= 1) > 0));
  addEventListener("dragover", (event) => carries(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    inside = 0;
    show(false);
    send([...event.dataTransfer.files]);
  });
  $("add").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => {
    send([...$("files").files]);
    $("files").value = "";
  });
}

async function send(files) {
  const refused = [];
  for (const [done, file] of files.entries()) {
    $("upload-words").textContent = t("upload.progress", { done: done + 1, all: files.length });
    try {
      await upload(file);
    } catch (error) {
      refused.push(`${file.name}: ${error.message}`);
    }
  }
  $("upload-words").textContent = "";
  const taken = files.length - refused.length;
  if (refused.length) say([t("upload.done", { n: taken }), ...refused.slice(0, 3)].join(" "), "error");
  else if (taken) say(t("upload.done", { n: taken }));
  refresh();
}
