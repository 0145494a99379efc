byId("title").textContent = document.title;
byId("more").addEventListener("click", () => {
  const next = byId("list").childElementCount;
  more();
  goTo(next);
});
addEventListener("hashchange", () => { readAddress(); showAll(); });
readAddress();
showAll();
if (page.at >= 0) goTo(page.at);
