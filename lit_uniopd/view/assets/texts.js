// --- texts with marks: objects coloured by their verdicts, words that the other answer does not have ---

function verdictSpans(text, verdicts) {
  const words = Object.keys(verdicts || {}).sort((a, b) => b.length - a.length);
  if (!words.length) return [];
  const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const pattern = new RegExp(`\\b(${escaped.join("|")})(?:e?s)?\\b`, "gi");
  return [...text.matchAll(pattern)].map((match) =>
    [match.index, match.index + match[0].length, `named ${verdicts[match[1].toLowerCase()] || ""}`]);
}
// The text, cut wherever a mark begins or ends; marks may overlap.
function marked(text, verdicts, differing) {
  const named = verdictSpans(text, verdicts), element = make("p", { class: "text" });
  const cuts = [...new Set([0, text.length, ...[...named, ...(differing || [])].flatMap(([start, end]) => [start, end])])];
  cuts.sort((a, b) => a - b);
  cuts.slice(0, -1).forEach((start, i) => {
    const within = (span) => span[0] <= start && start < span[1];
    const piece = text.slice(start, cuts[i + 1]), object = named.find(within);
    const shown = object ? make("span", { class: object[2] }, piece) : piece;
    element.append((differing || []).some(within) ? make("mark", {}, shown) : shown);
  });
  return element;
}
const question = (item) => make("p", { class: "prompt" },
  (item.images || []).length ? item.prompt.replace(/^\[picture\]\s*/, "") : item.prompt);
