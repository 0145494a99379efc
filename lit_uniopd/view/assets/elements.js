"use strict";
// Text of models goes into the page by textContent alone, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = Object.keys(DATA.scores);
const SEVERAL = RUNS.length > 1;

const byId = (id) => document.getElementById(id);
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined) continue;
    if (name === "class") element.className = value;
    else element.setAttribute(name, value);
  }
  for (const child of children) if (child !== null && child !== undefined) element.append(child);
  return element;
}
const signed = (x, digits = 3) => (x >= 0 ? "+" : "\u2212") + Math.abs(x).toFixed(digits);
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const differ = (items, value) => new Set(items.map(value)).size > 1;
