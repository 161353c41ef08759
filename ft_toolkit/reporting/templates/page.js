"use strict";
// Probabilities of a token on hover, tap and focus; arrow keys move from token to token inside a passage.
const readout = document.getElementById("readout");
const percent = (nats) => {
  const value = 100 * Math.exp(-nats);
  if (value < 0.0001) return "under 0.0001 %";
  return `${value >= 10 ? value.toFixed(0) : Number(value.toPrecision(2))} %`;
};
const times = (gain) => {
  const ratio = Math.exp(Math.abs(gain));
  if (ratio < 1.005) return "no change";
  const shown = ratio >= 1e6 ? "over a million" : ratio >= 10 ? Math.round(ratio).toLocaleString("en") : ratio.toFixed(ratio < 2 ? 2 : 1);
  return `${shown} times ${gain > 0 ? "as likely" : "less likely"}`;
};
function show(token) {
  const [base, tuned] = token.dataset.n.split(" ").map(Number);
  readout.textContent = `“${token.textContent.trim()}” ${times(base - tuned)}\nbase ${percent(base)} → tuned ${percent(tuned)}`;
  const at = token.getClientRects()[0], own = readout.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left), document.documentElement.clientWidth - own.width - 8);
  const above = at.top - own.height - 6;
  readout.style.left = `${left}px`;
  readout.style.top = `${above > 4 ? above : at.bottom + 6}px`;
}
const hide = () => { if (readout) readout.textContent = ""; };
// moving the focus scrolls: what is said moves along
const moved = () => document.activeElement.matches("b[data-n]") ? show(document.activeElement) : hide();
function watch(text) {
  const tokens = [...text.querySelectorAll("b[data-n]")];
  text.addEventListener("mouseover", (event) => { const token = event.target.closest("b[data-n]"); token ? show(token) : hide(); });
  text.addEventListener("mouseleave", hide);
  text.addEventListener("focusin", (event) => { if (event.target.matches("b[data-n]")) show(event.target); });
  text.addEventListener("focusout", hide);
  text.addEventListener("scroll", moved);
  text.addEventListener("click", (event) => { const token = event.target.closest("b[data-n]"); if (token) { token.tabIndex = -1; token.focus(); } });
  text.addEventListener("keydown", (event) => {
    const filter = text.closest("[data-filter]").dataset.filter;
    const own = filter === "all" ? tokens : tokens.filter((token) => token.classList.contains(filter));
    const here = own.indexOf(document.activeElement);
    const next = { ArrowRight: here + 1, ArrowLeft: here < 0 ? 0 : here - 1, Home: 0, End: own.length - 1 }[event.key];
    if (event.key === "Escape") { hide(); text.focus(); return; }
    if (next === undefined || !own[next]) return;
    event.preventDefault();
    own[next].tabIndex = -1;
    own[next].focus();
  });
}
for (const text of document.querySelectorAll(".text")) watch(text);
addEventListener("scroll", moved, { passive: true });
for (const input of document.querySelectorAll(".filters input"))
  input.addEventListener("change", () => { document.getElementById("map").dataset.filter = input.value; });
// Tables that sort by a column.
for (const button of document.querySelectorAll("th button"))
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.children[head.cellIndex].dataset.key ?? row.children[head.cellIndex].textContent;
    const compare = (a, b) => (isNaN(key(a)) || isNaN(key(b)) ? key(a).localeCompare(key(b)) : key(a) - key(b));
    body.append(...[...body.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b))));
  });
// On paper everything is open.
addEventListener("beforeprint", () => { for (const each of document.querySelectorAll("details")) each.open = true; });
