"use strict";
// A table that can be searched, filtered, sorted and paged; without this script all of its rows show.
function makeTable(section) {
  const size = Number(section.dataset.page);
  const body = section.querySelector("tbody");
  const all = [...body.rows];
  const chips = [...section.querySelectorAll("button[data-show]")];
  const search = section.querySelector("input");
  const told = section.querySelector("output");
  const [back, forth] = section.querySelectorAll(".pager button");
  let show = chips.find(chip => chip.getAttribute("aria-pressed") === "true").dataset.show;
  let rows = all, page = 0;

  function draw() {
    const text = search.value.toLowerCase();
    const found = rows.filter(row => (show === "all" || row.dataset.is.split(" ").includes(show))
      && (!text || row.textContent.toLowerCase().includes(text)));
    const last = Math.max(0, Math.ceil(found.length / size) - 1);
    page = Math.min(Math.max(page, 0), last);
    const part = found.slice(page * size, (page + 1) * size);
    body.replaceChildren(...part);
    told.textContent = found.length
      ? `${page * size + 1}–${page * size + part.length} of ${found.length.toLocaleString("en")}` : "none";
    back.disabled = page === 0;
    forth.disabled = page === last;
    chips.forEach(chip => chip.setAttribute("aria-pressed", chip.dataset.show === show));
  }

  function value(row, column) {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/,/g, "").replace("−", "-"));
    return Number.isNaN(number) ? -Infinity : number;
  }

  section.querySelectorAll("th button").forEach(button => {
    const cell = button.parentElement, column = cell.cellIndex, numeric = cell.classList.contains("n");
    button.addEventListener("click", () => {
      const sign = cell.getAttribute("aria-sort") === (numeric ? "descending" : "ascending") ? -1 : 1;
      rows = [...all].sort((a, b) => numeric
        ? sign * (value(b, column) - value(a, column) || 0)
        : sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", {numeric: true}));
      section.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", (sign > 0) === numeric ? "descending" : "ascending");
      page = 0;
      draw();
    });
  });
  chips.forEach(chip => chip.addEventListener("click", () => { show = chip.dataset.show; page = 0; draw(); }));
  search.addEventListener("input", () => { page = 0; draw(); });
  back.addEventListener("click", () => { page -= 1; draw(); });
  forth.addEventListener("click", () => { page += 1; draw(); });
  section.querySelector(".tools").hidden = false;
  draw();
}

// Says which file and sensor the pointer is at.
function makeMap(picture) {
  const told = document.getElementById("pointed");
  const {rows, sensors, box, cells} = JSON.parse(document.getElementById("map-data").textContent);
  const share = Uint8Array.from(atob(cells), sign => sign.charCodeAt(0));
  const [left, top, width, height] = box;
  picture.addEventListener("pointermove", event => {
    const place = picture.getBoundingClientRect();
    const x = ((event.clientX - place.left) / place.width - left) / width;
    const y = ((event.clientY - place.top) / place.height - top) / height;
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return;
    const sensor = Math.floor(x * sensors.length), row = Math.floor(y * rows.length);
    const missing = share[row * sensors.length + sensor] / 2.5;
    told.textContent = `${sensors[sensor]}, ${rows[row]}: ${missing.toFixed(missing < 10 ? 1 : 0)} % missing`;
  });
}

document.querySelectorAll("section.listing").forEach(makeTable);
document.querySelectorAll("img.map").forEach(makeMap);
