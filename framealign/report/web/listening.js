// The page of `listen`: record or choose a sound, see its emotion while it comes, save the result of the whole.
const settings = JSON.parse(document.getElementById("settings").textContent);
const part = (id) => document.getElementById(id);
const VIEW = 15;                                        // seconds of a recording that are in view
const BEHIND = 3;                                       // seconds of sound that wait; from then on it is said
const START = 10000;                                    // milliseconds in which a browser's sound starts
const CHUNK_SECONDS = 1;                                // that are sent together, at most, where the server is behind
let recording = null;                                   // the one that is going on
let isBusy = false;                                     // something is being recognised

function say(text, isWrong = false) {
  part("status").textContent = text;
  part("status").classList.toggle("wrong", isWrong);
}

function show() {                                       // what can be pressed now
  part("record").disabled = isBusy;
  part("record").textContent = recording ? "■ Stop" : "● Record";
  part("record").classList.toggle("on", Boolean(recording));
  part("file").disabled = isBusy || Boolean(recording);
}

// What the server answers. A server that is busy is asked again; a chunk that comes twice counts once.
async function post(path, body = null) {
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch(path, { method: "POST", body });
    } catch {
      if (tries < 3) { await new Promise((done) => setTimeout(done, 300)); continue; }
      throw new Error("The server does not answer; was it stopped? Start it again and open the address that it prints.");
    }
    if (response.status === 503 && tries < 100) { await new Promise((done) => setTimeout(done, 300)); continue; }
    const content = await response.json();
    if (!response.ok) throw new Error(content.error);
    return content;
  }
}

// A recording.

const REASONS = {
  NotAllowedError: "The microphone was not allowed. Allow it for this page in the browser (beside the address), then press Record again; or choose a file.",
  NotFoundError: "There is no microphone. Connect one and press Record again; or choose a file.",
  NotReadableError: "The microphone cannot be used; another program may have it. Close that and press Record again; or choose a file.",
};

async function begin() {
  performance.mark("click");
  isBusy = true;
  show();
  say("Waiting for the microphone …");
  const one = { frames: [], segments: [], columns: [], peaks: [], chunks: [], number: 0, samples: 0, weights: 0,
                seconds: 0, loudest: -Infinity };
  try {
    if (!navigator.mediaDevices) throw new Error("This browser gives no microphone to this page; choose a file.");
    one.context = new AudioContext({ latencyHint: "interactive" });
    const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const results = await Promise.allSettled([navigator.mediaDevices.getUserMedia({ audio: raw }),
                                              one.context.audioWorklet.addModule("recorder.js")]);
    one.microphone = results[0].value;
    for (const result of results) if (result.reason) throw result.reason;
    performance.mark("microphone");
    one.rate = one.context.sampleRate;
    one.recorder = new AudioWorkletNode(one.context, "recorder", { numberOfOutputs: 0 });
    one.recorder.port.onmessage = ({ data }) => take(one, data);
    one.context.createMediaStreamSource(one.microphone).connect(one.recorder);
    one.microphone.getTracks().forEach((track) => track.addEventListener("ended", stop));
    await started(one.context);
    one.name = (await post(`begin?rate=${one.rate}`)).recording;
  } catch (error) {
    release(one);
    isBusy = false;
    show();
    say(REASONS[error.name] || error.message, true);
    return;
  }
  clear();
  part("live").hidden = false;
  recording = one;
  isBusy = false;
  show();
  say("Recording. Press Stop to see the result of the whole.");
  draw(one);
  send(one);
}

// Until a context runs, and with it the microphone. Firefox starts none where there is nothing to play sound to.
function started(context) {
  const message = "This browser's sound does not start. Connect something to play sound to, as headphones, and press Record again; or choose a file.";
  return Promise.race([context.resume(), new Promise((_, fail) => setTimeout(() => fail(new Error(message)), START))]);
}

// Samples (n,) from the microphone; null after the last ones.
function take(one, samples) {
  if (one.failed || one.ended) return;
  if (samples === null) {
    one.ended = true;
    release(one);
  } else {
    const left = Math.floor(settings.seconds * one.rate) - one.samples;
    if (samples.length >= left) {
      samples = samples.slice(0, left);
      stop();
    }
    one.samples += samples.length;
    one.chunks.push(samples);
    let [low, high] = [0, 0];
    for (const x of samples) { low = Math.min(low, x); high = Math.max(high, x); }
    for (let i = 0; i < 10; i++) {                      // ten columns a chunk
      const piece = samples.subarray(Math.floor(i * samples.length / 10), Math.floor((i + 1) * samples.length / 10));
      if (piece.length) one.peaks.push([Math.min(...piece), Math.max(...piece)]);
    }
    one.loudest = Math.max(one.loudest, high, -low);
    part("clock").textContent = `${(one.samples / one.rate).toFixed(1)} s`;
  }
  send(one);
}

// Chunks go one after the other; what has come while one was on its way goes together.
async function send(one) {
  if (one.isSending || !one.name) return;
  one.isSending = true;
  try {
    while (one.chunks.length) {
      const pieces = one.chunks.splice(0, Math.max(1, Math.round(10 * CHUNK_SECONDS)));
      const chunk = new Float32Array(pieces.reduce((size, piece) => size + piece.length, 0));
      pieces.reduce((place, piece) => { chunk.set(piece, place); return place + piece.length; }, 0);
      add(one, await post(`chunk?recording=${one.name}&number=${one.number++}`, chunk));
    }
    if (one.ended && !one.isAsked) {
      one.isAsked = true;
      const last = await post(`end?recording=${one.name}`);
      add(one, last);
      finish(last.whole);
    }
  } catch (error) {
    one.failed = true;
    if (recording === one) recording = null;
    release(one);
    isBusy = false;
    show();
    say(error.message, true);
  }
  one.isSending = false;
}

// What became certain.
function add(one, answer) {
  if (answer.frames.length && !one.frames.length) performance.mark("first-frames");
  one.frames.push(...answer.frames);
  one.weights += answer.frames.reduce((sum, frame) => sum + frame.weight, 0);
  one.seconds = answer.seconds;
  const bytes = Uint8Array.from(atob(answer.spectrum), (letter) => letter.charCodeAt(0));
  for (let i = 0; i < bytes.length; i += settings.bands) one.columns.push(bytes.subarray(i, i + settings.bands));
  for (const segment of answer.segments) {
    one.segments.push(segment);
    list(segment);
  }
  requestAnimationFrame(() => draw(one));
}

function stop() {
  if (!recording) return;
  const one = recording;
  recording = null;
  isBusy = true;
  show();
  say("Recognising the whole …");
  one.recorder.port.postMessage(null);                  // what is not yet a whole chunk comes, then null
  setTimeout(() => take(one, null), 500);               // a microphone that was pulled out answers no more
}

function release(one) {                                 // the microphone is off, and its light
  if (one.microphone) one.microphone.getTracks().forEach((track) => track.stop());
  if (one.context && one.context.state !== "closed") one.context.close();
}

// A file.

async function recognise(file) {
  if (isBusy || recording) return;
  clear();
  if (file.size > settings.bytes) {
    say(`${file.name}: ${(file.size / 1e6).toFixed(0)} MB, more than ${settings.bytes / 1e6} MB (--megabytes)`, true);
    return;
  }
  isBusy = true;
  show();
  say(`Recognising ${file.name} …`);
  try {
    finish((await post(`file?name=${encodeURIComponent(file.name)}`, file)).whole);
  } catch (error) {
    isBusy = false;
    show();
    say(error.message, true);
  }
}

// The result of the whole sound, in place of what was drawn live.

function clear() {
  for (const id of ["live", "listed"]) part(id).hidden = true;
  part("rows").replaceChildren();
  part("result").replaceChildren();
  for (const button of document.querySelectorAll(".save")) button.hidden = true;
  part("clock").textContent = "0.0 s";
}

function finish(whole) {
  clear();
  const html = whole.files.html, end = "</figure>";      // its figure alone: the page has the style and script already
  part("result").innerHTML = html.slice(html.indexOf("<figure"), html.lastIndexOf(end) + end.length);
  timeline(part("result").firstChild);
  whole.segments.forEach(list);
  for (const button of document.querySelectorAll(".save")) {
    const kind = button.dataset.kind;
    button.hidden = false;
    button.onclick = () => save(`${whole.name.replace(/\.[^.]*$/, "") || "sound"}.${kind}`, whole.files[kind]);
  }
  part("clock").textContent = `${whole.seconds.toFixed(1)} s`;
  isBusy = false;
  show();
  const share = whole.emotion === settings.none ? whole.reason : percent(whole.probabilities[whole.emotion]);
  say(`${whole.name}: ${whole.emotion}, ${share}`);
  performance.mark("result");
}

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function list(segment) {
  const row = document.createElement("tr");
  const isNone = segment.emotion === settings.none;
  for (const text of [segment.emotion, segment.start.toFixed(2), segment.end.toFixed(2),
                      isNone ? segment.reason : segment.confidence.toFixed(2), percent(segment.attention)]) {
    row.append(Object.assign(document.createElement("td"), { textContent: text }));
  }
  part("rows").append(row);
  part("listed").hidden = false;
}

const percent = (share) => `${Math.round(100 * share)} %`;

// Pictures of a recording: its last VIEW seconds.

function draw(one) {
  if (part("live").hidden || one.failed) return;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const seconds = one.samples / one.rate || 0;
  const last = one.frames.at(-1), certain = last ? last.start : 0;
  const from = Math.max(0, Math.min(seconds, certain + VIEW / 3) - VIEW);       // in view is what was recognised last
  const on = (id, paint) => {
    const canvas = part(id), scale = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    paint(pen, height, (second) => (second - from) / VIEW * width, width);
  };
  const length = 1 / settings.rate;                     // of a frame, s
  const first = Math.max(0, Math.floor(from / length) - 1);
  const frames = one.frames.slice(first);

  on("sound", (pen, height, x) => {
    const step = 0.01, scale = 0.48 * height / Math.max(one.loudest, 1e-6);
    pen.fillStyle = colour("wave");
    for (let i = Math.floor(from / step); i < one.peaks.length; i++) {
      const [low, high] = one.peaks[i];
      pen.fillRect(x(i * step), height / 2 - high * scale, Math.max(1, x(step) - x(0)), Math.max(0.6, (high - low) * scale));
    }
  });

  on("spectrum", (pen, height, x, width) => {
    const start = Math.max(0, Math.floor(from / settings.column)), number = one.columns.length - start;
    if (number < 1) return;
    const image = new ImageData(number, settings.bands), range = 2 * settings.decibels;
    for (const column of one.columns.slice(-50)) for (const level of column) one.top = Math.max(one.top || 0, level);
    for (let i = 0; i < number; i++) {
      for (let band = 0; band < settings.bands; band++) {
        const place = 4 * (i + (settings.bands - 1 - band) * number);
        const level = 1 + (one.columns[start + i][band] - one.top) / range;     // 0..1, 1 as loud as the loudest
        const grey = 255 * (1 - Math.max(0, level));
        image.data[place] = image.data[place + 1] = image.data[place + 2] = grey;
        image.data[place + 3] = 255;
      }
    }
    const small = new OffscreenCanvas(number, settings.bands);
    small.getContext("2d").putImageData(image, 0, 0);
    const left = x((start - 0.5) * settings.column);
    pen.drawImage(small, left, 0, x((start + number - 0.5) * settings.column) - left, height);
  });

  on("segments", (pen, height, x, width) => {
    const decided = one.segments.length ? one.segments.at(-1).end : 0;
    for (const { start, end, emotion } of one.segments) if (end > from) run(pen, height, x, start, end, emotion, 1);
    let begin = null;
    frames.forEach((frame, i) => {
      const emotion = best(frame);
      if (frame.start + length / 2 < decided) return;
      if (begin === null) begin = frame.start;
      if (i + 1 < frames.length && best(frames[i + 1]) === emotion) return;
      run(pen, height, x, begin, frame.start + length, emotion, 0.45);
      begin = null;
    });
  });

  on("posterior", (pen, height, x) => {
    for (const frame of frames) {
      const left = Math.round(x(frame.start)), right = Math.max(left + 1, Math.round(x(frame.start + length)));
      let bottom = height;
      frame.posterior.forEach((share, c) => {
        pen.fillStyle = settings.colours[settings.labels[c]];
        pen.fillRect(left, bottom - share * height, right - left, share * height);
        bottom -= share * height;
      });
    }
  });

  on("attention", (pen, height, x, width) => {
    if (!frames.length) return;
    const mean = one.weights / one.frames.length;
    const values = frames.map((frame) => frame.weight / mean);
    const scale = 0.94 * height / Math.max(1.5, ...values);
    pen.beginPath();
    pen.moveTo(x(frames[0].start), height);
    frames.forEach((frame, i) => pen.lineTo(x(frame.start + length / 2), height - scale * values[i]));
    pen.lineTo(x(frames.at(-1).start + length), height);
    pen.fillStyle = pen.strokeStyle = colour("attention");
    pen.globalAlpha = 0.35;
    pen.fill();
    pen.globalAlpha = 1;
    pen.lineWidth = 1.4;
    pen.stroke();
    pen.strokeStyle = colour("soft");
    pen.lineWidth = 1;
    pen.setLineDash([3, 4]);
    pen.beginPath();
    pen.moveTo(0, height - scale);
    pen.lineTo(width, height - scale);
    pen.stroke();
    pen.setLineDash([]);
  });

  on("axis", (pen, height, x, width) => {
    pen.fillStyle = colour("soft");
    pen.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
    const step = width < 400 ? 5 : 2.5;
    for (let mark = Math.ceil(from / step) * step; mark <= from + VIEW; mark += step) {
      pen.textAlign = mark === 0 ? "left" : mark >= from + VIEW ? "right" : "center";
      pen.fillText(mark === 0 ? "0 s" : String(mark), x(mark), 14);
      pen.fillRect(Math.min(x(mark), width - 1), 0, 1, 4);
    }
  });

  if (last) {
    const now = best(last), chip = document.createElement("b");
    chip.textContent = last.emotion;
    chip.className = last.emotion === settings.none ? "chip hatched" : "chip";
    if (last.emotion !== settings.none) {
      Object.assign(chip.style, { background: settings.colours[last.emotion], color: settings.inks[last.emotion] });
    }
    const share = last.emotion === settings.none ? last.reason : percent(last.probabilities[last.emotion]);
    const behind = seconds - certain;
    part("verdict").replaceChildren("so far: ", chip, ` ${share} · now: ${now}`
      + (behind > BEHIND ? ` · ${behind.toFixed(0)} s behind: this computer is slow or busy` : ""));
    if (!one.isColoured) performance.mark("first-coloured-frame");
    one.isColoured = true;
  } else {
    part("verdict").textContent = "listening …";
  }
}

// The most probable class of a frame; what is heard instead where there is no speech.
function best(frame) {
  if (frame.kind && frame.kind !== settings.speech) return settings.none;
  return settings.labels[frame.posterior.indexOf(Math.max(...frame.posterior))];
}

// A run of one emotion: its colour and, where there is room, its name; hatched where there is none.
function run(pen, height, x, start, end, emotion, opacity) {
  const [left, right] = [Math.max(0, x(start)), x(end)];
  const style = getComputedStyle(document.documentElement);
  pen.globalAlpha = opacity;
  if (emotion === settings.none) {
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, right - left, height);
    pen.clip();
    pen.strokeStyle = style.getPropertyValue("--line").trim();
    pen.lineWidth = 2;
    for (let place = left - height; place < right; place += 8) {
      pen.beginPath();
      pen.moveTo(place, 0);
      pen.lineTo(place + height, height);
      pen.stroke();
    }
    pen.restore();
  } else {
    pen.fillStyle = settings.colours[emotion];
    pen.fillRect(left, 0, right - left, height);
  }
  pen.globalAlpha = 1;
  pen.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
  if (right - left > pen.measureText(emotion).width + 8) {
    pen.fillStyle = emotion === settings.none || opacity < 1 ? style.getPropertyValue("--text").trim() : settings.inks[emotion];
    pen.textAlign = "center";
    pen.fillText(emotion, (left + right) / 2, height / 2 + 4);
  }
}

// What one can do.

part("record").addEventListener("click", () => { if (recording) stop(); else begin(); });
part("file").addEventListener("change", () => {
  const [file] = part("file").files;
  part("file").value = "";                              // the same one can be chosen again
  if (file) recognise(file);
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); part("controls").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) part("controls").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  part("controls").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) recognise(file);
});
addEventListener("resize", () => { if (recording) draw(recording); });
addEventListener("pagehide", () => {                    // a beacon would not say its origin where referrers are off
  if (recording) fetch(`forget?recording=${recording.name}`, { method: "POST", keepalive: true });
});
show();
