// What is typed, as a test of neurons: `dog` in part, `"dog"` exactly, `#17` by index.

const folded = (text) => text.toLowerCase();

/** Which concepts of a layer's index a text hits, as flags; null where it asks for no concept. */
function hits(index, text) {
  const query = folded(text.trim());
  if (query === "" || /^#\d+$/.test(query)) return null;
  const exact = /^"(.+)"$/s.exec(query);
  index.folded ??= index.concepts.map(folded);
  return Uint8Array.from(index.folded, (concept) => (exact ? concept === exact[1] : concept.includes(query)));
}

/** Just the concept of that name. */
const hitsOf = (index, name) => Uint8Array.from(index.concepts, (concept) => concept === name);

/** A test of neurons by their place in the index: as `matcher`, of what is typed. */
function matcherOf(index, text, isFirst) {
  const number = /^\s*#(\d+)\s*$/.exec(text);
  if (number) return (place) => index.neurons[place] === Number(number[1]);
  return matcher(index, hits(index, text), isFirst);
}

/** A test whether a neuron's labels, or with `isFirst` its first, are among the concepts hit; null hits all. */
function matcher(index, hit, isFirst) {
  if (hit === null) return () => true;
  const { labels, ranks } = index;
  const width = isFirst ? Math.min(1, ranks) : ranks;
  return (place) => {
    for (let i = place * ranks; i < place * ranks + width; i += 1) {
      if (labels[i] >= 0 && hit[labels[i]]) return true;
    }
    return false;
  };
}

/** The first label of a neuron, or null. */
const firstLabel = (index, place) =>
  (index.ranks > 0 && index.labels[place * index.ranks] >= 0 ? index.concepts[index.labels[place * index.ranks]] : null);
