// The panel that tells what is behind a cell. All text of users enters as text, never as HTML.
(() => {
  "use strict";

  const panel = document.getElementById("cell-panel");
  const title = document.getElementById("cell-title");
  const body = document.getElementById("cell-body");
  const read = (element) => JSON.parse(element.textContent);
  const labels = read(document.getElementById("page-labels"));
  const provenance = new Map(
    [...document.querySelectorAll("script.cell-provenance")].map((script) => [
      script.dataset.table,
      read(script),
    ])
  );
  const own = (object, key) =>
    object && Object.prototype.hasOwnProperty.call(object, key) ? object[key] : undefined;

  /** An element with properties and children; null and undefined children are left out. */
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  };

  // ------------------------------------------------------------------------------ as people write

  const number = (value) => {
    if (value === null || value === undefined) return "–";
    return typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value);
  };

  /** Unix seconds in UTC: the same for every reader. */
  const time = (seconds) => {
    const date = new Date(seconds * 1000);
    if (typeof seconds !== "number" || Number.isNaN(date.getTime())) return String(seconds);
    return date.toISOString().slice(0, 19).replace("T", " ") + " UTC";
  };

  const duration = (seconds) => {
    if (seconds < 120) return `${Math.round(seconds)} s`;
    if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
    return `${(seconds / 3600).toFixed(1)} h`;
  };

  const quoted = (text) =>
    /^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", `'"'"'`) + "'";

  /** The same question to the command line; a label with a dash in front is no option. */
  const whyCommand = (parts) => {
    const end = parts.some((part) => part.startsWith("-")) ? ["--"] : [];
    return ["fadepth", "why", ...end, ...parts.map(quoted)].join(" ");
  };

  const code = (text) => make("code", { textContent: String(text) });

  const facts = (pairs) =>
    make(
      "dl",
      { className: "facts" },
      pairs.map(([name, value]) =>
        make("div", {}, make("dt", { textContent: name }), make("dd", {}, value))
      )
    );

  // ------------------------------------------------------------------------------------- the runs

  const LABELS = {
    row: "row",
    seed: "seed",
    config_hash: "configuration",
    data_hash: "data",
    code_hash: "code",
    model_sha256: "checkpoint",
    host: "host",
    device: "device",
    teacher: "teacher",
    command: "command",
  };
  const PLAIN = new Set(["row", "seed", "host", "device"]);
  const TOLD = new Set([...Object.keys(LABELS), "commit", "dirty", "started", "ended"]);

  const shown = (value) => {
    if (Array.isArray(value) && value.every((item) => typeof item === "string"))
      return value.map(quoted).join(" ");
    return typeof value === "object" ? JSON.stringify(value) : String(value);
  };

  const runFacts = (run) => {
    const pairs = [];
    if (run.commit) {
      const note = run.dirty ? " with uncommitted changes" : "";
      pairs.push(["commit", make("span", {}, code(run.commit), note)]);
    }
    for (const [key, label] of Object.entries(LABELS))
      if (run[key] !== null && run[key] !== undefined)
        pairs.push([label, PLAIN.has(key) ? shown(run[key]) : code(shown(run[key]))]);
    if (run.started) pairs.push(["started", time(run.started)]);
    if (run.ended) {
      const took = run.started ? ` (after ${duration(run.ended - run.started)})` : "";
      pairs.push(["ended", time(run.ended) + took]);
    }
    for (const [key, value] of Object.entries(run))
      if (!TOLD.has(key) && value !== null && value !== undefined) pairs.push([key, shown(value)]);
    return pairs;
  };

  const runLink = (id) => {
    const href = own(labels.run_links, id);
    if (href === undefined || !/^https?:/i.test(href)) return null;
    return make(
      "p",
      { className: "run-link" },
      make("a", { href, rel: "noreferrer", textContent: "Open this run in MLflow" }),
      " (start the server with ",
      code("make ui"),
      ")"
    );
  };

  /** `from` is a file of the run's folder, or words. */
  const fileOf = (id, from) => {
    if (!from) return null;
    const file = /^[\w.-]+\.\w+$/.test(from);
    return make("p", {}, "The value is from ", file ? code(`runs/${id}/${from}`) : from);
  };

  const runBlock = (id, value, run, file, open) =>
    make(
      "details",
      { className: "run", open },
      make(
        "summary",
        {},
        value === null
          ? null
          : make("span", { className: "run-value", textContent: number(value) }),
        run && run.seed !== null && run.seed !== undefined ? ` seed ${run.seed} ` : " ",
        code(id)
      ),
      run ? facts(runFacts(run)) : make("p", { textContent: "Nothing more is recorded of it." }),
      fileOf(id, file),
      runLink(id)
    );

  // ------------------------------------------------------------------------------------- the cell

  const valueBlock = (cell, runs) => {
    const numbers = runs.filter(([, value]) => typeof value === "number").length;
    const spread = typeof cell.std === "number";
    const children = [make("span", { className: "value", textContent: number(cell.value) })];
    if (spread) children.push(make("span", { className: "spread", textContent: ` ± ${number(cell.std)}` }));
    let note = "";
    if (numbers > 1) note = `mean of ${numbers} runs` + (spread ? ", ± standard deviation" : "");
    else if (runs.length > 1) note = `made from ${runs.length} runs together`;
    else if (runs.length === 1) note = "of one run";
    if (cell.missing) note += (note ? "; " : "") + String(cell.missing);
    return [
      make("p", { className: "cell-value" }, children),
      note ? make("p", { className: "cell-note", textContent: note }) : null,
    ];
  };

  const copyBlock = (text) => {
    const line = code(text);
    const button = make("button", { type: "button", textContent: "Copy" });
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        // No clipboard here: leave the text selected for Ctrl-C.
        getSelection().selectAllChildren(line);
        button.textContent = "Selected";
      }
    });
    return make("div", { className: "copy" }, make("pre", { tabIndex: 0 }, line), button);
  };

  const cellBody = (name, row, column, cell) => {
    const runs = Object.entries(cell.runs || {});
    const known = provenance.get(name).runs || {};
    return [
      valueBlock(cell, runs),
      cell.source ? make("p", {}, "Printed in: ", String(cell.source)) : null,
      make("h3", { textContent: "On the command line" }),
      copyBlock(whyCommand([name, row, column])),
      runs.length
        ? make("h3", { textContent: runs.length > 1 ? "The runs behind it" : "The run behind it" })
        : null,
      runs.map(([id, value]) => runBlock(id, value, own(known, id), cell.from, runs.length <= 3)),
    ];
  };

  const find = (hash) => {
    const parts = hash.replace(/^#/, "").split("/");
    if (parts.length !== 3) return null;
    try {
      return parts.map(decodeURIComponent);
    } catch {
      return null;
    }
  };

  const cellLink = (parts) =>
    [...document.querySelectorAll('.fadepth-table a[href^="#"]')].find((link) => {
      const other = find(link.getAttribute("href"));
      return other !== null && other.every((part, index) => part === parts[index]);
    });

  // ------------------------------------------------------------------------------ open and close

  let current = null; // the link of the open cell
  let table = null; // its table

  const mark = (link) => {
    current?.closest("td, th")?.classList.remove("cell-open");
    current = link || null;
    current?.closest("td, th")?.classList.add("cell-open");
  };

  /** Change the address without a jump; some frames forbid it and keep their address. */
  const address = (method, hash) => {
    try {
      history[method](null, "", hash);
    } catch {
      // The panel works all the same.
    }
  };

  const open = (parts) => {
    const [name, row, column] = parts;
    const names = own(labels.tables, name);
    const cell = own(own(provenance.get(name)?.cells, row), column);
    title.textContent = `${own(names?.columns, column) || column} · ${row}`;
    body.replaceChildren(
      make("p", { className: "cell-table", textContent: names ? names.title : name }),
      ...(cell
        ? cellBody(name, row, column, cell)
        : [make("p", { textContent: "This page knows of no such cell." })]
      ).flat().filter((child) => child !== null)
    );
    mark(cellLink(parts));
    table = name;
    if (!panel.open) {
      current?.scrollIntoView({ block: "center", inline: "nearest" });
      panel.showModal();
    }
    panel.scrollTop = 0;
    title.focus({ preventScroll: true });
  };

  /** After the panel has closed, by whatever way: the address names the table, not the cell. */
  const tidy = () => {
    if (panel.open || table === null) return;
    if (find(location.hash) !== null) address("replaceState", "#" + encodeURIComponent(table));
    const link = current;
    mark(null);
    table = null;
    link?.focus({ preventScroll: true });
  };

  const close = () => {
    panel.close();
    tidy();
  };

  const follow = () => {
    const parts = find(location.hash);
    if (parts !== null) open(parts);
    else if (panel.open) close();
  };

  panel.addEventListener("close", tidy); // Esc
  document.getElementById("cell-close").addEventListener("click", close);
  panel.addEventListener("click", (event) => {
    if (event.target === panel) close(); // beside the panel, on its backdrop
  });

  // A cell is as large a target as its box; the link inside is what the keyboard reaches.
  document.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    const box = event.target.closest(".fadepth-table td, .fadepth-table th");
    const link = box && box.querySelector('a[href^="#"]');
    const parts = link && find(link.getAttribute("href"));
    if (!parts) return;
    if (event.target.closest("a") === null && String(getSelection()) !== "") return;
    event.preventDefault();
    address("pushState", link.getAttribute("href"));
    open(parts);
  });
  addEventListener("hashchange", follow);

  for (const hint of document.querySelectorAll(".needs-script")) hint.hidden = false;
  if (find(location.hash) !== null) follow();
})();
