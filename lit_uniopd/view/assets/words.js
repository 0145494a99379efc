// What the words of the page mean: shown where they stand, and together under "What the words mean".

const WORDS = {
  step: "How far training was: the step on the axis of the run's curves. For pairs it counts optimizer steps.",
  domain: "The kind of task that the prompt belongs to. It decides which teacher scores the answers.",
  teacher: "The model that scored these answers, token by token.",
  run: "The run that this was recorded in.",
  "kept because": "A run records a few groups of each domain and teacher, the extremes; they are no average of the run.",
  best: "Of the recorded step, this group has the answer with the highest return before calibration.",
  worst: "Of the recorded step, this group has the answer with the lowest return before calibration.",
  misordered: "The teacher likes a wrong answer better than a right one to the same prompt; of all such groups of the step, the order is most wrong here.",
  margin: "Mean return of the right answers minus mean return of the wrong ones, in nats per token. Below 0, the teacher's scores push towards the wrong ones. With an arrow: before and after calibration.",
  gold: "The reference answer, which the grader compared with.",
  correct: "The grader took the answer for right.",
  incorrect: "The grader took the answer for wrong.",
  unknown: "No grader judged the answer, or it could not.",
  return: "Mean over the answer's tokens of what the update pushes by: log p of the teacher minus log p of the student, in nats. Above 0, the answer becomes more likely. With an arrow: before and after calibration.",
  shift: "What calibration added to every token of the answer, in nats.",
  tokens: "Length of the answer. Cut: it reached the limit before the model had ended it.",
  grader: "What the grader said about the answer, in a word.",
  "removed by balancing": "Left out of the update, so that right and wrong answers are balanced.",
  "not scored": "The teacher gave no log-probs, so the answer trains nothing.",
  "masked by calibration": "Calibration set all tokens of the answer to 0, so it trains nothing.",
  "its own prompt": "The teacher did not read the student's prompt but this one: with examples, hints, a system prompt or other pictures of its own. The answers are scored behind it.",
  colours: "Blue tokens become more likely by the update, red ones less likely; the stronger the colour, the harder the push. One scale for the whole page. Before: by teacher and student alone. After: as the update saw it.",
  clipped: "The student had moved too far on this token since it wrote the answer: its ratio left the clipping range, and the token trained nothing more.",
  masked: "Teacher and student are further apart on this token than the gap threshold allows, so it trains nothing.",
  unaligned: "The teacher has another tokenizer, and writes nothing that ends where this token does, so the token trained nothing: a special token, half a character, text that its tokenizer changes.",
  chosen: "The better answer of the pair.",
  rejected: "The worse answer of the pair.",
  "differing words": "Underlined: words that the other answer does not have in their place.",
  weight: "How much the pair counts in the loss: quality times performance.",
  quality: "How sure the judge is: grows with the gap between the two scores, from 0.5 at no gap to 1.",
  performance: "How much there is left to learn: (1 \u2212 mastery) to the power of gamma.",
  mastery: "How far the policy has mastered the pair: sigmoid of beta times its margin of mean log-probs, minus tau_ref.",
  "reward margin": "Reward of the chosen answer minus that of the rejected one. Above 0, the policy has learnt to prefer the chosen one more than the reference does.",
  score: "What the judge of the data gave the answer.",
  reward: "Beta times how much more likely the policy finds the answer than the reference does, in log-probs.",
  "so far": "The beginning of the caption, which both sentences go on from.",
  verdict: "What the detectors together say about an object that a sentence names.",
  factual: "All detectors see the object.",
  hallucinated: "No detector sees the object.",
  uncertain: "The detectors disagree. Sentences that name the object are neither chosen nor rejected for it.",
  "does not know it": "The detector has no word for the object, so it does not vote.",
  stopped: "Why the caption ends here.",
  sentence: "Which sentence of the caption the pair is about.",
  "not there": "Objects that the rejected sentence names and no detector sees.",
  before: "Measured before the first step of training.",
  after: "Measured after the last step of training.",
};
const wordId = (word) => `word-${word.replace(/\W+/g, "-")}`;

// A word with its meaning: on hover, on focus, on a tap, and as a description for screen readers.
function term(word, label = word) {
  if (!WORDS[word]) return document.createTextNode(label);
  return make("button", { type: "button", class: "term", tabindex: "-1", "data-word": word,
    "aria-describedby": wordId(word) }, label);
}
const fact = (name, value, kind) => make("span", { class: kind || "" }, term(name), " ",
  make("b", {}, ...(Array.isArray(value) ? value : [String(value)])));
const listed = (words) => words.flatMap((word, i) => (i ? [", ", term(word)] : [term(word)]));

// The meanings of the words that are on the page now.
function explain() {
  const panel = byId("words"), known = panel.querySelector("dl");
  const words = Object.keys(WORDS).filter((word) => document.querySelector(`.term[data-word="${word}"]`));
  known.replaceChildren(...words.flatMap((word) =>
    [make("dt", {}, word), make("dd", { id: wordId(word) }, WORDS[word])]));
  panel.hidden = !words.length;
}
