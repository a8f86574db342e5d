"use strict";
// Sends a picture to /predict and shows the answers. No state but what is on the page; nothing is stored.

const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
let asked = 0; // the newest question: an older answer that comes late is dropped
let shown = null; // the picture that is shown, as an object URL
let last = null; // and as it was sent

function say(text, wrong = false) {
  $("said").textContent = text;
  $("said").className = wrong ? "wrong" : "";
}

async function call(path, options = {}) {
  const token = $("token").value;
  if (token) options.headers = { ...options.headers, Authorization: `Bearer ${token}` };
  const response = await fetch(path, options).catch(() => null);
  if (!response) throw new Error("The service does not answer: try again in a moment.");
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) $("token-row").hidden = false;
  if (!response.ok) throw new Error(answer.message ?? `The service answered ${response.status}.`);
  return answer;
}

async function ask(picture) {
  const question = ++asked;
  last = picture;
  show(picture);
  say("Looking …");
  const body = new FormData();
  body.append("images", picture, "picture");
  try {
    const { predictions } = await call(`predict?faces=${$("faces").checked ? "auto" : "none"}`, { method: "POST", body });
    if (question === asked) answer(predictions, question);
  } catch (error) {
    if (question === asked) say(error.message, true);
  }
}

function show(picture) {
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(picture);
  $("photo").src = shown;
  $("photo").alt = "Your picture";
  $("photo").onerror = () => ($("frame").hidden = true); // a format that this browser does not know
  $("frame").hidden = false;
  $("boxes").replaceChildren();
  $("cards").replaceChildren();
  $("answers").hidden = true;
}

async function answer(predictions, question) {
  $("answers").hidden = predictions.length === 0;
  $("cards").replaceChildren(...predictions.map(card));
  const read = predictions.map((p, n) => `${name(p, n)}: ${p.label}, ${percent(p.confidence)}`);
  const count = predictions.length === 1 ? "1 face" : `${predictions.length} faces`;
  say(predictions.length ? `${count}. ${read.join("; ")}.` : "No face was found in this picture.");
  await $("photo").decode().catch(() => {});
  if (question !== asked) return; // another picture is shown by now
  $("boxes").replaceChildren(...predictions.filter((p) => p.box).map(box));
}

const name = (prediction, n) => (prediction.box ? `Face ${n + 1}` : "Picture");

function box(prediction, n) {
  const { x, y, width, height } = prediction.box;
  const across = 100 / $("photo").naturalWidth, down = 100 / $("photo").naturalHeight;
  const frame = document.createElement("div");
  Object.assign(frame.style, {
    left: `${x * across}%`, top: `${y * down}%`, width: `${width * across}%`, height: `${height * down}%`,
  });
  frame.append(Object.assign(document.createElement("span"), { textContent: n + 1 }));
  return frame;
}

function card(prediction, n) {
  const article = $("card").content.cloneNode(true).firstElementChild;
  const seen = prediction.score == null ? "" : ` (found with score ${prediction.score.toFixed(2)})`;
  article.querySelector("h3").textContent = `${name(prediction, n)}: ${prediction.label}${seen}`;
  const bars = article.querySelector(".bars");
  for (const [emotion, share] of Object.entries(prediction.probabilities)) {
    const row = document.createElement("li");
    if (emotion === prediction.label) row.className = "first";
    row.innerHTML = '<span></span><div class="track" aria-hidden="true"><div class="fill"></div></div><span class="percent"></span>';
    row.firstChild.textContent = emotion;
    row.lastChild.textContent = percent(share);
    requestAnimationFrame(() => (row.querySelector(".fill").style.width = `${100 * share}%`));
    bars.append(row);
  }
  const form = article.querySelector(".feedback"), select = form.querySelector("select"), said = form.querySelector("span");
  select.append(...Object.keys(prediction.probabilities).map((emotion) => new Option(emotion)));
  select.value = prediction.label;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = JSON.stringify({ id: prediction.id, emotion: select.value });
    try {
      const { logged } = await call("feedback", { method: "POST", body, headers: { "Content-Type": "application/json" } });
      said.textContent = logged
        ? `Thank you: ${select.value} is noted.`
        : `Thank you, but ${select.value} could not be noted: the service cannot write its log. Try again later.`;
    } catch (error) {
      said.textContent = error.message;
    }
  });
  return article;
}

$("file").addEventListener("click", () => ($("file").value = "")); // else the same file again would be no change
$("file").addEventListener("change", () => $("file").files[0] && ask($("file").files[0]));
$("faces").addEventListener("change", () => last && ask(last));
$("ask").addEventListener("submit", (event) => event.preventDefault());
$("token").addEventListener("change", () => { about(); if (last) ask(last); });

for (const event of ["dragover", "dragleave", "drop"])
  document.addEventListener(event, (e) => {
    e.preventDefault(); // else the browser would open the picture instead of the page
    $("drop").classList.toggle("over", event === "dragover");
    if (event === "drop" && e.dataTransfer.files[0]) ask(e.dataTransfer.files[0]);
  });
document.addEventListener("paste", (e) => e.clipboardData.files[0] && ask(e.clipboardData.files[0]));

$("camera").addEventListener("click", async () => {
  $("camera").disabled = true; // at once: a second click would start a second stream
  try {
    if (!navigator.mediaDevices) throw new Error("needs https or localhost");
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    $("viewfinder").hidden = false;
    await $("video").play();
    $("shoot").focus();
    say("The camera is on.");
  } catch (error) {
    cameraOff();
    say(`The camera cannot be used: ${error.message}`, true);
  }
});

function cameraOff() {
  $("video").srcObject?.getTracks().forEach((track) => track.stop());
  $("video").srcObject = null;
  $("viewfinder").hidden = true;
  $("camera").disabled = false;
  $("camera").focus();
}

$("stop").addEventListener("click", () => { cameraOff(); say("The camera is off."); });
$("shoot").addEventListener("click", () => {
  const video = $("video"), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  cameraOff();
  canvas.toBlob((picture) => (picture ? ask(picture) : say("The camera shows nothing yet: try again.", true)), "image/jpeg", 0.95);
});

function fact(term, value, link) {
  const dt = document.createElement("dt"), dd = document.createElement("dd");
  dt.textContent = term;
  dd.append(link ? Object.assign(document.createElement("a"), { href: link, textContent: value }) : value);
  return [dt, dd];
}

async function about() {
  let facts = [];
  try {
    const { model, accuracy, keeps_images, drift, history } = await call("about");
    $("synthetic").hidden = !model.synthetic;
    $("kept").textContent = keeps_images ? "Each face is kept too, grey and 48 by 48 pixels." : "Pictures are not kept.";
    const range = accuracy?.interval ? ` (${accuracy.interval.map(percent).join(" to ")})` : "";
    const verdicts = { healthy: "healthy", drift: "drift found", too_few: "too few predictions to say" };
    facts = [
      ...fact("Name and version", `${model.name}, ${model.version}`),
      ...fact("Served because it is", { champion: "the champion", release: "the release", package: "a package under trial" }[model.source] ?? model.source),
      ...fact("Trained on", (model.trained_on.join(", ") || "not known") + (model.synthetic ? " (synthetic faces)" : "")),
      ...fact("Accuracy on its test images", accuracy ? `${percent(accuracy.value)}${range}, ${accuracy.images} images` : "not recorded with this model"),
      ...fact("Drift", drift ? `${verdicts[drift.verdict] ?? drift.verdict}, ${new Date(drift.time).toLocaleString()}` : "not monitored here yet", drift?.report),
      ...(history ? fact("Monitoring", "all verdicts so far", history) : []),
      ...((drift?.report || history) && $("token").value ? fact("Its pages ask for a password", "it is the access token, with any name") : []),
    ];
  } catch (error) {
    facts = fact("Not shown", error.message);
  }
  $("model").replaceChildren(...facts);
}
about();
