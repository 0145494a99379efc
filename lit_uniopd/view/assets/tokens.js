// --- tokens and their colours: one scale for the page, so that groups can be compared ---

const OUTCOMES = { 1: "correct", 0: "incorrect", "-1": "unknown" };
const FLAGS = { g: "masked: student and teacher too far apart", c: "clipped: ratio out of range",
  u: "unaligned: the teacher's tokens do not end here" };
const ANSWERS = DATA.groups.flatMap((group) => group.answers);
const FLAGGED = new Set(ANSWERS.flatMap((answer) => [...new Set(answer.flags)]));

function quantile(values, q) {
  if (!values.length) return 1;
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.floor(q * (sorted.length - 1))];
}
const SCALE = Math.max(quantile(ANSWERS.flatMap((answer) => answer.advantage.map(Math.abs)), 0.95), 1e-6);
function tint(value) {
  const strength = Math.min(1, Math.abs(value) / SCALE) * 0.8;
  return `rgba(var(--${value >= 0 ? "up" : "down"}), ${strength.toFixed(3)})`;
}

// What the update saw is the difference of log-probs, unless something has changed it.
const beforeOf = (answer, i) => (answer.scored ? answer.teacher[i] - answer.student[i] : 0);
const CALIBRATED = ANSWERS.some((answer) => answer.scored &&
  answer.advantage.some((value, i) => Math.abs(value - beforeOf(answer, i)) > 0.0021));
const calibration = { shown: "after" };
const valueOf = (answer, i) => (calibration.shown === "after" ? answer.advantage[i] : beforeOf(answer, i));

// Spans are made when an answer comes into view: a page of long answers has hundreds of thousands of tokens.
const waiting = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) fill(entry.target);
}, { rootMargin: "800px" });
function tokenBox(answer) {
  const box = make("div", { class: "tokens", tabindex: "-1", role: "group",
    "aria-label": "tokens; the left and right arrow keys go from one to the next" });
  box.answer = answer;
  box.style.minHeight = `${Math.min(20, 1 + answer.length / 12)}em`;
  waiting.observe(box);
  return box;
}
function fill(box) {
  if (box.childElementCount) return;
  waiting.unobserve(box);
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
function tokenFacts(answer, i) {
  const lines = [JSON.stringify(answer.tokens[i])];
  const logp = (name, x) => lines.push(`${name}  ${x.toFixed(3)}  (p ${Math.exp(x).toPrecision(3)})`);
  logp("log p student", answer.student[i]);
  if (answer.scored) logp("log p teacher", answer.teacher[i]);
  if (answer.scored && CALIBRATED) lines.push(`before        ${signed(beforeOf(answer, i))}`);
  lines.push(`advantage     ${signed(answer.advantage[i])}`);
  if (FLAGS[answer.flags[i]]) lines.push(FLAGS[answer.flags[i]]);
  return lines.join("\n");
}
function legend() {
  const flags = [["c", "clipped"], ["g", "masked"], ["u", "unaligned"]].filter(([flag]) => FLAGGED.has(flag));
  return [
    make("span", { class: "legend" }, term("colours"), signed(-SCALE, 2), make("span", { class: "scale" }),
      signed(SCALE, 2) + " nats per token"),
    flags.length ? make("span", { class: "legend" }, ...flags.map(([flag, word]) =>
      make("span", { class: "tokens" }, make("i", { class: flag }, term(word))))) : null];
}
