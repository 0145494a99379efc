// --- the list, and the controls above it ---

const PAGE = 20;
function addCards(items) {
  const list = byId("list"), tab = TABS[page.tab];
  for (let i = list.childElementCount; i < Math.min(page.shown, items.length); i++) {
    const card = tab.card(items[i]);
    for (const [name, value] of Object.entries({ tabindex: i ? "-1" : "0", "aria-posinset": i + 1,
      "aria-setsize": items.length, "aria-label": `${i + 1} of ${items.length}` })) card.setAttribute(name, value);
    list.append(card);
  }
  byId("more").hidden = items.length <= page.shown;
  explain();
}
function render() {
  const items = filtered(), tab = TABS[page.tab];
  page.shown = PAGE * Math.max(1, Math.ceil((page.at + 1) / PAGE));
  byId("count").textContent = tab.count(items);
  byId("head").replaceChildren(...[tab.head && tab.head()].filter(Boolean));
  byId("list").replaceChildren();
  addCards(items);
  byId("none").hidden = items.length > 0 || !isNarrowed();
  byId("clear").hidden = !isNarrowed();
}
function more() {
  page.shown += PAGE;
  addCards(filtered());
}
const isNarrowed = () => state[page.tab].search !== "" || Object.keys(TABS[page.tab].selects).some((key) => state[page.tab][key] !== "");
function change() {
  page.at = -1;
  render();
  writeAddress();
}
function select(name, options, chosen, set, label = name) {
  const element = make("select", { name });
  for (const [value, text] of options) {
    const option = make("option", { value }, text);
    option.selected = value === chosen;
    element.append(option);
  }
  element.addEventListener("change", () => { set(element.value); change(); });
  return make("label", {}, label, element);
}
const natural = (a, b) => a.localeCompare(b, undefined, { numeric: true });
function controls() {
  const tab = TABS[page.tab], chosen = state[page.tab], parts = [], items = tab.items();
  for (const { key, options } of tab.choices || [])
    parts.push(select(key, options.map((v) => [String(v), String(v)]), chosen[key], (v) => { chosen[key] = v; }, COLUMNS[key]));
  for (const [key, values] of Object.entries(tab.selects)) {
    const known = [...new Set(items.flatMap(values).map(String))].filter((v) => v !== "").sort(natural);
    if (known.length > 1)
      parts.push(select(key, [["", "all"], ...known.map((v) => [v, v])], chosen[key], (v) => { chosen[key] = v; }));
  }
  if (tab.sorts && items.length > 1)
    parts.push(select("order", Object.keys(tab.sorts).map((k) => [k, k]), chosen.order, (v) => { chosen.order = v; }));
  if (tab.legend && ANSWERS.length) {
    if (CALIBRATED)
      parts.push(select("calibration", [["after", "after"], ["before", "before"]], calibration.shown,
        (v) => { calibration.shown = v; }));
    parts.push(...legend());
  }
  if (tab.differences && (DATA.pairs.length || DATA.captions.length))
    parts.push(make("span", { class: "legend" }, make("mark", {}, term("differing words"))));
  byId("controls").replaceChildren(...parts.filter(Boolean), ...(items.length > 1 ? [searchField(chosen)] : []), clearButton());
}
function searchField(chosen) {
  const search = make("input", { type: "search", id: "search", placeholder: "search", "aria-label": "search" });
  search.value = chosen.search;
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { chosen.search = search.value; change(); }, 150);
  });
  return search;
}
function clearButton() {
  const button = make("button", { type: "button", id: "clear", class: "plain" }, "clear filters");
  button.addEventListener("click", () => {
    for (const key of ["search", ...Object.keys(TABS[page.tab].selects)]) state[page.tab][key] = "";
    controls();
    change();
    byId("controls").querySelector("select, input")?.focus();
  });
  return button;
}
function tabBar() {
  const shown = Object.keys(TABS).filter(isShown), bar = byId("tabs");
  bar.replaceChildren(...shown.map((name) => {
    const size = name === "runs" ? "" : ` (${TABS[name].items().length})`, selected = name === page.tab;
    const button = make("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel",
      "aria-selected": String(selected), tabindex: selected ? "0" : "-1" }, TABS[name].title + size);
    button.addEventListener("click", () => openTab(name));
    return button;
  }));
  byId("panel").setAttribute("aria-labelledby", `tab-${page.tab}`);
}
function showAll() {
  tabBar();
  controls();
  render();
}
function openTab(name) {
  page.tab = name;
  page.at = -1;
  showAll();
  writeAddress();
  byId(`tab-${name}`).focus();
}
