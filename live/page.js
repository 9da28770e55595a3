"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const el = (tag, props = {}, ...children) => { const e = Object.assign(document.createElement(tag), props); e.append(...children); return e; };
  const SVG = "http://www.w3.org/2000/svg";
  const shape = (tag, attributes, text) => {
    const e = document.createElementNS(SVG, tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (text !== undefined) e.textContent = text;
    return e;
  };
  const count = (n) => Math.round(n).toLocaleString("en-US");
  const duration = (s) => {
    if (s < 90) return Math.round(s) + " s";
    if (s < 5400) return Math.round(s / 60) + " min";
    if (s < 172800) return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
    return Math.floor(s / 86400) + " d " + Math.floor((s % 86400) / 3600) + " h";
  };
  const bytes = (n) => (n >= 2 ** 30 ? (n / 2 ** 30).toFixed(1) + " GiB" : (n / 2 ** 20).toFixed(0) + " MiB");

  const errorText = (e) => (e.test_top5_err_pct === undefined ? e.test_top1_err_pct.toFixed(2) + " %" : e.test_top5_err_pct.toFixed(2) + " % top-5");

  let results = []; // {task, arch, error}
  let drawn = -1;
  let state = null;

  const tip = $("tip");
  const say = (e, text) => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = Math.max(8, Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = (e.clientY + 18 + tip.offsetHeight < innerHeight ? e.clientY + 16 : e.clientY - tip.offsetHeight - 12) + "px";
  };

  const bar = (track, done, failed, active, all) => {
    const parts = track.children, width = (n) => (all ? (100 * n) / all : 0) + "%";
    parts[0].style.width = width(done);
    parts[1].style.width = width(failed);
    parts[2].style.width = width(active);
  };
  const newBar = (...numbers) => { const t = el("div", { className: "track" }, el("i"), el("b"), el("u")); bar(t, ...numbers); return t; };
  const row = (...cells) => {
    const tr = el("tr");
    for (const c of cells) {
      const td = el("td");
      if (c && c.n !== undefined) { td.className = "n" + (c.bad ? " bad" : ""); td.append(String(c.n)); } else if (c && c.text !== undefined) { td.className = "text"; td.append(c.text); } else td.append(c === null || c === undefined ? "" : c);
      tr.append(td);
    }
    return tr;
  };

  const ticks = (low, high) => {
    const raw = (high - low) / 4 || 1, unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= raw);
    const list = [];
    for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) list.push(Number(v.toPrecision(10)));
    return list;
  };

  // One panel of errors on a task against errors on the reference.
  const panel = (name, points, best, worst, note) => {
    const W = 340, H = 270, left = 44, right = 10, top = 10, bottom = 32;
    const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `errors on ${name} against the reference, ${points.length} architectures` });
    const range = (values) => { let a = Math.min(...values), b = Math.max(...values); const pad = (b - a || 1) * 0.06; return [Math.max(0, a - pad), b + pad]; };
    const [x0, x1] = range(points.map((p) => p.x)), [y0, y1] = range(points.map((p) => p.y));
    const X = (v) => left + ((v - x0) / (x1 - x0)) * (W - left - right), Y = (v) => H - bottom - ((v - y0) / (y1 - y0)) * (H - top - bottom);
    for (const v of ticks(x0, x1)) svg.append(shape("line", { class: "axis", x1: X(v), x2: X(v), y1: top, y2: H - bottom }), shape("text", { x: X(v), y: H - bottom + 15, "text-anchor": "middle" }, v));
    for (const v of ticks(y0, y1)) svg.append(shape("line", { class: "axis", x1: left, x2: W - right, y1: Y(v), y2: Y(v) }), shape("text", { x: left - 6, y: Y(v) + 4, "text-anchor": "end" }, v));
    const order = (p) => (best.has(p.arch) || worst.has(p.arch) ? 1 : 0);
    for (const p of [...points].sort((a, b) => order(a) - order(b))) {
      const x = X(p.x), y = Y(p.y), kind = best.has(p.arch) ? "best" : worst.has(p.arch) ? "worst" : "";
      const mark = kind === "best" ? shape("rect", { x: x - 3.5, y: y - 3.5, width: 7, height: 7 }) : kind === "worst" ? shape("path", { d: `M${x - 4.2} ${y + 3.6}h8.4l-4.2 -7.6z` }) : shape("circle", { cx: x, cy: y, r: 3.2 });
      mark.setAttribute("class", "mark " + kind);
      mark.dataset.arch = p.arch;
      mark.dataset.text = `${p.arch}\n${state.tasks[0].task} ${p.x.toFixed(2)} %\n${name} ${p.y.toFixed(2)} %`;
      svg.append(mark);
    }
    return el("article", { className: "card" }, el("h3", {}, name, el("span", { textContent: note })), svg);
  };

  const scatter = () => {
    if (!state || results.length === drawn || state.tasks.length < 2) return;
    drawn = results.length;
    const errors = state.tasks.map(() => new Map());
    for (const r of results) errors[r.task].set(r.arch, r.error);
    const ranked = [...errors[0]].sort((a, b) => a[1] - b[1]).map((e) => e[0]);
    const extremes = Math.min(10, Math.floor(ranked.length / 3));
    const best = new Set(ranked.slice(0, extremes)), worst = new Set(extremes ? ranked.slice(-extremes) : []);
    const cards = [];
    state.pairs.forEach((pair, i) => {
      const points = [];
      for (const [arch, y] of errors[i + 1]) if (errors[0].has(arch)) points.push({ arch, x: errors[0].get(arch), y });
      if (points.length > 1) cards.push(panel(pair.task, points, best, worst, (pair.rho === null ? "" : `ρ ${pair.rho.toFixed(2)}, `) + `n ${points.length}`));
    });
    $("scatter").hidden = cards.length === 0;
    $("reference").textContent = $("reference-again").textContent = state.tasks[0].task;
    $("plots").replaceChildren(...cards);
  };
  document.addEventListener("pointerover", (e) => {
    const m = e.target.closest && e.target.closest(".mark");
    for (const on of document.querySelectorAll(".mark.on")) on.classList.remove("on");
    tip.hidden = !m;
    if (!m) return;
    for (const same of document.querySelectorAll(`.mark[data-arch="${CSS.escape(m.dataset.arch)}"]`)) same.classList.add("on");
    say(e, m.dataset.text);
  });

  const shown = [
    { name: "util_pct", label: "busy", text: (v) => v.toFixed(0) + " %", top: () => 100 },
    { name: "images_per_s", label: "images/s", text: count },
    { name: "mem_used_bytes", label: "memory", text: bytes, top: (d) => d.series.mem_total_bytes && d.series.mem_total_bytes.findLast((v) => v !== null) },
    { name: "temp_c", label: "temperature", text: (v) => v.toFixed(0) + " °C", top: () => 100 },
    { name: "power_w", label: "power", text: (v) => v.toFixed(0) + " W" },
  ];
  const series = (d, s) => {
    const values = d.series[s.name], W = 240, H = 34;
    const last = values.findLast((v) => v !== null);
    const high = Math.max(...values.map((v) => v || 0), (s.top && s.top(d)) || 0) || 1;
    const oldest = Math.max(...d.seconds, 60);
    const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", height: H, "aria-hidden": "true" });
    svg.append(shape("line", { class: "axis", x1: 0, x2: W, y1: H - 0.5, y2: H - 0.5 }));
    let path = "", from = null, to = null;
    values.forEach((v, i) => {
      if (v === null) return;
      const x = W * (1 - d.seconds[i] / oldest), y = H - 1 - (v / high) * (H - 4);
      path += (path ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1);
      from = from === null ? x : from;
      to = x;
    });
    if (path) svg.append(shape("path", { class: "area", d: `${path}L${to} ${H - 1}L${from} ${H - 1}z` }), shape("path", { class: "line", d: path, "vector-effect": "non-scaling-stroke" }));
    const p = el("p", {}, el("span", { textContent: s.label }), el("b", { textContent: last === undefined ? "" : s.text(last) }));
    return el("div", { className: "series" }, p, svg);
  };

  const tile = (value, label, bad) => el("div", { className: "tile" }, el("b", { textContent: value, className: bad ? "bad" : "" }), el("span", { textContent: label }));

  const draw = () => {
    const s = state, share = s.runs ? (100 * (s.done + s.failed)) / s.runs : 0;
    document.title = `${share.toFixed(0)} % ${s.study} · anynetx`;
    $("study").textContent = s.study;
    $("folder").textContent = s.dir;
    $("headline").textContent = s.complete ? `All ${count(s.runs)} runs have ended` : `${count(s.done + s.failed)} of ${count(s.runs)} runs have ended` + (s.eta_s === null ? "" : `, about ${duration(s.eta_s)} left`);
    bar($("track"), s.done, s.failed, s.running, s.runs);
    $("track").setAttribute("aria-valuenow", share.toFixed(0));
    const classes = Object.entries(s.failure_classes).map(([c, n]) => `${n} ${c}`).join(", ");
    $("tiles").replaceChildren(tile(count(s.done), "done"), tile(count(s.failed), classes ? "failed: " + classes : "failed", s.failed > 0), tile(count(s.running), "in training"),
      tile(s.images_per_s ? count(s.images_per_s) : "–", "images/s"), tile(s.complete ? "0 s" : s.eta_s === null ? "–" : duration(s.eta_s), "left, at this rate"));
    const rho = new Map(s.pairs.map((p) => [p.task, p]));
    const active = (task) => s.active.filter((a) => a.task === task).length;
    $("tasks").replaceChildren(...s.tasks.map((t) => {
      const p = rho.get(t.task);
      return row(t.task, { n: count(t.runs) }, newBar(t.done, t.failed, active(t.task), t.runs), { n: count(t.done) }, { n: count(t.failed), bad: t.failed > 0 },
        { n: t.best ? errorText(t.best) : "–" }, t.best ? el("code", { textContent: t.best.arch_id }) : "", { n: p ? (p.rho === null ? "–" : p.rho.toFixed(2)) : "" }, { n: p ? p.n : "" });
    }));
    $("devices").hidden = s.devices.length === 0;
    $("charts").replaceChildren(...s.devices.map((d) => el("article", { className: "card" + (d.fresh ? "" : " stale") }, el("h3", {}, d.name || d.device, el("span", { textContent: d.host })),
      ...shown.filter((x) => d.series[x.name]).map((x) => series(d, x)))));
    $("active").hidden = s.active.length === 0;
    $("runs").replaceChildren(...s.active.map((a) => row(el("code", { textContent: a.arch_id }), a.task, a.device, a.host, { n: a.pid }, { n: a.attempt }, { n: `${a.epoch} of ${a.epochs}` }, newBar(a.epoch, 0, 0, a.epochs))));
    $("log").hidden = s.events.length === 0;
    $("rows").replaceChildren(...[...s.events].reverse().map((e) => row(e.ts_utc.slice(0, 19).replace("T", " "), e.kind, [e.gpu_uuid, e.host].filter(Boolean).join(" on "), e.run_id ? el("code", { textContent: e.run_id }) : "", { text: e.text || "" })));
    scatter();
  };

  const link = (text, kind) => { $("link").textContent = text; $("link").className = kind; };
  const stream = new EventSource("events");
  stream.addEventListener("results", (e) => {
    const { from, rows } = JSON.parse(e.data);
    results = results.slice(0, from).concat(rows);
    drawn = -1;
  });
  stream.addEventListener("state", (e) => { state = JSON.parse(e.data); draw(); link("live", "live"); });
  stream.addEventListener("trouble", (e) => link(JSON.parse(e.data), "lost"));
  stream.onerror = () => link("connection lost, trying again", "lost");
})();
