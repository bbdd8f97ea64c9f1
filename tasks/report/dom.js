"use strict";
// Elements and numbers. Every string from the data becomes a text node or a plain attribute, never HTML.

const page = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function filledWith(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** An element with attributes, of which null ones are left out, and children; one that is a string becomes text. */
const element = (tag, attributes = {}, ...children) => filledWith(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  filledWith(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const minus = (text) => text.replace("-", "−");
const fixed = (value, digits = 2) => (value === null ? "–" : minus(value.toFixed(digits)));
const short = (value, digits = 4) => (value === null ? "–" : minus(String(Number(value.toPrecision(digits)))));
const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** Whether a key is meant for the page, not for a field or a shortcut of the browser. */
const isForPage = (event) => !(event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, select, textarea"));
