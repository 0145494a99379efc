// --- pictures: what detectors saw where ---

const detectorNames = (item) => {
  const votes = Object.values(item.votes || {})[0] || [];
  return votes.map((_, i) => (item.detectors || [])[i] || `detector ${i + 1}`);
};
const swatch = (number) => make("span", { class: `swatch d${number % 4}` });
function picture(item) {
  if (!(item.images || []).length) return null;
  const source = DATA.pictures[item.images[0]];
  if (!source) return make("div", { class: "picture" }, "the picture cannot be read any more");
  const image = make("img", { src: source, alt: "the picture", loading: "lazy" });
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < 128));
  const frame = make("div", { class: "frame" }, image);
  const detectors = detectorNames(item), labels = new Map();
  for (const box of item.boxes || []) frame.append(boxOf(box, item, detectors, labels));
  const seeing = detectors.filter((name) => (item.boxes || []).some((box) => box.detector === name));
  return make("div", { class: "picture" }, frame, ...detectors.map((name, i) =>
    make("div", { class: "key" }, swatch(i), name + (seeing.includes(name) ? "" : " (no boxes)"))));
}
function boxOf(box, item, detectors, labels) {
  const number = Math.max(0, detectors.indexOf(box.detector));
  const [left, top, right, bottom] = box.place.map((x) => 100 * x);
  const verdict = (item.verdicts || {})[box.object] || "";
  const shown = make("div", { class: `box d${number % 4} ${verdict}`, "data-object": box.object,
    title: `${box.detector} sees ${box.object}, score ${box.score}; verdict: ${verdict}` });
  Object.assign(shown.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%`,
    outlineOffset: `${3 * number}px` });
  // One label for all that is seen in one place: an object by both detectors, or one object taken for another.
  const key = box.place.map((x) => x.toFixed(2)).join();
  if (!labels.has(key)) {
    labels.set(key, make("span", { class: bottom > 88 ? "above" : "" }));
    shown.append(labels.get(key));
  }
  const label = labels.get(key), objects = label.textContent === "" ? [] : label.textContent.split(", ");
  if (!objects.includes(box.object)) label.textContent = [...objects, box.object].join(", ");
  return shown;
}
// Text beside its picture, where there is one.
function beside(item, ...parts) {
  const shown = picture(item);
  return shown === null ? make("div", {}, ...parts) : make("div", { class: "scene" }, shown, make("div", {}, ...parts));
}
function vote(item, name, detector, seen) {
  if (seen === null) return make("td", { class: "soft" }, term("does not know it"));
  const box = (item.boxes || []).find((b) => b.object === name && b.detector === detector);
  return make("td", { class: seen ? "" : "soft" }, seen ? `sees it${box ? ` (${box.score.toFixed(2)})` : ""}` : "does not see it");
}
function verdictTable(item) {
  const objects = Object.keys(item.verdicts || {});
  if (!objects.length) return null;
  const detectors = detectorNames(item), hasBoxes = (item.boxes || []).length > 0;
  const head = make("tr", {}, make("th", {}, "object"), make("th", {}, term("verdict")));
  detectors.forEach((name, i) => head.append(make("th", { title: name }, swatch(i), name.replace(/\(.*/, ""))));
  const table = make("table", {}, head);
  for (const name of objects) {
    const verdict = item.verdicts[name];
    // By keyboard: the object is a button, on whose focus its boxes stand out.
    const object = hasBoxes ? make("button", { type: "button", class: "object", tabindex: "-1" }, name) : name;
    const row = make("tr", { "data-object": name }, make("td", {}, object),
      make("td", { class: verdict }, term(verdict)),
      ...((item.votes || {})[name] || []).map((seen, i) => vote(item, name, detectors[i], seen)));
    for (const [event, pointed] of [["mouseenter", name], ["mouseleave", null], ["focusin", name], ["focusout", null]])
      row.addEventListener(event, () => point(row, pointed));
    table.append(row);
  }
  return make("div", { class: "wide" }, table);
}
function point(row, name) {
  for (const box of row.closest(".card").querySelectorAll(".box"))
    box.classList.toggle("dim", name !== null && box.dataset.object !== name);
}
