// --- captions and the sentence pairs that were made of them ---

function captionCard(caption) {
  const last = caption.messages[caption.messages.length - 1].content;
  const instruction = typeof last === "string" ? last : last.map((part) => part.text || "").join("");
  const pairs = caption.pairs.map((pair) => {
    const [chosen, rejected] = pair.differs || [];
    return make("div", { class: "two" },
      side("chosen", pair.chosen, caption.verdicts, chosen, fact("sentence", pair.sentence + 1)),
      side("rejected", pair.rejected, caption.verdicts, rejected, fact("not there", pair.hallucinated_rejected.join(", "))));
  });
  return make("article", { class: "card" },
    make("div", { class: "facts" }, caption.run ? fact("run", caption.run) : null, fact("id", caption.id),
      fact("stopped", caption.stopped), fact("pairs", pairs.length)),
    beside(caption,
      make("p", { class: "prompt" }, instruction),
      caption.caption ? marked(caption.caption, caption.verdicts) : make("p", { class: "text" }, "(no sentence)"),
      verdictTable(caption), ...pairs));
}
