"use strict";
// Text of models goes into the page by textContent alone, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const OUTCOMES = { 1: "correct", 0: "incorrect", "-1": "unknown" };
const FLAGS = { g: "masked: student and teacher too far apart", c: "clipped: ratio out of range" };
const PAGE = 20;

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") element.className = value;
    else element.setAttribute(name, value);
  }
  for (const child of children) if (child !== null && child !== undefined) element.append(child);
  return element;
}
const fact = (name, value, kind) => make("span", { class: kind || "" }, name + " ", make("b", {}, String(value)));
const signed = (x, digits = 3) => (x >= 0 ? "+" : "\u2212") + Math.abs(x).toFixed(digits);

// --- colours: one scale for the page, so that groups can be compared ---

function quantile(values, q) {
  if (!values.length) return 1;
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.floor(q * (sorted.length - 1))];
}
function scaleOf(groups) {
  const sizes = [];
  for (const group of groups) for (const answer of group.answers) for (const a of answer.advantage) sizes.push(Math.abs(a));
  return Math.max(quantile(sizes, 0.95), 1e-6);
}
const SCALE = scaleOf(DATA.groups);
function tint(value) {
  const strength = Math.min(1, Math.abs(value) / SCALE) * 0.75;
  return `rgba(var(--${value >= 0 ? "up" : "down"}), ${strength.toFixed(3)})`;
}

// --- rollouts ---

const calibrated = { shown: "after" };
function valueOf(answer, i) {
  if (calibrated.shown === "after") return answer.advantage[i];
  return answer.scored ? answer.teacher[i] - answer.student[i] : 0;
}
// Spans are made when an answer comes into view: a page of long answers has hundreds of thousands of tokens.
const waiting = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    waiting.unobserve(entry.target);
    fill(entry.target);
  }
}, { rootMargin: "800px" });
function tokens(answer) {
  const box = make("div", { class: "tokens" });
  box.answer = answer;
  box.style.minHeight = `${Math.min(20, 1 + answer.length / 12)}em`;
  waiting.observe(box);
  return box;
}
function fill(box) {
  const answer = box.answer;
  box.style.minHeight = "";
  answer.tokens.forEach((piece, i) => {
    const blank = piece.trim() === "";
    const shown = blank && piece.includes("\n") ? "\u21b5" + piece : piece === "" ? "\u00b7" : piece;
    const flag = answer.flags[i];
    const token = make("i", { class: (flag === "." ? "" : flag) + (piece === "" ? " blank" : "") }, shown);
    token.style.backgroundColor = tint(valueOf(answer, i));
    token.answer = answer;
    token.place = i;
    box.append(token);
  });
  if (answer.length > answer.tokens.length)
    box.append(make("em", {}, ` \u2026 ${answer.length - answer.tokens.length} more tokens were not kept`));
}
function answerCard(answer) {
  const [before, after] = answer.return;
  const outcome = OUTCOMES[answer.outcome];
  const badges = [];
  if (!answer.kept) badges.push("removed by balancing");
  if (!answer.scored) badges.push("not scored");
  if (answer.masked) badges.push("masked by calibration");
  const card = make("article", { class: `answer ${outcome}` + (answer.kept && answer.scored ? "" : " out") },
    make("div", { class: "facts" },
      make("b", { class: "outcome" }, outcome),
      fact("return", before === after ? signed(before) : `${signed(before)} \u2192 ${signed(after)}`),
      before === after || answer.masked ? null : fact("shift", signed(after - before)),
      fact("tokens", `${answer.length}${answer.finish === "length" ? " (cut)" : ""}`),
      answer.reason ? fact("grader", answer.reason) : null,
      ...badges.map((text) => make("span", { class: "badge" }, text))));
  card.append(tokens(answer));
  return card;
}
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
function margin(group, which) {
  const of = (outcome) => group.answers.filter((a) => a.outcome === outcome && a.scored && !a.masked).map((a) => a.return[which]);
  const [right, wrong] = [of(1), of(0)];
  return right.length && wrong.length ? mean(right) - mean(wrong) : null;
}
function groupCard(group) {
  const wanted = state.rollouts.outcome;
  const answers = group.answers.filter((a) => wanted === "" || OUTCOMES[a.outcome] === wanted);
  answers.sort((a, b) => b.return[0] - a.return[0]);
  const [before, after] = [margin(group, 0), margin(group, 1)];
  return make("section", { class: "card" },
    make("div", { class: "facts" },
      fact("step", group.step), fact("domain", group.domain), group.teacher ? fact("teacher", group.teacher) : null,
      fact("kept because", group.why.join(", ")),
      before === null ? null : fact("margin", `${signed(before)} \u2192 ${signed(after)}`, before < 0 ? "incorrect" : ""),
      group.gold === null ? null : fact("gold", group.gold)),
    beside(group, question(group)),
    group.read ? make("details", { class: "read" }, make("summary", {}, "what the teacher read in its place"),
      make("p", { class: "prompt" }, group.read)) : null,
    make("div", { class: "answers" }, ...answers.map(answerCard)));
}

// --- pictures: what detectors saw where ---

const question = (item) => make("p", { class: "prompt" },
  (item.images || []).length ? item.prompt.replace(/^\[picture\]\s*/, "") : item.prompt);

const names = (item) => {
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
  const detectors = names(item), labels = new Map();
  for (const box of item.boxes || []) {
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
    const own = labels.get(key), known = own.textContent === "" ? [] : own.textContent.split(", ");
    if (!known.includes(box.object)) own.textContent = [...known, box.object].join(", ");
    frame.append(shown);
  }
  const seen = detectors.filter((name) => (item.boxes || []).some((box) => box.detector === name));
  return make("div", { class: "picture" }, frame,
    ...detectors.map((name, i) => make("div", { class: "key" }, swatch(i), name + (seen.includes(name) ? "" : " (no boxes)"))));
}
// Text beside its picture, where there is one.
function beside(item, ...parts) {
  const shown = picture(item);
  return shown === null ? make("div", {}, ...parts) : make("div", { class: "scene" }, shown, make("div", {}, ...parts));
}
const VERDICTS = { factual: "all detectors see it", hallucinated: "no detector sees it",
  uncertain: "detectors disagree: sentences that name it are neither chosen nor rejected for it" };
function vote(item, name, detector, seen) {
  if (seen === null) return make("td", { class: "soft" }, "does not know it");
  const box = (item.boxes || []).find((b) => b.object === name && b.detector === detector);
  return make("td", { class: seen ? "" : "soft" }, seen ? `sees it${box ? ` (${box.score.toFixed(2)})` : ""}` : "does not see it");
}
function verdictTable(item) {
  const objects = Object.keys(item.verdicts || {});
  if (!objects.length) return null;
  const detectors = names(item);
  const head = make("tr", {}, make("th", {}, "object"), make("th", {}, "verdict"));
  detectors.forEach((name, i) => head.append(make("th", { title: name }, swatch(i), name.replace(/\(.*/, ""))));
  const table = make("table", {}, head);
  for (const name of objects) {
    const verdict = item.verdicts[name];
    const row = make("tr", { "data-object": name }, make("td", {}, name),
      make("td", { class: verdict, title: VERDICTS[verdict] || "" }, verdict),
      ...((item.votes || {})[name] || []).map((seen, i) => vote(item, name, detectors[i], seen)));
    row.addEventListener("mouseenter", () => point(row, name));
    row.addEventListener("mouseleave", () => point(row, null));
    table.append(row);
  }
  return make("div", { class: "wide" }, table);
}
function point(row, name) {
  for (const box of row.closest(".card").querySelectorAll(".box"))
    box.classList.toggle("dim", name !== null && box.dataset.object !== name);
}
// A sentence with its objects coloured by their verdicts.
function marked(text, verdicts) {
  const words = Object.keys(verdicts || {}).sort((a, b) => b.length - a.length);
  const element = make("p", { class: "text" });
  if (!words.length) return element.append(text), element;
  const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const pattern = new RegExp(`\\b(${escaped.join("|")})(?:e?s)?\\b`, "gi");
  let end = 0;
  for (const found of text.matchAll(pattern)) {
    element.append(text.slice(end, found.index), make("span", { class: `named ${verdicts[found[1].toLowerCase()] || ""}` }, found[0]));
    end = found.index + found[0].length;
  }
  element.append(text.slice(end));
  return element;
}

// --- preference pairs ---

function bar(value) {
  const inner = make("span", {});
  inner.style.width = `${(100 * Math.max(0, Math.min(1, value))).toFixed(1)}%`;
  return make("span", { class: "bar" }, inner);
}
const WEIGHTS = { weight: "quality times performance: how much the pair counts",
  quality: "how sure the judge is: sigmoid of the score gap",
  performance: "how much there is left to learn: (1 - mastery) to the power of gamma",
  mastery: "how far the policy has mastered the pair: sigmoid(beta times its margin of mean log-probs - tau_ref)" };
const weighed = (pair) => pair.w_quality !== 1 || pair.w_performance !== 1;
function pairCard(pair) {
  const weight = (name, value) => make("span", { title: WEIGHTS[name] }, name + " ", bar(value), " ", make("b", {}, value.toFixed(3)));
  const judged = typeof pair.score_chosen === "number" || typeof pair.score_rejected === "number";
  const side = (name, text, points, reward) => make("div", { class: `answer ${name === "chosen" ? "correct" : "incorrect"}` },
    make("div", { class: "facts" }, make("b", { class: "outcome" }, name),
      judged ? fact("score", points === null ? "none" : Number(points).toPrecision(3)) : null,
      reward === undefined ? null : fact("reward", signed(reward))),
    marked(text, pair.verdicts));
  return make("section", { class: "card" },
    make("div", { class: "facts" },
      ...(weighed(pair) ? [weight("weight", pair.w_quality * pair.w_performance), weight("quality", pair.w_quality),
        weight("performance", pair.w_performance)] : []),
      pair.mastery === undefined ? null : weight("mastery", pair.mastery),
      fact("reward margin", signed(pair.margin), pair.margin < 0 ? "incorrect" : ""),
      pair.domain ? fact("domain", pair.domain) : null, fact("step", pair.step)),
    beside(pair,
      question(pair),
      pair.context ? make("p", { class: "context" }, make("b", {}, "so far "), pair.context) : null,
      make("div", { class: "two" },
        side("chosen", pair.chosen, pair.score_chosen, pair.chosen_reward),
        side("rejected", pair.rejected, pair.score_rejected, pair.rejected_reward)),
      verdictTable(pair)));
}

// --- captions and sentence pairs ---

function captionCard(caption) {
  const last = caption.messages[caption.messages.length - 1].content;
  const question = typeof last === "string" ? last : last.map((part) => part.text || "").join("");
  const pairs = caption.pairs.map((pair) => make("div", { class: "two" },
    make("div", { class: "answer correct" },
      make("div", { class: "facts" }, make("b", { class: "outcome" }, "chosen"), fact("sentence", pair.sentence + 1)),
      marked(pair.chosen, caption.verdicts)),
    make("div", { class: "answer incorrect" },
      make("div", { class: "facts" }, make("b", { class: "outcome" }, "rejected"),
        fact("not there", pair.hallucinated_rejected.join(", "))),
      marked(pair.rejected, caption.verdicts))));
  return make("section", { class: "card" },
    make("div", { class: "facts" }, fact("id", caption.id), fact("stopped", caption.stopped), fact("pairs", pairs.length)),
    beside(caption,
      make("p", { class: "prompt" }, question),
      caption.caption ? marked(caption.caption, caption.verdicts) : make("p", { class: "text" }, "(no sentence)"),
      verdictTable(caption), ...pairs));
}

// --- tabs, filters, pages ---

const matches = (wanted, value) => wanted === "" || String(value) === wanted;
const includes = (wanted, ...texts) => wanted === "" || texts.some((t) => String(t).toLowerCase().includes(wanted));
const TABS = {
  rollouts: {
    title: "Rollouts", items: DATA.groups, card: groupCard,
    selects: { step: (g) => [g.step], domain: (g) => [g.domain], teacher: (g) => [g.teacher], why: (g) => g.why,
      outcome: (g) => g.answers.map((a) => OUTCOMES[a.outcome]) },
    text: (g) => [g.prompt, g.read || "", g.gold, ...g.answers.map((a) => a.tokens.join(""))],
    told: (items) => `${items.length} groups, ${items.reduce((n, g) => n + g.answers.length, 0)} answers`,
    legend: true,
  },
  pairs: {
    title: "Preference pairs", items: DATA.pairs, card: pairCard,
    selects: { domain: (p) => [p.domain || ""], ranked: (p) => [p.margin > 0 ? "right" : "wrong"],
      verdict: (p) => [...new Set(Object.values(p.verdicts || {}))] },
    sorts: { ...(DATA.pairs.some(weighed) ? { "highest weight": (p) => -p.w_quality * p.w_performance,
      "lowest weight": (p) => p.w_quality * p.w_performance } : {}), "lowest margin": (p) => p.margin, "highest margin": (p) => -p.margin },
    text: (p) => [p.prompt, p.context || "", p.chosen, p.rejected],
    told: (items) => `${items.length} pairs`,
  },
  captions: {
    title: "Captions", items: DATA.captions, card: captionCard,
    selects: { stopped: (c) => [c.stopped], verdict: (c) => [...new Set(Object.values(c.verdicts || {}))] },
    sorts: { id: (c) => c.id, "most pairs": (c) => -c.pairs.length },
    text: (c) => [c.id, c.caption, ...Object.keys(c.verdicts || {})],
    told: (items) => `${items.length} captions, ${items.reduce((n, c) => n + c.pairs.length, 0)} pairs`,
  },
};
const state = {};
for (const [name, tab] of Object.entries(TABS)) {
  state[name] = { search: "", sort: Object.keys(tab.sorts || {})[0] || "" };
  for (const key of Object.keys(tab.selects)) state[name][key] = "";
}
let current = Object.keys(TABS).find((name) => TABS[name].items.length) || "rollouts";
let shown = PAGE;

function filtered() {
  const tab = TABS[current], own = state[current];
  const items = tab.items.filter((item) =>
    Object.entries(tab.selects).every(([key, values]) => own[key] === "" || values(item).some((v) => matches(own[key], v))) &&
    includes(own.search, ...tab.text(item)));
  const order = tab.sorts && tab.sorts[own.sort];
  if (!order) return items;
  const by = (a, b) => (order(a) < order(b) ? -1 : order(a) > order(b) ? 1 : 0);
  return items.slice().sort(by);
}
function render() {
  const items = filtered();
  document.getElementById("count").textContent = TABS[current].told(items);
  document.getElementById("list").replaceChildren(...items.slice(0, shown).map(TABS[current].card));
  document.getElementById("more").hidden = items.length <= shown;
}
function more() {
  const items = filtered();
  document.getElementById("list").append(...items.slice(shown, shown + PAGE).map(TABS[current].card));
  shown += PAGE;
  document.getElementById("more").hidden = items.length <= shown;
}
function select(name, options, chosen, change) {
  const element = make("select", { name });
  for (const [value, text] of options) {
    const option = make("option", { value }, text);
    option.selected = value === chosen;
    element.append(option);
  }
  element.addEventListener("change", () => { change(element.value); shown = PAGE; render(); });
  return make("label", {}, name, element);
}
const natural = (a, b) => a.localeCompare(b, undefined, { numeric: true });
function controls() {
  const tab = TABS[current], own = state[current], parts = [];
  for (const [key, values] of Object.entries(tab.selects)) {
    const known = [...new Set(tab.items.flatMap(values).map(String))].filter((v) => v !== "").sort(natural);
    if (known.length > 1)
      parts.push(select(key, [["", "all"], ...known.map((v) => [v, v])], own[key], (v) => { own[key] = v; }));
  }
  if (tab.sorts)
    parts.push(select("order", Object.keys(tab.sorts).map((k) => [k, k]), own.sort, (v) => { own.sort = v; }));
  if (tab.legend) {
    parts.push(select("calibration", [["after", "after"], ["before", "before"]], calibrated.shown,
      (v) => { calibrated.shown = v; }));
    parts.push(make("span", { class: "legend" }, signed(-SCALE, 2), make("span", {}), signed(SCALE, 2) + " nats per token"));
    parts.push(make("span", { class: "legend tokens" }, make("i", { class: "c", title: FLAGS.c }, "clipped"),
      make("i", { class: "g", title: FLAGS.g }, "masked")));
  }
  const search = make("input", { type: "search", placeholder: "search", "aria-label": "search" });
  search.value = own.search;
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { own.search = search.value.toLowerCase(); shown = PAGE; render(); }, 150);
  });
  document.getElementById("controls").replaceChildren(...parts, search);
}
function tabs() {
  const bar = document.getElementById("tabs");
  bar.replaceChildren();
  for (const [name, tab] of Object.entries(TABS)) {
    if (!tab.items.length) continue;
    const button = make("button", { type: "button", role: "tab", "aria-selected": String(name === current) },
      `${tab.title} (${tab.items.length})`);
    button.addEventListener("click", () => { current = name; shown = PAGE; tabs(); controls(); render(); });
    bar.append(button);
  }
}

// --- what a token is worth ---

const tip = document.getElementById("tip");
function told(answer, i) {
  const lines = [JSON.stringify(answer.tokens[i])];
  const logp = (name, x) => lines.push(`${name}  ${x.toFixed(3)}  (p ${Math.exp(x).toPrecision(3)})`);
  logp("log p student", answer.student[i]);
  if (answer.scored) logp("log p teacher", answer.teacher[i]);
  if (answer.scored) lines.push(`before        ${signed(answer.teacher[i] - answer.student[i])}`);
  lines.push(`advantage     ${signed(answer.advantage[i])}`);
  if (FLAGS[answer.flags[i]]) lines.push(FLAGS[answer.flags[i]]);
  return lines.join("\n");
}
document.addEventListener("mousemove", (event) => {
  const token = event.target;
  tip.hidden = !(token instanceof Element && token.place !== undefined);
  if (tip.hidden) return;
  tip.textContent = told(token.answer, token.place);
  const room = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - room.width - 4))}px`;
  tip.style.top = `${event.clientY + 18 + room.height > innerHeight ? event.clientY - room.height - 10 : event.clientY + 18}px`;
});

document.getElementById("title").textContent = document.title;
document.getElementById("more").addEventListener("click", more);
tabs();
controls();
render();
