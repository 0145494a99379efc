// --- before and after: one run at two steps, or several runs at one, side by side ---

const numbered = (values) => [...new Set(values)].sort((a, b) => a - b);
const STEPS = numbered(DATA.groups.map((group) => group.step));
const stepsOf = (run) => numbered(DATA.groups.filter((group) => (group.run || RUNS[0]) === run).map((group) => group.step));
const COMMON_STEPS = STEPS.filter((step) => RUNS.every((run) => stepsOf(run).includes(step)));
const hasBefore = (rows) => rows.some((row) => row.before !== null);

// Which step each column shows, as the reader chooses.
const COLUMN_CHOICES = !STEPS.length ? [] : SEVERAL
  ? [{ key: "at", options: STEPS, first: COMMON_STEPS.at(-1) ?? STEPS.at(-1) }]
  : STEPS.length > 1 ? [{ key: "from", options: STEPS, first: STEPS[0] }, { key: "to", options: STEPS, first: STEPS.at(-1) }] : [];
function columnsNow(chosen) {
  if (SEVERAL) return RUNS.map((run) => ({ run, step: Number(chosen.at), title: `${run}, step ${chosen.at}` }));
  return [chosen.from, chosen.to].map((step) => ({ run: RUNS[0], step: Number(step), title: `step ${step}` }));
}
// Rows of the table: the same prompt in all columns first; then the groups that were kept for the same reason.
function groupRows(columns) {
  const groups = columns.map(({ run, step }) => DATA.groups.filter((g) => (g.run || RUNS[0]) === run && g.step === step));
  const promptKey = (group) => JSON.stringify([group.domain, group.teacher, group.prompt, group.images || []]);
  const rows = [], taken = new Set();
  for (const group of groups[0]) {
    const cells = groups.map((column) => column.find((other) => promptKey(other) === promptKey(group)));
    if (cells.some((cell) => cell === undefined || taken.has(cell))) continue;
    cells.forEach((cell) => taken.add(cell));
    rows.push({ kind: "groups", same: true, why: [...new Set(cells.flatMap((cell) => cell.why))], cells });
  }
  const reasons = new Map();
  groups.forEach((column, i) => column.filter((group) => !taken.has(group)).forEach((group) => group.why.forEach((why) => {
    const key = JSON.stringify([group.domain, group.teacher, why]);
    if (!reasons.has(key)) reasons.set(key, { kind: "groups", same: false, why: [why], cells: columns.map(() => null) });
    reasons.get(key).cells[i] ??= group;
  })));
  return [...rows, ...[...reasons.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, row]) => row)];
}
// Pairs that every run has kept.
function pairRows() {
  if (!SEVERAL || !DATA.pairs.length) return [];
  const rows = new Map();
  for (const pair of DATA.pairs) {
    const key = JSON.stringify([pair.prompt, pair.context || "", pair.images || [], pair.chosen, pair.rejected]);
    if (!rows.has(key)) rows.set(key, { kind: "pairs", cells: RUNS.map(() => null) });
    rows.get(key).cells[RUNS.indexOf(pair.run)] ??= pair;
  }
  return [...rows.values()].filter((row) => row.cells.every((cell) => cell !== null));
}
const PAIR_ROWS = pairRows();
const COLUMNS = { at: "step", from: "left step", to: "right step" };
const rowGroup = (row) => row.cells.find((cell) => cell !== null);

function rowCard(row) {
  const group = rowGroup(row);
  if (row.kind === "pairs") {
    return make("article", { class: "card" },
      beside(group, question(group), contextOf(group), bothSides(group, false)),
      make("div", { class: "columns" }, ...row.cells.map((pair, i) =>
        make("section", {}, make("h2", {}, RUNS[i]), pairFacts(pair)))));
  }
  const columns = columnsNow(state.runs);
  return make("article", { class: "card" },
    make("div", { class: "facts" },
      ...["domain", "teacher"].filter((key) => VARIES[key]).map((key) => fact(key, group[key])),
      row.same ? make("b", {}, "the same prompt") : fact("kept because", listed(row.why))),
    row.same ? beside(group, question(group)) : null,
    row.same && group.gold !== null ? make("div", { class: "facts" }, fact("gold", group.gold)) : null,
    make("div", { class: "columns" }, ...row.cells.map((cell, i) => make("section", {}, make("h2", {}, columns[i].title),
      ...(cell === null ? [make("p", { class: "soft" }, absent(columns[i]))] : columnParts(cell, row.same))))));
}
const columnParts = (group, same) => [
  same ? null : beside(group, question(group)),
  make("div", { class: "facts" }, marginFact(group), same || group.gold === null ? null : fact("gold", group.gold)),
  same ? null : teachersPrompt(group),
  answersOf(group, ""),
].filter((part) => part !== null);
const absent = ({ run, step }) => (stepsOf(run).includes(step) ? "no such group was kept at this step"
  : `this run recorded nothing at step ${step}; it has ${stepsOf(run).join(", ") || "no rollouts"}`);

// What training came to, from the scores that the runs wrote.
function scoreTable() {
  const names = [...new Set(RUNS.flatMap((run) => DATA.scores[run].map((row) => row.name)))];
  if (!names.length) return null;
  const percent = (x) => (x === null || x === undefined ? "\u2013" : `${(100 * x).toFixed(1)} %`);
  const columns = ["before", "after", "teacher"].filter((key) => RUNS.some((run) =>
    DATA.scores[run].some((row) => row[key] !== null)));
  const head = make("tr", {}, make("th", {}, ""));
  for (const run of RUNS)
    for (const key of columns) head.append(make("th", {}, ...(SEVERAL ? [`${run}: `] : []), term(key)));
  const table = make("table", { class: "scores" },
    make("caption", {}, "Scores before the first step and after the last"), head);
  for (const name of names) {
    const cells = RUNS.flatMap((run) => {
      const row = DATA.scores[run].find((other) => other.name === name) || {};
      return columns.map((key) => make("td", { class: key === "after" ? "main" : "" }, percent(row[key])));
    });
    table.append(make("tr", {}, make("th", { scope: "row" }, name), ...cells));
  }
  return make("div", { class: "wide" }, table);
}
const SHOWS_RUNS = SEVERAL || STEPS.length > 1 || RUNS.some((run) => hasBefore(DATA.scores[run]));
