// A concept in all layers: whose neurons have it among their labels.

const NUM_SHOWN = 12; // neurons of a layer; its page shows all
const field = byId("q");

/** The rank of the first label of a neuron that is hit, from 0; none where it was found by its number. */
function rankHit({ labels, ranks }, place, hit) {
  for (let rank = 0; hit !== null && rank < ranks; rank += 1) {
    const concept = labels[place * ranks + rank];
    if (concept >= 0 && hit[concept]) return rank;
  }
  return 0;
}

function neuronLink(index, place, rank, href) {
  const number = index.neurons[place];
  const link = element("a", { href: `${href}#neuron=${number}` },
    element("span", { class: "index" }, String(number)), " ", firstLabel(index, place) ?? "dead");
  if (rank === 0) return element("li", {}, link);
  const other = index.concepts[index.labels[place * index.ranks + rank]];
  return element("li", {}, link, " ", element("span", { class: "value other" }, `${rank + 1}. ${other}`));
}

function layerFound(index, { name, page: href }, found) {
  const all = `${href}#${new URLSearchParams({ q: field.value })}`;
  const rest = found.length - NUM_SHOWN;
  return element("li", {},
    element("h3", {}, element("a", { href: all }, name, " ", element("span", { class: "value" }, counted(found.length, "neuron")))),
    element("ul", { class: "neighbours" }, ...found.slice(0, NUM_SHOWN).map(([place, rank]) => neuronLink(index, place, rank, href)),
      ...(rest > 0 ? [element("li", {}, element("a", { href: all }, `${rest.toLocaleString("en")} more`))] : [])));
}

async function find() {
  const text = field.value;
  byId("found").hidden = text.trim() === "";
  byId("status").textContent = "";
  if (text.trim() === "") return;
  const indices = await Promise.all(page.layers.map((_, number) => load(`${number}-index`)));
  if (text !== field.value) return; // typed on since
  const rows = [];
  let total = 0;
  indices.forEach((index, number) => {
    if (index === null) return;
    const test = matcherOf(index, text, false);
    const hit = hits(index, text);
    const found = index.neurons.map((_, place) => place).filter(test).map((place) => [place, rankHit(index, place, hit)]);
    const similarity = ([place]) => index.similarity[place] ?? -Infinity;
    found.sort((a, b) => a[1] - b[1] || similarity(b) - similarity(a) || a[0] - b[0]);
    total += found.length;
    if (found.length > 0) rows.push(layerFound(index, page.layers[number], found));
  });
  byId("found").lastElementChild.replaceChildren(...rows);
  byId("status").textContent = total === 0 ? "No neuron matches" : `${counted(total, "neuron")} in ${counted(rows.length, "layer")}`;
}

byId("find").hidden = false;
byId("find").addEventListener("submit", (event) => event.preventDefault());
field.addEventListener("input", () => {
  history.replaceState(null, "", field.value === "" ? "#" : `#${new URLSearchParams({ q: field.value })}`);
  find();
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && isForPage(event)) {
    event.preventDefault();
    field.select();
  } else if (event.key === "Escape" && event.target === field) {
    field.value = "";
    field.dispatchEvent(new Event("input"));
  }
});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
function readAddress() {
  field.value = new URLSearchParams(location.hash.slice(1)).get("q") ?? "";
  find();
}
addEventListener("hashchange", readAddress);
readAddress();
