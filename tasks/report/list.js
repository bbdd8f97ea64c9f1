// A list of any length, of which only the rows in view exist. All rows are equally high, as the style sheet says.

const OVERSCAN = 4; // rows above and below the view

class VirtualList {
  constructor(list, draw) {
    this.list = list;
    this.draw = draw; // a row's element, by its place in the index
    this.places = [];
    this.rows = new Map(); // by position in `places`
    this.current = 0; // the position that keys move from
    this.waiting = 0;
    this.isUnrolled = false;
    const measure = element("li", { class: "neuron measure", "aria-hidden": "true" });
    list.before(element("ol", { class: "neurons", hidden: "" }));
    this.ruler = list.previousElementSibling;
    this.ruler.append(measure);
    addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.resize()).observe(document.documentElement);
  }

  later() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.render();
    });
  }

  resize() {
    if (this.list.offsetParent === null || this.isUnrolled) return;
    const height = this.measured();
    if (height === this.height) return this.later();
    const { current } = this;
    this.show(this.places);
    this.current = current;
  }

  measured() {
    this.ruler.hidden = false;
    const height = this.ruler.firstElementChild.offsetHeight;
    this.ruler.hidden = true;
    return height;
  }

  /** Other rows, from the first. */
  show(places) {
    this.places = places;
    this.current = 0;
    this.height = this.measured();
    this.list.style.height = `${this.height * places.length}px`;
    this.rows.clear();
    this.list.replaceChildren();
    this.render();
  }

  render() {
    if (this.list.offsetParent === null || this.height === 0 || this.isUnrolled) return; // the card is shown, or paper
    const top = -this.list.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / this.height) - OVERSCAN);
    const end = Math.min(this.places.length, Math.ceil((top + innerHeight) / this.height) + OVERSCAN);
    this.keep(first, end);
  }

  /** Rows `[first, end)` and the one that has the focus, in order. */
  keep(first, end) {
    for (const [position, row] of this.rows) {
      if ((position < first || position >= end) && !row.contains(document.activeElement)) {
        row.remove();
        this.rows.delete(position);
      }
    }
    for (let position = first; position < end; position += 1) {
      if (!this.rows.has(position)) this.insert(position);
    }
  }

  insert(position) {
    const row = this.draw(this.places[position]);
    row.style.transform = `translateY(${position * this.height}px)`;
    row.setAttribute("aria-setsize", this.places.length);
    row.setAttribute("aria-posinset", position + 1);
    row.dataset.position = position;
    const after = [...this.list.children].find((other) => Number(other.dataset.position) > position);
    this.list.insertBefore(row, after ?? null); // in the order that readers hear
    this.rows.set(position, row);
  }

  /** Scrolls a row into view and gives it the focus. */
  focus(position) {
    if (this.places.length === 0) return;
    if (this.measured() !== this.height) this.show(this.places); // another size of window since it was hidden
    this.current = Math.max(0, Math.min(this.places.length - 1, position));
    const above = document.documentElement.style.getPropertyValue("--covered");
    const top = this.list.getBoundingClientRect().top + this.current * this.height;
    const covered = (parseFloat(above) || 0) + 4;
    if (top < covered) scrollBy(0, top - covered);
    else if (top + this.height > innerHeight) scrollBy(0, top + this.height - innerHeight);
    this.render();
    if (!this.rows.has(this.current)) this.insert(this.current);
    this.rows.get(this.current).querySelector("a").focus({ preventScroll: true });
  }

  /** The first rows all at once, as paper has no scrolling; how many are left out. */
  unroll(most) {
    this.isUnrolled = true;
    this.keep(0, Math.min(most, this.places.length));
    return Math.max(0, this.places.length - most);
  }

  rollUp() {
    this.isUnrolled = false;
    this.render();
  }
}
