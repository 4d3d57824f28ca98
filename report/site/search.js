// The box of the front door: what has every word that was typed; what is called so first, then pages.
const query = document.getElementById("query");
const [count, found] = [query.form.querySelector("p"), document.getElementById("found")];
const entries = JSON.parse(document.getElementById("index").textContent);
const SHOWN = 12;

const SIGNS = { ε: "epsilon", ϵ: "epsilon", σ: "sigma", α: "alpha", δ: "delta", "∞": "inf" };
const plain = (text) => text.toLowerCase().replace(/[εϵσαδ∞]/g, (sign) => SIGNS[sign]);

function search() {
  const words = plain(query.value).split(/\s+/).filter(Boolean);
  const has = (entry, word) => plain(`${entry.title} ${entry.place} ${entry.text}`).includes(word);
  const isPart = (entry) => entry.address.includes("#");
  const names = (entry) => plain(isPart(entry) ? entry.title : `${entry.title} ${entry.place}`);
  const rank = (entry) => 2 * !names(entry).includes(words[0]) + isPart(entry);
  const hits = words.length ? entries.filter((entry) => words.every((word) => has(entry, word))) : [];
  hits.sort((one, other) => rank(one) - rank(other));
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
