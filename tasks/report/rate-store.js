"use strict";
// What was rated, kept in the browser under the page's key and the rater's name, and given as CSV.

const data = JSON.parse(document.getElementById("data").textContent);
const COLUMNS = ["rater", "item", "concept", "rating", "seconds", "scale", "run", "seed"];
const RATER = `${data.key} rater`;
let isKept = true;

/** What the browser keeps; null where there is nothing, or where it keeps nothing at all. */
function kept(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    isKept = false;
    return null;
  }
}

function keep(name, text) {
  try {
    localStorage.setItem(name, text);
  } catch { // private windows, settings, or no space
    isKept = false;
  }
}

const place = (rater) => `${data.key} ratings of ${rater}`;

/** The ratings of a rater by item, the last one given last: `{ rating, seconds }`. */
function ratingsOf(rater) {
  const known = new Set(data.questions.map(([item]) => item));
  try {
    const entries = JSON.parse(kept(place(rater)) ?? "[]");
    return new Map(entries.filter(([item]) => known.has(item)).map(([item, rating, seconds]) => [item, { rating, seconds }]));
  } catch {
    return new Map(); // something else wrote there
  }
}

function keepRatings(rater, ratings) {
  keep(place(rater), JSON.stringify([...ratings].map(([item, { rating, seconds }]) => [item, rating, seconds])));
}

// As in the tables of a run: what spreadsheets take for a formula, also after what some take for the end of a cell.
const FORMULA = /(^|[;\t])(?=[\s"\ufeff\u200b]*[=+\-@\uff1d\uff0b\uff0d\uff20])|(^)(?=[\t\r])/g;

/** A field of the CSV, quoted; a formula gets a `'` before it. */
function field(value) {
  const harmless = String(value).replace(FORMULA, "$1'").replace(/\r/g, " ");
  return `"${harmless.replace(/"/g, '""')}"`;
}

/** Rated questions as CSV, in the order in which they are asked. */
function csv(rater, ratings) {
  const rows = data.questions.filter(([item]) => ratings.has(item)).map(([item, concept]) => {
    const { rating, seconds } = ratings.get(item);
    return [rater, item, concept, rating, seconds.toFixed(1), data.scale, data.run, data.seed];
  });
  return [COLUMNS, ...rows].map((row) => `${row.map(field).join(",")}\n`).join("");
}

function save(rater, ratings) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(rater, ratings)], { type: "text/csv" }));
  link.download = `ratings-${rater.replace(/[^\p{L}\p{N}]+/gu, "-")}-${data.run.slice(0, 8)}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // phones take it later than the click
}
