// --- the tip: what a word means, and what a token is worth ---

const tip = byId("tip");
function showTip(element, text, at = null) {
  tip.textContent = text;
  tip.classList.toggle("prose", element.dataset.word !== undefined);
  tip.hidden = false;
  const place = element.getClientRects()[0] || element.getBoundingClientRect(), room = tip.getBoundingClientRect();
  const [x, above, below] = at ? [at.x + 14, at.y - 10, at.y + 18] : [place.left, place.top - 6, place.bottom + 6];
  tip.style.left = `${Math.max(4, Math.min(x, innerWidth - room.width - 4))}px`;
  tip.style.top = `${below + room.height > innerHeight ? Math.max(4, above - room.height) : below}px`;
}
function hideTip() {
  tip.hidden = true;
}
document.addEventListener("mousemove", (event) => {
  const element = event.target;
  if (!(element instanceof Element)) return;
  const word = element.closest(".term");
  if (word) showTip(word, WORDS[word.dataset.word]);
  else if (element.place !== undefined) showTip(element, tokenFacts(element.answer, element.place), { x: event.clientX, y: event.clientY });
  else if (!document.activeElement.matches(".term, .tokens")) hideTip();
});
document.addEventListener("focusin", (event) => {
  const word = event.target.closest(".term");
  if (word) showTip(word, WORDS[word.dataset.word]);
  else if (!event.target.classList.contains("tokens")) hideTip();
});
document.addEventListener("focusout", hideTip);
// The focus itself scrolls: the tip of what has it goes along, any other is out of place.
document.addEventListener("scroll", () => {
  if (tip.hidden) return;
  const active = document.activeElement, token = active.matches(".tokens") ? active.querySelector(".at") : null;
  if (token) showTip(token, tip.textContent);
  else if (active.matches(".term")) showTip(active, WORDS[active.dataset.word]);
  else hideTip();
}, { capture: true, passive: true });
