// Figures that are judged at a glance: bars, a histogram, how likely a label is against how likely it is of any neuron.

/** A bar from the left of its track; `cut`, a share of it too, is marked. */
function bar(share, cut = null) {
  const width = Math.max(0, Math.min(1, share)) * 100;
  const marked = cut !== null && cut > 0 && cut < 1;
  return svg("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "rail", y: 1, width: 100, height: 4, rx: 1 }),
    svg("rect", { y: 1, width: width.toFixed(2), height: 4, rx: 1 }),
    ...(marked ? [svg("line", { x1: (cut * 100).toFixed(2), x2: (cut * 100).toFixed(2), y1: -3, y2: 9 })] : []));
}

/** A bar from the middle: to the right where the share is positive, else to the left. */
function signedBar(share) {
  const width = Math.min(1, Math.abs(share)) * 50;
  return svg("svg", { class: share < 0 ? "bar negative" : "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "rail", y: 1, width: 100, height: 4, rx: 1 }),
    svg("rect", { x: (share < 0 ? 50 - width : 50).toFixed(2), y: 1, width: width.toFixed(2), height: 4 }),
    svg("line", { x1: 50, x2: 50, y1: -2, y2: 8 }));
}

/** From prior (stroke) to likelihood (dot) on an axis from `low` to `high`: what lies between is the gain. */
function gain(prior, likelihood, low, high) {
  const at = (value) => (4 + 92 * (high > low ? (value - low) / (high - low) : 0.5)).toFixed(2);
  return svg("svg", { class: likelihood < prior ? "gain negative" : "gain", viewBox: "0 0 100 12", "aria-hidden": "true" },
    svg("line", { class: "axis", x1: 0, x2: 100, y1: 6, y2: 6 }),
    svg("line", { x1: at(prior), x2: at(likelihood), y1: 6, y2: 6 }),
    svg("circle", { cx: at(likelihood), cy: 6, r: 3.5 }),
    svg("line", { class: "prior", x1: at(prior), x2: at(prior), y1: 0, y2: 12 }));
}

const BINS = 40;

/** Counts of values in `BINS` bins from the least to the greatest. */
function binned(values) {
  const known = values.filter((value) => value !== null);
  const low = known.reduce((a, b) => Math.min(a, b), Infinity);
  const high = known.reduce((a, b) => Math.max(a, b), -Infinity);
  const counts = new Array(BINS).fill(0);
  const width = (high - low) / BINS || 1;
  for (const value of known) counts[Math.min(BINS - 1, Math.floor((value - low) / width))] += 1;
  return { low, high: high > low ? high : low + 1, counts };
}

/** A histogram 400 × `height`: bars of `[left, right, share]`, all three from 0 to 1. */
function bars(parts, height, ...marks) {
  return svg("svg", { class: "bars", viewBox: `0 0 400 ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    ...parts.map(([left, right, share]) => {
      const tall = share > 0 ? Math.max(1.5, share * height) : 0;
      const gap = Math.min(1.5, (right - left) * 80);
      return svg("rect", { x: (left * 400).toFixed(1), y: (height - tall).toFixed(1), width: Math.max(0.5, (right - left) * 400 - gap).toFixed(1), height: tall.toFixed(1) });
    }), ...marks);
}

/** A neuron's activations: counts grow by logarithm, for most images activate it little. */
function activationFigure([mean, std, minimum, maximum, edges, counts]) {
  const [low, high] = [edges[0], edges.at(-1)];
  const width = high - low || 1;
  const tallest = Math.log1p(counts.reduce((a, b) => Math.max(a, b), 1));
  const parts = counts.map((count, i) =>
    [(edges[i] - low) / width, (edges[i + 1] - low) / width, Math.log1p(count) / tallest]);
  const at = ((mean - low) / width) * 400;
  const images = counts.reduce((a, b) => a + b, 0);
  return element("figure", { class: "activations" },
    bars(parts, 90, svg("line", { x1: at.toFixed(1), x2: at.toFixed(1), y1: 0, y2: 90 })),
    element("p", { class: "axis", "aria-hidden": "true" }, element("span", {}, short(low, 3)), element("span", {}, short(high, 3))),
    element("figcaption", {},
      `${counted(images, "image")}: mean ${short(mean, 3)} (the line), deviation ${short(std, 3)}, from ${short(minimum, 3)} to ${short(maximum, 3)}. Heights are logarithms of counts.`));
}
