// Which neurons are shown: a search, a kind, a range and an order, and which card is open. All of it is kept in the
// address, so that a view can be shared.

const PRINT_LIMIT = 200; // a printed page has no scrolling; more than this is a book nobody asked for
const DEFAULTS = { q: "", rank: "all", show: "all", from: "", to: "", sort: "index" };
const controls = Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, byId(name)]));
const toolbar = byId("toolbar");
const card = byId("card");
const collator = new Intl.Collator("en", { numeric: true });

const has = (flag) => (place) => (index.flags[place] & flag) !== 0;
const lacks = (flag) => (place) => (index.flags[place] & flag) === 0;
const KINDS = {
  all: () => true,
  live: lacks(DEAD),
  dead: has(DEAD),
  interpretable: has(INTERPRETABLE),
  uninterpretable: lacks(INTERPRETABLE),
  right: has(RIGHT),
  wrong: (place) => has(TRUTH_KNOWN)(place) && lacks(RIGHT)(place),
};
// What is not known comes last; -Infinity minus itself is NaN, which falls through to the place as 0 does.
const falling = (column) => (a, b) => (index[column][b] ?? -Infinity) - (index[column][a] ?? -Infinity) || a - b;
const ORDERS = {
  index: (a, b) => a - b,
  similarity: falling("similarity"),
  margin: falling("margin"),
  quantile: falling("quantile"),
  label: (a, b) => index.order[a] - index.order[b] || a - b,
};

let concept = ""; // whose neurons alone are shown
let opened = null; // the neuron whose card is open
let returnTo = 0; // where the list was scrolled to
let hit = null; // concepts that the search found
const list = new VirtualList(byId("neurons"), (place) => neuronRow(place, hit));

function shownState() {
  const state = Object.entries(controls).map(([name, control]) => [name, control.value]);
  const changed = Object.fromEntries(state.filter(([name, value]) => value !== DEFAULTS[name]));
  return concept === "" ? changed : { ...changed, concept };
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [name, control] of Object.entries(controls)) {
    control.value = given.get(name) ?? DEFAULTS[name];
    if (control.value === "" && DEFAULTS[name] !== "") control.value = DEFAULTS[name]; // an unknown choice
  }
  concept = given.get("concept") ?? "";
  const neuron = given.get("neuron");
  opened = neuron !== null && /^\d+$/.test(neuron) && index.places.has(Number(neuron)) ? Number(neuron) : null;
}

const bound = (control) => (control.value.trim() === "" ? NaN : Number(control.value.replace("−", "-")));

/** Places that the controls ask for, in order. */
function wanted() {
  const { q, rank, show, from, to, sort } = controls;
  const isFirst = rank.value === "first";
  const tests = [KINDS[show.value], matcherOf(index, q.value, isFirst)];
  if (concept !== "") tests.push(matcher(index, hitsOf(index, concept), isFirst));
  const [low, high] = [bound(from), bound(to)];
  if (!Number.isNaN(low)) tests.push((place) => index.similarity[place] !== null && index.similarity[place] >= low);
  if (!Number.isNaN(high)) tests.push((place) => index.similarity[place] !== null && index.similarity[place] <= high);
  if (sort.value === "label") index.order ??= labelOrder();
  const found = [];
  for (let place = 0; place < index.neurons.length; place += 1) {
    if (tests.every((test) => test(place))) found.push(place);
  }
  return found.sort(ORDERS[sort.value]);
}

/** Per place the rank of its label among all; a neuron without one comes last. Concepts are compared once each. */
function labelOrder() {
  const sorted = index.concepts.map((_, number) => number).sort((a, b) => collator.compare(index.concepts[a], index.concepts[b]));
  const rank = new Array(sorted.length);
  sorted.forEach((number, i) => { rank[number] = i; });
  return index.neurons.map((_, place) => (firstLabel(index, place) === null ? Infinity : rank[index.labels[place * index.ranks]]));
}

function showList() {
  const { q } = controls;
  hit = hits(index, q.value) ?? (concept === "" ? null : hitsOf(index, concept));
  const places = wanted();
  const total = index.neurons.length;
  byId("concept").hidden = concept === "";
  byId("concept").replaceChildren(element("span", { class: "sr" }, "Remove filter "), concept, element("span", { "aria-hidden": "true" }, " ✕"));
  byId("none").hidden = places.length > 0 || total === 0;
  byId("status").textContent = places.length === total ? counted(total, "neuron")
    : places.length === 0 ? "No neuron matches" : `${places.length.toLocaleString("en")} of ${counted(total, "neuron")}`;
  list.show(places);
  showDistribution();
}

/** The layer's similarities; what the range leaves out is pale, and dragging over it sets the range. */
function showDistribution() {
  const { low, high, counts } = (index.bins ??= binned(index.similarity));
  const figure = byId("distribution");
  if (!Number.isFinite(low)) return;
  const [from, to] = [bound(controls.from), bound(controls.to)];
  const most = counts.reduce((a, b) => Math.max(a, b), 1);
  const drawn = bars(counts.map((count, i) => [i / BINS, (i + 1) / BINS, count / most]), 70);
  [...drawn.children].forEach((rect, i) => {
    const [left, right] = [low + (i / BINS) * (high - low), low + ((i + 1) / BINS) * (high - low)];
    if (right < from || left > to) rect.setAttribute("class", "out");
  });
  if (page.cut !== null && page.cut > low && page.cut < high) {
    const at = ((page.cut - low) / (high - low)) * 400;
    drawn.append(svg("line", { x1: at, x2: at, y1: 0, y2: 70 }));
  }
  figure.replaceChildren(drawn,
    element("p", { class: "axis" }, element("span", {}, short(low, 3)), element("span", {}, "similarity of labels"), element("span", {}, short(high, 3))));
}

function dragRange() {
  const figure = byId("distribution");
  let begun = null;
  const valueAt = (event) => {
    const { left, width } = figure.getBoundingClientRect();
    const { low, high } = index.bins;
    return low + Math.max(0, Math.min(1, (event.clientX - left) / width)) * (high - low);
  };
  figure.addEventListener("pointerdown", (event) => {
    begun = valueAt(event);
    figure.setPointerCapture(event.pointerId);
  });
  figure.addEventListener("pointermove", (event) => {
    if (begun === null) return;
    const ends = [begun, valueAt(event)].sort((a, b) => a - b);
    [controls.from.value, controls.to.value] = ends.map((end) => end.toPrecision(3));
    changed();
  });
  figure.addEventListener("pointerup", (event) => {
    if (begun !== null && valueAt(event) === begun) [controls.from.value, controls.to.value] = ["", ""]; // a click clears
    begun = null;
    changed();
  });
}

async function showCard() {
  const number = opened;
  const place = index.places.get(number);
  const position = list.places.indexOf(place);
  const head = cardHead(place, position, list.places.length);
  byId("list-view").hidden = true;
  card.hidden = false;
  card.replaceChildren(head);
  document.title = `${page.layers[page.layer].name} ${number}: ${firstLabel(index, place) ?? "dead"}`;
  scrollTo(0, 0);
  head.querySelector("h1").focus();
  const chunk = await load(neuronChunk(place));
  if (opened === number && chunk !== null) card.replaceChildren(head, cardBody(place, chunk[place % page.neuronsPerChunk]));
}

/** What the address says is shown. */
function show() {
  const before = JSON.stringify(shownState());
  const was = opened;
  readAddress();
  if (JSON.stringify(shownState()) !== before || index.isNew) showList();
  index.isNew = false;
  if (opened !== null) {
    if (was === null) returnTo = scrollY;
    showCard();
  } else if (was !== null) showListAgain(was);
}

function showListAgain(number) {
  card.hidden = true;
  card.replaceChildren();
  byId("list-view").hidden = false;
  document.title = title;
  scrollTo(0, returnTo);
  const position = list.places.indexOf(index.places.get(number));
  if (position >= 0) list.focus(position);
  else list.render();
}

/** After a change of the controls: the results start at their top again, but what is above is left in peace. */
function changed() {
  history.replaceState(null, "", `#${new URLSearchParams(shownState())}`);
  showList();
  const { top } = byId("neurons").getBoundingClientRect();
  if (top < 0) scrollBy(0, top - toolbar.offsetHeight);
}

/** Another address; the list's own stays what the browser goes back to. */
function go(number, isStep = false) {
  const state = number === null ? shownState() : { ...shownState(), neuron: number };
  history[isStep ? "replaceState" : "pushState"](null, "", `#${new URLSearchParams(state)}`);
  show();
}

function step(by) {
  const position = list.places.indexOf(index.places.get(opened));
  const place = list.places[position < 0 ? 0 : position + by];
  if (place !== undefined) go(index.neurons[place], true);
}

const STEPS = { j: 1, ArrowDown: 1, ArrowRight: 1, k: -1, ArrowUp: -1, ArrowLeft: -1 };

function onKey(event) {
  if (event.key === "Escape" && event.target === controls.q && opened === null) {
    if (controls.q.value !== "") {
      controls.q.value = "";
      changed();
    } else controls.q.blur();
    return;
  }
  if (event.key === "Enter" && event.target === controls.q) return list.focus(0);
  if (!isForPage(event)) return;
  if (opened !== null) {
    if (event.key === "Escape") go(null);
    else if (event.key === "/") {
      event.preventDefault();
      go(null);
      controls.q.select();
    }
    else if (["j", "k", "ArrowRight", "ArrowLeft"].includes(event.key)) step(STEPS[event.key]);
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    controls.q.select();
  } else if (["j", "k", "ArrowDown", "ArrowUp"].includes(event.key)) {
    event.preventDefault();
    const row = event.target.closest?.("li.neuron");
    list.focus(row ? Number(row.dataset.position) + STEPS[event.key] : list.current);
  }
}

function unroll() {
  if (opened !== null) return;
  const left = list.unroll(PRINT_LIMIT);
  byId("unprinted").hidden = left === 0;
  byId("unprinted").textContent = `${counted(left, "neuron")} more ${left === 1 ? "is" : "are"} not printed.`;
}

/** Prints when the images of what is printed are there. */
async function printList() {
  const chunks = await Promise.all([...new Set(list.places.slice(0, PRINT_LIMIT).map(neuronChunk))].map(load));
  unroll();
  const images = [...awaited.keys()].filter((name) => name.startsWith("images-"));
  await Promise.all([...chunks, ...images.map(load)]);
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
  window.print();
}

const title = document.title;

async function begin() {
  index = await load(`${page.layer}-index`);
  if (index === null) return;
  index.isNew = true;
  index.places = new Map(index.neurons.map((number, place) => [number, place]));
  const known = index.similarity.filter((value) => value !== null);
  const high = known.reduce((a, b) => Math.max(a, b), 0);
  const low = known.reduce((a, b) => Math.min(a, b), 0);
  span = { low, high: high > low ? high : low + 1 };
  toolbar.hidden = false;
  toolbar.addEventListener("input", changed);
  toolbar.addEventListener("submit", (event) => event.preventDefault());
  byId("concept").addEventListener("click", () => { concept = ""; changed(); });
  byId("print").addEventListener("click", printList);
  card.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.step) step(Number(button.dataset.step));
    else if (button) go(null);
  });
  addEventListener("popstate", () => { if (location.hash !== "#neurons") show(); });
  addEventListener("keydown", onKey);
  addEventListener("beforeprint", unroll);
  addEventListener("afterprint", () => { byId("unprinted").hidden = true; list.rollUp(); });
  new ResizeObserver(() => {
    const isSticky = getComputedStyle(toolbar).position === "sticky";
    document.documentElement.style.setProperty("--covered", `${isSticky ? toolbar.offsetHeight : 0}px`);
  }).observe(toolbar);
  dragRange();
  show();
}
begin();
