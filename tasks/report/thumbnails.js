// Images come in chunks as well; one that is shown before its chunk is there fills in when it comes.

const imageChunk = (image) => Math.floor(image / page.imagesPerChunk);

function fill(slot, [key, jpeg], activation) {
  const title = `${key}\nactivation ${short(activation)}`;
  if (jpeg === null) {
    slot.replaceChildren(element("span", { class: "missing", title, role: "img", "aria-label": key }, key));
  } else {
    const src = `data:image/jpeg;base64,${jpeg}`;
    slot.replaceChildren(element("img", { src, alt: key, title, width: 96, height: 96, decoding: "async" }));
  }
}

/** A list item with an image. */
function thumbnail(image, activation) {
  const slot = element("li");
  const chunk = imageChunk(image);
  const show = (images) => { if (images !== null) fill(slot, images[image % page.imagesPerChunk], activation); };
  const ready = arrived.get(`images-${chunk}`);
  if (ready) show(ready);
  else load(`images-${chunk}`).then(show);
  return slot;
}

/** A flat list of images and activations, at most so many of it, as an ordered list. */
function imageList(flat, label, most = Infinity) {
  const list = element("ol", { class: "images", "aria-label": label });
  for (let i = 0; i < Math.min(flat.length, 2 * most); i += 2) list.append(thumbnail(flat[i], flat[i + 1]));
  return list;
}
