"""The page that a person rates videos on: one file, no network, answers kept in the browser and saved as CSV."""

from __future__ import annotations

import html
import json

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rating sheet %(sheet)s</title>
<style>
  body { font-family: system-ui, sans-serif; max-width: 75rem; margin: 1rem auto; padding: 0 1rem; color: #222; background: #fff }
  .videos { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start }
  figure { margin: 0; flex: 1 1 16rem; max-width: 32rem }
  video, img { width: 100%%; background: #000 }
  figure.reference { flex: 0 1 10rem }
  fieldset { border: 1px solid #bbb; margin: .6rem 0 }
  label { margin-right: .8rem; white-space: nowrap }
  .prompt { font-size: 1.15rem; border-left: 4px solid #888; padding-left: .7rem }
  button { font-size: 1rem; padding: .35rem .9rem; margin-right: .5rem }
  .open { color: #a00 }
</style>
<h1>Rating sheet %(sheet)s</h1>
<p>Each page shows videos that were made from one picture and one sentence. Watch all of them before you answer; they repeat.
Answers are kept in this browser. At the end, save them and send the file back.</p>
<p><label>Your name or number: <input id="rater" autocomplete="off"></label></p>
<main id="trial"></main>
<p><button id="back">Back</button><button id="next">Next</button> <span id="where"></span></p>
<p><button id="save">Save answers</button> <span id="open" class="open"></span></p>
<noscript>This page needs JavaScript, which runs in your browser alone.</noscript>
<script type="application/json" id="data">%(data)s</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const place = "rating/" + data.study + "/" + data.sheet;
let kept = {rater: "", at: 0, answers: {}, seconds: {}};
try { kept = JSON.parse(localStorage.getItem(place)) || kept; } catch (e) { /* private windows keep nothing */ }
const byId = id => document.getElementById(id);
const keep = () => { try { localStorage.setItem(place, JSON.stringify(kept)); } catch (e) {} };
let since = Date.now();

function wanted(trial) {
  const keys = [];
  for (const q of data.questions)
    if (q.kind === "best") keys.push([trial.trial, q.name, ""].join("|"));
    else for (const v of trial.videos) keys.push([trial.trial, q.name, v.slot].join("|"));
  return keys;
}
const missing = trial => wanted(trial).filter(k => !(k in kept.answers)).length;

function choice(key, value, text) {
  const label = document.createElement("label"), input = document.createElement("input");
  input.type = "radio"; input.name = key; input.value = value; input.checked = kept.answers[key] === value;
  input.onchange = () => { kept.answers[key] = value; keep(); status(); };
  label.append(input, " ", text);
  return label;
}

function field(title, choices) {
  const set = document.createElement("fieldset"), legend = document.createElement("legend");
  legend.textContent = title; set.append(legend, ...choices);
  return set;
}

function figure(node, caption, kind) {
  const box = document.createElement("figure"), words = document.createElement("figcaption");
  words.textContent = caption; if (kind) box.className = kind; box.append(node, words);
  return box;
}

function show() {
  const trial = data.trials[kept.at], main = byId("trial");
  main.replaceChildren();
  const prompt = document.createElement("p"); prompt.className = "prompt"; prompt.textContent = trial.prompt; main.append(prompt);
  const row = document.createElement("div"); row.className = "videos";
  if (trial.image) {
    const image = document.createElement("img"); image.src = trial.image; image.alt = "the picture";
    row.append(figure(image, "the picture", "reference"));
  }
  for (const v of trial.videos) {
    const video = document.createElement("video");
    video.src = v.file; video.loop = video.autoplay = video.muted = video.controls = video.playsInline = true;
    row.append(figure(video, "video " + v.slot));
  }
  main.append(row);
  for (const q of data.questions) {
    if (q.kind === "best")
      main.append(field(q.text, trial.videos.map(v => choice([trial.trial, q.name, ""].join("|"), v.slot, "video " + v.slot))));
    else for (const v of trial.videos)
      main.append(field("Video " + v.slot + ": " + q.text, Array.from({length: q.points}, (_, i) => choice(
        [trial.trial, q.name, v.slot].join("|"), String(i + 1),
        (i + 1) + (i === 0 ? " (" + q.low + ")" : i + 1 === q.points ? " (" + q.high + ")" : "")))));
  }
  status();
}

function status() {
  const left = data.trials.filter(t => missing(t)).length;
  byId("where").textContent = "page " + (kept.at + 1) + " of " + data.trials.length;
  byId("open").textContent = left ? left + " pages are not answered yet" : "";
  byId("back").disabled = kept.at === 0; byId("next").disabled = kept.at === data.trials.length - 1;
}

function go(by) {
  const trial = data.trials[kept.at].trial;
  kept.seconds[trial] = (kept.seconds[trial] || 0) + (Date.now() - since) / 1000; since = Date.now();
  kept.at = Math.min(Math.max(kept.at + by, 0), data.trials.length - 1); keep(); show(); window.scrollTo(0, 0);
}

const quoted = text => '"' + String(text).replaceAll('"', '""') + '"';

function save() {
  go(0);
  kept.rater = byId("rater").value.trim();
  if (!kept.rater) { byId("open").textContent = "give your name or number first"; byId("rater").focus(); return; }
  keep();
  const lines = ["study,sheet,rater,trial,question,slot,value,seconds"];
  for (const trial of data.trials) for (const key of wanted(trial)) {
    if (!(key in kept.answers)) continue;
    const [number, question, slot] = key.split("|");
    lines.push([data.study, data.sheet, kept.rater, number, question, slot, kept.answers[key],
                Math.round(kept.seconds[number] || 0)].map(quoted).join(","));
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\\n") + "\\n"], {type: "text/csv"}));
  link.download = "answers-" + data.sheet + "-" + kept.rater.replace(/[^A-Za-z0-9]+/g, "-") + ".csv";
  link.click(); URL.revokeObjectURL(link.href);
}

byId("rater").value = kept.rater;
byId("back").onclick = () => go(-1); byId("next").onclick = () => go(1); byId("save").onclick = save;
show();
</script>
</html>
"""


def rating_page(study: str, sheet: int, trials: list[dict], questions: list[dict]) -> str:
    """The page of one rater. trials: trial, prompt, image (a file or ""), videos (slot and file); questions: name, kind ("likert"
    or "best"), text, and points, low, high of the scale."""
    data = json.dumps({"study": study, "sheet": sheet, "trials": trials, "questions": questions}, ensure_ascii=False)
    # Inside <script> only "</" and "<!--" could end the text early; both are written as JSON escapes.
    return PAGE % {"sheet": html.escape(str(sheet)), "data": data.replace("<", "\\u003c")}
