"use strict";
// Sends what a button says to the API and shows what came of it; every text is set as text, never as markup.

const told = document.getElementById("told");

function localTimes(within) {
  for (const one of within.querySelectorAll("time")) {
    const moment = new Date(one.dateTime);
    if (!isNaN(moment)) one.textContent = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  }
}

async function send(address, options) {
  let answer;
  try {
    answer = await fetch(address, { credentials: "same-origin", ...options });
  } catch {
    throw new Error("The service gives no answer. Is it still running?");
  }
  const kind = answer.headers.get("Content-Type") || "";
  const found = kind.includes("json") ? await answer.json() : {};
  if (answer.status === 401) location.href = "/login?next=" + encodeURIComponent(location.pathname + location.search);
  if (!answer.ok) throw new Error(found.detail || `The service answered ${answer.status}.`);
  return found;
}

function post(address, body) {
  return send(address, { method: "POST", body: body || undefined, headers: body ? { "Content-Type": "application/json" } : {} });
}

function element(name, text, parent, more) {
  const made = Object.assign(document.createElement(name), { textContent: text }, more || {});
  parent.append(made);
  return made;
}

document.addEventListener("click", async event => {
  const button = event.target.closest("button[data-post]");
  if (!button) return;
  button.disabled = true;
  told.textContent = "";
  try {
    let body = button.dataset.body;
    const comment = document.getElementById("comment");
    if (comment && comment.value && body) body = JSON.stringify({ ...JSON.parse(body), comment: comment.value });
    const found = await post(button.dataset.post, body);
    if (found.verdict && found.verdict !== "accepted") throw new Error("It still breaks the agreement; its reasons are shown anew.");
    if (button.dataset.to) location.href = button.dataset.to.replace("{id}", found.id);
    else location.reload();
  } catch (error) {
    told.textContent = error.message;
    button.disabled = false;
    told.scrollIntoView({ block: "nearest" });
  }
});

const rows = [...document.querySelectorAll("tr[data-alarm]")];
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const place = rows.indexOf(document.activeElement.closest("tr[data-alarm]"));
  if (event.key === "j" && rows[place + 1]) rows[place + 1].focus();
  else if (event.key === "k" && place > 0) rows[place - 1].focus();
  else if (event.key === "Enter" && document.activeElement === rows[place]) rows[place].querySelector("a").click();
  else {
    const button = place >= 0 && "afg".includes(event.key) && rows[place].querySelector(`button[data-key="${event.key}"]`);
    if (button) button.click();
  }
});

const deliver = document.getElementById("deliver");
if (deliver) {
  const drop = deliver.querySelector(".drop"), verdict = document.getElementById("verdict");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, event => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") deliver.file.files = event.dataTransfer.files;
    });
  }
  deliver.addEventListener("submit", async event => {
    event.preventDefault();
    verdict.textContent = told.textContent = "";
    const [file] = deliver.file.files, kind = deliver.kind.value;
    element("p", `Checking ${file.name} …`, verdict, { className: "faint" });
    try {
      const asked = new URLSearchParams({ name: file.name, kind });
      const found = await send(`/v1/batches?${asked}`, { method: "POST", body: file, headers: { "Content-Type": "text/csv" } });
      show(found, kind, verdict);
    } catch (error) {
      verdict.textContent = "";
      told.textContent = error.message;
    }
  });
}

function show(found, kind, place) {
  place.textContent = "";
  const good = found.verdict === "accepted";
  element("h2", good ? `Accepted: ${found.wafers} wafers` + (found.known ? ", known before" : "") : "Not accepted", place, { className: good ? "" : "bad" });
  for (const [title, list] of [["Reasons", found.reasons], ["Warnings", found.warnings]]) {
    if (!list.length) continue;
    element("h3", title, place);
    const items = element("ul", "", place);
    for (const one of list.slice(0, 100)) element("li", one.message, items);
    if (list.length > 100) element("li", `and ${list.length - 100} more`, items);
  }
  if (found.conflicts.length) element("p", `${found.conflicts.length} wafers contradict stored ones and were turned away: see the quarantine.`, place, { className: "bad" });
  if (good && kind === "prediction") {
    const button = element("button", "Score what is new", place, { type: "button" });
    Object.assign(button.dataset, { post: "/v1/runs", body: '{"kind": "predict"}', to: "/runs/{id}" });
  }
}

const whatIf = document.getElementById("what-if");
if (whatIf) {
  const place = document.getElementById("worth"), shown = whatIf.querySelector("output");
  let waiting, asked = 0;
  const costs = () => ({ cost_missed_fault: Number(whatIf.cost_missed_fault.value), cost_false_alarm: Number(whatIf.cost_false_alarm.value) });
  const look = async () => {
    const number = ++asked;
    try {
      const found = await send("/v1/models/champion/what-if?" + new URLSearchParams({ alarm_rate: whatIf.alarm_rate.value / 100, ...costs() }));
      if (number !== asked) return;
      place.textContent = "";
      for (const sentence of found.sentences) element("p", sentence, place);
      const table = element("table", "", element("div", "", place, { className: "box" }));
      const head = element("tr", "", element("thead", "", table)), body = element("tbody", "", table);
      for (const name of found.columns) element("th", name, head, { scope: "col" });
      for (const row of found.rows) {
        const line = element("tr", "", body);
        row.forEach((cell, at) => element(at ? "td" : "th", cell, line, at ? {} : { scope: "row" }));
      }
    } catch (error) { if (number === asked) place.textContent = error.message; }
  };
  whatIf.addEventListener("input", event => {
    shown.textContent = `${whatIf.alarm_rate.value} %`;
    if (event.target.name === "why") return;
    clearTimeout(waiting);
    waiting = setTimeout(look, 250);
  });
  whatIf.addEventListener("submit", async event => {
    event.preventDefault();
    told.textContent = "";
    try {
      const wanted = { why: whatIf.why.value }; // what was not touched stays as it is
      for (const field of [whatIf.cost_missed_fault, whatIf.cost_false_alarm])
        if (field.value !== field.defaultValue) wanted[field.name] = Number(field.value);
      if (whatIf.alarm_rate.value !== whatIf.alarm_rate.defaultValue) wanted.alarm_rate_ceiling = whatIf.alarm_rate.value / 100;
      told.textContent = (await post("/v1/models/champion/retune", JSON.stringify(wanted))).reason;
    } catch (error) { told.textContent = error.message; }
  });
  look();
}

const live = document.querySelector("[data-events]");
if (live) {
  const events = new EventSource(live.dataset.events);
  events.onmessage = event => {
    const found = JSON.parse(event.data), done = found.steps.filter(one => one.seconds !== null).length;
    if (`${found.state} ${found.steps.length} ${done}` === live.dataset.seen) return;
    events.close();
    location.reload();
  };
}

localTimes(document);
