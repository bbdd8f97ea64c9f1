// Which neurons are shown: a search, a layer, a kind and an order, kept in the address so that a view can be shared.

const BATCH = 40;
const PRINT_LIMIT = 400; // a printed page has no scrolling; more than this is a book nobody asked for
const DEFAULTS = { q: "", rank: "all", layer: "", show: "all", sort: "index" };
const controls = Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, document.getElementById(name)]));
const sections = [...document.querySelectorAll("section.layer")];
const main = document.getElementById("neurons");
const more = document.getElementById("more");
const toolbar = document.getElementById("toolbar");
const folded = data.concepts.map((concept) => concept.toLowerCase());
const total = layers.reduce((sum, { neurons }) => sum + neurons.length, 0);
const collator = new Intl.Collator("en", { numeric: true });

const KINDS = {
  all: () => true,
  live: ({ isDead }) => !isDead,
  dead: ({ isDead }) => isDead,
  right: ({ isRight }) => isRight === true,
  wrong: ({ isRight }) => isRight === false,
};
const nameOf = ({ labels }) => (labels.length > 0 ? data.concepts[labels[0].concept] : null);
const similarityOf = ({ labels }) => labels[0]?.similarity ?? -Infinity;
const byIndex = (a, b) => a.index - b.index;
const ORDERS = {
  index: byIndex,
  // -Infinity minus itself is NaN, which falls through to the index as 0 does.
  similarity: (a, b) => similarityOf(b) - similarityOf(a) || byIndex(a, b),
  label: (a, b) => {
    const [first, second] = [nameOf(a), nameOf(b)];
    if (first === null || second === null) return (first === null) - (second === null) || byIndex(a, b);
    return collator.compare(first, second) || byIndex(a, b);
  },
};

let queue = []; // what is still to be drawn: [section, neuron], neuron null for an empty layer
let isHit = () => false;
const observer = new IntersectionObserver(([{ isIntersecting }]) => {
  if (isIntersecting) draw(BATCH);
}, { rootMargin: "1500px" });

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [name, control] of Object.entries(controls)) {
    control.value = given.get(name) ?? DEFAULTS[name];
    if (control.value === "" && DEFAULTS[name] !== "") control.value = DEFAULTS[name]; // an unknown choice
  }
}

function writeAddress() {
  const state = Object.entries(controls).map(([name, control]) => [name, control.value]);
  const changed = state.filter(([name, value]) => value !== DEFAULTS[name]);
  history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
}

/** A test for a neuron, from what is typed: `dog` in part, `"dog"` exactly, `#17` by index. */
function search(text, rank) {
  const query = text.trim().toLowerCase();
  const number = /^#(\d+)$/.exec(query);
  isHit = () => false;
  if (query === "") return () => true;
  if (number) return ({ index }) => index === Number(number[1]);
  const exact = /^"(.+)"$/.exec(query);
  const hits = folded.map((concept) => (exact ? concept === exact[1] : concept.includes(query)));
  isHit = (concept) => hits[concept];
  return ({ labels }) => (rank === "first" ? labels.slice(0, 1) : labels).some(({ concept }) => hits[concept]);
}

/** Start over: find, order, draw the first batch. */
function show() {
  const { q, rank, layer, show: kind, sort } = controls;
  const matches = search(q.value, rank.value);
  const isPlain = q.value.trim() === "" && kind.value === "all";
  queue = [];
  sections.forEach((section, number) => {
    section.hidden = true;
    section.querySelector(".neurons").replaceChildren();
    if (layer.value !== "" && layer.value !== layers[number].name) return;
    const found = layers[number].neurons.filter((neuron) => KINDS[kind.value](neuron) && matches(neuron));
    found.sort(ORDERS[sort.value]);
    for (const neuron of found) queue.push([section, neuron]);
    if (found.length === 0 && isPlain) queue.push([section, null]);
  });
  const count = queue.filter(([, neuron]) => neuron !== null).length;
  const all = total.toLocaleString("en");
  document.getElementById("none").hidden = count > 0 || total === 0;
  document.getElementById("status").textContent =
    count === total ? `${all} neurons` : count === 0 ? "No neuron matches" : `${count.toLocaleString("en")} of ${all} neurons`;
  draw(BATCH);
}

function draw(number) {
  for (const [section, neuron] of queue.splice(0, number)) {
    section.hidden = false;
    if (neuron !== null) section.querySelector(".neurons").append(card(neuron, isHit));
  }
  more.hidden = queue.length === 0;
  // An observer speaks only when something changes; asked anew, it also says "still in view".
  observer.unobserve(more);
  observer.observe(more);
}

/** After a change the results start at their top again, but the page above them is left in peace. */
function returnToTop() {
  if (main.getBoundingClientRect().top < 0) main.scrollIntoView();
}

toolbar.hidden = false;
toolbar.addEventListener("input", () => { writeAddress(); show(); returnToTop(); });
addEventListener("hashchange", () => {
  if (location.hash === "#neurons") return; // the skip link
  readAddress(); show(); main.scrollIntoView();
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, select")) return;
  event.preventDefault();
  controls.q.focus();
});
addEventListener("beforeprint", () => {
  draw(PRINT_LIMIT - main.querySelectorAll(".neuron").length);
  more.dataset.left = queue.length.toLocaleString("en"); // said at the end of the printed list
});
new ResizeObserver(() => {
  document.documentElement.style.setProperty("--toolbar", `${toolbar.offsetHeight}px`);
}).observe(toolbar);
document.getElementById("more-button").addEventListener("click", () => draw(BATCH));
readAddress();
show();
