// --- preference pairs, with what the policy makes of them ---

function bar(value) {
  const inner = make("span", {});
  inner.style.width = `${(100 * Math.max(0, Math.min(1, value))).toFixed(1)}%`;
  return make("span", { class: "bar" }, inner);
}
const weighed = (pair) => pair.w_quality !== 1 || pair.w_performance !== 1;
const barFact = (name, value) => make("span", {}, term(name), " ", bar(value), " ", make("b", {}, value.toFixed(3)));
const PAIR_STEPS = differ(DATA.pairs, (pair) => pair.step);
const PAIR_DOMAINS = differ(DATA.pairs, (pair) => pair.domain || "");

function pairFacts(pair) {
  return make("div", { class: "facts" },
    ...(weighed(pair) ? [barFact("weight", pair.w_quality * pair.w_performance), barFact("quality", pair.w_quality),
      barFact("performance", pair.w_performance)] : []),
    pair.mastery === undefined ? null : barFact("mastery", pair.mastery),
    fact("reward margin", signed(pair.margin), pair.margin < 0 ? "incorrect" : ""));
}
function side(name, text, verdicts, differing, ...facts) {
  return make("div", { class: `answer ${name === "chosen" ? "correct" : "incorrect"}` },
    make("div", { class: "facts" }, make("b", { class: "outcome" }, term(name)), ...facts),
    marked(text, verdicts, differing));
}
function bothSides(pair, rewards = true) {
  const judged = typeof pair.score_chosen === "number" || typeof pair.score_rejected === "number";
  const facts = (points, reward) => [
    judged ? fact("score", points === null ? "none" : Number(points).toPrecision(3)) : null,
    reward === undefined || !rewards ? null : fact("reward", signed(reward))];
  const [chosen, rejected] = pair.differs || [];
  return make("div", { class: "two" },
    pair.differs === null ? make("p", { class: "soft whole" }, "too long to be compared word by word") : null,
    side("chosen", pair.chosen, pair.verdicts, chosen, ...facts(pair.score_chosen, pair.chosen_reward)),
    side("rejected", pair.rejected, pair.verdicts, rejected, ...facts(pair.score_rejected, pair.rejected_reward)));
}
const contextOf = (pair) => (pair.context ? make("p", { class: "context" }, make("b", {}, term("so far")), " ", pair.context) : null);
function pairCard(pair) {
  const facts = pairFacts(pair);
  if (pair.run) facts.prepend(fact("run", pair.run));
  if (PAIR_DOMAINS && pair.domain) facts.append(fact("domain", pair.domain));
  if (PAIR_STEPS) facts.append(fact("step", pair.step));
  return make("article", { class: "card" }, facts,
    beside(pair, question(pair), contextOf(pair), bothSides(pair), verdictTable(pair)));
}
