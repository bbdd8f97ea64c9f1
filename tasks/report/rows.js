// A neuron as a row of the list: its label and score from the index, its images when their chunk is there.

const DEAD = 1, NEARLY_CONSTANT = 2, CUT_KNOWN = 4, INTERPRETABLE = 8, TRUTH_KNOWN = 16, RIGHT = 32; // as in payload.py
const NUM_FURTHER = 4; // labels after the first that a row names
const NUM_IMAGES = 10;

let index = null; // of this layer, set when it is there
let span = { low: 0, high: 1 }; // of the layer's similarities, and 0

const neuronChunk = (place) => `${page.layer}-neurons-${Math.floor(place / page.neuronsPerChunk)}`;
const addressOf = (number) => `#${new URLSearchParams({ ...shownState(), neuron: number })}`;
const shareOf = (value) => (value - span.low) / (span.high - span.low);
const cutShare = () => (page.cut === null ? null : shareOf(page.cut));

const marked = (concept, hit) => element(hit !== null && hit[concept] ? "mark" : "span", { class: "concept" }, index.concepts[concept]);

/** What is to be known of a neuron before its label is believed. */
function tags(place) {
  const flags = index.flags[place];
  const found = [];
  if (flags & TRUTH_KNOWN) {
    const truth = index.concepts[index.truths[place]];
    found.push(flags & RIGHT ? element("span", { class: "tag right", title: `The right concept is ${truth}` }, "✓ right")
      : element("span", { class: "tag wrong" }, "✗ right is ", element("b", {}, truth)));
  }
  if (flags & CUT_KNOWN && !(flags & INTERPRETABLE)) found.push(element("span", { class: "tag" }, "not interpretable"));
  if (flags & NEARLY_CONSTANT) found.push(element("span", { class: "tag" }, "nearly constant"));
  return found;
}

function score(place) {
  const similarity = index.similarity[place];
  return [bar(similarity === null ? 0 : shareOf(similarity), cutShare()),
    element("span", { class: "value" }, element("span", { class: "sr" }, "similarity "), fixed(similarity))];
}

function further(place, details, hit) {
  const start = place * index.ranks;
  const labels = index.labels.slice(start + 1, start + Math.min(index.ranks, 1 + NUM_FURTHER)).filter((label) => label >= 0);
  return labels.flatMap((label, i) => [element("span", {}, marked(label, hit), " ",
    element("span", { class: "value" }, details ? fixed(details[0][(i + 1) * 6]) : "")), " "]);
}

/** The row; `hit` says which concepts a search found. */
function neuronRow(place, hit) {
  const number = index.neurons[place];
  const label = firstLabel(index, place);
  const isDead = (index.flags[place] & DEAD) !== 0;
  const name = element("h2", {},
    element("a", { href: addressOf(number) },
      element("span", { class: "index" }, element("span", { class: "sr" }, "Neuron "), String(number)), " ",
      label === null ? element("span", { class: "label none" }, isDead ? "dead" : "no label")
        : element("span", { class: "label" }, marked(index.labels[place * index.ranks], hit))));
  const what = element("div", { class: "what" }, name,
    element("p", { class: "score" }, ...(label === null ? [] : score(place)), ...tags(place)));
  const seen = element("div", { class: "seen" });
  const more = element("p", { class: "further" });
  const row = element("li", { class: isDead ? "neuron dead" : "neuron" }, what, seen, more);
  const complete = (chunk) => {
    const details = chunk?.[place % page.neuronsPerChunk] ?? null;
    if (details?.[1].length > 0) seen.replaceChildren(imageList(details[1], `Top images of neuron ${number}`, NUM_IMAGES));
    more.replaceChildren(...further(place, details, hit));
  };
  const ready = arrived.get(neuronChunk(place));
  complete(ready);
  if (!ready) load(neuronChunk(place)).then(complete);
  return row;
}
