// What was found in a video, over its time: boxes by class, and how much of the picture moved. A click,
// a drag or the arrow keys seek. Everything that comes from files is put in as text.
const $ = (id) => document.getElementById(id);

// Seconds that one column of data stands for.
const STEP = 0.1;
const MOTION = "motion";

// Reads the lines of a detections file, as they come, into the most boxes a frame within each step. A
// frame counts until the next one, for a second at most.
async function read(response) {
  const found = { classes: new Map(), motion: [], end: 0, frames: 0 };
  let rest = "", area = 1, last = null;
  const put = (at, { counts, moved }) => {
    for (const [name, count] of counts) {
      if (!found.classes.has(name)) found.classes.set(name, []);
      const values = found.classes.get(name);
      values[at] = Math.max(values[at] ?? 0, count);
    }
    if (moved > 0) found.motion[at] = Math.max(found.motion[at] ?? 0, Math.min(1, moved));
  };
  const line = (text) => {
    if (!text) return;
    const value = JSON.parse(text);
    if (value.size) { area = value.size[0] * value.size[1]; return; }
    const frame = { at: Math.max(0, Math.floor(value.time / STEP + 1e-6)), counts: new Map(), moved: 0 };
    for (const box of value.boxes) {
      if (box.class === MOTION) frame.moved += (box.w * box.h) / area;
      else frame.counts.set(box.class, (frame.counts.get(box.class) ?? 0) + 1);
    }
    for (let at = last ? last.at + 1 : frame.at; at < Math.min(frame.at, last?.at + 1 / STEP); at++) put(at, last);
    put(frame.at, frame);
    last = frame;
    found.end = Math.max(found.end, value.time);
    found.frames++;
  };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    lines.forEach(line);
    if (done) return found;
  }
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
const shade = (i) => `--class-${i % 6}`;

let data = null;
const length = () => $("result").duration || data.end + 1 / 25;
const clock = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;

const greatest = (values) => values.reduce((a, b) => Math.max(a, b), 0);

// Classes as lines that share one scale, and what moved, by a scale of its own, as an area beneath them.
function draw() {
  if (!data) return;
  const canvas = $("strip-canvas"), scale = devicePixelRatio || 1, context = canvas.getContext("2d");
  const width = (canvas.width = Math.max(1, canvas.clientWidth * scale));
  const height = (canvas.height = Math.max(1, canvas.clientHeight * scale));
  const total = length(), columns = Math.ceil(total / STEP), x = (at) => (at * STEP / total) * width;
  const area = (values, top, style) => {
    context.beginPath();
    context.fillStyle = context.strokeStyle = color(style);
    context.moveTo(0, height);
    for (let at = 0; at < columns; at++) {
      const y = height - ((values[at] ?? 0) / top) * (height - 4 * scale);
      context.lineTo(x(at), y);
      context.lineTo(x(at + 1), y);
    }
    context.lineTo(width, height);
  };
  if (data.motion.length) {
    area(data.motion, greatest(data.motion), "--moved");
    context.fill();
  }
  const top = greatest([...data.classes.values()].map(greatest));
  [...data.classes.values()].forEach((values, i) => {
    area(values, top, shade(i));
    context.globalAlpha = 0.25;
    context.fill();
    context.globalAlpha = 1;
    context.lineWidth = 2 * scale;
    context.stroke();
  });
}

// The tops of both scales, in words.
function tops() {
  const parts = [];
  if (data.classes.size) parts.push(`up to ${greatest([...data.classes.values()].map(greatest))} of a kind at a time`);
  if (data.motion.length) parts.push(`up to ${percent(greatest(data.motion))} of the picture in motion`);
  return parts.join(", ") || "nothing";
}

const percent = (share) => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;

function here() {
  const time = $("result").currentTime, at = Math.floor(time / STEP + 1e-6);
  const parts = [...data.classes].filter(([, values]) => values[at]).map(([name, values]) => `${values[at]} ${name}`);
  if (data.motion[at]) parts.push(`${percent(data.motion[at])} in motion`);
  return `${clock(time)}: ${parts.join(", ") || "nothing"}`;
}

function head() {
  if (!data) return;
  const total = length(), time = $("result").currentTime, strip = $("strip-view");
  $("strip-head").style.left = `${Math.min(100, (time / total) * 100)}%`;
  strip.setAttribute("aria-valuemax", total.toFixed(1));
  strip.setAttribute("aria-valuenow", time.toFixed(1));
  strip.setAttribute("aria-valuetext", here());
  $("strip-now").textContent = here();
}

function seek(time) {
  if (!data) return;
  $("result").currentTime = Math.max(0, Math.min(length() - STEP / 2, time));
  head();
}

function pointed(event) {
  const box = $("strip-view").getBoundingClientRect();
  seek(((event.clientX - box.left) / box.width) * length());
}

$("strip-view").onpointerdown = (event) => {
  $("strip-view").setPointerCapture(event.pointerId);
  pointed(event);
};
$("strip-view").onpointermove = (event) => { if (event.buttons & 1) pointed(event); };
$("strip-view").onkeydown = (event) => {
  const now = $("result").currentTime, step = event.shiftKey ? 5 : 1;
  const to = {
    ArrowLeft: now - step, ArrowDown: now - step, ArrowRight: now + step, ArrowUp: now + step,
    PageDown: now - 10, PageUp: now + 10, Home: 0, End: length(),
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  seek(to);
};
for (const name of ["timeupdate", "seeked", "loadedmetadata"]) $("result").addEventListener(name, () => { draw(); head(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
new ResizeObserver(draw).observe($("strip-canvas"));

function legend() {
  const item = (name, style) => {
    const entry = document.createElement("li"), mark = document.createElement("i");
    mark.style.background = `var(${style})`;
    entry.append(mark, name);
    return entry;
  };
  const items = [...data.classes.keys()].map((name, i) => item(name, shade(i)));
  if (data.motion.length) items.push(item("share of the picture in motion", "--moved"));
  $("strip-legend").replaceChildren(...items);
  $("strip-top").textContent = tops();
}

// Takes the strip away.
export function clear() {
  data = null;
  $("strip").hidden = true;
}

// Shows what a response, a detections file, tells; `current` says whether it is still wanted.
export async function show(response, current) {
  const found = await read(response);
  if (!current() || !found.frames) return;
  data = found;
  $("strip").hidden = false;
  legend();
  draw();
  head();
}
