// --- by keyboard: tabs, cards, and what is inside of the current card ---

// The list is one stop of Tab. j and k go from card to card; what is inside of a card takes part once it is entered.
const INSIDE = ".term, .tokens, .object, summary";
const cardOf = (element) => element.closest("#list > .card");
function setCurrent(card, entered) {
  for (const other of byId("list").querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
  card.tabIndex = 0;
  if (entered) for (const element of card.querySelectorAll(INSIDE)) element.tabIndex = 0;
  page.at = [...byId("list").children].indexOf(card);
}
function enter(card) {
  setCurrent(card, true);
  card.querySelector(INSIDE)?.focus();
}
function goTo(number) {
  const list = byId("list");
  if (number >= list.childElementCount && !byId("more").hidden) more();
  const card = list.children[Math.max(0, Math.min(number, list.childElementCount - 1))];
  if (card) card.focus();
}
byId("list").addEventListener("focusin", (event) => {
  const card = cardOf(event.target), inside = event.target !== card;
  if (inside && event.target.tabIndex === 0) return;
  setCurrent(card, inside);
  writeAddress();
});
function tabKey(event) {
  const tabs = [...byId("tabs").children], place = tabs.indexOf(event.target);
  const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (next === undefined) return false;
  tabs[(next + tabs.length) % tabs.length].click();
  return true;
}
// Left and right in an answer: the token's facts stand beside it, and are spoken.
function tokenKey(event) {
  const box = event.target;
  fill(box);
  const last = box.querySelectorAll("i").length - 1, place = box.at ?? -1;
  const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: last }[event.key];
  if (next === undefined || last < 0) return false;
  goToToken(box, Math.max(0, Math.min(next, last)));
  return true;
}
function goToToken(box, place) {
  for (const token of box.querySelectorAll(".at")) token.classList.remove("at");
  box.at = place;
  const token = box.querySelectorAll("i")[place];
  token.classList.add("at");
  token.scrollIntoView({ block: "nearest" });
  showTip(token, tokenFacts(token.answer, place));
  byId("spoken").textContent = tokenFacts(token.answer, place);
}
function escape(target) {
  if (!byId("tip").hidden) return hideTip();
  const card = cardOf(target);
  if (target.id === "search" && target.value !== "") {
    target.value = state[page.tab].search = "";
    return change();
  }
  if (byId("words").open) {
    byId("words").open = false;
    return byId("words").querySelector("summary").focus();
  }
  return card && card !== target ? card.focus() : target.blur();
}
document.addEventListener("keydown", (event) => {
  const target = event.target, typing = /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  let done = true;
  if (event.key === "Escape") escape(target);
  else if (typing) done = false;
  else if (target.getAttribute("role") === "tab" && tabKey(event)) done = true;
  else if (target.classList.contains("tokens") && tokenKey(event)) done = true;
  else if (event.key === "j") goTo(page.at + 1);
  else if (event.key === "k") goTo(page.at - 1);
  else if (event.key === "Enter" && target.matches("#list > .card")) enter(target);
  else if (event.key === "/" && byId("search")) byId("search").focus();
  else if (event.key === "?") {
    byId("words").open = !byId("words").open;
    byId("words").querySelector("summary").focus();
  } else if (target.matches("#list > .card") && /^(Arrow(Up|Down)|Home|End)$/.test(event.key))
    goTo({ ArrowDown: page.at + 1, ArrowUp: page.at - 1, Home: 0, End: byId("list").childElementCount - 1 }[event.key]);
  else done = false;
  if (done) event.preventDefault();
});
