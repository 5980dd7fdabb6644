"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // Save a text as a file.
  const save = (name, type, text) => {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = make("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };
  const csvCell = (value) => {
    let text = value == null ? "" : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = "'" + text; // no formula
    return /[",\n\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  };
  const csv = (rows) => rows.map((row) => row.map(csvCell).join(",") + "\n").join("");

  for (const table of document.querySelectorAll("table.data")) {
    const button = make("button", { type: "button", className: "save", textContent: "Save as CSV" });
    button.setAttribute("aria-label", "Save as CSV: " + table.caption.textContent);
    button.addEventListener("click", () => {
      const rows = [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent));
      save(table.id + ".csv", "text/csv", csv(rows));
    });
    table.parentElement.after(button);
  }
  $("downloads").hidden = false;
  $("json").addEventListener("click", () =>
    save("report.json", "application/json", JSON.stringify(data.raw, null, 1)));

  // Values where the pointer is: the nearest point of the figure.
  const tip = $("tip");
  for (const [id, points] of Object.entries(data.hover)) {
    const svg = $(id).querySelector(".plot > svg");
    const dot = document.createElementNS(svg.namespaceURI, "circle");
    dot.setAttribute("class", "dot");
    dot.setAttribute("r", 5);
    const leave = () => { tip.hidden = true; dot.remove(); };
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let best = null, least = 20;
      for (const point of points) {
        const distance = Math.hypot(point[0] - at.x, point[1] - at.y);
        if (distance < least) [best, least] = [point, distance];
      }
      if (!best) return leave();
      dot.setAttribute("cx", best[0]);
      dot.setAttribute("cy", best[1]);
      svg.append(dot);
      tip.textContent = best[2];
      tip.hidden = false;
      const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
      const below = event.clientY + 18 + tip.offsetHeight < innerHeight;
      tip.style.left = Math.max(8, left) + "px";
      tip.style.top = event.clientY + (below ? 18 : -12 - tip.offsetHeight) + "px";
    });
  }

  // Curves of single seeds, shown or not.
  for (const group of document.querySelectorAll(".seeds")) {
    const figure = group.closest("figure"), buttons = [...group.querySelectorAll("[data-seed]")];
    const show = (button, on) => {
      button.setAttribute("aria-pressed", on);
      for (const curve of figure.querySelectorAll(`.seed[data-seed="${button.dataset.seed}"]`)) {
        curve.classList.toggle("off", !on);
      }
    };
    group.hidden = false;
    group.addEventListener("click", ({ target }) => {
      if ("all" in target.dataset) buttons.forEach((button) => show(button, Boolean(target.dataset.all)));
      else if ("seed" in target.dataset) show(target, target.getAttribute("aria-pressed") !== "true");
    });
  }

  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      addEventListener("afterprint", () => { details.open = false; }, { once: true });
    }
  });

  if (data.examples) browse(data.examples);

  function browse({ columns, wrong }) {
    const PAGE = 50, n = columns[0].values.length, body = $("browser").tBodies[0];
    const column = (key) => columns.find((one) => one.key === key);
    const plain = (one, i) => (one.names && one.values[i] != null ? one.names[one.values[i]] : one.values[i]);
    const texts = columns.filter((one) => one.kind === "code");
    const haystack = Array.from({ length: n }, (_, i) =>
      texts.map((one) => one.values[i] ?? "").join("\n").toLowerCase());
    const state = { page: 0, sort: null, down: false, text: "", names: {}, right: "" };
    let order = [];

    const cell = (one, i) => {
      const value = plain(one, i), td = make("td", { className: one.kind });
      if (value == null) td.textContent = "–";
      else if (one.kind === "share") td.textContent = (100 * value).toFixed(0) + " %";
      else if (one.kind === "bits") td.textContent = value.toFixed(2).replace("-", "−");
      else if (one.kind === "count") td.textContent = value.toLocaleString("en");
      else if (one.kind === "code") td.append(one.key === "prediction" ? marked(value, wrong[i] || []) : make("code", { textContent: value }));
      else td.textContent = value;
      return td;
    };
    const marked = (text, spans) => {
      const code = make("code");
      let at = 0;
      for (let k = 0; k < spans.length; k += 2) {
        const start = spans[k], end = spans[k + 1];
        code.append(text.slice(at, start));
        code.append(make("mark", { textContent: text.slice(start, end), className: start === end ? "gap" : "" }));
        at = end;
      }
      code.append(text.slice(at));
      return code;
    };

    const find = () => {
      const outcome = column("outcome");
      const isRight = (i) => outcome && plain(outcome, i) === "right";
      order = [];
      for (let i = 0; i < n; i++) {
        const named = Object.entries(state.names).every(([key, value]) => plain(column(key), i) === value);
        const judged = !state.right || (outcome.values[i] != null && isRight(i) === (state.right === "right"));
        if (named && judged && haystack[i].includes(state.text)) order.push(i);
      }
      if (state.sort) {
        const sign = state.down ? -1 : 1, value = (i) => plain(state.sort, i);
        order.sort((a, b) => {
          const x = value(a), y = value(b);
          if (x == null || y == null) return (x == null) - (y == null) || a - b; // unknown ones last
          return sign * (typeof x === "string" ? (x < y ? -1 : x > y ? 1 : 0) : x - y) || a - b;
        });
      }
      state.page = 0;
      show();
    };
    const show = () => {
      const first = state.page * PAGE, rows = order.slice(first, first + PAGE);
      body.replaceChildren(...rows.map((i) => make("tr", {}, ...columns.map((one) => cell(one, i)))));
      const count = order.length.toLocaleString("en");
      $("found").textContent = order.length
        ? `${count} of ${n.toLocaleString("en")} examples; ${first + 1} to ${first + rows.length} shown`
        : "No example fits the filter.";
      back.disabled = !state.page;
      next.disabled = first + PAGE >= order.length;
    };

    const turn = (by) => () => { state.page += by; show(); };
    const back = make("button", { type: "button", textContent: "Previous", onclick: turn(-1) });
    const next = make("button", { type: "button", textContent: "Next", onclick: turn(1) });
    const keep = make("button", { type: "button", id: "found-csv", textContent: "Save these as CSV" });
    const lines = (rows) => csv([columns.map((one) => one.key), ...rows.map((i) => columns.map((one) => plain(one, i)))]);
    keep.onclick = () => save("examples.csv", "text/csv", lines(order));
    $("csv").onclick = () => save("examples.csv", "text/csv", lines(Array.from({ length: n }, (_, i) => i)));
    $("pager").append(back, next, keep);
    $("pager").hidden = false;

    const form = $("filter"), all = make("option", { value: "", textContent: "all" });
    const choice = (key, label, names, change) => {
      const select = make("select", { name: key }, all.cloneNode(true));
      select.append(...names.map((name) => make("option", { value: name, textContent: name })));
      select.addEventListener("change", () => { change(select.value); find(); });
      form.append(make("label", {}, label, select));
    };
    const input = make("input", { type: "search", name: "text", placeholder: "in any text" });
    input.addEventListener("input", () => { state.text = input.value.toLowerCase(); find(); });
    form.append(make("label", {}, "text", input));
    for (const one of columns.filter((other) => other.kind === "name" && other.names.length > 1)) {
      choice(one.key, one.label, one.names, (value) => {
        if (value) state.names[one.key] = value;
        else delete state.names[one.key];
      });
    }
    if (column("outcome")) choice("right", "right or wrong", ["right", "wrong"], (value) => { state.right = value; });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;

    [...$("browser").tHead.rows[0].cells].forEach((th, k) => {
      const one = columns[k], button = make("button", { type: "button", textContent: th.textContent });
      th.replaceChildren(button);
      button.addEventListener("click", () => {
        // Numbers begin with the largest, texts with the first.
        state.down = state.sort === one ? !state.down : one.kind !== "name" && one.kind !== "code";
        state.sort = one;
        for (const other of th.parentElement.cells) other.removeAttribute("aria-sort");
        th.setAttribute("aria-sort", state.down ? "descending" : "ascending");
        find();
      });
    });
    find();
  }
})();
