// The box of the front door: what has every word that was typed, those with the first in the title first.
const query = document.getElementById("query");
const [count, found] = [query.form.querySelector("p"), document.getElementById("found")];
const entries = JSON.parse(document.getElementById("index").textContent);
const SHOWN = 12;

function search() {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  const has = (entry, word) => `${entry.title} ${entry.place} ${entry.text}`.toLowerCase().includes(word);
  const late = (entry) => !entry.title.toLowerCase().includes(words[0]);
  const hits = words.length ? entries.filter((entry) => words.every((word) => has(entry, word))) : [];
  hits.sort((one, other) => late(one) - late(other));
  found.replaceChildren(...hits.slice(0, SHOWN).map(line));
  const more = hits.length > SHOWN ? `, the first ${SHOWN} shown` : "";
  count.textContent = words.length ? `${hits.length || "Nothing"} found${more}` : "";
}

function line(entry) {
  const [item, link, rest] = ["li", "a", "span"].map((tag) => document.createElement(tag));
  link.href = entry.address;
  link.textContent = entry.title;
  rest.textContent = ` · ${[entry.place, entry.text].filter(Boolean).join(" · ")}`;
  item.append(link, rest);
  return item;
}

query.form.hidden = false; // without a script there is no box
query.addEventListener("input", search);
query.form.addEventListener("submit", (event) => {
  event.preventDefault();
  found.querySelector("a")?.click(); // Enter opens the first
});
search(); // what a browser kept when one comes back
