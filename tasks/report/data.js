// Data comes as scripts: a page that is opened from disk may load those, and nothing else.

const arrived = new Map(); // by name
const awaited = new Map(); // name: promise

/** What every script of data/ calls. */
function put(name, value) {
  arrived.set(name, value);
}

/** Loads a script of data/ once; its value, or null where it is not there, which the page then says. */
function load(name) {
  if (!awaited.has(name)) {
    awaited.set(name, new Promise((resolve) => {
      const script = element("script", { src: `${page.base}${name}.js` });
      script.addEventListener("load", () => resolve(arrived.get(name) ?? null));
      script.addEventListener("error", () => resolve(lost(name)));
      document.head.append(script);
      script.remove(); // it runs all the same
    }));
  }
  return awaited.get(name);
}

function lost(name) {
  byId("trouble").hidden = false;
  byId("trouble").textContent = `data/${name}.js cannot be read. Copy the whole folder report/, or make it anew: clip-dissect report.`;
  return null;
}
