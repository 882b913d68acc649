import * as strip from "./strip.js";

// The dashboard. Everything that comes from files or slots is put in as text, never as HTML.
const $ = (id) => document.getElementById(id);
const make = (tag, text, attributes = {}) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

async function api(path, options = {}) {
  const response = await fetch(path, options);
  if (response.status === 401) {
    $("login").hidden = false;
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail || `the server answers with status ${response.status}`);
  }
  return response;
}
const json = async (path, options) => (await api(path, options)).json();

// --- Filters: forms made from what the server says there is.
let catalogue = [], files = [], lists = 0;

// Whether a text of this parameter may have more than a line.
const isLong = (param) => param.name === "params";

function field(param) {
  const label = make("label", `${param.name}${param.required ? " *" : ""}`, { title: param.help });
  let input;
  if (param.type === "boolean" || param.type === "choice") {
    input = make("select");
    for (const value of param.type === "boolean" ? ["false", "true"] : param.values) input.append(make("option", value));
    input.value = param.default ?? "";
  } else if (param.type === "integer" || param.type === "number") {
    input = make("input", undefined, { type: "number", min: param.min, max: param.max, step: param.type === "number" ? "any" : param.odd ? 2 : 1 });
    input.value = param.default ?? "";
  } else if (param.type === "file") {
    const list = make("datalist", undefined, { id: `files-${lists++}` });
    list.append(...[...param.words, ...files].map((value) => make("option", undefined, { value })));
    input = make("input", undefined, { type: "text", list: list.id, placeholder: "a name of the server's catalogue" });
    input.value = param.default ?? "";
    label.append(list);
  } else if (isLong(param)) {
    input = make("textarea", undefined, { rows: 3, cols: 40, spellcheck: "false" });
    input.value = param.default ?? "";
  } else {
    input = make("input", undefined, { type: "text", placeholder: param.type === "region" ? "x,y,w,h" : "" });
    input.value = param.default ?? "";
  }
  input.dataset.name = param.name;
  input.dataset.default = param.default ?? "";
  label.append(input);
  return label;
}

function addFilter(info) {
  const item = make("li");
  item.dataset.filter = info.name;
  item.append(make("strong", info.name), make("span", ` ${info.summary}`));
  const params = make("div", undefined, { class: "params" });
  for (const param of info.params) params.append(field(param));
  const up = make("button", "Up", { type: "button", "aria-label": `Move ${info.name} up` });
  up.onclick = () => item.previousElementSibling?.before(item);
  const remove = make("button", "Remove", { type: "button", "aria-label": `Remove ${info.name}` });
  remove.onclick = () => item.remove();
  item.append(params, up, " ", remove);
  $("pipeline").append(item);
}

const quoted = (value) => (/[:'\\=]/.test(value) ? value.replace(/[\\:']/g, (c) => `\\${c}`) : value);

function pipeline() {
  return [...$("pipeline").children].map((item) => {
    const values = [...item.querySelectorAll("[data-name]")].filter((input) => input.value !== "" && input.value !== input.dataset.default);
    if (item.dataset.filter === "ffmpeg") return `ffmpeg:${values.map((input) => input.value).join("")}`;
    return [item.dataset.filter, ...values.map((input) => `${input.dataset.name}=${quoted(input.value)}`)].join(":");
  });
}

async function loadFilters() {
  catalogue = await json("/v1/filters");
  files = (await json("/v1/files")).catalogue;
  const select = $("add");
  select.replaceChildren(make("option", "choose…", { value: "" }), ...catalogue.map((info) => make("option", info.name, { value: info.name })));
  select.onchange = () => {
    const info = catalogue.find((info) => info.name === select.value);
    if (info) addFilter(info);
    select.value = "";
  };
}

// --- A new job.
let chosen = null;
function choose(file) {
  chosen = file;
  $("chosen").textContent = file ? `${file.name}, ${(file.size / 1048576).toFixed(1)} MiB` : "";
}
$("file").onchange = () => choose($("file").files[0]);
for (const name of ["dragenter", "dragover"]) $("drop").addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
for (const name of ["dragleave", "drop"]) $("drop").addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.remove("over"); });
$("drop").addEventListener("drop", (event) => choose(event.dataTransfer.files[0] ?? null));

function send(url, file, offset) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("PATCH", url);
    request.setRequestHeader("Content-Type", "application/offset+octet-stream");
    request.setRequestHeader("Tus-Resumable", "1.0.0");
    request.setRequestHeader("Upload-Offset", offset);
    request.setRequestHeader("Upload-Length", file.size);
    request.upload.onprogress = (event) => { $("sending").value = (offset + event.loaded) / file.size; };
    request.onload = () => {
      if (request.status < 300) return done();
      let detail = `the server answers with status ${request.status}`;
      try { detail = JSON.parse(request.responseText).detail; } catch { /* no problem document */ }
      failed(Object.assign(new Error(detail), { status: request.status }));
    };
    request.onerror = () => failed(new Error("the connection was lost"));
    request.send(file.slice(offset));
  });
}

async function upload(url, file) {
  for (let attempt = 0; ; attempt++) {
    let offset = 0;
    if (attempt > 0) {
      const head = await fetch(url, { method: "HEAD" }).catch(() => null);
      if (head?.status === 409) return;
      offset = Number(head?.headers.get("Upload-Offset") ?? 0);
    }
    try {
      return await send(url, file, offset);
    } catch (error) {
      if (error.status || attempt >= 8) throw error;
      await new Promise((wait) => setTimeout(wait, 500 * 2 ** attempt));
    }
  }
}

$("new-form").onsubmit = async (event) => {
  event.preventDefault();
  $("new-error").textContent = "";
  if (!chosen) { $("new-error").textContent = "choose a video first"; return; }
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const request = {
    source: { upload: true, name: chosen.name, size: chosen.size },
    filters: pipeline(), container: $("container").value, priority: number("priority"),
    encoder: { codec: $("codec").value || undefined, crf: number("crf") },
  };
  $("submit").disabled = true;
  $("sending").hidden = false;
  try {
    const job = await json("/v1/jobs", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) });
    location.hash = job.id;
    await upload(job.upload_url, chosen);
  } catch (error) {
    $("new-error").textContent = error.message;
  } finally {
    $("submit").disabled = false;
    $("sending").hidden = true;
    refresh();
  }
};

// --- One job.
let source = null, shown = null, series = { fps: [], waiting: [], running: [] };

function draw(canvas, lines) {
  const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  const top = Math.max(1, ...lines.flatMap((line) => line.values)) * 1.1;
  for (const { values, color } of lines) {
    context.beginPath();
    context.strokeStyle = style.getPropertyValue(color);
    context.lineWidth = 2;
    values.forEach((value, i) => context.lineTo((i / Math.max(1, values.length - 1)) * width, height - (value / top) * (height - 4) - 2));
    context.stroke();
  }
}

function segments(states) {
  const bar = $("timeline");
  if (bar.children.length !== states.length) bar.replaceChildren(...states.map(() => make("i")));
  states.forEach((state, i) => { bar.children[i].className = state; bar.children[i].title = `segment ${i}: ${state}`; });
  const count = (wanted) => states.filter((state) => state === wanted).length;
  const looked = count("detected");
  bar.setAttribute("aria-label", `${count("done")} of ${states.length} segments done${looked ? `, ${looked} looked through` : ""}`);
}

function show(job) {
  shown = job;
  $("job").hidden = false;
  $("job-title").textContent = job.name;
  const parts = [job.state, job.waiting ? `waiting: ${job.waiting}` : "", job.filters.join(" → ") || "no filter", `.${job.container}`, job.id];
  $("job-line").textContent = parts.filter(Boolean).join(" · ");
  segments(job.segments ?? []);
  progress(job.progress, false);
  $("job-error").textContent = job.error?.detail ?? "";
  $("messages").replaceChildren(...(job.messages ?? []).map((text) => make("li", text)));
  const over = ["succeeded", "failed", "cancelled"].includes(job.state);
  $("cancel").hidden = over;
  $("purge").hidden = !over;
  $("retry").hidden = !["failed", "cancelled"].includes(job.state);
  $("replan").hidden = over || !job.waiting?.startsWith("no node for");
  const done = job.state === "succeeded";
  const video = done && !job.detections_only;
  $("download").hidden = !done;
  $("gif").hidden = $("result").hidden = !video;
  $("found").hidden = !job.detections_url;
  $("pictures").classList.toggle("alone", job.source_hidden);
  $("split").hidden = job.source_hidden;
  $("preview-title").textContent = job.source_hidden ? "After the filters, live; before them is not shown, since something is hidden" : "Before and after, live";
  if (done && $("result").dataset.job !== job.id) {
    $("result").dataset.job = job.id;
    $("download").href = job.output_url;
    if (job.detections_url) $("found").href = job.detections_url;
    if (video) {
      $("result").src = job.output_url;
      $("gif").href = `/v1/jobs/${job.id}/preview.gif`;
      if (job.detections_url) found(job);
    }
    steps(job.id);
  }
}

// What was found in it, under its video.
async function found(job) {
  try {
    await strip.show(await api(job.detections_url), () => shown?.id === job.id);
  } catch (error) {
    $("job-error").textContent = `what was found: ${error.message}`;
  }
}

async function steps(id) {
  const times = (await json(`/v1/jobs/${id}/metrics`)).time_per_frame_ms;
  const most = Math.max(...Object.values(times).map((t) => t.mean), 0.001);
  $("steps-list").replaceChildren(...Object.entries(times).flatMap(([name, t]) => {
    const value = make("dd"), bar = make("span");
    bar.style.width = `${(t.mean / most) * 12}rem`;
    value.append(bar, `${t.mean.toFixed(2)} (p95 ${t.p95.toFixed(2)})`);
    return [make("dt", name), value];
  }));
  $("steps").hidden = false;
}

function progress(p, live) {
  $("job-progress").value = p.percent ?? 0;
  const over = ["succeeded", "failed", "cancelled"].includes(shown?.state);
  $("stage").textContent = over ? "" : `${p.stage}${p.percent == null ? "" : `, ${Math.floor(p.percent)} %`}`;
  $("fps-now").textContent = `${p.fps.toFixed(1)}${p.realtime_ratio ? `, ${p.realtime_ratio.toFixed(2)}× real time` : ""}${p.eta_seconds ? `, ${Math.ceil(p.eta_seconds)} s left` : ""}`;
  $("queue-now").textContent = `${p.waiting}, ${p.running}${p.retried ? `, ${p.retried} tried again` : ""}`;
  if (!live) return;
  for (const [name, value] of [["fps", p.fps], ["waiting", p.waiting], ["running", p.running]]) {
    series[name].push(value);
    if (series[name].length > 300) series[name].shift();
  }
  draw($("fps"), [{ values: series.fps, color: "--accent" }]);
  draw($("queue"), [{ values: series.waiting, color: "--soft" }, { values: series.running, color: "--running" }]);
}

// The newest frame before and after its filters; both pictures are put in at once. Where something is
// hidden there is none before.
let looked = 0;
async function preview(id) {
  if (Date.now() - looked < 500) return;
  looked = Date.now();
  try {
    const sides = shown?.source_hidden ? ["after"] : ["before", "after"];
    const pictures = await Promise.all(sides.map(async (side) => {
      const blob = await (await api(`/v1/jobs/${id}/frames/latest.jpg?side=${side}`)).blob();
      return [side, URL.createObjectURL(blob)];
    }));
    if (shown?.id !== id) return;
    for (const [side, url] of pictures) {
      URL.revokeObjectURL($(side).src);
      $(side).src = url;
    }
    $("preview").hidden = false;
  } catch { /* there is none yet */ }
}
$("split").oninput = () => $("pictures").style.setProperty("--split", `${$("split").value}%`);

function log(text) {
  $("log").append(`${new Date().toLocaleTimeString()}  ${text}\n`);
}

async function follow(id) {
  source?.close();
  series = { fps: [], waiting: [], running: [] };
  $("log").textContent = "";
  $("steps").hidden = $("preview").hidden = true;
  for (const side of ["before", "after"]) $(side).removeAttribute("src");
  strip.clear();
  $("result").removeAttribute("src");
  delete $("result").dataset.job;
  if (!id) { $("job").hidden = true; return; }
  try {
    show(await json(`/v1/jobs/${id}`));
  } catch (error) {
    $("job").hidden = false;
    $("job-error").textContent = error.message;
    return;
  }
  looked = 0;
  preview(id);
  source = new EventSource(`/v1/jobs/${id}/events`);
  const again = async () => { show(await json(`/v1/jobs/${id}`)); };
  source.addEventListener("progress", (event) => { progress(JSON.parse(event.data), true); preview(id); });
  source.addEventListener("planned", (event) => { log(`planned: ${event.data}`); again(); });
  source.addEventListener("state", (event) => { log(`state: ${JSON.parse(event.data).state}`); again(); });
  source.addEventListener("task", (event) => {
    const task = JSON.parse(event.data);
    log(`${task.task}${task.segment === null ? "" : ` ${task.segment}`} ${task.state}${task.error ? `: ${task.error.message}` : ""}`);
    if (task.segment !== null && $("timeline").children[task.segment]) {
      const cell = $("timeline").children[task.segment];
      const accepted = task.task === "detect" ? "detected" : "done";
      const states = { started: cell.className === "retried" ? "retried" : "running", accepted, failed: "retried" };
      cell.className = states[task.state];
    }
  });
  source.addEventListener("end", (event) => { source.close(); show(JSON.parse(event.data)); refresh(); });
}
window.onhashchange = () => follow(location.hash.slice(1));

const act = (id, options, path) => {
  $(id).onclick = async () => {
    try {
      await api(path(), options);
      if (id === "purge") location.hash = ""; else follow(shown.id);
      refresh();
    } catch (error) {
      $("job-error").textContent = error.message;
    }
  };
};
act("cancel", { method: "DELETE" }, () => `/v1/jobs/${shown.id}`);
act("purge", { method: "DELETE" }, () => `/v1/jobs/${shown.id}?purge=true`);
act("retry", { method: "POST" }, () => `/v1/jobs/${shown.id}/retry`);
act("replan", { method: "POST" }, () => `/v1/jobs/${shown.id}/replan`);

// --- All jobs and workers.
async function refresh() {
  try {
    const { jobs, total } = await json("/v1/jobs?limit=50");
    $("jobs").replaceChildren(...jobs.map((job) => {
      const row = make("tr"), name = make("td"), open = make("button", job.name, { type: "button" });
      open.onclick = () => { location.hash = job.id; $("job").scrollIntoView(); };
      name.append(open);
      const percent = job.progress.percent;
      row.append(name, make("td", job.waiting ? `${job.state} (${job.waiting})` : job.state),
        make("td", percent == null ? "" : `${Math.round(percent)} %`), make("td", job.filters.join(" → ")),
        make("td", new Date(job.created_at).toLocaleString()));
      return row;
    }));
    const workers = await json("/v1/workers");
    $("workers").replaceChildren(...workers.map((w) => {
      const row = make("tr"), versions = make("td", w.engine ?? "");
      versions.title = w.versions ?? "";
      const state = !w.lives ? "silent" : w.apart ? `apart: ${w.apart}` : "lives";
      row.append(make("td", w.name ?? w.id.slice(0, 8)), make("td", w.host ?? ""),
        make("td", `${w.held} at work, ${w.free_slots} of ${w.slots ?? "?"} slots free`), make("td", w.load.toFixed(2)),
        make("td", `${Math.round(w.silent_seconds)} s ago`), versions, make("td", state));
      return row;
    }));
    const free = workers.filter((w) => w.lives).reduce((sum, w) => sum + w.free_slots, 0);
    $("server").textContent = `${total} jobs, ${free} slots free`;
    $("login").hidden = true;
  } catch (error) {
    $("server").textContent = error.message;
  }
}

$("login-form").onsubmit = async (event) => {
  event.preventDefault();
  $("login-error").textContent = "";
  try {
    await api("/v1/session", { method: "POST", body: $("token").value });
    $("token").value = "";
    start();
  } catch (error) {
    $("login-error").textContent = error.message;
  }
};

async function start() {
  await refresh();
  await loadFilters().catch((error) => { $("server").textContent = error.message; });
  follow(location.hash.slice(1));
}
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
start();
