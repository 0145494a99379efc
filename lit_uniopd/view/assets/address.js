// --- the address: filters stand behind its #, so that a reload and a shared link show the same ---

function writeAddress() {
  const tab = TABS[page.tab], chosen = state[page.tab], parts = new URLSearchParams();
  if (page.tab !== firstTab()) parts.set("tab", page.tab);
  for (const key of Object.keys(tab.selects)) if (chosen[key] !== "") parts.set(key, chosen[key]);
  for (const { key, first } of tab.choices || []) if (chosen[key] !== String(first)) parts.set(key, chosen[key]);
  if (chosen.order !== (Object.keys(tab.sorts || {})[0] || "")) parts.set("order", chosen.order);
  if (chosen.search !== "") parts.set("search", chosen.search);
  if (tab.legend && calibration.shown !== "after") parts.set("colours", calibration.shown);
  if (page.at >= 0) parts.set("card", String(page.at + 1));
  history.replaceState(null, "", `#${parts}`);
}
// What the address says, as far as this page has it: a link to another run's page may name what this one lacks.
function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1)), name = parts.get("tab");
  resetState();
  page.tab = name !== null && Object.hasOwn(TABS, name) && isShown(name) ? name : firstTab();
  const tab = TABS[page.tab], chosen = state[page.tab];
  for (const { key, options } of tab.choices || [])
    if (options.map(String).includes(parts.get(key))) chosen[key] = parts.get(key);
  for (const [key, values] of Object.entries(tab.selects))
    if (tab.items().some((item) => values(item).map(String).includes(parts.get(key)))) chosen[key] = parts.get(key);
  if (Object.hasOwn(tab.sorts || {}, parts.get("order"))) chosen.order = parts.get("order");
  chosen.search = parts.get("search") || "";
  if (tab.legend && CALIBRATED && parts.get("colours") === "before") calibration.shown = "before";
  const card = Number(parts.get("card"));
  page.at = Number.isInteger(card) && card > 0 ? card - 1 : -1;
}
