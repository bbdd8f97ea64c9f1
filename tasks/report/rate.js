// One question after another. Every string from the data becomes a text node, never HTML.

const byId = (id) => document.getElementById(id);
const sections = ["begin", "ask", "end"].map(byId);
const buttons = [...document.querySelectorAll("[data-rating]")];
const ratingOf = Object.fromEntries(Object.entries(data.answers).map(([rating, key]) => [key, rating]));
const last = data.questions.length - 1;

let rater = "";
let ratings = new Map();
let position = 0;
let seen = 0; // seconds that this question was in view before it was hidden
let since = 0; // when it came into view

const now = () => performance.now() / 1000;
const firstUnrated = () => data.questions.findIndex(([item]) => !ratings.has(item));

function showSection(id) {
  for (const section of sections) section.hidden = section.id !== id;
  byId("status").hidden = id === "begin";
  scrollTo(0, 0);
}

function showProgress() {
  byId("progress").value = ratings.size;
  byId("count").textContent = `${ratings.size.toLocaleString("en")} of ${data.questions.length.toLocaleString("en")}`;
  byId("who").textContent = rater;
  byId("export").disabled = ratings.size === 0;
  byId("undo").disabled = ratings.size === 0;
  byId("trouble").hidden = isKept;
  byId("trouble").textContent = "This browser keeps nothing of this page: save your ratings before you close it.";
}

function image(number, rank) {
  const node = document.createElement("img");
  node.src = `data:image/jpeg;base64,${data.thumbnails[number]}`;
  node.alt = `Image ${rank + 1}`; // its file name would say too much
  const entry = document.createElement("li");
  entry.append(node);
  return entry;
}

function ask(number) {
  position = Math.max(0, Math.min(last, number));
  const [item, concept, images] = data.questions[position];
  byId("concept").textContent = concept;
  byId("images").replaceChildren(...images.map(image));
  for (const button of buttons) {
    button.setAttribute("aria-pressed", String(ratings.get(item)?.rating === button.dataset.rating));
  }
  byId("back").disabled = position === 0;
  byId("next").disabled = position === last;
  showSection("ask");
  showProgress();
  byId("question").focus({ preventScroll: true });
  seen = 0;
  since = now();
}

function askNext(number) {
  const unrated = firstUnrated();
  if (number <= last) return ask(number);
  if (unrated >= 0) return ask(unrated);
  showSection("end");
  showProgress();
  return byId("end").querySelector("h1").focus();
}

function rate(rating) {
  const [item] = data.questions[position];
  const seconds = seen + (document.hidden ? 0 : now() - since);
  ratings.delete(item); // so that it is the last one again
  ratings.set(item, { rating, seconds });
  keepRatings(rater, ratings);
  askNext(position + 1);
}

function undo() {
  const item = [...ratings.keys()].at(-1);
  if (item === undefined) return;
  ratings.delete(item);
  keepRatings(rater, ratings);
  ask(data.questions.findIndex(([known]) => known === item));
}

function begin(name) {
  rater = name;
  keep(RATER, rater);
  ratings = ratingsOf(rater);
  const unrated = firstUnrated();
  askNext(unrated >= 0 ? unrated : last + 1);
}

function introduce() {
  byId("rater").value = rater;
  showSection("begin");
  byId("rater").focus();
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = byId("rater").value.trim();
  if (name !== "") begin(name);
});
for (const button of buttons) button.addEventListener("click", () => rate(button.dataset.rating));
byId("back").addEventListener("click", () => ask(position - 1));
byId("next").addEventListener("click", () => ask(position + 1));
byId("undo").addEventListener("click", undo);
byId("change").addEventListener("click", introduce);
byId("review").addEventListener("click", () => ask(0));
for (const id of ["export", "export-end"]) byId(id).addEventListener("click", () => save(rater, ratings));

addEventListener("keydown", (event) => {
  // A key that is held down rates once.
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || byId("begin").hidden === false) return;
  const isAsked = !byId("ask").hidden;
  const key = event.key.toLowerCase();
  if (isAsked && Object.hasOwn(ratingOf, key)) rate(ratingOf[key]);
  else if (key === "u") undo();
  else if (isAsked && key === "arrowleft") ask(position - 1);
  else if (isAsked && key === "arrowright") ask(position + 1);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) seen += now() - since;
  else since = now();
});
addEventListener("storage", ({ key }) => {
  if (key !== place(rater)) return;
  ratings = ratingsOf(rater); // another window with this page rated
  showProgress();
});

const known = kept(RATER);
if (known) begin(known);
else introduce();
showProgress();
