"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("page-data"), specs = read("page-charts"), config = read("page-config");
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const unsaid = { ms: null, spread: null, rate: null, over: null, cold_ms: null, over_cold: null, error: null, remark: "", none: "" };
  for (const each of data.cases) each.rows = each.rows.map((row) => ({ ...unsaid, ...row }));
  const copyOf = (value) => JSON.parse(JSON.stringify(value));

  /** An element; children are elements, texts, or nothing. */
  function el(name, attributes = {}, ...children) {
    const found = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) found.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) found.setAttribute(key, value);
    }
    found.append(...children.filter((each) => each !== null && each !== undefined));
    return found;
  }

  // ---- numbers -------------------------------------------------------------------------------
  const digits = (value, count = 3) => value === null || value === undefined ? "" :
    Number(value) >= 100 ? Math.round(value).toLocaleString("en") : String(Number(Number(value).toPrecision(count)));
  const times = (value) => value === null || value === undefined ? "" : digits(value) + "x";
  const percent = (value) => value === null || value === undefined ? "" : Math.round(100 * value) + "%";

  // ---- charts: Vega-Lite's, in SVG, whose colours are the page's -------------------------------
  const drawn = new WeakMap();
  async function draw(place, spec) {
    drawn.get(place)?.finalize();
    // The place has a label; of its parts a screen reader has no use.
    if (!place.firstChild) place.append(el("div", { "aria-hidden": "true" }));
    const result = await vegaEmbed(place.firstChild, { ...spec, config, autosize: { type: "fit-x", contains: "padding" } }, {
      actions: false, renderer: "svg", ast: false, tooltip: { theme: "custom" },
    });
    drawn.set(place, result);
    return result.view;
  }
  function chart(name, values) {
    const spec = copyOf(specs[name]);
    spec.data.values = values;
    // A height of steps and a width of its container's do not go together without a warning.
    if (spec.height.step) spec.height = spec.height.step * new Set(values.map((each) => each[spec.encoding.y.field])).size;
    return spec;
  }

  // ---- what is shown -----------------------------------------------------------------------
  const form = one(".switches");
  const chosen = () => Object.fromEntries(new FormData(form));
  function shownCases() {
    const { lengths, dtype, model } = chosen();
    const fits = (value, own) => value === "all" || value === own;
    return data.cases.filter((each) => fits(lengths, each.lengths) && fits(dtype, each.dtype) && fits(model, each.model));
  }
  async function overview() {
    const { lengths, dtype, model } = chosen();
    await Promise.all(all("article.device").map(async (card) => {
      const view = data.devices[card.dataset.device].views[[dtype, lengths, model].join("|")];
      const place = one(".chart", card);
      place.hidden = one(".figures", card).hidden = one(".strongest", card).hidden = !view;
      one(".sentence", card).textContent = view ? view.sentence : "Nothing was compared that fits this choice.";
      if (!view) return;
      one(".strongest", card).textContent = "Strongest: " + (view.strongest || "nothing was compared");
      one("tbody", card).replaceChildren(...view.figures.map(([title, ...figures]) =>
        el("tr", {}, el("th", { scope: "row" }, title), ...figures.map((each) => figure(String(each))))));
      const spec = chart("bars", view.bars);
      spec.layer[0].data.values[0].limit = view.limit;
      await draw(place, spec);
    }));
  }

  // ---- tables: sort by a heading, copy a figure by a click --------------------------------------
  const figure = (text, value) => el("td", text === "" ? {} : { "data-copy": value ?? text, title: "click to copy" }, text);
  document.addEventListener("click", (event) => {
    const cell = event.target.closest?.("[data-copy]");
    if (cell) copy(cell.dataset.copy);
  });
  async function copy(text) {
    try { await navigator.clipboard.writeText(text); } catch {
      const area = el("textarea", { style: "position:fixed;opacity:0" });
      area.value = text;
      (one("dialog[open]") ?? document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    say(`Copied ${text.length > 40 ? "" : text}`.trim());
  }
  let quiet;
  function say(text) {
    const place = one("#said");
    (one("dialog[open]") ?? document.body).append(place);
    place.textContent = text;
    place.classList.add("shown");
    clearTimeout(quiet);
    quiet = setTimeout(() => place.classList.remove("shown"), 1600);
  }
  /**
   * Fill a table whose headings sort it. A column is {title, value, cell, left}: what rows are
   * sorted by, and the cell that shows it. Returns what fills it with other rows.
   */
  function sortable(table, columns, first = null) {
    let rows = [], by = first, up = true;
    const heads = columns.map((column, at) => el("th", { scope: "col", class: column.left ? "left" : null },
      el("button", { type: "button", onclick: () => { up = by === at ? !up : Boolean(column.left); by = at; fill(); } }, column.title)));
    one("thead tr", table).replaceChildren(...heads);
    function fill() {
      const order = [...rows];
      if (by !== null) order.sort((a, b) => {
        const [x, y] = [columns[by].value(a), columns[by].value(b)];
        if (x === null || x === undefined || y === null || y === undefined) return (x ?? null) === null ? 1 : -1;
        return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
      });
      heads.forEach((head, at) => head.setAttribute("aria-sort", at !== by ? "none" : up ? "ascending" : "descending"));
      one("tbody", table).replaceChildren(...order.map((row) => el("tr", {}, ...columns.map((column) => column.cell(row)))));
    }
    return (found) => { rows = found; fill(); };
  }

  // ---- every case ----------------------------------------------------------------------------
  const several = data.devices.length > 1;
  const opener = (each, text) => el("th", { scope: "row" }, el("button", { type: "button", class: "open", onclick: () => open(each.id) }, text));
  const fillCases = sortable(one("#case-table"), [
    { title: "case", left: true, value: (c) => c.name, cell: (c) => opener(c, c.name) },
    ...(several ? [{ title: "device", left: true, value: (c) => data.devices[c.device].device, cell: (c) => el("td", { class: "left" }, data.devices[c.device].device) }] : []),
    ...(data.cases.some((c) => c.timed) ? [{ title: "record timed", left: true, value: (c) => c.timed || "here", cell: (c) => el("td", { class: "left" }, c.timed || "here") }] : []),
    { title: "lengths", left: true, value: (c) => c.lens, cell: (c) => el("td", { class: "left" }, c.lens) },
    { title: "ms", value: (c) => c.ms, cell: (c) => figure(digits(c.ms, 4), c.ms) },
    // What the page is about comes before what a screen of usual width has no room for.
    { title: "over strongest", value: (c) => c.over.strongest, cell: (c) => ratio(c.over.strongest) },
    { title: "strongest other", left: true, value: (c) => c.strongest, cell: (c) => el("td", { class: "left" }, c.strongest ?? "none") },
    { title: "rate", value: (c) => c.rate, cell: (c) => figure(`${digits(c.rate)} ${data.devices[c.device].unit}`, c.rate) },
    { title: "of the limit", value: (c) => c.share, cell: (c) => figure(percent(c.share), c.share) },
    ...(data.cases.some((c) => c.over.cold !== null) ? [{ title: "over strongest, cold", value: (c) => c.over.cold, cell: (c) => ratio(c.over.cold) }] : []),
    { title: "over stock rules", value: (c) => c.over.stock, cell: (c) => figure(times(c.over.stock), c.over.stock) },
    { title: "over hand-scheduled", value: (c) => c.over.hand, cell: (c) => figure(times(c.over.hand), c.over.hand) },
  ]);
  function ratio(value) {
    const cell = figure(times(value), value);
    if (value !== null) cell.classList.add(value >= 1 ? "good" : "bad");
    return cell;
  }
  async function caseChart(cases) {
    const values = cases.filter((each) => each.over.strongest !== null).map((each) => ({
      // Cases of one length stand beside one another.
      id: each.id, at: each.length * 2 ** (0.3 * (parseInt(each.id.slice(0, 4), 16) / 0xffff - 0.5)), over: each.over.strongest, name: each.name, lens: each.lens,
      strongest: each.strongest, said: times(each.over.strongest) + " as fast",
      series: (several ? data.devices[each.device].device + ", " : "") + each.lengths + " lengths",
    }));
    const place = one('[data-chart="cases"]');
    place.hidden = !values.length;
    if (!values.length) return;
    const view = await draw(place, chart("cases", values));
    view.addEventListener("click", (_, item) => { if (item?.datum?.id) open(item.datum.id); });
  }
  let shown = [];
  async function refresh() {
    shown = shownCases();
    fillCases(shown);
    one("#case-count").textContent = `${shown.length} of ${data.cases.length} cases. A heading sorts; a click on a figure copies it.`;
    await Promise.all([overview(), caseChart(shown)]);
  }
  form.addEventListener("change", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());

  // ---- one case ------------------------------------------------------------------------------
  const dialog = one("dialog");
  let current = null, texts = null;
  /** The stages' texts, unpacked when they are first asked for. */
  async function unpacked() {
    if (texts === null) {
      const bytes = Uint8Array.from(atob(data.texts), (each) => each.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      texts = await new Response(stream).json();
    }
    return texts;
  }
  function open(id) {
    const found = data.cases.find((each) => each.id === id);
    if (!found) return;
    current = found;
    const before = one('[role="tab"][aria-selected="true"]', dialog)?.dataset.stage;
    one(".body", dialog).replaceChildren(...body(found, before));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    history.replaceState(null, "", "#case=" + id);
    drawCase(found);
  }
  const closeCase = () => dialog.close();
  dialog.addEventListener("close", () => {
    document.body.append(one("#said"));
    history.replaceState(null, "", location.pathname + location.search);
    current = null;
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) closeCase(); });
  one(".close", dialog).addEventListener("click", closeCase);
  function step(by) {
    const among = shown.some((each) => each === current) ? shown : data.cases;
    const at = among.indexOf(current);
    open(among[(at + by + among.length) % among.length].id);
  }
  for (const button of all("[data-step]", dialog)) button.addEventListener("click", () => step(Number(button.dataset.step)));
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches('[role="tab"], pre, select') || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  const facts = (entries) => el("dl", {}, ...Object.entries(entries).filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  const big = (value, what) => el("div", {}, el("strong", {}, value), el("span", {}, what));
  function body(found, stage) {
    const device = data.devices[found.device], record = data.records[found.record];
    const own = found.rows[0];
    const table = el("table", { class: "sortable" }, el("caption", { class: "sr-only" }, "Everything that was timed"), el("thead", {}, el("tr")), el("tbody"));
    const cold = found.rows.some((row) => row.cold_ms !== null) ? [
      { title: "cold ms", value: (r) => r.cold_ms, cell: (r) => figure(digits(r.cold_ms, 4), r.cold_ms) },
      { title: "tuned is, cold", value: (r) => r.over_cold, cell: (r) => r.kind === "tuned" ? el("td") : figure(times(r.over_cold), r.over_cold) },
    ] : [];
    sortable(table, [
      { title: "kernel", left: true, value: (r) => r.name, cell: (r) => el("th", { scope: "row" }, r.name + (r.remark ? ` (${r.remark})` : "")) },
      { title: "ms", value: (r) => r.ms, cell: (r) => figure(r.none || digits(r.ms, 4), r.ms) },
      { title: "spread", value: (r) => r.ms && r.spread / r.ms, cell: (r) => figure(r.ms && r.spread !== null ? (100 * r.spread / r.ms).toFixed(1) + "%" : "", r.spread) },
      { title: device.unit, value: (r) => r.rate, cell: (r) => figure(digits(r.rate), r.rate) },
      { title: "tuned is", value: (r) => r.over, cell: (r) => r.kind === "tuned" ? el("td") : figure(times(r.over), r.over) },
      ...cold,
      { title: "error", value: (r) => r.error, cell: (r) => figure(r.error === null ? "" : r.error.toExponential(1), r.error) },
    ])(found.rows);
    return [
      el("h2", { id: "case-title", tabindex: "-1" }, found.title),
      el("p", { class: "note" }, `${device.device}, ${device.target}` + (found.batches > 1 ? `; mean over ${found.batches} batches` : "")),
      el("div", { class: "big" },
        big(`${digits(found.ms, 4)} ms`, `a call, ±${own.spread === null ? "?" : (50 * own.spread / own.ms).toFixed(1)}%`),
        big(`${digits(found.rate)} ${device.unit}`, `useful work, ${percent(found.share)} of the limit`),
        big(found.over.strongest === null ? "-" : times(found.over.strongest), found.strongest ? `over ${found.strongest}` : "nothing to compare with"),
        big(found.error.toExponential(1), "largest error against float64")),
      el("h3", {}, "Time a call"), el("div", { class: "chart", "data-chart": "latency", role: "img", "aria-label": "Times of all kernels; the table below has the figures" }),
      el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Everything that was timed" }, table),
      el("h3", {}, "What binds it"), el("p", {}, found.bound),
      el("div", { class: "chart", "data-chart": "roofline", role: "img", "aria-label": found.bound }),
      el("h3", {}, "The schedule"), record ? facts(record.schedule) : el("p", {}, "Its record is in no database at hand."),
      ...(record && Object.keys(record.stages).length ? [el("h3", {}, "From the plain description"), ...stages(record, stage)] : []),
      el("h3", {}, "Where it comes from"), facts({ record: found.record + (found.tier === "exact" ? "" : ` (${found.tier})`), "its time, when it was kept, was taken": found.timed, ...(record?.origin ?? {}),
        "clocks when compared": Object.entries(found.clocks).map(([name, mhz]) => `${name.replace("_", " ")} ${mhz} MHz`).join(", ") }),
      el("h3", {}, "Do it yourself"), ...Object.entries(found.commands).map(([what, command]) => el("div", {}, el("span", { class: "note" }, what), el("div", { class: "command" },
        el("code", {}, command), el("button", { type: "button", "aria-label": "Copy: " + what, onclick: () => copy(command) }, "Copy")))),
    ];
  }
  /** Tabs, as the ARIA practices describe them: arrows move between them. */
  function stages(record, chosenStage) {
    const names = Object.keys(record.stages), panel = el("pre", { id: "stage", role: "tabpanel", tabindex: "0" }), about = el("p", { class: "note" });
    const tabs = names.map((name) => el("button", { type: "button", role: "tab", id: "stage-" + name, "aria-controls": "stage", "data-stage": name, onclick: () => select(name) }, name));
    async function select(name) {
      tabs.forEach((tab) => { tab.setAttribute("aria-selected", tab.dataset.stage === name); tab.tabIndex = tab.dataset.stage === name ? 0 : -1; });
      panel.setAttribute("aria-labelledby", "stage-" + name);
      about.textContent = data.stages[name];
      panel.textContent = (await unpacked())[record.stages[name]];
      panel.scrollTop = 0;
    }
    const list = el("div", { role: "tablist", "aria-label": "Stages", onkeydown: (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.stopPropagation();
      const next = tabs[(tabs.findIndex((tab) => tab.tabIndex === 0) + by + tabs.length) % tabs.length];
      next.focus();
      next.click();
    } }, ...tabs);
    select(names.includes(chosenStage) ? chosenStage : names[0]);
    return [list, about, panel];
  }
  async function drawCase(found) {
    const device = data.devices[found.device];
    const timed = found.rows.filter((row) => row.ms !== null).sort((a, b) => a.ms - b.ms).map((row) => ({
      ...row, low: Math.max(row.ms - (row.spread ?? 0) / 2, row.ms / 10), high: row.ms + (row.spread ?? 0) / 2, said: digits(row.ms, 3) + " ms",
      whole: row.name + (row.kind === "dense" ? " (wrong on padding)" : row.kind === "packed" ? " (packed)" : ""),
    }));
    const own = data.cases.filter((each) => each.device === found.device);
    const widest = [Math.min(...own.map((each) => each.intensity)) / 2, Math.max(...own.map((each) => each.intensity)) * 2];
    const scale = device.unit === "TFLOP/s" ? 1000 : 1, ridge = device.bandwidth ? found.limit * scale / device.bandwidth : null;
    const corners = [widest[0], ...(ridge && ridge > widest[0] && ridge < widest[1] ? [ridge] : []), widest[1]];
    const roof = corners.map((x) => ({ part: "roof", intensity: x, rate: Math.min(found.limit, device.bandwidth ? device.bandwidth * x / scale : Infinity) }));
    const points = own.map((each) => ({ part: each === found ? "case" : "other", intensity: each.intensity, rate: each.rate }));
    const roofline = chart("roofline", [...roof, ...points]);
    roofline.encoding.y.title = device.unit;
    roofline.encoding.x.scale.domain = widest;
    await Promise.all([draw(one('[data-chart="latency"]', dialog), chart("latency", timed)), draw(one('[data-chart="roofline"]', dialog), roofline)]);
  }
  const fromAddress = () => { const found = /^#case=([0-9a-f]+)$/.exec(location.hash); if (found && current?.id !== found[1]) open(found[1]); };
  window.addEventListener("hashchange", fromAddress);

  // ---- the search ------------------------------------------------------------------------------
  function search(card) {
    const target = data.targets[card.dataset.target];
    const habits = one('[data-chart="habits"]', card);
    if (habits) {
      draw(habits, chart("habits", target.habits.map((each) => ({
        ...each, choice: `${each.space}: ${each.choice} ${each.value}`, short: percent(each.winners), said: `${percent(each.winners)} of the fastest` + (each.all === null ? "" : `, ${percent(each.all)} of all that were right`) }))));
    }
    if (!target.searches.length) return;
    const failures = one('[data-chart="failures"]', card);
    if (failures) draw(failures, chart("failures", Object.entries(target.failures).map(([kind, count]) => ({ kind, count }))));
    const show = () => {
      const found = target.searches[one(".search-case", card).value], byTime = one('input[value="time"]', card).checked;
      const spec = chart("falls", Object.entries(found.falls).flatMap(([space, points]) =>
        points.map(([trial, elapsed, seconds]) => ({ space, at: byTime ? elapsed : trial, ms: seconds * 1e3 }))));
      spec.encoding.x.title = byTime ? "seconds" : "trials";
      draw(one('[data-chart="falls"]', card), spec);
    };
    card.addEventListener("change", show);
    show();
  }

  // ---- lengths ---------------------------------------------------------------------------------
  function lengths(card) {
    const target = data.targets[card.dataset.target], place = one('[data-chart="served"]', card), picker = one(".served-lens", card);
    let lens = null;
    function show() {
      const spec = target.serving[one(".served-spec", card).value];
      const choices = [...new Set(spec.points.map((point) => point.lens))];
      if (!choices.includes(lens)) lens = choices[0] ?? null;
      picker.hidden = choices.length < 2;
      picker.replaceChildren(...choices.map((each) => el("label", {}, el("input", { type: "radio", name: "lens-" + card.dataset.target, value: each,
        ...(each === lens ? { checked: "" } : {}), onchange: () => { lens = each; show(); } }), el("span", {}, each))));
      const points = spec.points.filter((point) => point.lens === lens);
      const worst = Math.max(0, ...spec.points.map((point) => point.loss));
      one(".served-note", card).textContent = spec.points.length
        ? `Measured on ${spec.device}, ${spec.date}: a letter is the kernel that serves a shape, a colour what that loses against the fastest of all kernels there. At most ${(100 * worst).toFixed(1)}%.`
        : "These kernels were not timed against one another: boundaries lie halfway between the shapes that they were tuned at.";
      place.hidden = !points.length;
      if (points.length) draw(place, chart("served", points.map((point) => ({ ...point, shape: `${point.batch}x${point.length}`, said: (100 * point.loss).toFixed(1) + "%" }))));
      one(".served-table tbody", card).replaceChildren(...spec.kernels.map((each) => el("tr", {}, el("th", { scope: "row" }, each.name),
        el("td", { class: "left" }, each.serves), el("td", {}, each.tuned_at), el("td", { class: "left" }, each.timed), each.record ? figure(each.record) : el("td", {}, "TVM's hand-written"))));
    }
    one(".served-spec", card).addEventListener("change", show);
    show();
  }

  // ---- what changed ----------------------------------------------------------------------------
  function changes() {
    const table = one("#change-table");
    if (!table) return;
    const grave = { worse: "bad", better: "good" };
    sortable(table, [
      { title: "change", left: true, value: (r) => ["worse", "gone", "better", "new", "same"].indexOf(r.kind), cell: (r) => el("td", { class: "left " + (grave[r.kind] ?? "") }, r.kind) },
      { title: "case", left: true, value: (r) => r.name, cell: (r) => r.id ? opener(r, r.name) : el("th", { scope: "row" }, r.name) },
      { title: "device", left: true, value: (r) => r.device, cell: (r) => el("td", { class: "left" }, r.device) },
      { title: "lengths", left: true, value: (r) => r.lens, cell: (r) => el("td", { class: "left" }, r.lens) },
      { title: "before, ms", value: (r) => r.before, cell: (r) => figure(digits(r.before, 4), r.before) },
      { title: "now, ms", value: (r) => r.after, cell: (r) => figure(digits(r.after, 4), r.after) },
      { title: "now over before", value: (r) => r.ratio, cell: (r) => figure(times(r.ratio), r.ratio) },
      { title: "noise", value: (r) => r.noise, cell: (r) => figure(percent(r.noise), r.noise) },
    ], 0)(data.changes.rows);
  }

  // ---- downloads: of the cases that are shown ---------------------------------------------------
  const quoted = (value) => /[",\n]/.test(String(value ?? "")) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? "");
  function csv() {
    const columns = ["case", "device", "target", "lengths", "dtype", "kernel", "kind", "ms", "spread_ms", "rate", "unit", "tuned_is_faster_by", "cold_ms", "tuned_is_faster_by_cold", "max_abs_error", "remark", "limit", "record", "record_timed"];
    const lines = shown.flatMap((each) => each.rows.map((row) => [each.name, data.devices[each.device].device, data.devices[each.device].target, each.lens, each.dtype, row.name, row.kind,
      row.ms, row.spread, row.rate, data.devices[each.device].unit, row.over, row.cold_ms, row.over_cold, row.kind === "tuned" ? each.error : row.error, row.remark, each.limit, each.record, each.timed]));
    return [columns, ...lines].map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
  }
  const json = () => JSON.stringify(shown.map((each) => ({ ...each, device: data.devices[each.device].device, target: data.devices[each.device].target, unit: data.devices[each.device].unit })), null, 1);
  for (const button of all("[data-download]")) button.addEventListener("click", () => {
    const [text, type] = button.dataset.download === "csv" ? [csv(), "text/csv"] : [json(), "application/json"];
    const address = URL.createObjectURL(new Blob([text], { type }));
    el("a", { href: address, download: "prefilltune." + button.dataset.download }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  });

  // ---- light and dark --------------------------------------------------------------------------
  const themes = ["auto", "light", "dark"], said = { auto: "automatic", light: "light", dark: "dark" };
  function theme(name) {
    document.documentElement.dataset.theme = name;
    one("#theme").textContent = "Theme: " + said[name];
  }
  one("#theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
    theme(next);
    try { localStorage.setItem("prefilltune-theme", next); } catch { /* a page from a disk may keep nothing */ }
  });
  try { theme(localStorage.getItem("prefilltune-theme") ?? "auto"); } catch { theme("auto"); }

  refresh().then(() => {
    all("#search article").forEach(search);
    all("#lengths article").forEach(lengths);
    changes();
    fromAddress();
    document.documentElement.dataset.ready = "";
  });
})();
