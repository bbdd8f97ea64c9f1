// A neuron as a card: all that is known of it.

const section = (title, note, ...parts) => {
  const heading = element("h2", {}, title);
  return element("section", {}, heading, ...(note ? [element("p", { class: "note" }, note)] : []), ...parts);
};

/** The flat scores of the labels as objects. */
function unpackedLabels(place, flat) {
  const labels = [];
  for (let i = 0; i < flat.length; i += 6) {
    const [similarity, likelihood, prior, margin, quantile, isAbove] = flat.slice(i, i + 6);
    labels.push({ concept: index.labels[place * index.ranks + i / 6], similarity, likelihood, prior, margin, quantile, isAbove });
  }
  return labels;
}

/** A cell with a figure and its number; `caption` is its column's name where there is no room for columns. */
const cell = (caption, figure, text, title = null) =>
  element("td", { "data-caption": caption, title }, ...(figure ? [figure] : []), element("span", { class: "value" }, text));

const LIKELIHOOD = "How likely the label is of this neuron's images (●) beside the layer's neurons on average (|); × is the ratio.";
const hasParts = (labels) => labels.some(({ likelihood, prior }) => likelihood !== null && prior !== null);

/** How many times likelier than for the layer's neurons on average. */
function times(likelihood, prior) {
  const ratio = Math.exp(likelihood - prior);
  return `${ratio >= 1e4 ? ratio.toExponential(1).replace("e+", "e") : short(ratio, 2)}×`;
}

function labelTable(labels) {
  const known = labels.filter(({ likelihood, prior }) => likelihood !== null && prior !== null);
  const ends = known.flatMap(({ likelihood, prior }) => [likelihood, prior]);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const hasMargin = labels.some(({ margin }) => margin !== null);
  const hasQuantile = labels.some(({ quantile }) => quantile !== null);
  const heads = [["Label"], ["Similarity", page.cut === null ? null : `The line is τ = ${short(page.cut)}`],
    ...(known.length > 0 ? [["Prior | → ● likelihood", "Log-prior and log-likelihood, on one axis for all labels"]] : []),
    ...(hasMargin ? [["Margin", "What the next label scores less"]] : []),
    ...(hasQuantile ? [["Null quantile", "Share of neurons with shuffled images whose best label scores less"]] : [])];
  const rows = labels.map((label) => {
    const { concept, similarity, likelihood, prior, margin, quantile, isAbove } = label;
    const name = index.concepts[concept];
    const link = element("a", { href: `#${new URLSearchParams({ concept: name, rank: "all" })}`, title: "All neurons with this label" }, name);
    return element("tr", { class: isAbove === 0 ? "below" : null }, element("th", { scope: "row" }, link),
      cell("Similarity", bar(similarity === null ? 0 : shareOf(similarity), cutShare()), fixed(similarity)),
      ...(known.length > 0 ? [hasParts([label])
        ? cell("Prior → likelihood", gain(prior, likelihood, low, high), times(likelihood, prior),
          `log-prior ${fixed(prior)}, log-likelihood ${fixed(likelihood)}: ${times(likelihood, prior)} as likely as of the layer's neurons on average`)
        : cell("Prior → likelihood", null, "–")] : []),
      ...(hasMargin ? [cell("Margin", null, fixed(margin))] : []),
      ...(hasQuantile ? [cell("Null quantile", bar(quantile ?? 0), fixed(quantile, 3))] : []));
  });
  return element("table", { class: "labels" },
    element("thead", {}, element("tr", {}, ...heads.map(([head, title]) => element("th", { scope: "col", title: title ?? null }, head)))),
    element("tbody", {}, ...rows));
}

/** A link to a neuron of this layer, with its label. */
function neighbour(number, ...parts) {
  const place = index.places.get(number);
  const label = place === undefined ? null : firstLabel(index, place);
  return element("li", {}, element("a", { href: addressOf(number) },
    element("span", { class: "index" }, String(number)), " ", label ?? "dead"), ...parts);
}

const SIMILAR = {
  activation: ["Nearest by activation", "Correlation over all images."],
  label: ["Nearest by label", "Cosine of the means of their labels' embeddings."],
};

function similarSections(similar) {
  return Object.entries(SIMILAR).flatMap(([by, [title, note]]) => {
    const found = similar.filter(([kind]) => kind === by);
    if (found.length === 0) return [];
    return [section(title, note, element("ul", { class: "near" }, ...found.map(([, other, value]) =>
      neighbour(other, signedOrPlain(value), element("span", { class: "value" }, fixed(value))))))];
  });
}

const signedOrPlain = (value) => (value !== null && value < 0 ? signedBar(value) : bar(value ?? 0));

function inputSection(inputs) {
  if (inputs.length === 0) return [];
  const strongest = inputs.reduce((most, [, , weight]) => Math.max(most, Math.abs(weight ?? 0)), 0) || 1;
  return [section("Strongest inputs", "By weight: to the right they add to this neuron, to the left they take from it.",
    element("ul", { class: "near" }, ...inputs.map(([layer, number, weight, concept]) => {
      const label = concept < 0 ? "" : ` ${index.concepts[concept]}`;
      const what = element("span", { class: "index" }, layer < 0 ? `input ${number}` : `${page.layers[layer].name} ${number}`);
      const name = layer < 0 ? element("span", {}, what)
        : element("a", { href: `${page.layers[layer].page}#neuron=${number}` }, what, label);
      return element("li", {}, name, signedBar((weight ?? 0) / strongest), element("span", { class: "value" }, fixed(weight, 3)));
    })))];
}

function rangeSections(ranges) {
  const filled = ranges.filter(([, flat]) => flat.length > 0);
  if (filled.length === 0) return [];
  return [section("Images of its most active", "Drawn at random, so that more is seen than the extreme.",
    ...filled.flatMap(([name, flat]) => [element("h3", {}, name),
      imageList(flat, `Images drawn from the most active ${name}`)]))];
}

function cardHead(place, position, total) {
  const number = index.neurons[place];
  const label = firstLabel(index, place);
  const isDead = (index.flags[place] & DEAD) !== 0;
  const step = (to, name, key) => element("button", { type: "button", "data-step": to, "aria-keyshortcuts": key, title: `${name} neuron (${key})` },
    element("span", { "aria-hidden": "true" }, to < 0 ? "‹" : "›"), element("span", { class: "sr" }, `${name} neuron`));
  return element("header", {},
    element("p", { class: "path" },
      element("button", { type: "button", class: "back", "data-close": "", "aria-keyshortcuts": "Escape", title: "Back to the list (Esc)" },
        element("span", { "aria-hidden": "true" }, "← "), page.layers[page.layer].name),
      element("span", { class: "steps" }, element("span", { class: "value" }, position < 0 ? "" : `${(position + 1).toLocaleString("en")} of ${total.toLocaleString("en")}`),
        step(-1, "Previous", "k"), step(1, "Next", "j"))),
    element("h1", { tabindex: "-1" }, element("span", { class: "index" }, `${page.layers[page.layer].name}, neuron ${number}`), " ",
      label === null ? element("span", { class: "label none" }, isDead ? "dead" : "no label") : element("span", { class: "label" }, label)),
    element("p", { class: "score" }, ...(label === null ? [] : score(place)), ...tags(place)));
}

/** The parts of a card, from what its chunk holds of the neuron. */
function cardBody(place, [flatLabels, images, ranges, histogram, similar, inputs]) {
  const labels = unpackedLabels(place, flatLabels);
  const isDead = (index.flags[place] & DEAD) !== 0;
  return element("div", { class: "facts-of" },
    ...(isDead ? [element("p", { class: "notes" }, "It has the same activation for all images, so nothing can be said of it.")] : []),
    element("div", { class: "main" },
      ...(images.length > 0 ? [section("Top images", null, imageList(images, "Top images"))] : []),
      ...(labels.length > 0 ? [section("Labels", hasParts(labels) ? LIKELIHOOD : null, labelTable(labels))] : []),
      ...rangeSections(ranges)),
    element("div", { class: "side" },
      ...(histogram === null ? [] : [section("Activations", null, activationFigure(histogram))]),
      ...similarSections(similar), ...inputSection(inputs)));
}
