// --- tabs: what each shows, and what it can be narrowed by ---

const state = {};
const TABS = {
  rollouts: {
    title: "Rollouts", items: () => DATA.groups, card: groupCard,
    selects: { run: (g) => [g.run || ""], step: (g) => [g.step], domain: (g) => [g.domain],
      ...(VARIES.teacher ? { teacher: (g) => [g.teacher] } : {}), why: (g) => g.why,
      outcome: (g) => g.answers.map((a) => OUTCOMES[a.outcome]),
      prompt: (g) => [g.read ? "the teacher's own" : "the same for both"] },
    text: (g) => [g.prompt, g.read || "", g.gold, ...g.answers.map((a) => a.tokens.join(""))],
    count: (items) => `${items.length} groups, ${items.reduce((n, g) => n + g.answers.length, 0)} answers` +
      (items.some((g) => g.read) ? `; of ${items.filter((g) => g.read).length} groups the teacher read its own prompt` : ""),
    legend: true,
  },
  pairs: {
    title: "Preference pairs", items: () => DATA.pairs, card: pairCard,
    selects: { run: (p) => [p.run || ""], domain: (p) => [p.domain || ""], ranked: (p) => [p.margin > 0 ? "right" : "wrong"],
      verdict: (p) => [...new Set(Object.values(p.verdicts || {}))] },
    sorts: { ...(DATA.pairs.some(weighed) ? { "highest weight": (p) => -p.w_quality * p.w_performance,
      "lowest weight": (p) => p.w_quality * p.w_performance } : {}), "lowest margin": (p) => p.margin, "highest margin": (p) => -p.margin },
    text: (p) => [p.prompt, p.context || "", p.chosen, p.rejected],
    count: (items) => `${items.length} pairs`,
    differences: true,
  },
  captions: {
    title: "Captions", items: () => DATA.captions, card: captionCard,
    selects: { run: (c) => [c.run || ""], stopped: (c) => [c.stopped], verdict: (c) => [...new Set(Object.values(c.verdicts || {}))] },
    sorts: { id: (c) => c.id, "most pairs": (c) => -c.pairs.length },
    text: (c) => [c.id, c.caption, ...Object.keys(c.verdicts || {})],
    count: (items) => `${items.length} captions, ${items.reduce((n, c) => n + c.pairs.length, 0)} pairs`,
    differences: true,
  },
  runs: {
    title: "Before and after", card: rowCard, always: true, choices: COLUMN_CHOICES, head: scoreTable,
    items: () => [...(COLUMN_CHOICES.length ? groupRows(columnsNow(state.runs)) : []), ...PAIR_ROWS],
    selects: { domain: (row) => [rowGroup(row).domain || ""], why: (row) => row.why || [] },
    text: (row) => row.cells.filter((cell) => cell !== null).flatMap((cell) => (row.kind === "pairs"
      ? TABS.pairs.text(cell) : TABS.rollouts.text(cell))),
    count: (items) => (items.length || COLUMN_CHOICES.length ? `${items.length} rows, side by side` : ""),
    legend: true, differences: true,
  },
};
const isShown = (name) => (name === "runs" ? SHOWS_RUNS : TABS[name].items().length > 0);
function resetState() {
  for (const [name, tab] of Object.entries(TABS)) {
    state[name] = { search: "", order: Object.keys(tab.sorts || {})[0] || "" };
    for (const key of Object.keys(tab.selects)) state[name][key] = "";
    for (const choice of tab.choices || []) state[name][choice.key] = String(choice.first);
  }
  calibration.shown = "after";
}
resetState();
const firstTab = () => Object.keys(TABS).find((name) => name !== "runs" && isShown(name)) || "rollouts";
const page = { tab: firstTab(), shown: 0, at: -1 };

const includes = (wanted, ...texts) => wanted === "" || texts.some((t) => String(t).toLowerCase().includes(wanted));
function filtered() {
  const tab = TABS[page.tab], chosen = state[page.tab], wanted = chosen.search.toLowerCase();
  const items = tab.items().filter((item) =>
    Object.entries(tab.selects).every(([key, values]) => chosen[key] === "" || values(item).some((v) => String(v) === chosen[key])) &&
    includes(wanted, ...tab.text(item)));
  const order = tab.sorts && tab.sorts[chosen.order];
  if (!order) return items;
  return items.slice().sort((a, b) => (order(a) < order(b) ? -1 : order(a) > order(b) ? 1 : 0));
}
