// --- rollouts: the answers to one prompt, with every token ---

// Facts that are the same for all of the page say nothing about this group.
const VARIES = Object.fromEntries(["step", "domain", "teacher"].map((key) => [key, differ(DATA.groups, (g) => g[key])]));
VARIES.teacher &&= DATA.groups.some((group) => group.teacher !== group.domain);
const GRADED = ANSWERS.some((answer) => answer.outcome >= 0);
// "before → after", or one number where nothing has changed it.
const arrow = (before, after) => (signed(before) === signed(after) ? signed(before) : `${signed(before)} \u2192 ${signed(after)}`);

function answerCard(answer) {
  const [before, after] = answer.return;
  const outcome = OUTCOMES[answer.outcome];
  const badges = [];
  if (!answer.kept) badges.push("removed by balancing");
  if (!answer.scored) badges.push("not scored");
  if (answer.masked) badges.push("masked by calibration");
  return make("section", { class: `answer ${outcome}` + (answer.kept && answer.scored ? "" : " out") },
    make("div", { class: "facts" },
      GRADED ? make("b", { class: "outcome" }, term(outcome)) : null,
      answer.scored ? fact("return", arrow(before, after)) : null,
      !answer.scored || signed(before) === signed(after) || answer.masked ? null : fact("shift", signed(after - before)),
      fact("tokens", `${answer.length}${answer.finish === "length" ? " (cut)" : ""}`),
      answer.reason && GRADED ? fact("grader", answer.reason) : null,
      ...badges.map((text) => make("span", { class: "badge" }, term(text)))),
    tokenBox(answer));
}
function margin(group, which) {
  const of = (outcome) => group.answers.filter((a) => a.outcome === outcome && a.scored && !a.masked).map((a) => a.return[which]);
  const [right, wrong] = [of(1), of(0)];
  return right.length && wrong.length ? mean(right) - mean(wrong) : null;
}
function marginFact(group) {
  const [before, after] = [margin(group, 0), margin(group, 1)];
  if (before === null && after === null) return null;
  const shown = before === null || after === null ? signed(before ?? after) : arrow(before, after);
  return fact("margin", shown, (before ?? after) < 0 ? "incorrect" : "");
}
function answersOf(group, outcome) {
  const answers = group.answers.filter((a) => outcome === "" || OUTCOMES[a.outcome] === outcome);
  answers.sort((a, b) => b.return[0] - a.return[0]);
  return make("div", { class: "answers" }, ...answers.map(answerCard));
}
const teachersPrompt = (group) => (!group.read ? null : make("details", { class: "read" },
  make("summary", { tabindex: "-1" }, "the teacher read ", term("its own prompt")), make("p", { class: "prompt" }, group.read)));
function groupCard(group) {
  return make("article", { class: "card" },
    make("div", { class: "facts" },
      group.run ? fact("run", group.run) : null,
      ...["step", "domain", "teacher"].filter((key) => VARIES[key] && group[key] !== "").map((key) => fact(key, group[key])),
      fact("kept because", listed(group.why)),
      marginFact(group),
      group.gold === null ? null : fact("gold", group.gold)),
    beside(group, question(group)),
    teachersPrompt(group),
    answersOf(group, state.rollouts.outcome));
}
