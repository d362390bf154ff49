"use strict";
// Prompts and completions are untrusted: they enter the page as text nodes only.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("list");
  if (!list) return;
  const detail = document.getElementById("detail");
  const count = document.getElementById("count");
  const search = document.getElementById("search");
  const sort = document.getElementById("sort");
  const names = new Intl.Collator("en", { numeric: true });
  const [low, high] = data.range;
  const prompts = data.prompts;
  let shown = [];
  let chosen = null;

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const draw = (tag, attributes) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const number = (value) => {
    const digits = Math.max(high, -low) >= 100 ? 1 : Math.max(high, -low) >= 10 ? 2 : 3;
    return minus(value.toFixed(digits));
  };
  const minus = (text) => text.replace("-", "\u2212");
  const signed = (value) => (value > 0 ? "+" : "") + number(value);
  const mean = (rows) => rows.reduce((sum, row) => sum + row[0], 0) / rows.length;
  const words = (prompt) =>
    (prompt.words ??= [prompt.id, prompt.text, ...prompt.sides.flatMap((s) => s.rows.map((r) => r[1]))]
      .join("\n").toLowerCase());
  const splitName = (prompt) => (prompt.split === "train" ? "training" : "held out");
  const isRanked = (prompt) => prompt.split === "train" && !prompt.tied;
  const colour = (side) => (data.colours[side.name] ? `var(--${data.colours[side.name]})` : "var(--muted)");

  // Rewards as dots on one scale, the same for every prompt.
  function strip(prompt, sides) {
    const height = 7 * sides.length;
    const svg = draw("svg", { class: "strip", viewBox: `0 0 200 ${Math.max(14, height)}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    const place = (reward) => 3 + (194 * (reward - low)) / (high - low || 1);
    const step = Math.max(14, height) / sides.length;
    sides.forEach((side, index) => {
      const y = step * (index + 0.5);
      svg.append(draw("line", { x1: 0, x2: 200, y1: y, y2: y, "vector-effect": "non-scaling-stroke" }));
      const dots = (rows, stroke, opacity) => {
        const d = rows.map((row) => `M${place(row[0]).toFixed(1)} ${y}h0`).join("");
        svg.append(draw("path", { d, stroke, "stroke-width": 6, "stroke-opacity": opacity, "vector-effect": "non-scaling-stroke" }));
      };
      dots(side.rows, colour(side), 0.6);
      if (isRanked(prompt)) dots(side.rows.slice(0, 1), "var(--blue)", 1);
    });
    return svg;
  }

  // Text with every occurrence of the search marked, built from text nodes.
  function marked(element, text, wanted) {
    const lower = text.toLowerCase();
    if (!wanted || lower.length !== text.length) {
      element.textContent = text;
      return element;
    }
    let from = 0;
    for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
      element.append(text.slice(from, at), make("mark", "", text.slice(at, at + wanted.length)));
      from = at + wanted.length;
    }
    element.append(text.slice(from));
    return element;
  }

  function row(prompt, index) {
    const element = make("div", "row");
    element.id = `row-${index}`;
    element.setAttribute("role", "option");
    element.setAttribute("aria-selected", "false");
    element.append(make("div", "request", prompt.text));
    const facts = make("div", "facts");
    facts.append(make("span", "", prompt.split === "train" ? number(prompt.gap) : signed(prompt.gap)));
    facts.append(strip(prompt, prompt.sides));
    element.append(facts);
    element.addEventListener("click", () => choose(prompt, { open: true }));
    return element;
  }
  const rowOf = (prompt) => (prompt.row ??= row(prompt, prompts.indexOf(prompt)));

  // Facts in small print; a line may break between them only.
  function line(facts, first) {
    const element = make("p", "meta");
    const parts = facts.map((fact) => make("span", "", fact));
    for (const part of first ? [first, ...parts] : parts) element.append(element.firstChild ? " · " : "", part);
    return element;
  }

  function answer(side, entry, index, prompt, wanted) {
    const [reward, text, tokens, cut, logprob] = entry;
    const ranked = isRanked(prompt);
    const rank = ranked && index === 0 ? "best" : ranked && index === side.rows.length - 1 ? "worst" : "";
    const item = make("li", rank);
    item.append(make("span", "reward", number(reward)));
    const body = make("div");
    body.append(text ? marked(make("p", "said"), text, wanted) : make("p", "said meta", "(an empty answer)"));
    const facts = [`${tokens} token${tokens === 1 ? "" : "s"}`, cut ? "cut at the limit" : "ended by itself", `log-probability ${minus(logprob.toFixed(1))}`];
    body.append(line(facts, rank && make("span", "badge", rank)));
    item.append(body);
    return item;
  }

  function column(side, prompt, wanted) {
    const element = make("section");
    const title = make("h4");
    const name = make("span", "", prompt.split === "train" ? `${side.rows.length} draws of the base` : side.name);
    name.style.color = colour(side);
    title.append(name, make("small", "", `mean ${number(mean(side.rows))}`));
    const answers = make("ol", "answers");
    answers.append(...side.rows.map((entry, index) => answer(side, entry, index, prompt, wanted)));
    element.append(title, strip(prompt, [side]), answers);
    return element;
  }

  function show(prompt) {
    if (!prompt) {
      detail.replaceChildren(make("p", "none", "No prompt matches."));
      return;
    }
    const wanted = search.value.trim().toLowerCase();
    const top = make("div", "top");
    const about = prompt.split === "train"
      ? prompt.tied ? "all rewards tie: no preference to learn from" : `best − worst ${number(prompt.gap)}`
      : `${data.trained} − base ${signed(prompt.gap)}`;
    const steps = make("div", "steps");
    for (const [sign, by, label] of [["\u2190", -1, "Previous prompt"], ["\u2192", 1, "Next prompt"]]) {
      const button = make("button", "", sign);
      button.type = "button";
      button.setAttribute("aria-label", label);
      button.addEventListener("click", () => move(by));
      steps.append(button);
    }
    top.append(line([prompt.id, splitName(prompt), about, `spread ${number(prompt.spread)}`]), steps);
    const sides = make("div", "sides");
    sides.append(...prompt.sides.map((side) => column(side, prompt, wanted)));
    detail.replaceChildren(top, marked(make("h3"), prompt.text, wanted), sides);
    detail.scrollTop = 0;
  }

  function choose(prompt, { open = false } = {}) {
    if (chosen) rowOf(chosen).setAttribute("aria-selected", "false");
    chosen = prompt;
    show(prompt);
    if (!prompt) {
      list.removeAttribute("aria-activedescendant");
      return;
    }
    const element = rowOf(prompt);
    element.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", element.id);
    const box = element.getBoundingClientRect(), frame = list.getBoundingClientRect();
    if (box.top < frame.top) list.scrollTop += box.top - frame.top;
    if (box.bottom > frame.bottom) list.scrollTop += box.bottom - frame.bottom;
    if (open && matchMedia("(max-width: 44rem)").matches) detail.scrollIntoView({ block: "start" });
  }

  function move(by) {
    const at = shown.indexOf(chosen);
    const next = shown[Math.min(shown.length - 1, Math.max(0, at + by))];
    if (next && next !== chosen) choose(next);
  }

  const orders = {
    id: (a, b) => names.compare(a.id, b.id),
    gap: (a, b) => b.gap - a.gap,
    "-gap": (a, b) => a.gap - b.gap,
    spread: (a, b) => b.spread - a.spread,
  };

  function refresh({ fresh = false } = {}) {
    const wanted = search.value.trim().toLowerCase();
    const split = document.querySelector("#split :checked").value;
    shown = prompts.filter((p) => (!split || p.split === split) && (!wanted || words(p).includes(wanted)));
    shown.sort((a, b) => orders[sort.value](a, b) || orders.id(a, b));
    list.replaceChildren(...shown.map(rowOf));
    count.textContent = `${shown.length} of ${data.total} prompts`;
    if (fresh) list.scrollTop = 0;
    choose(!fresh && shown.includes(chosen) ? chosen : shown[0] ?? null);
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target === search) {
      search.value = "";
      refresh();
      list.focus();
    } else if (event.target.matches("input[type=search], select")) {
      return;
    } else if (event.key === "/") {
      search.focus();
      search.select();
    } else if (event.key === "j" || event.key === "k") {
      list.focus({ preventScroll: true });
      list.closest(".panes").scrollIntoView({ block: "nearest" });
      move(event.key === "j" ? 1 : -1);
    } else if (event.target === list && ["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) {
      move({ ArrowDown: 1, ArrowUp: -1, Home: -shown.length, End: shown.length }[event.key]);
    } else {
      return;
    }
    event.preventDefault();
  }

  // Without held-out candidates the page opens on what there is.
  if (!prompts.some((p) => p.split === "eval")) document.querySelector("#split [value='']").checked = true;
  search.addEventListener("input", () => refresh());
  sort.addEventListener("change", () => refresh({ fresh: true }));
  document.getElementById("split").addEventListener("change", () => refresh({ fresh: true }));
  document.addEventListener("keydown", onKey);
  refresh();
})();
