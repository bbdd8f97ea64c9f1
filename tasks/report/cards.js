"use strict";
// One neuron as a card. Every string from the data becomes a text node or a plain attribute, never HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const NUM_FURTHER = 4; // labels after the first that a card names; the rest are under "scores"

/** An element with attributes and children; a child that is a string becomes text. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** The flat lists of the data as objects; concepts and images stay numbers into the tables. */
function unpack([index, isDead, flatLabels, flatImages, truth], layer) {
  const labels = [];
  for (let i = 0; i < flatLabels.length; i += 4) {
    const [concept, similarity, logLikelihood, logPrior] = flatLabels.slice(i, i + 4);
    labels.push({ concept, similarity, logLikelihood, logPrior });
  }
  const images = [];
  for (let i = 0; i < flatImages.length; i += 2) {
    images.push({ image: flatImages[i], activation: flatImages[i + 1] });
  }
  const isRight = truth === null ? null : labels.length > 0 && labels[0].concept === truth;
  return { index, layer, isDead: isDead === 1, labels, images, truth, isRight };
}

const layers = data.layers.map(({ name, neurons }, number) => ({
  name,
  neurons: neurons.map((packed) => unpack(packed, number)),
}));

const firsts = layers.flatMap(({ neurons }) => neurons)
  .map(({ labels }) => labels[0]?.similarity ?? null).filter((value) => value !== null);
const highest = firsts.reduce((a, b) => Math.max(a, b), 0);
const lowest = firsts.reduce((a, b) => Math.min(a, b), 0);
// The same decimals everywhere, so that numbers can be compared down a column.
const decimals = Math.max(highest, -lowest) >= 100 ? 1 : Math.max(highest, -lowest) >= 1 ? 2 : 3;

const fixed = (value, digits = decimals) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
const short = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))).replace("-", "−"));

function thumbnail({ image, activation }) {
  const key = data.images[image];
  const title = `${key}\nactivation ${short(activation)}`;
  const jpeg = data.thumbnails[image];
  if (jpeg === null) {
    return element("li", {}, element("span", { class: "missing", title, role: "img", "aria-label": key }, key));
  }
  const src = `data:image/jpeg;base64,${jpeg}`;
  return element("li", {}, element("img", { src, alt: key, title, width: 96, height: 96, decoding: "async" }));
}

function verdict({ truth, isRight }) {
  if (truth === null) return [];
  const name = data.concepts[truth];
  return [isRight
    ? element("span", { class: "verdict right", title: `The right concept is ${name}` }, "✓ right")
    : element("span", { class: "verdict wrong" }, "✗ right is ", element("b", {}, name))];
}

function scoreTable(labels) {
  const hasParts = labels.some(({ logLikelihood, logPrior }) => logLikelihood !== null || logPrior !== null);
  const heads = ["Rank", "Concept", "Similarity", ...(hasParts ? ["Log-likelihood", "Log-prior"] : [])];
  const rows = labels.map((label, rank) => element("tr", {},
    element("td", { class: "number" }, String(rank + 1)),
    element("td", {}, data.concepts[label.concept]),
    ...[label.similarity, ...(hasParts ? [label.logLikelihood, label.logPrior] : [])]
      .map((value) => element("td", { class: "number" }, fixed(value)))));
  return element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((head) =>
      element("th", { scope: "col", class: head === "Concept" ? "" : "number" }, head)))),
    element("tbody", {}, ...rows));
}

const imageList = (images) => element("ol", { class: "captions" }, ...images.map(({ image, activation }) =>
  element("li", {}, `${data.images[image]} `, element("span", { class: "value" }, short(activation)))));

/** Further labels in a line; opened, all scores. The table is built when it is first opened. */
function scores({ labels, images }, isHit) {
  const further = labels.slice(1, 1 + NUM_FURTHER).flatMap(({ concept, similarity }) => [
    element("span", { class: "further" }, marked(concept, isHit), " ",
      element("span", { class: "value" }, fixed(similarity))),
    " ", // where the line may break
  ]);
  const summary = element("summary", {}, ...(further.length > 0 ? further : ["scores"]));
  const details = element("details", { class: "scores" }, summary);
  details.addEventListener("toggle", () => {
    details.append(element("div", { class: "panel" }, scoreTable(labels), imageList(images)));
  }, { once: true });
  return details;
}

const marked = (concept, isHit) => element(isHit(concept) ? "mark" : "span", {}, data.concepts[concept]);

/** The card; `isHit(concept)` says which concepts the search found. */
function card(neuron, isHit) {
  const { index, isDead, labels, images } = neuron;
  const layerName = layers[neuron.layer].name;
  const address = `#${new URLSearchParams({ layer: layerName, q: `#${index}` })}`;
  const first = labels[0];
  const what = element("div", { class: "what" },
    element("h3", {},
      element("a", { class: "index", href: address, title: `${layerName}, neuron ${index}` },
        element("span", { class: "sr" }, "Neuron "), String(index)),
      " ",
      first ? element("span", { class: "label" }, marked(first.concept, isHit))
        : element("span", { class: "label none" }, isDead ? "dead" : "no label")));
  if (first) {
    const share = first.similarity === null ? 0 : (first.similarity - lowest) / (highest - lowest || 1);
    const bar = element("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", share);
    const score = element("span", { class: "value" }, element("span", { class: "sr" }, "similarity "), fixed(first.similarity));
    what.append(element("p", { class: "score" }, bar, score));
  }
  what.append(...verdict(neuron));
  const parts = [what];
  if (images.length > 0) {
    parts.push(element("ol", { class: "images", "aria-label": `Top images of neuron ${index}` }, ...images.map(thumbnail)));
  }
  if (first) parts.push(scores(neuron, isHit));
  return element("li", { class: isDead ? "neuron dead" : "neuron" }, ...parts);
}
