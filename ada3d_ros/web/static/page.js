// The page: events of the server in, questions out.
import { Chat } from "./chat.js";
import { byId, element, getBytes, isOpen, nameOf, post } from "./dom.js";
import { Pruning, showPictures, showTimes } from "./panels.js";
import { Scenes } from "./scenes.js";
import { Watched } from "./watched.js";

const field = byId("question");
const OLDER = 5; // answers whose boxes stay, in grey
let state = {};
let shown = null; // {epoch, scene, run} of the scene in view; null before a robot has told
let scene = null; // the 3D view; null until it is loaded, and without WebGL

const chat = new Chat({ page: ownName(), onLook: (box) => lookAt(box), onAsk: askAbout });
const pruning = new Pruning();
const watched = new Watched();
const scenes = new Scenes();

function ownName() {
  const known = sessionStorage.getItem("page");
  if (known) return known;
  const made = [...crypto.getRandomValues(new Uint8Array(8))].map((b) => b.toString(16)).join("");
  sessionStorage.setItem("page", made);
  return made;
}

// -- what the server says

let events;
function connect() {
  events = new EventSource("/events");
  const on = (name, work) =>
    events.addEventListener(name, (event) => work(JSON.parse(event.data)));
  on("whole", (whole) => {
    state = whole;
    pruning.setStrategies(whole.strategies);
    pruning.setSettings(whole.settings);
    watched.set(whole.watches);
    watched.setNews(whole.news);
    showStatus(whole.status);
    chat.reset(whole.turns);
    afterTurns();
    showScene();
  });
  on("status", (status) => showStatus((state.status = status)));
  on("settings", (settings) => pruning.setSettings((state.settings = settings)));
  on("watches", (watches) => watched.set(watches));
  on("news", (news) => watched.setNews(news));
  on("turn", (turn) => {
    chat.set(turn);
    afterTurns();
  });
  on("text", ({ turn, delta }) => chat.addText(turn, delta));
  on("keyframes", (keyframes) => {
    state.keyframes = keyframes;
    showViews();
  });
  on("cloud", (number) => {
    state.cloud = number;
    showCloud();
  });
  on("pose", (pose) => scene?.setPose((state.pose = pose)));
  events.onerror = () => {
    showStatus({ tone: "bad", text: "The page's server does not answer. Trying again…" });
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  };
}

function showStatus(status) {
  noteScene(status);
  const line = byId("status");
  line.dataset.tone = status.tone ?? "wait";
  const text = status.text ?? "Connecting…";
  const words = line.querySelector("span");
  if (words.textContent !== text) words.textContent = text; // told once by a screen reader
  const facts = [status.scene, status.keyframes ? `${status.keyframes} views` : ""];
  byId("facts").textContent = facts.filter(Boolean).join(", ");

  // What the node itself says, for who looks after it.
  const faults = status.faults ?? [];
  const lines = [status.detail, ...faults].filter(Boolean);
  const why = byId("why");
  why.hidden = !lines.length;
  const summary = why.querySelector("summary");
  summary.textContent = faults.length ? `Details (${faults.length})` : "Details";
  summary.classList.toggle("warned", faults.length > 0);
  const told = lines.map((text) => element("p", { className: "words", textContent: text }));
  why.querySelector("div").replaceChildren(...told);
}

/** Another scene in view: what belongs to the one before is drawn no more. */
function noteScene({ epoch, scene, run }) {
  if (epoch == null) return; // a robot that is silent: what was in view stays
  const before = JSON.stringify(shown);
  shown = { epoch, scene, run };
  if (JSON.stringify(shown) === before) return;
  scenes.setInUse(scene);
  afterPaint(showAnswers);
}

/** Whether a turn was answered from the scene in view: not before it was reset, nor from another
 * room; a scene without a name does not outlive its node. */
const isOfScene = (turn) =>
  !shown || (turn.epoch === shown.epoch && turn.scene === shown.scene
    && (shown.scene !== "" || turn.run === shown.run));

// Text is painted first: drawing many points without a graphics card takes a while.
const afterPaint = (work) => requestAnimationFrame(() => setTimeout(work));

function afterTurns() {
  const turns = chat.all();
  byId("stop").hidden = !chat.mine().length;
  const told = turns.filter((turn) => turn.tokens).at(-1);
  if (told) pruning.setTokens(told.tokens);
  showTimes(turns);
  afterPaint(showAnswers);
}

// -- the 3D view

function showScene() {
  showViews();
  showCloud();
  if (state.pose) scene?.setPose(state.pose);
  afterPaint(showAnswers);
}

function showViews() {
  const { views } = state.keyframes;
  showPictures(views, (view) => {
    scene?.lookFrom(view);
    peek(view);
  });
  scene?.setViews(views);
}

async function showCloud() {
  const number = state.cloud;
  if (!scene || !number || number === scene.cloudNumber) return;
  try {
    const data = await getBytes(`/cloud/${number}`);
    if (number !== state.cloud) return; // a newer one is on its way
    scene.cloudNumber = number;
    scene.setCloud(data);
    byId("empty").hidden = data.byteLength > 0;
  } catch {
    setTimeout(showCloud, 2000);
  }
}

/** Boxes of the newest answer that has any in green, older ones in grey; kept tokens. */
async function showAnswers() {
  if (!scene) return;
  const turns = chat.all().filter(isOfScene);
  const given = turns.filter((turn) => turn.boxes?.length);
  const newest = chat.newestWithBoxes();
  const boxes = given.slice(-OLDER).reverse().flatMap(
    (turn) => turn.boxes.map((box) => ({ ...box, isNew: turn === newest })),
  );
  scene.setBoxes(boxes);

  const kept = turns.filter((turn) => turn.kept).at(-1)?.turn;
  if (scene.keptOf === kept) return;
  scene.keptOf = kept;
  try {
    const places = kept ? new Float32Array(await getBytes(`/kept/${kept}`)) : new Float32Array();
    if (scene.keptOf === kept) scene.setKept(places);
  } catch {
    scene.keptOf = null;
  }
}

function lookAt(box) {
  scene?.lookAt(box);
  byId("menu").hidden = true;
}

/** A question about a box into the field: its first words are selected, to be written over. */
function askAbout(box) {
  const place = `[${box.center.map((value) => value.toFixed(2)).join(", ")}]`;
  const named = /^(the|a|an|my) /i.test(box.label) ? box.label : `the ${box.label}`;
  const name = box.label ? named : place;
  const begin = "What is nearest to";
  field.value = `${begin} ${name}?`;
  field.focus();
  field.setSelectionRange(0, begin.length);
  byId("menu").hidden = true;
}

function peek(view) {
  const figure = byId("peek");
  figure.hidden = !view;
  if (!view) return;
  figure.querySelector("img").src = `/views/${view.name}.jpg`;
  figure.querySelector("img").alt = `What view ${view.number} shows`;
  figure.querySelector("figcaption").textContent = `View ${view.number}`;
}

function openMenu(box, x, y) {
  const menu = byId("menu");
  const title = element("b", { textContent: nameOf(box) });
  const look = element("button", { type: "button", textContent: "Look at it" });
  const ask = element("button", { type: "button", textContent: "Ask about it" });
  look.onclick = () => lookAt(box);
  ask.onclick = () => askAbout(box);
  menu.replaceChildren(title, look, ask);
  menu.hidden = false;
  const room = byId("view").getBoundingClientRect();
  menu.style.left = `${Math.max(8, Math.min(x, room.width - menu.offsetWidth - 8))}px`;
  menu.style.top = `${Math.max(8, Math.min(y, room.height - menu.offsetHeight - 8))}px`;
  look.focus();
}

async function load3D() {
  try {
    const { SceneView } = await import("./scene.js");
    scene = new SceneView(byId("view"), { onView: peek, onBox: openMenu });
  } catch (error) {
    console.info(`no 3D view: ${error.message}`);
    byId("empty").textContent = "This browser gives no WebGL, so the scene is not drawn."
      + " Questions are answered all the same.";
    byId("cameras").hidden = byId("layers").hidden = true;
    return;
  }
  if (state.keyframes) showScene();
}

// -- what people do

async function begin(kind) {
  const text = field.value;
  if (!text.trim()) return field.focus();
  field.value = "";
  field.focus({ preventScroll: true });
  chat.atEnd = true;
  try {
    await post("/ask", { kind, text, keep_ratio: pruning.keepRatio, page: chat.page });
  } catch (error) {
    chat.refuse(text, error.message);
    field.value = field.value || text;
  }
}

byId("form").onsubmit = (event) => {
  event.preventDefault();
  begin("ask");
};
byId("find").onclick = () => begin("find");
byId("stop").onclick = () =>
  chat.mine().filter(isOpen).forEach(({ turn }) => post("/stop", { turn }).catch(() => {}));
byId("hints").querySelectorAll("button").forEach((hint) => {
  hint.onclick = () => {
    field.value = hint.textContent;
    field.focus();
  };
});
byId("cameras").onclick = ({ target }) => target.dataset.look && scene?.look(target.dataset.look);
byId("layers").onclick = (event) => {
  const pressed = event.target.closest("button");
  if (!pressed || !scene) return;
  const isOn = pressed.getAttribute("aria-pressed") !== "true";
  pressed.setAttribute("aria-pressed", String(isOn));
  scene.show(pressed.dataset.layer, isOn);
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") byId("menu").hidden = true;
});
document.addEventListener("pointerdown", (event) => {
  if (!byId("menu").contains(event.target)) byId("menu").hidden = true;
});

connect();
load3D();
