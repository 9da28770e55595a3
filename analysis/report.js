"use strict";
(() => {
  const names = JSON.parse(document.getElementById("architectures").textContent);
  const tip = document.getElementById("tip");
  const spots = new Map();
  for (const s of document.querySelectorAll(".spot")) {
    if (!spots.has(s.dataset.a)) spots.set(s.dataset.a, []);
    spots.get(s.dataset.a).push(s);
  }
  let shown = null, kept = null;
  const mark = (a, on) => { for (const s of spots.get(a) || []) s.classList.toggle("on", on); };
  const show = (a) => {
    if (shown === a) return;
    if (shown !== null) mark(shown, false);
    shown = a;
    if (a !== null) mark(a, true);
  };
  const place = (e, s) => {
    tip.textContent = s.dataset.t + "\n" + names[Number(s.dataset.a)];
    tip.hidden = false;
    const x = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = e.clientY + 18 + tip.offsetHeight < innerHeight;
    tip.style.left = Math.max(8, x) + "px";
    tip.style.top = (below ? e.clientY + 16 : e.clientY - tip.offsetHeight - 12) + "px";
  };
  document.addEventListener("pointerover", (e) => {
    const s = e.target.closest && e.target.closest(".spot");
    if (s) { show(s.dataset.a); place(e, s); } else { show(kept); tip.hidden = true; }
  });
  document.addEventListener("click", (e) => {
    const s = e.target.closest(".spot");
    if (s) { kept = kept === s.dataset.a ? null : s.dataset.a; show(s.dataset.a); place(e, s); }
    else if (kept !== null && e.target.closest(".paper")) { kept = null; show(null); }
  });

  const value = (row, i) => {
    const text = row.cells[i] ? row.cells[i].textContent.trim() : "";
    const number = parseFloat(text.replace("<", ""));
    return Number.isNaN(number) ? text : number;
  };
  for (const table of document.querySelectorAll("table.sort")) {
    table.querySelectorAll("th").forEach((th, i) => {
      th.tabIndex = 0;
      const sort = () => {
        const up = th.getAttribute("aria-sort") !== "ascending";
        table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
        th.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => {
          const x = value(a, i), y = value(b, i);
          const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
          return up ? order : -order;
        });
        table.tBodies[0].append(...rows);
      };
      th.addEventListener("click", sort);
      th.addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); sort(); } });
    });
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const pre = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(pre.textContent);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(pre);
        button.textContent = "selected";
      }
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }
})();
